"""Checkpoints: round trip, and no damage that passes unnoticed or surfaces as anything but a ValueError."""

import dataclasses
import hashlib
import json
import time

import pytest
import safetensors.torch
import torch

from lrsa_coupled.config import LrsaConfig, TrainingConfig
from lrsa_coupled.schema import Field, Schema
from lrsa_coupled.training import checkpoint
from lrsa_coupled.training.checkpoint import CARD, WEIGHTS, DataInfo, ModelCard
from tests.helpers import ROOT

CARD_OF_TEST = ModelCard(
    schema=Schema(
        "channel",
        2,
        (Field("distance", unit="m"), Field("wall", 2)),
        ("reynolds",),
        (Field("velocity", 2, "m/s", (0,), 2.0), Field("pressure", unit="Pa", subspace=(1,))),
    ),
    resolution=16,
    operator=LrsaConfig(width=8, num_blocks=1, num_heads=2, num_latents=3, num_frequencies=2),
    training=TrainingConfig(epochs=3),
    data=DataInfo(samples=10, seed=4, seconds=125.5),
    errors={"velocity": 0.1, "pressure": 0.25},
    seconds=61.25,
    ranks=2,
)


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    model = checkpoint.make_model(CARD_OF_TEST.operator, CARD_OF_TEST.schema)
    model.normaliser.outputs_mean += 3.0
    checkpoint.save(tmp_path, model, CARD_OF_TEST)
    return tmp_path


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def rewrite(folder, *, tensors=None, **changes):
    """Write a pair of files that fit each other but not the model."""
    content = json.loads((folder / CARD).read_text(encoding="utf-8"))["card"] | changes
    weights = (folder / WEIGHTS).read_bytes() if tensors is None else safetensors.torch.save(tensors)
    (folder / WEIGHTS).write_bytes(weights)
    write_card(folder, content, weights)


