"""Reflections and turns of samples: the group that the symmetries of a case generate, applied to batches in training.

Shapes: d dimension of space, F nodal inputs, G scalars, K outputs.
"""

from __future__ import annotations

import dataclasses
from typing import final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lrsa_coupled.data.dataset import Batch
from lrsa_coupled.schema import Matrix, Schema, Symmetry

Element = tuple[npt.NDArray[np.int64], ...]
"""Matrices of points, inputs, scalars and outputs."""

NAMES = ("points", "inputs", "scalars", "outputs")
LARGEST = 1024
"""Elements of a group at most: the octahedral group, the largest of points in space, has 48."""


@final
class SymmetryGroup:
    """The group that symmetries generate; element 0 is the identity.

    Args:
        schema: Sizes and generators.

    Raises:
        ValueError: If there are none, they have several centres, or a matrix is no signed permutation of its size.
    """

    def __init__(self, schema: Schema) -> None:
        centres = {symmetry.centre for symmetry in schema.symmetries}
        if len(centres) != 1:
            found = "none" if not centres else f"{len(centres)} centres"
            raise ValueError(
                f"training.augment needs symmetries of case '{schema.name}' about one centre, the data set has {found}"
            )
        (centre,) = centres
        sizes = (schema.dim, schema.num_inputs, len(schema.scalars), schema.num_outputs)
        self._centre_d = torch.tensor(centre, dtype=torch.float32)
        self._elements = [
            tuple(torch.from_numpy(matrix.astype(np.float32)) for matrix in element)
            for element in _closure([_element(symmetry, sizes) for symmetry in schema.symmetries], sizes)
        ]

    def __len__(self) -> int:
        return len(self._elements)

    def apply(self, batch: Batch, element: int) -> Batch:
        """Return the batch after a reflection or turn."""
        if element == 0:
            return batch
        points_dd, inputs_FF, scalars_GG, outputs_KK = self._elements[element]
        return dataclasses.replace(
            batch,
            points_BNd=self._centre_d + _mapped(batch.points_BNd - self._centre_d, points_dd),
            inputs_BNF=_mapped(batch.inputs_BNF, inputs_FF),
            scalars_BG=_mapped(batch.scalars_BG, scalars_GG),
            outputs_BNK=_mapped(batch.outputs_BNK, outputs_KK),
            free_BNK=_mapped(batch.free_BNK, outputs_KK.abs()),
        )


def _mapped(values: Tensor, matrix: Tensor) -> Tensor:
    return values @ matrix.T


def _element(symmetry: Symmetry, sizes: tuple[int, ...]) -> Element:
    return tuple(
        _signed_permutation(name, getattr(symmetry, name), size) for name, size in zip(NAMES, sizes, strict=True)
    )


def _signed_permutation(name: str, rows: Matrix, size: int) -> npt.NDArray[np.int64]:
    if not rows:
        return np.eye(size, dtype=np.int64)
    if len(rows) != size or any(len(row) != size for row in rows):
        raise ValueError(f"symmetry: the matrix of the {name} must be {size} x {size}, got {rows}")
    matrix = np.array(rows, dtype=np.int64)
    if not np.array_equal(matrix @ matrix.T, np.eye(size, dtype=np.int64)):
        raise ValueError(f"symmetry: the matrix of the {name} must have one 1 or -1 in each row and column, got {rows}")
    return matrix


def _closure(generators: list[Element], sizes: tuple[int, ...]) -> list[Element]:
    """Return all products of the generators, the identity first."""
    identity: Element = tuple(np.eye(size, dtype=np.int64) for size in sizes)
    found = {_key(identity): identity}
    fresh = [identity]
    while fresh:
        products = [
            tuple(a @ b for a, b in zip(generator, element, strict=True))
            for generator in generators
            for element in fresh
        ]
        fresh = []
        for product in products:
            if _key(product) not in found:
                found[_key(product)] = product
                fresh.append(product)
        if len(found) > LARGEST:
            raise ValueError(f"symmetry: the symmetries generate more than {LARGEST} maps")
    return list(found.values())


def _key(element: Element) -> bytes:
    return b"".join(matrix.tobytes() for matrix in element)
