"""A problem of a case or of a script as an equation: its solve, its Jacobian, solves with the transposed Jacobian.

No torch here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, final

import numpy as np
import numpy.typing as npt
from mpi4py import MPI
from dolfinx.fem import DirichletBC, Function
from dolfinx.fem.petsc import LinearProblem, NonlinearProblem, assemble_matrix, create_matrix
from petsc4py import PETSc

from lrsa_coupled.coupling.compat import assign, create_vector, dirichlet_conditions
from lrsa_coupled.coupling.derivatives import Array
from lrsa_coupled.coupling.failures import failure_of, reason_name
from lrsa_coupled.coupling.options import MUMPS, default_options
from lrsa_coupled.coupling.scalars import IS_COMPLEX
from lrsa_coupled.interfaces import NumericalError, Problem, Solver

UNSUPPORTED = 56
"""Number of PETSc's error of an operation that an object does not have."""

ADJOINT_RTOL = 1e-8
"""Relative tolerance of adjoint solves where that of the solver is looser: inside Newton's method it may be."""


class Equation(ABC):
    """An equation for one function, with Dirichlet conditions; of real numbers.

    Attributes:
        solution: The unknown.
        bcs: The Dirichlet conditions.
        residual: Compiled residual; None of a ``LinearProblem``, which has another form.
        solved_with: Matrix that holds the Jacobian at the solution after a solve; None where no solve leaves it.
    """

    def __init__(self, solution: Any, bcs: Sequence[DirichletBC], residual: Any, prefix: str) -> None:
        if not isinstance(solution, Function):
            raise ValueError(f"expected a problem of one Function (mixed ones too), got {len(solution)} functions")
        if IS_COMPLEX:
            raise ValueError("derivatives in torch need PETSc with real scalars, this one has complex ones")
        self.solution, self.bcs, self.residual = solution, list(bcs), residual
        self.comm: MPI.Comm = solution.function_space.mesh.comm
        self.solved_with: PETSc.Mat | None = None
        self._prefix = f"{prefix}adjoint_"
        self._adjoint: PETSc.KSP | None = None

    @property
    def constrained(self) -> npt.NDArray[np.int32]:
        """Owned degrees of freedom that Dirichlet conditions fix. Collective: no."""
        indices = [dofs[:num_owned] for dofs, num_owned in (bc.dof_indices() for bc in self.bcs)]
        return np.unique(np.concatenate([np.zeros(0, dtype=np.int32), *indices]))

    @abstractmethod
    def solve(self) -> None:
        """Solve from the present solution; NumericalError, on all ranks, when that fails. Collective."""

    @abstractmethod
    def linearise(self) -> PETSc.Mat:
        """Assemble the Jacobian at the present solution, the identity where Dirichlet conditions hold. Collective.

        Memory: it is the equation's own, and stays until the next call or solve.
        """

    @abstractmethod
    def _solver(self) -> tuple[PETSc.KSP | None, PETSc.Mat | None]:
        """Return the solver whose preconditioner is used, and the matrix of which it is made, if there are any."""

    def solve_transposed(self, matrix: PETSc.Mat, right: Array) -> Array:
        """Solve with the transpose of what ``linearise`` has returned, by the owned numbers. Collective.

        A matrix that is unchanged since the last call keeps its factorisation.

        Raises:
            NumericalError: When the solve fails.
            ValueError: When the preconditioner cannot be transposed.
        """
        if self._adjoint is None:
            self._adjoint = self._make_adjoint(matrix)
        solution, rhs = matrix.createVecs()
        rhs.array_w[:] = right
        with default_options(self._prefix, self._defaults()):  # the factorisation reads its own at the first use
            failure = failure_of(self.comm, lambda: self._apply(rhs, solution))
        if failure is None and self._adjoint.getConvergedReason() <= 0:
            failure = reason_name(PETSc.KSP.ConvergedReason, self._adjoint.getConvergedReason())
        result = solution.array_r.copy()
        rhs.destroy()
        solution.destroy()
        if failure is not None:
            raise NumericalError(f"the adjoint solve has failed ({failure}): see the options -{self._prefix}ksp_*")
        return result

    def destroy(self) -> None:
        """Free the PETSc objects that the equation has made. Collective."""
        if self._adjoint is not None:
            self._adjoint.destroy()
            self._adjoint = None

    def _defaults(self) -> dict[str, str]:
        return {} if self._solver()[0] is not None else dict(MUMPS)

    def _make_adjoint(self, matrix: PETSc.Mat) -> PETSc.KSP:
        solver, preconditioner = self._solver()
        adjoint = PETSc.KSP().create(self.comm)
        adjoint.setOptionsPrefix(self._prefix)
        if solver is not None:
            rtol, _, divtol, max_it = solver.getTolerances()
            adjoint.setType(solver.getType())
            adjoint.setTolerances(rtol=min(rtol, ADJOINT_RTOL), atol=1e-300, divtol=divtol, max_it=max_it)
        with default_options(self._prefix, self._defaults()):
            adjoint.setFromOptions()
        if solver is not None and not PETSc.Options(self._prefix).hasName("pc_type"):
            adjoint.setPC(solver.getPC())
        adjoint.setOperators(matrix, preconditioner)
        return adjoint

    def _apply(self, rhs: PETSc.Vec, solution: PETSc.Vec) -> None:
        assert self._adjoint is not None
        try:
            self._adjoint.solveTranspose(rhs, solution)
        except PETSc.Error as error:
            if error.ierr != UNSUPPORTED:
                raise
            kind = self._adjoint.getPC().getType()
            raise ValueError(
                f"the preconditioner '{kind}' cannot be transposed for the adjoint solve: give another one by "
                f"-{self._prefix}pc_type, such as lu"
            ) from error


