"""Blocks of vectors: float64 arrays ``(num_owned, m)`` in Fortran order, the owned rows of m vectors; dense work in BLAS-3, the rest by PETSc."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from mpi4py import MPI
from petsc4py import PETSc

Block = npt.NDArray[np.float64]
Dense = npt.NDArray[np.float64]
"""A small matrix, the same on all ranks."""

POWER_STEPS = 10
"""Steps of the power method that estimate the largest eigenvalue of D^-1 A."""

ROUNDING = 1e-13
"""Eigenvalues of a Gram matrix, relative to the largest, that are zero."""


def total(values: Dense, comm: MPI.Comm) -> Dense:
    """Sum an array over the ranks. Collective."""
    if comm.size > 1:
        comm.Allreduce(MPI.IN_PLACE, values)
    return values


def inner_products(left: Block, right: Block, comm: MPI.Comm) -> Dense:
    """Return the inner products of the columns. Collective."""
    return total(np.ascontiguousarray(left.T @ right), comm)


def norms(block: Block, comm: MPI.Comm) -> Dense:
    """Return the Euclidean norms of the columns. Collective."""
    return np.sqrt(total(np.einsum("nm,nm->m", block, block), comm))


def multiply(matrix: PETSc.Mat, block: Block) -> Block:
    """Return the matrix times the block: one product where PETSc has it for the type of matrix, else one a column. Collective."""
    if matrix.getType() not in ("seqaij", "mpiaij", "seqbaij", "mpibaij", "seqsbaij", "mpisbaij"):
        return by_column(matrix.mult, block, matrix.createVecs())
    dense = PETSc.Mat().createDense((matrix.getSizes()[1], (None, block.shape[1])), array=np.asfortranarray(block), comm=matrix.comm)
    image = matrix.matMult(dense)
    result = image.getDenseArray(readonly=True).copy(order="F")
    image.destroy()
    dense.destroy()
    return result


def by_column(operation: Callable[[PETSc.Vec, PETSc.Vec], None], block: Block, vectors: tuple[PETSc.Vec, PETSc.Vec]) -> Block:
    """Return what a PETSc operation makes of each column; ``vectors`` have the layouts of its argument and result and are freed. Collective."""
    source, target = vectors
    result = np.empty((target.getLocalSize(), block.shape[1]), order="F")
    for column, image in zip(block.T, result.T, strict=True):
        source.array[:] = column
        operation(source, target)
        image[:] = target.array_r
    source.destroy()
    target.destroy()
    return result


def smoothed(block: Block, matrix: PETSc.Mat, steps: int) -> Block:
    """Return the block after steps of ``I - 4 / (3 l) D^-1 A``, l the largest eigenvalue of D^-1 A: what varies from node to node goes. Collective.

    Source: Vaněk, Mandel & Brezina (1996), "Algebraic multigrid by smoothed aggregation", Computing 56.
    """
    if not steps or not block.shape[1]:
        return block
    comm, diagonal = matrix.comm.tompi4py(), matrix.getDiagonal()
    inverse = 1.0 / diagonal.array_r[:, None]
    diagonal.destroy()
    vector, largest = np.random.default_rng(comm.rank).standard_normal((len(block), 1)), 1.0
    for _ in range(POWER_STEPS):
        vector = inverse * multiply(matrix, vector / norms(vector, comm))
        largest = float(norms(vector, comm)[0])
    for _ in range(steps):
        block = block - 4.0 / (3.0 * largest) * inverse * multiply(matrix, block)
    return block


def scaled(block: Block, comm: MPI.Comm) -> Block:
    """Return the columns at unit length, less those that are zero, or not finite on any rank. Collective."""
    lengths = norms(block, comm)
    kept = np.isfinite(lengths) & (lengths > 0.0)
    return np.asfortranarray(block[:, kept] / lengths[kept])


def orthonormalise(block: Block, comm: MPI.Comm, tolerance: float) -> Block:
    """Return an orthonormal basis of the span of the columns, less the directions that a share of the columns below ``tolerance`` is made of.

    Columns are ``scaled`` first. Two passes by the eigenvectors of the Gram matrix. Collective.

    Source: Stathopoulos & Wu (2002), "A block orthogonalization procedure with constant synchronization requirements", SIAM J. Sci. Comput. 23.
    """
    block = scaled(block, comm)
    for limit in (tolerance**2, ROUNDING):
        values, vectors = np.linalg.eigh(inner_products(block, block, comm))
        kept = values > max(limit, ROUNDING) * values.max(initial=0.0)
        weights = comm.bcast(vectors[:, kept] / np.sqrt(values[kept]))
        block = np.asfortranarray(block @ weights)
    return block
