"""Matrices of finite differences, the same at any number of ranks."""

from __future__ import annotations

import numpy as np
from mpi4py import MPI
from petsc4py import PETSc

N = 30
"""Points a side."""


def grid_matrix(points: int = N, *, shift: float = 0.0, wind: float = 0.0, noise: float = 0.0,
                comm: MPI.Comm = MPI.COMM_WORLD) -> PETSc.Mat:  # fmt: skip
    """h^2 (-1.3 d2/dx2 - d2/dy2 + wind d/dy - shift (1 + noise)), central differences, Dirichlet; smooth noise."""
    h, size = 1.0 / (points + 1), points * points
    matrix = PETSc.Mat().createAIJ(size, nnz=5, comm=comm)
    for row in range(*matrix.getOwnershipRange()):
        i, j = divmod(row, points)
        local = 1 + noise * np.sin(9 * h * (i + 1)) * np.cos(7 * h * (j + 1) + 40 * noise)
        matrix[row, row] = 4.6 - shift * h * h * local
        for p, q, value in (
            (i - 1, j, -1.3),
            (i + 1, j, -1.3),
            (i, j - 1, -1 - wind * h / 2),
            (i, j + 1, -1 + wind * h / 2),
        ):
            if 0 <= p < points and 0 <= q < points:
                matrix[row, p * points + q] = value
    matrix.assemble()
    return matrix


def right_side(matrix: PETSc.Mat, seed: int = 0) -> PETSc.Vec:
    """Random values that are the same at any number of ranks."""
    b = matrix.createVecLeft()
    b.array[:] = np.random.default_rng(seed).standard_normal(b.size)[slice(*b.owner_range)]
    return b
