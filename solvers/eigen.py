"""The lowest modes of a pair of symmetric matrices by SLEPc.

Legend of array shapes: m modes.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from mpi4py import MPI  # noqa: F401  (MPI is loaded before PETSc)
from petsc4py import PETSc
from slepc4py import SLEPc

from solvers.petsc import default_options, reason_name

KRYLOV_SCHUR: Mapping[str, str] = {"eps_type": "krylovschur", "st_type": "sinvert", "st_ksp_type": "preonly", "st_pc_type": "cholesky",
                                   "st_pc_factor_mat_solver_type": "mumps"}  # fmt: skip
"""Shift-and-invert at zero: few iterations, one factorisation."""

LOBPCG: Mapping[str, str] = {"eps_type": "lobpcg", "st_type": "precond", "st_ksp_type": "richardson", "st_ksp_max_it": "1",
                             "st_ksp_norm_type": "none", "st_pc_type": "gamg"}  # fmt: skip
"""No factorisation; takes an initial space well. With preonly all vectors are preconditioned at once, at which GAMG of PETSc 3.25 crashes on
several ranks."""


@dataclass(frozen=True)
class Modes:
    """Lowest eigenpairs of (A, B), in ascending order.

    Args:
        values: Eigenvalues ``(m,)``, the same on all ranks.
        vectors: Owned rows of the eigenvectors ``(num_owned, m)``, orthonormal in B.
        converged: Whether all that were asked for met the tolerance; fewer are returned otherwise.
        reason: Name of the converged or diverged reason of SLEPc.
        iterations: Outer iterations.
        residual: Largest norm of A x - lambda B x relative to that of lambda x.
        seconds: Wall time, set-up included [s].
    """

    values: npt.NDArray[np.float64]
    vectors: npt.NDArray[np.float64]
    converged: bool
    reason: str
    iterations: int
    residual: float
    seconds: float


def lowest_modes(stiffness: PETSc.Mat, mass: PETSc.Mat, count: int, *, rtol: float = 1e-8, initial: npt.NDArray[np.float64] | None = None,
                 options: Mapping[str, str] = KRYLOV_SCHUR, prefix: str = "modes_", max_iterations: int = 500) -> Modes:  # fmt: skip
    """Find the modes of ``stiffness x = lambda mass x`` with the least eigenvalues.

    Collective: yes. Memory: a factorisation with ``KRYLOV_SCHUR``, some 2 m to 3 m vectors.

    Args:
        stiffness: Symmetric positive (semi-)definite.
        mass: Symmetric positive definite.
        count: Modes wanted.
        rtol: Tolerance of SLEPc's estimate of the relative residual; that of shift-and-invert refers to the inverted problem.
        initial: Owned rows of the vectors to begin with ``(num_owned, any number)``; random when None.
        options: Defaults under the prefix; the command line wins.
        prefix: Options prefix of the EPS.
        max_iterations: Before it is given up.

    Raises:
        ValueError: If ``count`` is not between 1 and the number of rows, or ``initial`` has other rows, on all ranks.
    """
    started = time.perf_counter()
    rows = stiffness.getSize()[0]
    if not 1 <= count <= rows:
        raise ValueError(f"the number of modes must be between 1 and {rows}, got {count}")
    _check(stiffness, initial)
    solver = SLEPc.EPS().create(stiffness.comm)
    solver.setOptionsPrefix(prefix)
    solver.setOperators(stiffness, mass)
    solver.setProblemType(SLEPc.EPS.ProblemType.GHEP)
    solver.setDimensions(nev=count)
    solver.setTolerances(tol=rtol, max_it=max_iterations)
    if options.get("st_type") == "sinvert":
        solver.setWhichEigenpairs(SLEPc.EPS.Which.TARGET_MAGNITUDE)
        solver.setTarget(0.0)
    else:
        solver.setWhichEigenpairs(SLEPc.EPS.Which.SMALLEST_REAL)
    vectors = _vectors(stiffness, initial)
    if vectors:
        solver.setInitialSpace(vectors)
    with default_options(prefix, options):
        solver.setFromOptions()
        solver.solve()
    modes = _collect(solver, count, time.perf_counter() - started)
    for vector in vectors:
        vector.destroy()
    solver.destroy()
    return modes


def _check(stiffness: PETSc.Mat, initial: npt.NDArray[np.float64] | None) -> None:
    owned = stiffness.getLocalSize()[0]
    wrong = initial is not None and len(initial) != owned
    if stiffness.comm.tompi4py().allreduce(wrong, op=MPI.LOR):
        raise ValueError(f"the initial space must have {owned} owned rows, got {None if initial is None else len(initial)}")


def _vectors(like: PETSc.Mat, columns: npt.NDArray[np.float64] | None) -> list[PETSc.Vec]:
    vectors = []
    for column in () if columns is None else columns.T:
        vector = like.createVecRight()
        vector.array[:] = column
        vectors.append(vector)
    return vectors


def _collect(solver: SLEPc.EPS, count: int, seconds: float) -> Modes:
    found = min(solver.getConverged(), count)
    vector = solver.getOperators()[0].createVecRight()
    values, columns, errors = [], np.empty((vector.getLocalSize(), found), order="F"), [0.0]
    for index in range(found):
        values.append(solver.getEigenpair(index, vector).real)
        columns[:, index] = vector.array_r
        errors.append(solver.computeError(index, SLEPc.EPS.ErrorType.RELATIVE))
    vector.destroy()
    reason = reason_name(SLEPc.EPS.ConvergedReason, solver.getConvergedReason())
    return Modes(np.array(values), columns, found == count, reason, solver.getIterationNumber(), max(errors), seconds)
