"""What the samples of a data set are, from its ``dataset.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lrsa_coupled.interfaces import Field, Matrix, Symmetry


@dataclass(frozen=True)
class Description:
    """What the samples of a data set are."""

    case: str
    dim: int
    inputs: tuple[Field, ...]
    scalars: tuple[str, ...]
    outputs: tuple[Field, ...]
    seed: int
    resolution: int
    symmetries: tuple[Symmetry, ...] = ()

    @property
    def num_inputs(self) -> int:
        """Number of nodal input values at a point."""
        return sum(item.components for item in self.inputs)

    @property
    def num_outputs(self) -> int:
        """Number of output values at a point."""
        return sum(item.components for item in self.outputs)


def describe(meta: Mapping[str, Any]) -> Description:
    """Read the description of a data set.

    Raises:
        ValueError: If an entry is missing or of the wrong kind.
    """
    try:
        return Description(
            case=str(meta["case"]),
            dim=int(meta["dim"]),
            inputs=fields_from(meta["inputs"]),
            scalars=tuple(str(name) for name in meta["scalars"]),
            outputs=fields_from(meta["outputs"]),
            seed=int(meta["seed"]),
            resolution=int(meta["resolution"]),
            symmetries=tuple(_symmetry(item) for item in meta.get("symmetries", ())),
        )
    except KeyError as error:
        raise ValueError(f"dataset.json: missing entry {error}") from error
    except (TypeError, AttributeError) as error:
        raise ValueError(f"dataset.json: an entry is of the wrong kind ({error})") from error


def _symmetry(item: Mapping[str, Any]) -> Symmetry:
    matrices = {name: _matrix(item[name]) for name in ("points", "inputs", "scalars", "outputs")}
    return Symmetry(centre=tuple(float(x) for x in item["centre"]), **matrices)


def _matrix(rows: Sequence[Sequence[int]]) -> Matrix:
    return tuple(tuple(int(entry) for entry in row) for row in rows)


def fields_from(items: Sequence[Mapping[str, Any]]) -> tuple[Field, ...]:
    """Make fields of their JSON form; KeyError, TypeError or ValueError when an entry is missing or of the wrong kind."""
    return tuple(
        Field(
            name=str(item["name"]),
            components=int(item["components"]),
            unit=str(item["unit"]),
            subspace=tuple(int(i) for i in item["subspace"]),
            loss_weight=float(item["loss_weight"]),
            span=bool(item.get("span", False)),
            relative_to=str(item.get("relative_to", "")),
        )
        for item in items
    )
