"""Trainings that begin with the weights of another model: the same predictions whatever the units and the fields."""

import dataclasses

import pytest
import torch

from lrsa_coupled.config import LrsaConfig
from lrsa_coupled.data.dataset import PointDataset
from lrsa_coupled.data.store import DataStore
from lrsa_coupled.schema import Field, Schema
from lrsa_coupled.training import checkpoint
from lrsa_coupled.training.initial import begin_with
from lrsa_coupled.training.loop import train
from tests.unit.test_training import CONFIG, SCHEMA, with_training, write

OPERATOR = LrsaConfig(width=16, num_blocks=1, num_heads=2, num_latents=8, num_frequencies=3)
BEFORE = Schema("one", 2, (Field("a"), Field("b", 2)), ("s", "t"), (Field("u", 2), Field("p")))


def operator(schema, *, scale, seed=0):
    """Make a model with random weights and the units of samples of a size."""
    torch.manual_seed(seed)
    model = checkpoint.make_model(OPERATOR, schema)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    sizes = (schema.dim, schema.num_inputs, len(schema.scalars), schema.num_outputs)
    points, inputs, scalars, outputs = (scale * (torch.randn(50, size) + 0.3) for size in sizes)
    model.normaliser.fit(points, inputs, scalars_SG=scalars, outputs_TK=outputs)
    return model.eval()


def arguments(schema, *, seed=1):
    torch.manual_seed(seed)
    return torch.randn(2, 30, schema.dim), torch.randn(2, 30, schema.num_inputs), torch.randn(2, len(schema.scalars))


@torch.no_grad()
def test_other_units_leave_the_predictions():
    earlier, model = operator(BEFORE, scale=1.0), operator(BEFORE, scale=30.0, seed=2)
    expected = earlier(*arguments(BEFORE))
    assert not torch.allclose(model(*arguments(BEFORE)), expected, rtol=0.1)
    assert begin_with(model, BEFORE, earlier, BEFORE) == []
    assert torch.allclose(model(*arguments(BEFORE)), expected, rtol=1e-4, atol=1e-4)
    assert float(model.normaliser.outputs_std[0]) > 10.0


@torch.no_grad()
def test_fields_go_by_their_names_and_new_ones_begin_with_zero():
    inputs, outputs = (Field("new"), Field("b", 2), Field("a")), (Field("more", 2), Field("p"), Field("u", 2))
    now = Schema("two", 2, inputs, ("fresh", "t", "s"), outputs)
    earlier, model = operator(BEFORE, scale=1.0), operator(now, scale=2.0, seed=2)
    assert begin_with(model, now, earlier, BEFORE) == ["new", "fresh", "more"]
    points, values, scalars = arguments(BEFORE)
    for extra in (0.0, 5.0):
        more = torch.full_like(values[..., :1], extra)
        given = torch.cat((more, values[..., 1:], values[..., :1]), dim=-1)
        numbers = torch.stack((torch.full((2,), extra), scalars[:, 1], scalars[:, 0]), dim=1)
        found, expected = model(points, given, numbers), earlier(points, values, scalars)
        assert torch.allclose(found[..., [3, 4, 2]], expected, rtol=1e-4, atol=1e-4)
        assert torch.allclose(found[..., :2], model.normaliser.outputs_mean[:2].expand(2, 30, 2))
    model.requires_grad_(True)
    with torch.enable_grad():
        model(points, given, numbers).square().sum().backward()
    assert (model.lift.first.weight.grad != 0.0).all() and (model.head.weight.grad != 0.0).all()


@torch.no_grad()
def test_an_input_that_was_constant_begins_with_zero():
    earlier, model = operator(BEFORE, scale=1.0), operator(BEFORE, scale=100.0, seed=2)
    earlier.normaliser.scalars_std[1] = 1.0
    assert begin_with(model, BEFORE, earlier, BEFORE) == ["t"]
    points, values, scalars = arguments(BEFORE)
    assert torch.equal(model(points, values, scalars), model(points, values, scalars + torch.tensor([0.0, 1e3])))


def test_a_training_begins_with_a_model_of_another_case(tmp_path):
    other = dataclasses.replace(SCHEMA, name="other")
    first = write(tmp_path / "data")
    train(first, tmp_path / "first", with_training(epochs=60, learning_rate=1e-2, optimizer="muon"))
    config = with_training(initial=str(tmp_path / "first"), epochs=1, learning_rate=1e-12, validate_every=1)
    second = train(write(tmp_path / "other", 12, schema=other, seed=1), tmp_path / "second", config)
    fresh = train(tmp_path / "other", tmp_path / "third", with_training(epochs=1))
    assert second["best_error"] < 0.5 * fresh["best_error"]
    normaliser = checkpoint.load(tmp_path / "second")[0].normaliser
    outputs = PointDataset(DataStore(tmp_path / "other")).whole(0).outputs_BNK
    assert normaliser.excess(outputs) < 2.0  # the range is that of the new samples
    with pytest.raises(ValueError, match="first is not a model of these data: it predicts u, p, none of w"):
        alien = dataclasses.replace(SCHEMA, outputs=(Field("w", 3),))
        train(write(tmp_path / "alien", schema=alien), tmp_path / "fourth", config)
    solid = dataclasses.replace(SCHEMA, dim=3)
    with pytest.raises(ValueError, match="it is of dimension 2 instead of 3"):
        begin_with(checkpoint.make_model(CONFIG.operator, solid), solid, checkpoint.load(tmp_path / "first")[0], SCHEMA)
