"""Linear problems by PETSc KSP: MUMPS unless the options say otherwise."""

from __future__ import annotations

import time
from collections.abc import Mapping

from dolfinx.fem.petsc import assemble_matrix, assemble_residual, assign, create_vector
from lrsa_coupled.interfaces import Problem, Solver, SolveResult
from petsc4py import PETSc

from solvers.petsc import MUMPS, advice, default_options, reason_name


class LinearSolver(Solver):
    """KSP on an affine problem, from the values in ``problem.solution``.

    Solves for the correction of the start (with exact Dirichlet values), so that any start is an initial guess.

    Args:
        problem: Linear problem.
        atol: Absolute tolerance, in the norm the KSP monitors (``-linear_ksp_norm_type``).
        prefix: Options prefix of the KSP.
        max_iterations: Iterations before the solve is given up.
        options: Defaults of this solver under the prefix instead of MUMPS; the command line wins.

    Raises:
        ValueError: If the problem is not linear or ``atol`` not positive.
    """

    def __init__(self, problem: Problem, atol: float, *, prefix: str = "linear_", max_iterations: int = 1000,
                 options: Mapping[str, str] | None = None) -> None:  # fmt: skip
        if not problem.is_linear:
            raise ValueError("LinearSolver needs a linear problem, got a nonlinear one; use NewtonSolver")
        if not atol > 0:
            raise ValueError(f"atol must be a positive number, got {atol}")
        self.problem = problem
        self.atol = atol
        self.matrix = assemble_matrix(problem.jacobian, bcs=list(problem.bcs))
        self.matrix.assemble()
        self.residual = create_vector(problem.solution.function_space)
        self.correction = self.residual.duplicate()
        self.start = self.residual.duplicate()
        self.ksp = PETSc.KSP().create(problem.mesh.comm)
        self.ksp.setOptionsPrefix(prefix)
        self.ksp.setOperators(self.matrix)
        self.ksp.setTolerances(rtol=1e-50, atol=atol, max_it=max_iterations)
        self._prefix, self._defaults = prefix, options or MUMPS
        with default_options(prefix, self._defaults):
            self.ksp.setFromOptions()

    def solve(self) -> SolveResult:
        """Solve to ``atol``. Collective."""
        started = time.perf_counter()
        self._assemble_residual()
        self.residual.scale(-1.0)
        try:
            with default_options(self._prefix, self._defaults):  # the factorisation reads its own at the first use
                self.ksp.solve(self.residual, self.correction)
            reason = reason_name(PETSc.KSP.ConvergedReason, self.ksp.getConvergedReason())
            converged = self.ksp.getConvergedReason() > 0
        except PETSc.Error as error:
            reason, converged = f"PETSc error {error.ierr}", False
        iterations = self.ksp.getIterationNumber()
        if converged:
            u = self.problem.solution
            u.x.array[: self.correction.getLocalSize()] += self.correction.array_r
            u.x.scatter_forward()
        norm = self._assemble_residual()
        return SolveResult(converged, reason, "" if converged else advice(reason), iterations, norm,
                           {"solve": time.perf_counter() - started})  # fmt: skip

    def destroy(self) -> None:
        """Free the KSP with its matrix and vectors. Collective."""
        for item in (self.ksp, self.matrix, self.residual, self.correction, self.start):
            item.destroy()

    def _assemble_residual(self) -> float:
        p = self.problem
        assign(p.solution, self.start)
        assemble_residual(None, self.start, self.residual, p.solution, p.residual, p.jacobian, list(p.bcs))
        return float(self.residual.norm())
