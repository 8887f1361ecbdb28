"""Blocks of vectors: arrays ``(num_owned, m)`` in Fortran order, the owned rows of m vectors.

They hold PETSc's scalars; with a complex PETSc a block of real vectors may be real. Dense work is done in BLAS-3, the
rest by PETSc. All functions are collective.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from mpi4py import MPI
from petsc4py import PETSc

from lrsa_coupled.coupling.scalars import Scalars

Block = Scalars
Dense = Scalars
"""A small matrix, the same on all ranks."""


def total(values: Dense, comm: MPI.Comm) -> Dense:
    """Sum an array over the ranks, in place."""
    if comm.size > 1:
        comm.Allreduce(MPI.IN_PLACE, values)
    return values


def inner_products(left: Block, right: Block, comm: MPI.Comm) -> Dense:
    """Return the inner products of the columns, linear in those of ``right``."""
    return total(np.ascontiguousarray(left.conj().T @ right), comm)


def norms(block: Block, comm: MPI.Comm) -> npt.NDArray[np.float64]:
    """Return the Euclidean norms of the columns."""
    return np.sqrt(total(np.ascontiguousarray(np.einsum("nm,nm->m", block.conj(), block).real), comm))


def multiply(matrix: PETSc.Mat, block: Block) -> Block:
    """Return the matrix times the block: one product where PETSc has it for the type, else one a column."""
    if matrix.getType() not in ("seqaij", "mpiaij", "seqbaij", "mpibaij", "seqsbaij", "mpisbaij"):
        return by_column(matrix.mult, block, matrix.createVecs())
    sizes = matrix.getSizes()[1], (None, block.shape[1])
    dense = PETSc.Mat().createDense(sizes, array=np.asfortranarray(block, dtype=PETSc.ScalarType), comm=matrix.comm)
    image = matrix.matMult(dense)
    result = image.getDenseArray(readonly=True).copy(order="F")
    image.destroy()
    dense.destroy()
    return result


def by_column(operation: Callable[[PETSc.Vec, PETSc.Vec], None], block: Block, vectors: Sequence[PETSc.Vec]) -> Block:
    """Apply a PETSc operation to each column; ``vectors`` have the layouts of argument and result and are freed."""
    source, target = vectors
    result = np.empty((target.getLocalSize(), block.shape[1]), dtype=PETSc.ScalarType, order="F")
    for column, image in zip(block.T, result.T, strict=True):
        source.array[:] = column
        operation(source, target)
        image[:] = target.array_r
    source.destroy()
    target.destroy()
    return result


def smoothed(block: Block, matrix: PETSc.Mat, degree: int) -> Block:
    """Return a polynomial of D^-1 A of the block that keeps smooth vectors and damps those that vary over a few nodes.

    It is 1 at zero and, from degree 2, at most 0.3 between ``1 / degree^2`` of the largest eigenvalue and that.
    Chebyshev's iteration for the solution zero; ``degree`` products with the block.

    Source: Saad (2003), Iterative methods for sparse linear systems, algorithm 12.1.
    """
    if not degree or not block.shape[1]:
        return block
    comm, diagonal = matrix.comm.tompi4py(), matrix.getDiagonal()
    inverse = 1.0 / diagonal.array_r[:, None]
    diagonal.destroy()
    vector, largest = np.random.default_rng(comm.rank).standard_normal((len(block), 1)), 1.0
    for _ in range(10):  # the power method
        vector = inverse * multiply(matrix, vector / norms(vector, comm))
        largest = float(norms(vector, comm)[0])
    upper = 1.1 * largest  # the estimate is below the largest eigenvalue
    lower = upper / max(degree, 2) ** 2
    centre, radius = (upper + lower) / 2.0, (upper - lower) / 2.0
    share, step = radius / centre, np.zeros_like(block, dtype=PETSc.ScalarType)
    for number in range(degree):
        ratio = share if number == 0 else 1.0 / (2.0 * centre / radius - share)
        factors = (0.0, 1.0 / centre) if number == 0 else (ratio * share, 2.0 * ratio / radius)
        image = multiply(matrix, block)
        image *= factors[1] * inverse
        step *= factors[0]
        step -= image
        block = block + step
        share = ratio
    return block


def span(block: Block, comm: MPI.Comm, tolerance: float) -> tuple[Block, Dense]:
    """Return columns and weights ``(columns, r)`` whose product is an orthonormal basis of the span, of r dimensions.

    The columns are those given, less those that are zero, or not finite on any rank; directions that are a share below
    ``tolerance`` of the columns of unit length are left out. By the eigenvectors of the Gram matrix; where that is
    ill-conditioned the columns are orthonormal ones.

    Source: Stathopoulos & Wu (2002), "A block orthogonalization procedure with constant synchronization requirements",
    SIAM J. Sci. Comput. 23.
    """
    sound, weights, accurate = rough_span(block, comm, tolerance)
    block = block if len(sound) == block.shape[1] else np.asfortranarray(block[:, sound])
    return (block, weights) if accurate else span(np.asfortranarray(block @ weights), comm, 0.0)


def rough_span(block: Block, comm: MPI.Comm, tolerance: float) -> tuple[npt.NDArray[np.intp], Dense, bool]:
    """Return which columns ``span`` uses, their weights, and whether they are orthonormal to 1e-8 rather than 1e-3."""
    products = inner_products(block, block, comm)
    lengths = np.sqrt(np.diag(products).real)
    sound = np.flatnonzero(np.isfinite(lengths) & (lengths > 0.0))
    lengths, products = lengths[sound], products[np.ix_(sound, sound)]
    values, vectors = np.linalg.eigh(products / np.outer(lengths, lengths))
    kept = values > max(tolerance**2, 1e-13) * values.max(initial=0.0)  # others are zero
    weights = comm.bcast(vectors[:, kept] / np.sqrt(values[kept]) / lengths[:, None])
    return sound, weights, bool(values[kept].min(initial=1.0) > 1e-8 * values.max(initial=1.0))
