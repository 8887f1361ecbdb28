"""Schema: what an operator sees of a problem and what it predicts; the one place that reads, writes and compares it.

A case, a data set (``dataset.json``), a checkpoint (``model.json``) and a script hold one each. Imports no numpy, torch
or dolfinx.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import msgspec

from lrsa_coupled.reading import converted

MOST_COLUMNS = 1 << 12
"""Values at a point, or of a problem, at most: a file may ask for more than there is memory."""

TRAINING_ONLY = {"training_only": True}
"""Marks what only training reads: an operator fits problems whose schema differs in it."""


@final
@dataclass(frozen=True)
class Field:
    """A named quantity given at the node set.

    Args:
        name: Unique among the inputs or outputs of a case.
        components: Number of values at a node.
        unit: ``"1"`` is dimensionless.
        subspace: Path of sub-indices from the space of the solution to the field, ``()`` for the whole space. This and
            the rest are for outputs only.
        loss_weight: Weight in the training loss.
        span: Whether the components are a basis of which the span counts, not each by itself.
        relative_to: Name of the input, of as many components, that the operator corrects to get this field; None: it
            predicts all of it.

    Raises:
        ValueError: If there is not at least one component, there are too many, or the loss weight is not finite.
    """

    name: str
    components: int = 1
    unit: str = "1"
    subspace: tuple[int, ...] = ()
    loss_weight: float = field(default=1.0, metadata=TRAINING_ONLY)
    span: bool = False
    relative_to: str | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.components <= MOST_COLUMNS:
            found = f"got {self.components}"
            raise ValueError(f"field '{self.name}' needs at least one component, at most {MOST_COLUMNS}, {found}")
        if not math.isfinite(self.loss_weight):
            raise ValueError(f"field '{self.name}': expected a finite loss weight, got {self.loss_weight}")

    @property
    def label(self) -> str:
        """Name and unit for people."""
        return self.name if self.unit == "1" else f"{self.name} [{self.unit}]"


def check_tuple(what: str, value: Any, of: type) -> None:
    """Raise ValueError for what is no tuple or list of one type; one thing in brackets is none without a comma."""
    if not isinstance(value, tuple | list):
        comma = ": a tuple of one needs a comma, (one,)" if isinstance(value, of) else ""
        raise ValueError(f"{what} must be a tuple of {of.__name__}, got {type(value).__name__}{comma}")
    if wrong := [type(each).__name__ for each in value if not isinstance(each, of)]:
        raise ValueError(f"{what} must be a tuple of {of.__name__}, got one with {wrong[0]}")


Matrix = tuple[tuple[int, ...], ...]


@final
@dataclass(frozen=True)
class Symmetry:
    """A reflection or quarter turn that takes problems of a family, with their solutions, to problems of the family.

    One entry in each row and column of a matrix is 1 or -1, the others are 0; an empty matrix is the identity.

    Args:
        points: Matrix A ``(dim, dim)`` of the map ``x -> centre + A (x - centre)`` of the domain onto itself.
        centre: A point that stays where it is.
        inputs: Matrix of the nodal inputs, those of all fields side by side; so for scalars and outputs.
    """

    points: Matrix
    centre: tuple[float, ...]
    inputs: Matrix = ()
    scalars: Matrix = ()
    outputs: Matrix = ()


@final
@dataclass(frozen=True)
class Schema:
    """What an operator sees and predicts.

    Args:
        name: Name of the family of problems.
        dim: Dimension of space.
        inputs: Nodal fields that the operator sees besides the coordinates.
        scalars: Names of the numbers that it sees, one value a problem.
        outputs: Fields of the solution that it predicts; the others begin with zero.
        quantities: Numbers computed from a solution.
        symmetries: Generators of the group of reflections and turns of the family; training may apply them to samples.

    Raises:
        ValueError: If the dimension is not 1, 2 or 3, a name occurs twice or cannot be printed, there is no output or
            too many values, or an output corrects an input that is not there or has another number of components.
    """

    name: str
    dim: int
    inputs: tuple[Field, ...]
    scalars: tuple[str, ...]
    outputs: tuple[Field, ...]
    quantities: tuple[Field, ...] = ()
    symmetries: tuple[Symmetry, ...] = field(default=(), metadata=TRAINING_ONLY)

    def __post_init__(self) -> None:
        if self.dim not in (1, 2, 3):
            raise ValueError(f"schema '{self.name}': dim is 1, 2 or 3, got {self.dim}")
        for kind, of in (("inputs", Field), ("scalars", str), ("outputs", Field), ("quantities", Field)):
            check_tuple(f"schema '{self.name}': {kind}", getattr(self, kind), of)
        if not self.outputs:
            raise ValueError(f"schema '{self.name}': expected at least one output, got none")
        for kind in ("inputs", "scalars", "outputs", "quantities"):
            names = _names(getattr(self, kind))
            if len(set(names)) < len(names):
                raise ValueError(f"schema '{self.name}': the {kind} need different names, got {', '.join(names)}")
            if not all(name.isprintable() for name in (self.name, *names)):
                raise ValueError(f"schema {self.name!r}: the {kind} need names that can be printed, got {names}")
        if max(self.num_inputs, self.num_outputs, len(self.scalars)) > MOST_COLUMNS:
            raise ValueError(f"schema '{self.name}': expected at most {MOST_COLUMNS} values at a point, got more")
        sizes = {item.name: item.components for item in self.inputs}
        for item in self.outputs:
            if item.relative_to is not None and sizes.get(item.relative_to) != item.components:
                found = f"output {item.name} is relative to '{item.relative_to}'"
                wanted = f"expected an input of {item.components} components, got {sizes}"
                raise ValueError(f"schema '{self.name}': {found}: {wanted}")

    @property
    def num_inputs(self) -> int:
        """Number of nodal input values at a point."""
        return sum(item.components for item in self.inputs)

    @property
    def num_outputs(self) -> int:
        """Number of output values at a point."""
        return sum(item.components for item in self.outputs)

    def corrected_columns(self) -> list[int]:
        """Return the input column that each output value corrects, ``num_inputs`` for none; empty when none does."""
        if all(item.relative_to is None for item in self.outputs):
            return []
        names = [item.name for item in self.inputs for _ in range(item.components)]
        return [
            len(names) if item.relative_to is None else names.index(item.relative_to) + component
            for item in self.outputs
            for component in range(item.components)
        ]

    def difference(self, other: Schema) -> str | None:
        """Return the first mismatch in words, None when an operator of one fits the problems of the other."""
        for item in _compared(Schema):
            mine, others = getattr(self, item), getattr(other, item)
            if mine == others:
                continue
            if not isinstance(mine, tuple):
                return f"{item} {mine!r} instead of {others!r}"
            if _names(mine) != _names(others):
                one, two = (", ".join(_names(each)) or "none" for each in (mine, others))
                return f"{item} {one} instead of {two}"
            for pair in zip(mine, others, strict=True):
                for key in _compared(Field):
                    found, wanted = (getattr(each, key) for each in pair)
                    if found != wanted:
                        return f"{key} {found!r} instead of {wanted!r} of '{pair[0].name}' in the {item}"
        return None

    def to_json(self) -> dict[str, Any]:
        """Return the schema as a JSON object."""
        return msgspec.json.decode(msgspec.json.encode(self))  # lists for tuples

    @classmethod
    def from_json(cls, content: Any, *, where: str) -> Schema:
        """Read what ``to_json`` gave; ValueError, beginning with ``where``, names an entry that is wrong or missing."""
        found = converted(content, cls, where=f"{where}: schema")
        if unknown := sorted(set(content) - {item.name for item in dataclasses.fields(cls)}):
            raise ValueError(f"{where}: schema: unknown entry '{unknown[0]}'")
        return found

    @classmethod
    def from_flat(cls, content: Mapping[str, Any], *, where: str) -> Schema:
        """Read the schema of a data set of format 2 or a card of version 1; errors as ``from_json``.

        Its entries stand beside others, the name is called ``case``, and an output that corrects no input says "".
        """
        entries = {item.name: content[item.name] for item in dataclasses.fields(cls) if item.name in content}
        text = json.dumps(entries | {"name": content.get("case")}).replace('"relative_to": ""', '"relative_to": null')
        found = cls.from_json(json.loads(text), where=where)
        if any(item.span for item in found.outputs):  # the wrappers of a case had its name
            return dataclasses.replace(found, name=f"{found.name}:modes")
        if "residual" in _names(found.inputs) and _names(found.outputs) == ["correction"]:
            return dataclasses.replace(found, name=f"{found.name}:correction")
        return found


def _compared(kind: type[Schema] | type[Field]) -> list[str]:
    return [item.name for item in dataclasses.fields(kind) if "training_only" not in item.metadata]


def _names(items: Sequence[Field | str]) -> list[str]:
    return [item if isinstance(item, str) else item.name for item in items]
