"""Lowest modes by SLEPc against the closed form, cold and from a subspace, at any number of ranks."""

from __future__ import annotations

import numpy as np
import pytest
from mpi4py import MPI

pytest.importorskip("slepc4py", reason="the eigensolver needs SLEPc")

from petsc4py import PETSc

from lrsa_coupled.solvers.eigen import KRYLOV_SCHUR, LOBPCG, lowest_modes
from tests.matrices import N, grid_matrix

pytestmark = pytest.mark.two_ranks

COMM = MPI.COMM_WORLD
COUNT = 10
MASS = 0.5


def exact() -> np.ndarray:
    i = np.arange(1, N + 1)
    return (
        np.sort(np.add.outer(2.6 * (1 - np.cos(np.pi * i / (N + 1))), 2 * (1 - np.cos(np.pi * i / (N + 1)))).ravel())[
            :COUNT
        ]
        / MASS
    )


def pair() -> tuple[PETSc.Mat, PETSc.Mat]:
    stiffness = grid_matrix()
    mass = PETSc.Mat().createAIJ(stiffness.getSizes(), nnz=1, comm=COMM)
    for row in range(*mass.getOwnershipRange()):
        mass[row, row] = MASS
    mass.assemble()
    return stiffness, mass


@pytest.mark.parametrize("options", [KRYLOV_SCHUR, LOBPCG], ids=["krylovschur", "lobpcg"])
def test_the_lowest_modes_are_found(options: dict[str, str]) -> None:
    stiffness, mass = pair()
    modes = lowest_modes(stiffness, mass, COUNT, options=options)
    assert modes.converged and modes.residual <= 1e-7 and modes.reason == "CONVERGED_TOL"
    assert modes.values == pytest.approx(exact(), rel=1e-8)
    products = COMM.allreduce(MASS * modes.vectors.T @ modes.vectors)
    assert np.abs(products - np.eye(COUNT)).max() < 1e-8


def test_a_good_initial_space_saves_iterations() -> None:
    stiffness, mass = pair()
    true = lowest_modes(stiffness, mass, COUNT).vectors
    noise = np.random.default_rng(COMM.rank).standard_normal(true.shape) / N / np.sqrt(MASS)
    cold = lowest_modes(stiffness, mass, COUNT, options=LOBPCG)
    warm = lowest_modes(stiffness, mass, COUNT, options=LOBPCG, initial=true + 1e-6 * noise)
    assert warm.converged and 2 * warm.iterations < cold.iterations
    assert warm.values == pytest.approx(cold.values, rel=1e-8)


def test_modes_that_are_not_found_are_not_returned() -> None:
    stiffness, mass = pair()
    modes = lowest_modes(stiffness, mass, COUNT, options=LOBPCG, max_iterations=2)
    assert not modes.converged and modes.reason == "DIVERGED_ITS" and len(modes.values) < COUNT


def test_what_cannot_be_is_named() -> None:
    stiffness, mass = pair()
    with pytest.raises(ValueError, match="between 1 and 900, got 0"):
        lowest_modes(stiffness, mass, 0)
    with pytest.raises(ValueError, match="owned rows, got"):
        lowest_modes(stiffness, mass, 2, initial=np.zeros((stiffness.getLocalSize()[0] + 1, 2)))
