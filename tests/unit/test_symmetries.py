"""The group that symmetries generate, applied to batches of a training."""

import dataclasses

import pytest
import torch

from lrsa_coupled.data.batches import BatchPlan, epoch_generator, training_batches
from lrsa_coupled.data.dataset import Batch
from lrsa_coupled.data.symmetries import SymmetryGroup
from lrsa_coupled.schema import Field, Schema, Symmetry

MIRROR = Symmetry(((-1, 0), (0, 1)), (0.5, 0.5), scalars=((-1,),), outputs=((-1, 0, 0), (0, 1, 0), (0, 0, 1)))
TURN = Symmetry(((0, -1), (1, 0)), (0.5, 0.5), outputs=((0, -1, 0), (1, 0, 0), (0, 0, 1)))
SCHEMA = Schema(
    "flow", 2, (Field("viscosity"),), ("inflow",), (Field("velocity", 2), Field("pressure")), symmetries=(MIRROR, TURN)
)


def batch():
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(2, 30, 2, generator=generator)
    inputs, scalars, outputs = (torch.randn(*shape, generator=generator) for shape in ((2, 30, 1), (2, 1), (2, 30, 3)))
    free = torch.ones(2, 30, 3)
    free[:, 4, 0] = 0.0
    return Batch(points, inputs, scalars, torch.rand(2, 30, generator=generator), outputs, free)


def about(*symmetries):
    return dataclasses.replace(SCHEMA, symmetries=symmetries)


def test_two_generators_make_the_eight_maps_of_the_square():
    group, before = SymmetryGroup(SCHEMA), batch()
    assert len(group) == 8
    images = [group.apply(before, element) for element in range(8)]
    assert images[0] is before
    assert len({tuple(image.points_BNd[0, 0].tolist()) for image in images}) == 8
    for image in images:
        assert torch.allclose((image.points_BNd - 0.5).norm(dim=-1), (before.points_BNd - 0.5).norm(dim=-1))
        assert torch.equal(image.inputs_BNF, before.inputs_BNF) and torch.equal(image.mass_BN, before.mass_BN)
        assert torch.allclose(image.outputs_BNK[..., :2].norm(dim=-1), before.outputs_BNK[..., :2].norm(dim=-1))
        assert torch.equal(image.outputs_BNK[..., 2], before.outputs_BNK[..., 2])
        # The velocity turns with the points: its component along the way to the centre stays.
        along = [((each.points_BNd - 0.5) * each.outputs_BNK[..., :2]).sum(dim=-1) for each in (image, before)]
        assert torch.allclose(*along, atol=1e-6)
        assert torch.equal(image.free_BNK[:, 4].sum(dim=-1), torch.full((2,), 2.0)) and image.free_BNK[:, 5:].all()
        fixed = image.free_BNK[0, 4, :2] == 0.0
        assert torch.allclose(image.outputs_BNK[0, 4, :2][fixed].abs(), before.outputs_BNK[0, 4, :1].abs())
    assert (
        sorted(image.scalars_BG[0, 0].sign().item() for image in images) == [-1.0] * 4 + [1.0] * 4
    )  # a turn keeps it, a mirror turns it


@pytest.mark.parametrize(
    ("symmetries", "message"),
    [
        ((), "needs symmetries of case 'flow' about one centre, the data set has none"),
        ((MIRROR, dataclasses.replace(TURN, centre=(0.0, 0.0))), "has 2 centres"),
        ((dataclasses.replace(MIRROR, points=((1,),)),), "the matrix of the points must be 2 x 2"),
        ((dataclasses.replace(MIRROR, points=((1, 1), (0, 1))),), "one 1 or -1 in each row and column"),
    ],
)
def test_impossible_symmetries_are_refused(symmetries, message):
    with pytest.raises(ValueError, match=message):
        SymmetryGroup(about(*symmetries))


class OneSample:
    """Hands out the same batch whatever is drawn."""

    def draw(self, samples_B, num_points, *, generator, with_cells):
        return self

    def part(self, places):
        return self

    samples_B = torch.zeros(2, dtype=torch.int64)

    def gather(self, draw):
        return [batch()]


def test_each_step_draws_a_map_and_a_resumed_epoch_draws_the_same():
    plan = BatchPlan(2, 0, with_cells=False, symmetries=SymmetryGroup(SCHEMA))

    def points(first):
        batches = training_batches(OneSample(), torch.arange(80), plan, generator=epoch_generator(0, 1), first=first)
        return [found.points_BNd for (found,) in batches]

    every, rest = points(0), points(25)
    assert len({tuple(found[0, 0].tolist()) for found in every}) == 8
    assert all(torch.equal(*pair) for pair in zip(every[25:], rest, strict=True))
