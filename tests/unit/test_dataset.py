"""Samples in memory, their batches and their split."""

import numpy as np
import pytest
import torch

from lrsa_coupled.data.batches import BatchPlan, epoch_generator, split_samples, training_batches
from lrsa_coupled.data.dataset import PointDataset
from lrsa_coupled.data.store import DataStore
from tests.unit.test_training import sample, write


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write(tmp_path_factory.mktemp("data"))


def test_samples_on_one_mesh_share_it(data):
    dataset = PointDataset(DataStore(data))
    assert len({dataset.whole(sample).points_BNd.data_ptr() for sample in range(len(dataset))}) == 2


def test_batches_hold_nodes_and_cells_of_the_samples(data):
    dataset = PointDataset(DataStore(data))
    samples = torch.tensor([0, 4, 2])
    (batch,) = dataset.gather(dataset.draw(samples, 40, generator=epoch_generator(0, 1), with_cells=True))
    assert batch.points_BNd.shape == (3, 40, 2) and batch.cells_EV.shape == (6, 3)
    for place, position in enumerate(samples.tolist()):
        arrays = sample(dataset.indices[position])
        for row in range(40):
            (node,) = np.flatnonzero((np.abs(arrays.points - batch.points_BNd[place, row].numpy()) < 1e-6).all(axis=1))
            assert np.allclose(batch.outputs_BNK[place, row], arrays.outputs[node])
            assert np.array_equal(batch.free_BNK[place, row], 1 - arrays.constrained[node])
        edges = batch.points_BNd[place][batch.cells_EV]
        areas = 0.5 * torch.linalg.det(edges[:, 1:] - edges[:, :1]).abs()
        assert torch.allclose(areas, torch.tensor(0.5 / (len(np.unique(arrays.points)) - 1) ** 2), rtol=1e-4)
    whole = dataset.whole(0)
    assert np.allclose(whole.points_BNd[0], sample(0).points) and whole.mass_BN.sum().item() == pytest.approx(1.0)


def test_batches_depend_on_seed_and_epoch_alone(data):
    dataset = PointDataset(DataStore(data))
    draw = [
        torch.cat([batch.points_BNd for (batch,) in training_batches(
            dataset, torch.arange(19), BatchPlan(6, 30, with_cells=False), generator=epoch_generator(seed, epoch)
        )]) for seed, epoch in ((0, 1), (0, 1), (0, 2), (1, 1))
    ]  # fmt: skip
    assert len(draw[0]) == 18
    assert torch.equal(draw[0], draw[1])
    assert not torch.equal(draw[0], draw[2]) and not torch.equal(draw[0], draw[3])


@pytest.mark.parametrize("num_points", [30, None])
def test_the_shares_of_ranks_and_micro_batches_make_up_the_batch(data, num_points):
    dataset = PointDataset(DataStore(data))

    def shares(rank, num_ranks, micro_batch_size, first=0):
        plan = BatchPlan(
            6, num_points, with_cells=True, micro_batch_size=micro_batch_size, rank=rank, num_ranks=num_ranks
        )
        return list(training_batches(dataset, torch.arange(19), plan, generator=epoch_generator(0, 1), first=first))

    def rows(steps):
        return [sorted((float(row.sum()), len(row)) for batch in step for row in batch.outputs_BNK) for step in steps]

    alone = shares(0, 1, 0)
    parts = [shares(rank, 2, 2) for rank in range(2)]
    assert len(alone) == 3 and all(
        max(len(batch.points_BNd) for batch in step) <= 2 for steps in parts for step in steps
    )
    assert rows(alone) == rows([one + two for one, two in zip(*parts, strict=True)])
    assert rows(alone)[2:] == rows(shares(0, 1, 0, first=2))


def test_samples_of_different_sizes_are_whole_and_without_padding(data):
    dataset = PointDataset(DataStore(data))
    draw = dataset.draw(torch.tensor([0, 1, 2, 3]), None, generator=epoch_generator(0, 1), with_cells=True)
    batches = dataset.gather(draw)
    assert sorted(tuple(batch.points_BNd.shape) for batch in batches) == [(1, 81, 2), (3, 64, 2)]
    for batch in batches:
        corners = batch.points_BNd[0][batch.cells_EV]
        areas = 0.5 * torch.linalg.det(corners[:, 1:] - corners[:, :1]).abs()
        assert areas.sum().item() == pytest.approx(1.0)


def test_the_split_is_disjoint():
    train_samples, valid_samples = split_samples(19, 0.2, seed=7)
    assert sorted([*train_samples.tolist(), *valid_samples.tolist()]) == list(range(19))
    assert not torch.equal(split_samples(19, 0.2, seed=8)[1], valid_samples)
