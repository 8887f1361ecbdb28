"""Bases of coarse spaces, and what one is worth, measured on a share of its rows before it is made in full."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import final

import numpy as np
import numpy.typing as npt
from mpi4py import MPI
from petsc4py import PETSc

from lrsa_coupled.petsc.blocks import Block, Dense, by_column, inner_products, multiply, norms, rough_span

ROWS = 8192
"""Rows of all ranks, about, on which a span is measured; all where there are fewer than twice as many."""


class Basis(ABC):
    """Vectors that need not exist yet.

    Attributes:
        shape: Owned rows of this rank, and columns.
    """

    shape: tuple[int, int]

    @abstractmethod
    def rows(self, which: slice) -> Block:
        """Return some of the owned rows, of all columns. Collective: no."""

    @abstractmethod
    def combined(self, chosen: npt.NDArray[np.intp], weights: Dense) -> Block:
        """Return the chosen columns times the weights ``(chosen, m)``. Collective: no."""


@final
class StoredBasis(Basis):
    """A basis in memory."""

    def __init__(self, block: Block) -> None:
        self._block, self.shape = block, block.shape

    def rows(self, which: slice) -> Block:
        return self._block if which == slice(None) else np.asfortranarray(self._block[which])

    def combined(self, chosen: npt.NDArray[np.intp], weights: Dense) -> Block:
        return (self._block if len(chosen) == self.shape[1] else self._block[:, chosen]) @ weights


def measure(basis: Basis, inner: PETSc.PC, matrix: PETSc.Mat, tolerance: float) -> tuple[int, float, float]:
    """Return the rank of a basis, ``gain`` and ``defect`` as ``petsc/coarse_space.py`` defines them, nan without rank.

    The defect is that on some rows, relative to the span of the basis on these. Collective.
    """
    comm = matrix.comm.tompi4py()
    step = max(comm.allreduce(basis.shape[0], op=MPI.SUM) // ROWS, 1)
    which = slice(None, None, step if step > 1 else None)
    thin = basis.rows(which)
    sound, weights, _ = rough_span(thin, comm, tolerance)
    thin, rank = thin[:, sound], weights.shape[1]
    if not rank:
        return 0, float("nan"), float("nan")
    # One vector of white noise, with its many rows, is enough; two of the span have a part in each of its directions.
    noise = np.random.default_rng(comm.rank).standard_normal((basis.shape[0], 1))
    inside = basis.combined(sound, weights @ np.random.default_rng(0).standard_normal((rank, 2)))
    probes = np.asfortranarray(np.column_stack([noise, inside]))
    images = by_column(inner.apply, multiply(matrix, probes), matrix.createVecs())
    overlap = inner_products(probes[:, :1], images[:, :1], comm).item().conjugate()
    scale = overlap / norms(images[:, :1], comm).item() ** 2
    rest = probes - scale * images
    left, of_span = norms(rest, comm) / norms(probes, comm), rest[which, 1:]
    outside = of_span - thin @ (weights @ (weights.conj().T @ inner_products(thin, of_span, comm)))
    defects = norms(outside, comm) / norms(of_span, comm)
    return rank, float(np.sqrt(np.mean(left[1:] ** 2))), float(np.sqrt(np.mean(defects**2)))
