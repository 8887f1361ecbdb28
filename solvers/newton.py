"""Newton's method by PETSc SNES: backtracking line search and MUMPS unless the options say otherwise.

A problem with an energy is minimised: the line search lowers the energy, not the residual norm, and keeps to where it is defined; where
the Jacobian is indefinite and its step would raise the energy, the opposite step is taken. The start must satisfy the Dirichlet conditions,
as steps towards them may have to raise the energy.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np
from dolfinx.fem import Function, assemble_scalar
from dolfinx.fem.petsc import NonlinearProblem
from lrsa_coupled.interfaces import Problem, SequenceSolver, SolveResult
from petsc4py import PETSc

from lrsa_coupled.solvers.petsc import MUMPS, advice, default_options, reason_name

UNDEFINED = 1e100
"""Energy where it is not defined; the cubic line search shortens its step after a finite number, and gives up after an infinite one."""

ROUNDING, NEAR = 1e-11, 1e3
"""Share of the energy that may be rounding, for which the line search is allowed once the residual norm is below ``NEAR`` tolerances."""

DEFAULTS: Mapping[str, str] = {**MUMPS, "snes_linesearch_type": "bt"}


class NewtonSolver(SequenceSolver):
    """SNES on a problem, from the values in ``problem.solution``.

    The residual norm is the Euclidean one of the assembled residual, Dirichlet rows holding the distance to the prescribed value.

    Args:
        problem: Linear or nonlinear problem.
        atol: Absolute tolerance of the residual norm, the only one that ends a successful solve.
        prefix: Options prefix of the SNES, ``-newton_snes_monitor`` and so on.
        max_iterations: Newton iterations before the solve is given up.
        options: Defaults of this solver under the prefix, on top of ``DEFAULTS``; the command line wins.
        quick: The preconditioner is kept for the next Jacobian after linear solves of up to so many iterations; 0 makes a new one each time.
        keep_below: The Jacobian, and with it its factorisation, is kept after an iteration that has reduced the residual norm to this share or
            less (simplified Newton); 0 makes a new one in each iteration. It pays near the solution.
    """

    def __init__(self, problem: Problem, atol: float, *, prefix: str = "newton_", max_iterations: int = 30,
                 options: Mapping[str, str] | None = None, quick: int = 0, keep_below: float = 0.0) -> None:  # fmt: skip
        if not atol > 0:
            raise ValueError(f"atol must be a positive number, got {atol}")
        self.problem = problem
        self.atol = atol
        self.max_iterations = max_iterations
        self._nonlinear = NonlinearProblem(problem.residual, problem.solution, J=problem.jacobian, bcs=list(problem.bcs),
                                           petsc_options_prefix=prefix)  # fmt: skip
        self.snes = self._nonlinear.solver
        self._allowance = 0.0
        if problem.energy is not None:
            self.snes.setObjective(self._energy)
            self.snes.getKSP().setPostSolve(_descend)
        self._modes: Callable[[Function], PETSc.NullSpace] | None = None
        self._quick, self._keep_below, self._norms = quick, keep_below, (0.0, 0.0)
        if keep_below > 0.0:
            self._assemble = self.snes.getJacobian()[2]
            self.snes.setJacobian(self._jacobian, self._nonlinear.A)
            self.snes.setMonitor(self._note)
        if quick:
            self.snes.getKSP().setPreSolve(self._keep_preconditioner)
        self._prefix, self._defaults = prefix, {**DEFAULTS, **(options or {})}
        with default_options(prefix, self._defaults):
            self.snes.setFromOptions()
            self.snes.getKSP().setFromOptions()

    def update(self, problem: Problem, atol: float) -> None:
        """Take over the next problem of a sequence, given by other values in the same forms; matrices and symbolic factorisations stay. Collective: no.

        Raises:
            ValueError: If the forms are others than before or ``atol`` is not positive.
        """
        if problem.residual is not self.problem.residual or problem.solution is not self.problem.solution:
            raise ValueError(
                "a sequence of nonlinear problems needs the same forms and the same solution, got others than before"
            )
        if not atol > 0:
            raise ValueError(f"atol must be a positive number, got {atol}")
        self.problem, self.atol = problem, atol
        self._allowance = 0.0

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
        if self._modes is not None:
            modes = self._modes(self.problem.solution)
            self._nonlinear.A.setNearNullSpace(modes)
            modes.destroy()
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
            linear_iterations=self.snes.getLinearSolveIterations(),
            residual=self.snes.getFunctionNorm(),
            seconds={"solve": time.perf_counter() - started},
        )

    def monitor(self, check: Callable[[int, float], bool]) -> None:
        """End a solve where ``check`` says so, see ``Solver.monitor``."""

        def call(snes: PETSc.SNES, iteration: int, norm: float) -> None:
            if not snes.getConvergedReason() and check(iteration, norm):
                snes.setConvergedReason(PETSc.SNES.ConvergedReason.DIVERGED_LOCAL_MIN)

        self.snes.setMonitor(call)

    def set_near_nullspace(self, modes: Callable[[Function], PETSc.NullSpace]) -> None:
        """Attach to the matrix, at the start of every solve, the near-null space that ``modes`` makes of the solution. Collective: no."""
        self._modes = modes

    def _note(self, snes: PETSc.SNES, iteration: int, norm: float) -> None:
        self._norms = (self._norms[1] if iteration else 0.0, norm)

    def _jacobian(self, snes: PETSc.SNES, x: PETSc.Vec, matrix: PETSc.Mat, preconditioner: PETSc.Mat) -> None:
        before, now = self._norms
        if (
            now > self._keep_below * before
        ):  # also in the first iteration; PETSc keeps the factorisation of a matrix left as it is
            function, args, context = self._assemble
            function(snes, x, matrix, preconditioner, *args, **context)

    def _keep_preconditioner(self, ksp: PETSc.KSP, rhs: PETSc.Vec, x: PETSc.Vec) -> None:
        ksp.getPC().setReusePreconditioner(
            ksp.getConvergedReason() > 0 and ksp.getIterationNumber() <= self._quick
        )  # those of the last solve

    def _energy(self, snes: PETSc.SNES, x: PETSc.Vec) -> float:
        u = self.problem.solution.x
        u.array[: x.getLocalSize()] = x.array_r
        u.scatter_forward()
        value = energy(self.problem)
        if value < UNDEFINED and snes.getFunctionNorm() < NEAR * self.atol:
            self._allowance += ROUNDING * abs(
                value
            )  # PETSc has no slack of its own: what is evaluated later comes out that much lower
        return value - self._allowance

    def destroy(self) -> None:
        """Free the SNES with its matrix and vectors. Collective."""
        for item in (self.snes, self._nonlinear.A, self._nonlinear.b, self._nonlinear.x):
            item.destroy()


def energy(problem: Problem) -> float:
    """Return the energy at the solution, ``UNDEFINED`` where it is not defined. Collective."""
    with np.errstate(all="ignore"):
        value = problem.mesh.comm.allreduce(assemble_scalar(problem.energy))
    return value if np.isfinite(value) else UNDEFINED


def _descend(ksp: PETSc.KSP, gradient: PETSc.Vec, step: PETSc.Vec) -> None:
    """Turn a Newton step, of which the negative is taken, so that the energy falls along it: uphill it is a direction of negative curvature."""
    if gradient.dot(step) < 0.0:
        step.scale(-1.0)
