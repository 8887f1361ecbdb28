"""Solutions of a study on all of its meshes, in memory, to find the one nearest to a problem on another."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import final

import numpy as np
import numpy.typing as npt

from lrsa_coupled.data.format import SampleArrays
from lrsa_coupled.generation.sample_arrays import mesh_of
from lrsa_coupled.guess.regression import scaled, squares

Array = npt.NDArray[np.float64]

MEMORY = 2**28
"""Memory for samples [bytes]; the oldest make room for new ones."""


@final
class Library:
    """Samples by the description of their problem; on rank 0. Collective: no.

    Args:
        groups: Columns of a description, see ``Combinations``; so ``num_scalars``.
    """

    def __init__(self, groups: Sequence[slice], *, num_scalars: int) -> None:
        self._groups, self._num_scalars = groups, num_scalars
        self._kept: deque[tuple[object, Array, SampleArrays]] = deque()
        self._size = 0

    def add(self, description: Array, arrays: SampleArrays) -> None:
        """Add a sample."""
        self._kept.append((mesh_of(arrays.points), description, arrays))
        self._size += arrays.outputs.nbytes + arrays.points.nbytes
        while self._size > MEMORY and len(self._kept) > 1:
            _, _, oldest = self._kept.popleft()
            self._size -= oldest.outputs.nbytes + oldest.points.nbytes

    def nearest(self, description: Array, mesh: object) -> SampleArrays | None:
        """Return the sample nearest to a problem among those on other meshes, None when there is none."""
        others = [(known, arrays) for own, known, arrays in self._kept if own != mesh]
        if not others:
            return None
        table = np.array([known for known, _ in others] + [description])
        places = scaled(table, self._groups, self._num_scalars)
        distances = squares(places[-1:], places[:-1])[0][::-1]  # of equals the latest
        return others[len(others) - 1 - int(np.argmin(distances))][1]