@final
class CaseEquation(Equation):
    """Of a problem of a case, with a solver of its own; the adjoint is solved by MUMPS, with the prefix ``adjoint_``.

    Args:
        problem: The problem.
        solver: A solver of it; None where it is never solved.
    """

    def __init__(self, problem: Problem, solver: Solver | None) -> None:
        super().__init__(problem.solution, problem.bcs, problem.residual, "")
        self._jacobian, self._forward = problem.jacobian, solver
        self._matrix: PETSc.Mat | None = None

    def solve(self) -> None:
        if self._forward is None:
            raise ValueError("a Problem is solved by a Solver: give solver=..., such as case.default_solver(...)")
        result = self._forward.solve()
        if not result.converged:
            raise NumericalError(f"the solve has failed ({result.reason}): {result.advice}")

    def linearise(self) -> PETSc.Mat:
        if self._matrix is None:
            self._matrix = create_matrix(self._jacobian)
        self._matrix.zeroEntries()
        assemble_matrix(self._matrix, self._jacobian, bcs=self.bcs)
        self._matrix.assemble()
        return self._matrix

    def destroy(self) -> None:
        super().destroy()
        if self._matrix is not None:
            self._matrix.destroy()
            self._matrix = None

    def _solver(self) -> tuple[PETSc.KSP | None, PETSc.Mat | None]:
        return None, None


@final
class LinearEquation(Equation):
    """Of a ``LinearProblem``: its matrix, its preconditioner."""

    def __init__(self, problem: LinearProblem) -> None:
        super().__init__(problem.u, problem.bcs, None, problem.solver.getOptionsPrefix())
        self._problem, self.solved_with = problem, problem.A

    def solve(self) -> None:
        _solve(self.comm, self._problem)

    def linearise(self) -> PETSc.Mat:
        problem = self._problem
        for matrix, form in ((problem.A, problem.a), (problem.P_mat, problem.preconditioner)):
            if matrix is not None:
                matrix.zeroEntries()
                assemble_matrix(matrix, form, bcs=self.bcs)
                matrix.assemble()
        return problem.A

    def _solver(self) -> tuple[PETSc.KSP | None, PETSc.Mat | None]:
        return self._problem.solver, self._problem.P_mat


@final
class NonlinearEquation(Equation):
    """Of a ``NonlinearProblem``: its matrix, the preconditioner of its KSP."""

    def __init__(self, problem: NonlinearProblem, bcs: Sequence[DirichletBC]) -> None:
        snes = problem.solver
        if (snes.getType() or "").startswith("vi"):
            raise ValueError(f"the solution of a problem with bounds ({snes.getType()}) has no adjoint by its Jacobian")
        super().__init__(problem.u, bcs, problem.F, snes.getOptionsPrefix())
        self._problem = problem

    def solve(self) -> None:
        _solve(self.comm, self._problem)

    def linearise(self) -> PETSc.Mat:
        problem, x = self._problem, create_vector(self.solution.function_space)
        assign(self.solution, x)
        problem.solver.computeJacobian(x, problem.A, problem.P_mat)
        x.destroy()
        return problem.A

    def _solver(self) -> tuple[PETSc.KSP | None, PETSc.Mat | None]:
        return self._problem.solver.getKSP(), self._problem.P_mat


def equation_of(problem: Any, solver: Solver | None = None) -> Equation:
    """Return the equation of a problem; ValueError when it is none of the three, or has no such derivatives."""
    if isinstance(problem, Problem):
        return CaseEquation(problem, solver)
    if solver is not None:
        raise ValueError(f"solver: only a Problem takes one, a {type(problem).__name__} has its own")
    if isinstance(problem, LinearProblem):
        return LinearEquation(problem)
    if isinstance(problem, NonlinearProblem):
        if (bcs := dirichlet_conditions(problem)) is None:
            raise ValueError(
                "the Dirichlet conditions of the NonlinearProblem cannot be read, its callbacks were replaced"
            )
        return NonlinearEquation(problem, bcs)
    raise ValueError(f"expected a Problem, a LinearProblem or a NonlinearProblem, got {type(problem).__name__}")


def _solve(comm: MPI.Comm, problem: LinearProblem | NonlinearProblem) -> None:
    failure = failure_of(comm, problem.solve)
    reason = problem.solver.getConvergedReason()
    if failure is not None or reason <= 0:
        kind = type(problem.solver)
        name, prefix = reason_name(kind.ConvergedReason, reason), problem.solver.getOptionsPrefix() or ""
        text = f"the option -{prefix}{kind.__name__.lower()}_monitor shows its residuals"
        raise NumericalError(f"the solve has failed: {failure or name}; {text}")