def write_card(folder, content, weights):
    """Write a card with the digest that the format asks for."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":")).encode("ascii")
    text = json.dumps({"card": content, "sha256": hashlib.sha256(canonical + weights).hexdigest()})
    (folder / CARD).write_text(text, encoding="utf-8")


def test_round_trip(folder):
    model, card = checkpoint.load(folder)
    assert card == CARD_OF_TEST
    assert not model.training
    assert sorted(path.name for path in folder.iterdir()) == [CARD, WEIGHTS]
    torch.manual_seed(0)
    fresh = checkpoint.make_model(card.operator, card.schema)
    fresh.normaliser.outputs_mean += 3.0
    assert same(model.state_dict(), fresh.state_dict())
    arguments = torch.randn(1, 7, 2), torch.randn(1, 7, 3), torch.randn(1, 1)
    assert torch.equal(model(*arguments), fresh(*arguments))
    assert all(weight.requires_grad for weight in model.parameters())


def test_an_output_that_corrects_an_input_is_found_by_name(tmp_path):
    """Pressure is predicted, velocity corrects the second input."""
    outputs = (Field("pressure"), Field("velocity", 2, relative_to="wall"))
    card = dataclasses.replace(CARD_OF_TEST, schema=dataclasses.replace(CARD_OF_TEST.schema, outputs=outputs))
    checkpoint.save(tmp_path, checkpoint.make_model(card.operator, card.schema), card)
    model, read = checkpoint.load(tmp_path)
    assert read == card and model.relative_to == [3, 1, 2]


def test_loading_is_fast(folder):
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        checkpoint.load(folder)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.05


@pytest.mark.parametrize("name", [CARD, WEIGHTS])
def test_a_flipped_byte_is_a_value_error_or_harmless(folder, name):
    reference, card = checkpoint.load(folder)
    path = folder / name
    content = path.read_bytes()
    places = range(len(content))
    if name == WEIGHTS:
        header = 8 + int.from_bytes(content[:8], "little")
        places = [*range(0, header, 7), *range(header, len(content), 997)]
    for place in places:
        mask = (0x01, 0x20, 0x80, 0xFF)[place % 4]
        path.write_bytes(content[:place] + bytes([content[place] ^ mask]) + content[place + 1 :])
        error = None
        try:
            loaded, loaded_card = checkpoint.load(folder)
        except ValueError as caught:
            error = caught
        if error is None:
            assert name == CARD and loaded_card == card and same(loaded.state_dict(), reference.state_dict()), place
        else:
            assert "\n" not in str(error) and str(folder) in str(error), (place, error)


@pytest.mark.parametrize("name", [CARD, WEIGHTS])
def test_a_truncated_or_missing_file_is_named(folder, name):
    path = folder / name
    content = path.read_bytes()
    for size in (0, 1, 7, 100, len(content) - 2):
        path.write_bytes(content[:size])
        with pytest.raises(ValueError, match=str(folder)):
            checkpoint.load(folder)
    path.unlink()
    with pytest.raises(ValueError, match=f"{name}: cannot be read"):
        checkpoint.load(folder)


@pytest.mark.parametrize("name", [CARD, WEIGHTS])
def test_a_file_that_cannot_be_read_is_not_damaged(folder, name):
    (folder / name).unlink()
    (folder / name).symlink_to(name)
    with pytest.raises(OSError, match=name):
        checkpoint.load(folder)


def test_weights_that_are_too_large_are_not_read(folder):
    with open(folder / WEIGHTS, "r+b") as stream:
        stream.truncate(1 << 42)
    with pytest.raises(ValueError, match="bytes of weights, got 4398046511104"):
        checkpoint.load(folder)


def test_weights_of_another_model_are_refused(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    operator = dataclasses.replace(CARD_OF_TEST.operator, num_latents=4)
    model = checkpoint.make_model(operator, CARD_OF_TEST.schema)
    checkpoint.save(other, model, dataclasses.replace(CARD_OF_TEST, operator=operator))
    (folder / WEIGHTS).write_bytes((other / WEIGHTS).read_bytes())
    with pytest.raises(ValueError, match="of another model"):
        checkpoint.load(folder)


def test_tensors_that_do_not_fit_are_named(folder):
    tensors = safetensors.torch.load((folder / WEIGHTS).read_bytes())
    for change, message in (
        (
            {"head.weight": tensors["head.weight"][:1].clone()},
            r"'head.weight' should be \(3, 8\) float32, is \(1, 8\) float32",
        ),
        ({"head.weight": tensors["head.weight"].double()}, r"is \(3, 8\) float64"),
        ({"tail": torch.zeros(1)}, "'tail' is not part of the model"),
    ):
        rewrite(folder, tensors=tensors | change)
        with pytest.raises(ValueError, match=message):
            checkpoint.load(folder)
    rewrite(folder, tensors={name: tensor for name, tensor in tensors.items() if name != "head.bias"})
    with pytest.raises(ValueError, match=r"'head\.bias' is missing"):
        checkpoint.load(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 99}, {"version": 1}, {"schema": None}, {"schema": {}}, {"operator": {"width": 8}}, {"operator": []},
        {"operator": {"width": "8"}}, {"data": []}, {"seconds": "long"}, {"ranks": None}, {"errors": None},
        {"errors": {"p": []}}, {"operator": {"width": 10**9}}, {"operator": {"num_blocks": 10**9}},
        {"operator": {"num_frequencies": 10**9}}, {"operator": {"num_latents": 10**9}},
        {"operator": {"num_heads": 10**9}}, {"operator": {"kind": "fno", "num_modes": 10**9}},
        {"operator": {"ffn_ratio": 10**9}}, {"operator": {"kind": []}}, {"operator": {"num_heads": 7}},
        {"operator": {"kind": "fno", "width": 65536, "num_modes": 1024}},
        {"resolution": 10**30}, {"seconds": float("inf")}, {"data": {"samples": 1, "seed": [[[[]]]]}},
    ],
)  # fmt: skip
def test_a_card_that_makes_no_sense_is_a_value_error(folder, changes):
    rewrite(folder, **changes)
    with pytest.raises(ValueError, match=str(folder)):
        checkpoint.load(folder)


VERSION_1 = """{
 "case": "channel", "dim": 2, "scalars": ["reynolds"], "resolution": 16, "errors": {"velocity": 0.1, "pressure": 0.25},
 "inputs": [
  {"name": "distance", "components": 1, "unit": "m", "subspace": [], "loss_weight": 1.0},
  {"name": "wall", "components": 2, "unit": "1", "subspace": [], "loss_weight": 1.0, "span": false, "relative_to": ""}
 ],
 "outputs": [
  {"name": "velocity", "components": 2, "unit": "m/s", "subspace": [0], "loss_weight": 2.0},
  {"name": "pressure", "components": 1, "unit": "Pa", "subspace": [1], "loss_weight": 1.0}
 ],
 "operator": {"width": 8, "num_blocks": 1, "num_heads": 2, "num_latents": 3, "num_frequencies": 2},
 "training": {"epochs": 3}, "data": {"samples": 10, "seed": 4}, "version": 1
}"""


def test_a_card_of_version_1_is_read(folder):
    """It has the entries of the schema beside the others, and no times."""
    content, weights = json.loads(VERSION_1), (folder / WEIGHTS).read_bytes()
    write_card(folder, content, weights)
    expected = dataclasses.replace(CARD_OF_TEST, seconds=None, ranks=1, data=DataInfo(10, 4))
    assert checkpoint.load(folder)[1] == expected
    checkpoint.set_seconds(folder, 5.0)
    assert checkpoint.load(folder)[1] == dataclasses.replace(expected, seconds=5.0)


def test_a_card_of_an_earlier_release_lacks_later_settings(folder):
    model, card = checkpoint.load(folder)
    earlier = {key: value for key, value in dataclasses.asdict(card.operator).items() if key not in ("kind", "tied")}
    rewrite(folder, operator=earlier, training={})
    again, found = checkpoint.load(folder)
    assert found.operator == card.operator and found.training == type(card.training)()
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    assert checkpoint.parameter_count(card.operator, card.schema) == sum(
        weight.numel() for weight in model.parameters()
    )


@pytest.mark.parametrize(
    ("folder", "samples"), [("cavity", 9500), ("cavity/high", 3799), ("helmholtz/basis", 1520), ("hyperelastic", 1667)]
)
def test_the_cards_of_shipped_models_say_what_they_cost(folder, samples):
    shipped = checkpoint.load(ROOT / "cases" / folder)[1]
    name = {"helmholtz/basis": "helmholtz:modes"}.get(folder, folder.split("/")[0])
    assert (shipped.schema.name, shipped.data.samples) == (name, samples)
    assert shipped.seconds > 0.0 and shipped.data.seconds > 0.0


def test_the_time_of_training_is_replaced_alone(folder):
    weights = (folder / WEIGHTS).read_bytes()
    checkpoint.set_seconds(folder, 99.5)
    assert (folder / WEIGHTS).read_bytes() == weights
    assert checkpoint.load(folder)[1] == dataclasses.replace(CARD_OF_TEST, seconds=99.5)
    (folder / WEIGHTS).write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    card = (folder / CARD).read_bytes()
    with pytest.raises(ValueError, match="checksum differs"):
        checkpoint.set_seconds(folder, 1.0)
    assert (folder / CARD).read_bytes() == card


@pytest.mark.parametrize("text", ["[]", "{}", '{"card": {}, "sha256": 1}', "[" * 100000, "1" * 10000, "nul"])
def test_another_json_file_is_a_value_error(folder, text):
    (folder / CARD).write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=CARD):
        checkpoint.load(folder)
