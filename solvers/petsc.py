"""What the PETSc solvers share: names of converged reasons, advice, near-null spaces."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from mpi4py import MPI
from dolfinx.fem import Function
from petsc4py import PETSc

ADVICE: Mapping[str, str] = {
    "DIVERGED_MAX_IT": "use a better initial guess (continuation, learned) or allow more iterations",
    "DIVERGED_LINE_SEARCH": "use a better initial guess: continuation in a parameter, or a learned one",
    "DIVERGED_FNORM_NAN": "the residual is not finite: check the initial guess and the mesh",
    "DIVERGED_LINEAR_SOLVE": "the inner solve failed: use a direct solver (MUMPS) or a stronger preconditioner",
    "DIVERGED_DTOL": "the residual grew: use a better initial guess or damp the steps",
    "DIVERGED_BREAKDOWN": "the Krylov space is exhausted: the matrix may be singular, or the tolerance below rounding",
    "DIVERGED_INDEFINITE_PC": "the preconditioner is not positive definite: use GMRES, or another preconditioner",
    "DIVERGED_ITS": "allow more iterations or use a stronger preconditioner",
}


def advice(reason: str) -> str:
    """Return what to try after a failed solve, by the name of its reason."""
    return ADVICE.get(reason, "see the reason in PETSc's manual; -snes_monitor and -ksp_monitor show the residuals")


def recycling(dimension: int) -> dict[str, str]:
    """Return the options of a KSP that recycles a Krylov subspace of this dimension, see ``solvers/gcrodr.py``."""
    return {"ksp_type": "python", "ksp_python_type": "lrsa_coupled.solvers.gcrodr.GCRODR",
            "ksp_gcrodr_recycle": str(dimension), "ksp_gcrodr_restart": str(max(300, 2 * dimension))}  # fmt: skip


def rigid_body_modes(displacement: Function) -> PETSc.NullSpace:
    """Return the translations and infinitesimal rotations of a deformed body for algebraic multigrid. Collective.

    The stiffness matrix is nearly singular on the rotations of the deformed shape, not on those of the reference shape.
    ValueError unless the space is a blocked Lagrange one of as many components as dimensions, 2 or 3.
    """
    space = displacement.function_space
    dim = space.mesh.geometry.dim
    if dim not in (2, 3) or space.dofmap.bs != dim:
        raise ValueError(
            f"rigid body modes need a displacement of a blocked space in 2-D or 3-D, got {space.ufl_element()}, {dim}-D"
        )
    owned = space.dofmap.index_map.size_local
    placed = space.tabulate_dof_coordinates()[:owned, :dim] + displacement.x.array.reshape(-1, dim)[:owned]
    points = PETSc.Vec().createMPI((placed.size, PETSc.DETERMINE), bsize=dim, comm=space.mesh.comm)
    points.array_w[:] = placed.ravel()
    modes = PETSc.NullSpace().createRigidBody(points)
    points.destroy()
    return modes


def index_set(mask: npt.NDArray[np.bool_], first: int, comm: PETSc.Comm) -> PETSc.IS:
    """Return the global rows, of which this rank owns those from ``first``, where a mask holds. Collective."""
    return PETSc.IS().createGeneral((np.flatnonzero(mask) + first).astype(PETSc.IntType), comm=comm)
