"""The lowest modes of a pair of symmetric matrices, Hermitian ones with a complex PETSc, by SLEPc.

Legend of array shapes: m modes.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from mpi4py import MPI
from dolfinx.fem import Form
from dolfinx.fem.petsc import assemble_matrix
from petsc4py import PETSc
from slepc4py import SLEPc

from lrsa_coupled.coupling.failures import reason_name
from lrsa_coupled.coupling.options import default_options
from lrsa_coupled.coupling.scalars import IS_COMPLEX
from lrsa_coupled.interfaces import Modes, Pencil, Unknown
from lrsa_coupled.solvers.petsc import index_set

Array = npt.NDArray[Any]
"""Of PETSc's scalars."""

KRYLOV_SCHUR: Mapping[str, str] = {"eps_type": "krylovschur", "st_type": "sinvert", "st_ksp_type": "preonly",
                                   "st_pc_type": "lu" if IS_COMPLEX else "cholesky",
                                   "st_pc_factor_mat_solver_type": "mumps"}  # fmt: skip
"""Shift-and-invert at zero: few iterations, one factorisation. MUMPS takes a Hermitian matrix for a symmetric one."""

LOBPCG: Mapping[str, str] = {"eps_type": "lobpcg", "st_type": "precond", "st_ksp_type": "richardson",
                             "st_ksp_max_it": "1", "st_ksp_norm_type": "none", "st_pc_type": "gamg"}  # fmt: skip
"""No factorisation; takes an initial space well. With preonly all vectors are preconditioned at once, at which GAMG of
PETSc 3.25 crashes on several ranks."""

GUARD = 1.25
"""Vectors of a block of LOBPCG for each mode that is wanted: more of them converge in fewer iterations. Of 1 to 3, 1.25
takes the least time for 8 to 32 modes of waves in a random medium."""

Eigensolver = Literal["krylov-schur", "lobpcg"]
EIGENSOLVERS: Mapping[Eigensolver, Mapping[str, str]] = {"krylov-schur": KRYLOV_SCHUR, "lobpcg": LOBPCG}


