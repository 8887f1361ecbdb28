"""The true residual of a problem, of which every method meets the same tolerance, and its energy; no torch here."""

from __future__ import annotations

import math

import numpy as np
from mpi4py import MPI
from dolfinx.fem import assemble_scalar
from petsc4py import PETSc

from lrsa_coupled.coupling.compat import assemble_residual, assign, conditions_of, create_vector
from lrsa_coupled.interfaces import NumericalError, Problem, Unknown
from lrsa_coupled.mpi import agree


def set_dirichlet(problem: Unknown) -> None:
    """Write the Dirichlet values into the solution, ghosts included, each into its own function. Collective."""
    for function in problem.functions:
        for bc in conditions_of(problem, function):
            bc.set(function.x.array)
    agree(problem.mesh.comm)
    for function in problem.functions:
        function.x.scatter_forward()


def residual_vector(problem: Problem) -> PETSc.Vec:
    """Assemble the residual at the solution, which is left as it is; the caller destroys the vector. Collective.

    Dirichlet rows hold the distance to the prescribed values.
    """
    x, residual = (create_vector(problem.solution.function_space) for _ in range(2))
    assign(problem.solution, x)
    assemble_residual(problem.solution, problem.residual, problem.jacobian, bcs=problem.bcs, x=x, b=residual)
    x.destroy()
    return residual


def residual_norm(problem: Problem) -> float:
    """Return the Euclidean norm of the residual at the solution, which is left as it is. Collective."""
    residual = residual_vector(problem)
    norm = float(residual.norm())
    residual.destroy()
    return norm


def reference_norm(problem: Unknown) -> float:
    """Return the residual norm at zero, the scale of ``Case.rtol``: PETSc's own scale of ``-snes_rtol`` from zero.

    Dirichlet rows count with the prescribed values. It is 1 for what has no residual form: modes and corrections.
    Collective; leaves zeros in the solution. NumericalError when it is zero or not finite.
    """
    for function in problem.functions:
        function.x.array[:] = 0.0
    norm = residual_norm(problem) if isinstance(problem, Problem) else 1.0
    if not math.isfinite(norm):
        raise NumericalError(f"the residual at zero is not finite, its norm is {norm}")
    if norm == 0.0:
        raise NumericalError("the residual at zero has the norm 0: rtol is relative to it, and zero is the solution")
    return norm


def energy(problem: Problem) -> float:
    """Return the energy at the solution, infinite where it is not defined, of a problem that has one. Collective."""
    assert problem.energy is not None
    with np.errstate(all="ignore"):
        value = problem.mesh.comm.allreduce(assemble_scalar(problem.energy)).real
    return value if math.isfinite(value) else math.inf
