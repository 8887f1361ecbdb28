"""A basis of a coarse space: the lowest modes on a coarse mesh."""

from __future__ import annotations

import numpy as np
from mpi4py import MPI
from petsc4py import PETSc
from slepc4py import SLEPc

from lrsa_coupled.coupling.scalars import IS_COMPLEX
from lrsa_coupled.petsc.basis import StoredBasis
from lrsa_coupled.petsc.blocks import multiply
from lrsa_coupled.petsc.describe import description_of


def coarse_modes(pc: PETSc.PC, count: int) -> StoredBasis:
    """Interpolate the lowest modes of the coarse pencil (P, P - A), or (P, I) where A is P. Collective.

    With a complex PETSc P - A is replaced by its Hermitian part: absorbing terms of A are left out.
    The pencil is a Galerkin one by the description's prolongation; there are at most half as many modes as the coarse
    mesh has unknowns. Options of SLEPc's EPS stand under ``<prefix>pc_lrsa_coarse_``; by default a
    factorisation by MUMPS is shifted and inverted at zero.

    Raises:
        ValueError: If the description of the matrix has no prolongation, or fewer modes converge.
    """
    prolongation = description_of(pc).prolongation
    if prolongation is None:
        raise ValueError(
            "-pc_lrsa_basis coarse: the description of the matrix needs a prolongation from a coarse mesh, got none"
        )
    matrix, stiffness = pc.getOperators()
    left = stiffness.ptap(prolongation)
    if matrix.handle == stiffness.handle:
        right = prolongation.transposeMatMult(prolongation)
    else:
        right = left - matrix.ptap(prolongation)
        if IS_COMPLEX:
            right = 0.5 * (right + right.copy().hermitianTranspose())
    size = left.getSize()[0]
    count = max(min(count, size // 2), 1)
    solver = _eigensolver(pc, left, right, count)
    solver.solve()
    found, vector = solver.getConverged(), left.createVecRight()
    if found < count:
        raise ValueError(
            f"-pc_lrsa_basis coarse: {count} modes asked for on a coarse mesh of {size} unknowns, {found} converged"
        )
    modes = np.empty((vector.getLocalSize(), count), PETSc.ScalarType, order="F")
    for index, column in enumerate(modes.T):
        solver.getEigenpair(index, vector)
        column[:] = vector.array_r
    basis = multiply(prolongation, modes)
    for item in (solver, left, right, vector):
        item.destroy()
    return StoredBasis(basis)


def _eigensolver(pc: PETSc.PC, left: PETSc.Mat, right: PETSc.Mat, count: int) -> SLEPc.EPS:
    solver = SLEPc.EPS().create(pc.comm)
    solver.setOptionsPrefix((pc.getOptionsPrefix() or "") + "pc_lrsa_coarse_")
    solver.setOperators(left, right)
    solver.setProblemType(SLEPc.EPS.ProblemType.GHEP)
    solver.setDimensions(nev=count)
    solver.setTolerances(tol=1e-4)  # far below what the coarse mesh costs the modes
    solver.setWhichEigenpairs(SLEPc.EPS.Which.TARGET_MAGNITUDE)
    solver.setTarget(0.0)
    transform = solver.getST()
    transform.setType(SLEPc.ST.Type.SINVERT)
    transform.getKSP().setType(PETSc.KSP.Type.PREONLY)
    # MUMPS takes a Hermitian matrix for a symmetric one.
    transform.getKSP().getPC().setType(PETSc.PC.Type.LU if IS_COMPLEX else PETSc.PC.Type.CHOLESKY)
    transform.getKSP().getPC().setFactorSolverType(PETSc.Mat.SolverType.MUMPS)
    solver.setFromOptions()
    return solver