def lowest_modes(stiffness: PETSc.Mat, mass: PETSc.Mat, count: int, *, rtol: float = 1e-8,
                 initial: Array | None = None, options: Mapping[str, str] = KRYLOV_SCHUR,
                 max_iterations: int = 500) -> Modes:  # fmt: skip
    """Find the modes of ``stiffness x = lambda mass x`` with the least eigenvalues.

    Collective: yes. Memory: a factorisation with ``KRYLOV_SCHUR``, some 2 m to 3 m vectors.

    Args:
        stiffness: Symmetric positive (semi-)definite.
        mass: Symmetric positive definite.
        count: Modes wanted.
        rtol: Tolerance of SLEPc's estimate of the relative residual, of the inverted problem for shift-and-invert.
        initial: Owned rows of the vectors to begin with ``(num_owned, any number)``, of which the best combinations are
            taken (Rayleigh-Ritz); random when None.
        options: Defaults under the prefix ``modes_``; the command line wins.
        max_iterations: Before it is given up.

    Raises:
        ValueError: If ``count`` is not between 1 and the number of rows, or ``initial`` has other rows, on all ranks.
    """
    started = time.perf_counter()
    rows = stiffness.getSize()[0]
    if not 1 <= count <= rows:
        raise ValueError(f"the number of modes must be between 1 and {rows}, got {count}")
    owned = stiffness.getLocalSize()[0]
    given = owned if initial is None else len(initial)
    if stiffness.comm.tompi4py().allreduce(given != owned, op=MPI.LOR):
        raise ValueError(f"the initial space must have {owned} owned rows, got {given}")
    solver = SLEPc.EPS().create(stiffness.comm)
    solver.setOptionsPrefix("modes_")
    solver.setOperators(stiffness, mass)
    solver.setProblemType(SLEPc.EPS.ProblemType.GHEP)
    solver.setDimensions(nev=count)
    solver.setTolerances(tol=rtol, max_it=max_iterations)
    if options.get("st_type") == "sinvert":
        solver.setWhichEigenpairs(SLEPc.EPS.Which.TARGET_MAGNITUDE)
        solver.setTarget(0.0)
    else:
        solver.setWhichEigenpairs(SLEPc.EPS.Which.SMALLEST_REAL)
    block = min(math.ceil(GUARD * count), rows // 4)
    vectors = [] if initial is None else _ritz_vectors(stiffness, mass, initial, block)
    if vectors:
        solver.setInitialSpace(vectors)
    with default_options("modes_", {"eps_lobpcg_blocksize": str(max(block, count)), **options}):
        solver.setFromOptions()
        solver.solve()
    modes = _collect(solver, count, time.perf_counter() - started)
    for vector in vectors:
        vector.destroy()
    solver.destroy()
    return modes


def pencil_modes(pencil: Pencil, count: int, *, eigensolver: Eigensolver = "krylov-schur", rtol: float = 1e-8,
                 initial: Array | None = None) -> Modes:  # fmt: skip
    """Find the lowest modes of a pencil, zero on constrained degrees of freedom; see ``lowest_modes``. Collective."""
    started = time.perf_counter()
    free = free_rows(pencil)
    stiffness, mass = (_restricted(form, free) for form in (pencil.stiffness, pencil.mass))
    initial = None if initial is None else initial[free[: len(initial)]]
    modes = lowest_modes(stiffness, mass, count, rtol=rtol, initial=initial, options=EIGENSOLVERS[eigensolver])
    vectors = np.zeros((len(free), modes.vectors.shape[1]), dtype=PETSc.ScalarType, order="F")
    vectors[free] = modes.vectors
    stiffness.destroy()
    mass.destroy()
    return dataclasses.replace(modes, vectors=vectors, seconds=time.perf_counter() - started)


def free_rows(problem: Unknown) -> npt.NDArray[np.bool_]:
    """Return which owned nodes of the solution, blocked or not, have no Dirichlet condition. Collective: no."""
    dofmap = problem.solution.function_space.dofmap
    free = np.ones(dofmap.index_map.size_local, dtype=np.bool_)
    for bc in problem.bcs:
        rows = bc.dof_indices()[0] // dofmap.index_map_bs
        free[rows[rows < len(free)]] = False
    return free


def _restricted(form: Form, free: npt.NDArray[np.bool_]) -> PETSc.Mat:
    whole = assemble_matrix(form)
    whole.assemble()
    rows = index_set(free, whole.getOwnershipRange()[0], whole.comm)
    part = whole.createSubMatrix(rows, rows)
    whole.destroy()
    rows.destroy()
    return part


def _ritz_vectors(stiffness: PETSc.Mat, mass: PETSc.Mat, basis: Array, count: int) -> list[PETSc.Vec]:
    """Return the combinations of the columns that have the least Rayleigh quotients, at most ``count``. Collective."""
    comm = stiffness.comm.tompi4py()
    layout = stiffness.getSizes()[1], (None, basis.shape[1])
    columns = PETSc.Mat().createDense(layout, array=np.array(basis, PETSc.ScalarType, order="F"), comm=stiffness.comm)
    products = []
    for matrix in (stiffness, mass):
        image = matrix.matMult(columns)
        products.append(comm.allreduce(basis.conj().T @ image.getDenseArray(readonly=True)))
        image.destroy()
    columns.destroy()
    sizes = np.sqrt(np.diag(products[1]).real)
    values, directions = np.linalg.eigh(products[1] / np.outer(sizes, sizes))
    independent = values > 1e-12 * values.max()
    unit = directions[:, independent] / np.sqrt(values[independent]) / sizes[:, None]
    weights = comm.bcast(unit @ np.linalg.eigh(unit.conj().T @ products[0] @ unit)[1][:, :count])
    vectors = []
    for column in (basis @ weights).T:
        vector = stiffness.createVecRight()
        vector.array[:] = column
        vectors.append(vector)
    return vectors


def _collect(solver: SLEPc.EPS, count: int, seconds: float) -> Modes:
    found = min(solver.getConverged(), count)
    vector = solver.getOperators()[0].createVecRight()
    values, columns, errors = [], np.empty((vector.getLocalSize(), found), PETSc.ScalarType, order="F"), [0.0]
    for index in range(found):
        values.append(solver.getEigenpair(index, vector).real)
        columns[:, index] = vector.array_r
        errors.append(solver.computeError(index, SLEPc.EPS.ErrorType.RELATIVE))
    vector.destroy()
    reason = reason_name(SLEPc.EPS.ConvergedReason, solver.getConvergedReason())
    return Modes(np.array(values), columns, found == count, reason, solver.getIterationNumber(), max(errors), seconds)
