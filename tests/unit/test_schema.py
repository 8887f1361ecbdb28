"""What an operator sees and predicts: read back as written, compared in words, refused when it makes no sense."""

from __future__ import annotations

import dataclasses
import json

import pytest

from lrsa_coupled.schema import Field, Schema, Symmetry

SCHEMA = Schema(
    name="block",
    dim=3,
    inputs=(Field("stiffness", unit="Pa"), Field("coarse", 3, "m")),
    scalars=("load",),
    outputs=(Field("displacement", 3, "m", (0,), 2.0, relative_to="coarse"), Field("pressure", subspace=(1,))),
    symmetries=(Symmetry(((-1, 0, 0), (0, 1, 0), (0, 0, 1)), (0.5, 0.0, 0.0), scalars=((-1,),)),),
)


def changed(**changes: object) -> Schema:
    return dataclasses.replace(SCHEMA, **changes)


def test_round_trip() -> None:
    text = json.dumps(SCHEMA.to_json())
    assert Schema.from_json(json.loads(text), where="file") == SCHEMA


def test_sizes_and_corrected_columns() -> None:
    assert (SCHEMA.num_inputs, SCHEMA.num_outputs) == (4, 4)
    assert SCHEMA.corrected_columns() == [1, 2, 3, 4]
    assert changed(outputs=(Field("pressure"),)).corrected_columns() == []


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (changed(name="beam"), "name 'block' instead of 'beam'"),
        (changed(dim=2), "dim 3 instead of 2"),
        (changed(scalars=()), "scalars load instead of none"),
        (changed(inputs=SCHEMA.inputs[1:]), "inputs stiffness, coarse instead of coarse"),
        (changed(outputs=(Field("pressure"),)), "outputs displacement, pressure instead of pressure"),
        (
            changed(inputs=(Field("stiffness", unit="MPa"), SCHEMA.inputs[1])),
            "unit 'Pa' instead of 'MPa' of 'stiffness' in the inputs",
        ),
        (changed(quantities=(Field("energy"),)), "quantities none instead of energy"),
    ],
)
def test_the_first_mismatch_is_named(other: Schema, words: str) -> None:
    assert SCHEMA.difference(other) == words


def test_what_only_training_reads_is_no_mismatch() -> None:
    outputs = tuple(dataclasses.replace(item, loss_weight=7.0) for item in SCHEMA.outputs)
    assert SCHEMA.difference(changed(symmetries=(), outputs=outputs)) is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "file: schema: Expected `object`, got `null`"),
        ({"name": "block"}, "file: schema: Object missing required field `dim`"),
        (SCHEMA.to_json() | {"dim": "3"}, r"Expected `int`, got `str` - at `\$.dim`"),
        (SCHEMA.to_json() | {"scalars": "load"}, r"Expected `array`, got `str` - at `\$.scalars`"),
        (SCHEMA.to_json() | {"inputs": [{}]}, r"missing required field `name` - at `\$.inputs\[0\]`"),
        (SCHEMA.to_json() | {"colour": 1}, "file: schema: unknown entry 'colour'"),
        (SCHEMA.to_json() | {"dim": -1}, "dim is 1, 2 or 3, got -1"),
    ],
)
def test_a_schema_that_cannot_be_read_names_the_entry(content: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Schema.from_json(content, where="file")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"outputs": ()}, "at least one output"),
        ({"scalars": ("a", "a")}, "the scalars need different names, got a, a"),
        (
            {"outputs": (Field("u", 3, relative_to="coars"),)},
            "relative to 'coars': expected an input of 3 components, got",
        ),
        ({"outputs": (Field("u", relative_to="coarse"),)}, "relative to 'coarse': expected an input of 1 components"),
    ],
)
def test_a_schema_that_makes_no_sense_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        changed(**changes)
    with pytest.raises(ValueError, match="needs at least one component"):
        Field("u", 0)
