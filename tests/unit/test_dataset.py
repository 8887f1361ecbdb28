"""Samples in memory, their batches and their split."""

import numpy as np
import pytest
import torch

from lrsa_coupled.data.batches import epoch_generator, split_samples, training_batches
from lrsa_coupled.data.dataset import PointDataset
from lrsa_coupled.data.store import DataStore
from tests.unit.test_training import NUM_SAMPLES, sample, write


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write(tmp_path_factory.mktemp("data"))


def test_samples_on_one_mesh_share_it(data):
    dataset = PointDataset(DataStore(data))
    assert len(dataset._kept) == NUM_SAMPLES - 1
    assert len({id(sample.geometry) for sample in dataset._kept.values()}) == 2


def test_batches_hold_nodes_and_cells_of_the_samples(data):
    dataset = PointDataset(DataStore(data))
    samples = torch.tensor([0, 4, 2])
    batch = dataset.batch(samples, 40, generator=epoch_generator(0, 1), with_cells=True)
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
        torch.cat([batch.points_BNd for batch in training_batches(
            dataset, torch.arange(19), batch_size=6, num_points=30, generator=epoch_generator(seed, epoch), with_cells=False
        )]) for seed, epoch in ((0, 1), (0, 1), (0, 2), (1, 1))
    ]  # fmt: skip
    assert len(draw[0]) == 18
    assert torch.equal(draw[0], draw[1])
    assert not torch.equal(draw[0], draw[2]) and not torch.equal(draw[0], draw[3])


def test_all_points_are_drawn_when_asked_and_the_split_is_disjoint(data):
    dataset = PointDataset(DataStore(data))
    batch = dataset.batch(torch.tensor([0]), 0, generator=epoch_generator(0, 1))
    assert torch.equal(batch.points_BNd, dataset.whole(0).points_BNd)
    train_samples, valid_samples = split_samples(19, 0.2, seed=7)
    assert sorted([*train_samples.tolist(), *valid_samples.tolist()]) == list(range(19))
    assert not torch.equal(split_samples(19, 0.2, seed=8)[1], valid_samples)
