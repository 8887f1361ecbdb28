"""Newton's method by PETSc SNES: backtracking line search and MUMPS unless the options say otherwise."""

from __future__ import annotations

import time
from collections.abc import Mapping

from dolfinx.fem.petsc import NonlinearProblem
from lrsa_coupled.interfaces import Problem, Solver, SolveResult
from petsc4py import PETSc

from solvers.petsc import MUMPS, advice, default_options, reason_name

DEFAULTS: Mapping[str, str] = {**MUMPS, "snes_linesearch_type": "bt"}


class NewtonSolver(Solver):
    """SNES on a problem, from the values in ``problem.solution``.

    The residual norm is the Euclidean one of the assembled residual, Dirichlet rows holding the distance to the prescribed value.

    Args:
        problem: Linear or nonlinear problem.
        atol: Absolute tolerance of the residual norm, the only one that ends a successful solve.
        prefix: Options prefix of the SNES, ``-newton_snes_monitor`` and so on.
        max_iterations: Newton iterations before the solve is given up.
        options: Defaults of this solver under the prefix, on top of ``DEFAULTS``; the command line wins.
    """

    def __init__(self, problem: Problem, atol: float, *, prefix: str = "newton_", max_iterations: int = 30,
                 options: Mapping[str, str] | None = None) -> None:  # fmt: skip
        if not atol > 0:
            raise ValueError(f"atol must be a positive number, got {atol}")
        self.problem = problem
        self.atol = atol
        self.max_iterations = max_iterations
        self._nonlinear = NonlinearProblem(problem.residual, problem.solution, J=problem.jacobian, bcs=list(problem.bcs),
                                           petsc_options_prefix=prefix)  # fmt: skip
        self.snes = self._nonlinear.solver
        self._prefix, self._defaults = prefix, {**DEFAULTS, **(options or {})}
        with default_options(prefix, self._defaults):
            self.snes.setFromOptions()
            self.snes.getKSP().setFromOptions()

    def solve(self) -> SolveResult:
        """Solve to ``atol``. Collective."""
        return self.solve_loosely(0.0)

    def solve_loosely(self, rtol: float, max_iterations: int | None = None) -> SolveResult:
        """Solve until the residual norm has fallen to ``atol`` or by the factor ``rtol``. Collective.

        Args:
            rtol: Relative tolerance; 0 asks for ``atol``.
            max_iterations: Newton iterations before the solve is given up; None takes the solver's own.
        """
        limit = self.max_iterations if max_iterations is None else max_iterations
        self.snes.setTolerances(rtol=max(rtol, 1e-50), atol=self.atol, stol=0.0, max_it=limit)
        started = time.perf_counter()
        try:
            with default_options(self._prefix, self._defaults):  # the factorisation reads its own at the first use
                self._nonlinear.solve()
            reason = reason_name(PETSc.SNES.ConvergedReason, self.snes.getConvergedReason())
            converged = self.snes.getConvergedReason() > 0
        except PETSc.Error as error:
            reason, converged = f"PETSc error {error.ierr}", False
        return SolveResult(
            converged=converged,
            reason=reason,
            advice="" if converged else advice(reason),
            iterations=self.snes.getIterationNumber(),
            residual=self.snes.getFunctionNorm(),
            seconds={"solve": time.perf_counter() - started},
        )

    def destroy(self) -> None:
        """Free the SNES with its matrix and vectors. Collective."""
        for item in (self.snes, self._nonlinear.A, self._nonlinear.b, self._nonlinear.x):
            item.destroy()
