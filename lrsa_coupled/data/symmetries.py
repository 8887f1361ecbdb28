"""Reflections and turns of samples: the group that the symmetries of a case generate, applied to batches in training.

Shapes: d dimension of space, F nodal inputs, G scalars, K outputs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import final

import numpy as np
import numpy.typing as npt
import torch
from scipy.linalg import block_diag

from lrsa_coupled.data.dataset import Batch
from lrsa_coupled.schema import Matrix, Schema, Symmetry

LARGEST, MOST_BYTES = 1024, 1 << 28
"""Elements of a group at most, and bytes of their matrices: the octahedral group, the largest in space, has 48."""


@final
class SymmetryGroup:
    """The group that the symmetries of a schema generate; element 0 is the identity.

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
        sizes = {"points": schema.dim, "inputs": schema.num_inputs, "scalars": len(schema.scalars)}
        sizes["outputs"] = schema.num_outputs
        self._centre_d = torch.tensor(centre, dtype=torch.float32)
        maps = _closure([_map(symmetry, sizes) for symmetry in schema.symmetries])
        blocks = [*pairwise(accumulate(sizes.values(), initial=0))]
        self._elements = [
            tuple(torch.from_numpy(each[begin:end, begin:end].astype(np.float32)) for begin, end in blocks)
            for each in maps
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
            points_BNd=self._centre_d + (batch.points_BNd - self._centre_d) @ points_dd.T,
            inputs_BNF=batch.inputs_BNF @ inputs_FF.T,
            scalars_BG=batch.scalars_BG @ scalars_GG.T,
            outputs_BNK=batch.outputs_BNK @ outputs_KK.T,
            free_BNK=batch.free_BNK @ outputs_KK.abs().T,
        )


def _map(symmetry: Symmetry, sizes: Mapping[str, int]) -> npt.NDArray[np.int64]:
    """Return the matrix of points, inputs, scalars and outputs together, block diagonal."""
    if 8 * sum(sizes.values()) ** 2 > MOST_BYTES:
        raise ValueError(f"symmetry: expected fewer values at a point, got {sizes}")
    return block_diag(*(_signed_permutation(name, getattr(symmetry, name), size) for name, size in sizes.items()))


def _signed_permutation(name: str, rows: Matrix, size: int) -> npt.NDArray[np.int64]:
    if not rows:
        return np.eye(size, dtype=np.int64)
    if len(rows) != size or any(len(row) != size for row in rows):
        raise ValueError(f"symmetry: the matrix of the {name} must be {size} x {size}, got {rows}")
    matrix = np.array(rows, dtype=np.int64)
    if not np.array_equal(matrix @ matrix.T, np.eye(size, dtype=np.int64)):
        raise ValueError(f"symmetry: the matrix of the {name} must have one 1 or -1 in each row and column, got {rows}")
    return matrix


def _closure(generators: Sequence[npt.NDArray[np.int64]]) -> list[npt.NDArray[np.int64]]:
    """Return all products of the generators, the identity first."""
    identity = np.eye(len(generators[0]), dtype=np.int64)
    found = fresh = {identity.tobytes(): identity}
    while fresh:
        products = [generator @ element for generator in generators for element in fresh.values()]
        fresh = {product.tobytes(): product for product in products if product.tobytes() not in found}
        found = found | fresh
        if len(found) > LARGEST or len(found) * identity.nbytes > MOST_BYTES:
            raise ValueError(f"symmetry: the symmetries generate more than {LARGEST} maps, or too large ones")
    return list(found.values())
