"""Newton's method by PETSc SNES: backtracking line search and MUMPS unless the options choose others.

A problem with an energy is minimised: the line search lowers the energy, not the residual norm, where it is defined;
where the Jacobian is indefinite and its step would raise the energy, the opposite step is taken. It begins with the
Dirichlet values, as steps towards them may have to raise the energy.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from dolfinx.fem import Function
from dolfinx.fem.petsc import NonlinearProblem
from petsc4py import PETSc

from lrsa_coupled.coupling.failures import failure_of, reason_name
from lrsa_coupled.coupling.options import MUMPS, default_options
from lrsa_coupled.coupling.residual import energy, set_dirichlet
from lrsa_coupled.interfaces import Problem, SequenceSolver, SolveResult
from lrsa_coupled.solvers.petsc import advice

UNDEFINED = 1e100  # energy where there is none; after an infinite one the line search does not shorten its step
ROUNDING = 1e-11  # share of the energy that may be rounding, by which it may rise near the solution
NEAR = 1e3  # tolerances of the residual norm that are near the solution
DEFAULTS: Mapping[str, str] = {**MUMPS, "snes_linesearch_type": "bt"}


class NewtonSolver(SequenceSolver):
    """SNES on a problem, from the values in ``problem.solution``.

    The residual norm is Euclidean; Dirichlet rows hold the distance to the prescribed value.

    Args:
        problem: Linear or nonlinear problem.
        atol: Absolute tolerance of the residual norm, the only one that ends a successful solve.
        prefix: Options prefix of the SNES, ``-newton_snes_monitor`` and so on.
        max_iterations: Newton iterations before the solve is given up; 30 when None.
        options: Defaults of this solver under the prefix, on top of ``DEFAULTS``; the command line wins.
        reuse_up_to: The preconditioner is reused after linear solves of up to so many iterations; None: never.
        reuse_below: The Jacobian, with its factorisation, is reused after an iteration that has reduced the residual
            norm to this share or less (simplified Newton), which pays near the solution; None: never.
    """

    def __init__(self, problem: Problem, atol: float, *, prefix: str = "newton_", max_iterations: int | None = None,
                 options: Mapping[str, str] | None = None, reuse_up_to: int | None = None,
                 reuse_below: float | None = None) -> None:  # fmt: skip
        if not atol > 0:
            raise ValueError(f"atol must be a positive number, got {atol}")
        _check_energy(problem)
        self.problem, self.atol = problem, atol
        self.max_iterations = 30 if max_iterations is None else max_iterations
        residual: Any = problem.residual  # compiled forms, which the annotations of DOLFINx leave out
        jacobian: Any = problem.jacobian
        self._nonlinear = NonlinearProblem(
            residual, problem.solution, J=jacobian, bcs=list(problem.bcs), petsc_options_prefix=prefix
        )
        self.snes = self._nonlinear.solver
        self._allowance = 0.0
        if problem.energy is not None:
            self.snes.setObjective(self._energy)
            self.snes.getKSP().setPostSolve(_descend)
        self._modes: Callable[[Function], PETSc.NullSpace] | None = None
        self._reuse_up_to, self._reuse_below, self._norms = reuse_up_to, reuse_below, (0.0, 0.0)
        if reuse_below is not None:
            self._assemble = self.snes.getJacobian()[2]
            self.snes.setJacobian(self._jacobian, self._nonlinear.A)
            self.snes.setMonitor(self._note)
        if reuse_up_to is not None:
            self.snes.getKSP().setPreSolve(self._reuse_preconditioner)
        self._prefix, self._defaults = prefix, {**DEFAULTS, **(options or {})}
        with default_options(prefix, self._defaults):
            self.snes.setFromOptions()
            self.snes.getKSP().setFromOptions()

    def update(self, problem: Problem, atol: float) -> None:
        """Go to the next problem, other values in the same forms; ValueError for other forms. Collective: no."""
        if problem.residual is not self.problem.residual or problem.solution is not self.problem.solution:
            raise ValueError("a sequence of nonlinear problems needs the same forms and solution, got others")
        if not atol > 0:
            raise ValueError(f"atol must be a positive number, got {atol}")
        self.problem, self.atol = problem, atol
        self._allowance = 0.0

    def solve(self) -> SolveResult:
        return self.solve_loosely(0.0)

    def solve_loosely(self, rtol: float, max_iterations: int | None = None) -> SolveResult:
        """Solve until the residual norm has fallen to ``atol`` or by the factor ``rtol``. Collective.

        ``max_iterations`` replaces the limit of the solver.
        """
        limit = self.max_iterations if max_iterations is None else max_iterations
        self.snes.setTolerances(rtol=max(rtol, 1e-50), atol=self.atol, stol=0.0, max_it=limit)
        started = time.perf_counter()
        if self.problem.energy is not None:
            set_dirichlet(self.problem)
        if self._modes is not None:
            modes = self._modes(self.problem.solution)
            self._nonlinear.A.setNearNullSpace(modes)
            modes.destroy()
        with default_options(self._prefix, self._defaults):  # the factorisation reads its own at the first use
            failure = failure_of(self.problem.mesh.comm, self._nonlinear.solve)
        reason = failure or reason_name(PETSc.SNES.ConvergedReason, self.snes.getConvergedReason())
        converged = failure is None and self.snes.getConvergedReason() > 0
        return SolveResult(
            converged, reason, "" if converged else advice(reason), self.snes.getIterationNumber(),
            self.snes.getFunctionNorm(), {"solve": time.perf_counter() - started},
            linear_iterations=self.snes.getLinearSolveIterations(),
        )  # fmt: skip

    def monitor(self, check: Callable[[int, float], bool]) -> None:
        def call(snes: PETSc.SNES, iteration: int, norm: float) -> None:
            if not snes.getConvergedReason() and check(iteration, norm):
                snes.setConvergedReason(PETSc.SNES.ConvergedReason.DIVERGED_LOCAL_MIN)

        self.snes.setMonitor(call)

    def set_near_nullspace(self, modes: Callable[[Function], PETSc.NullSpace]) -> None:
        """Attach to the matrix, before every solve, the near-null space made of the solution. Collective: no."""
        self._modes = modes

    def _note(self, snes: PETSc.SNES, iteration: int, norm: float) -> None:
        self._norms = (self._norms[1] if iteration else 0.0, norm)

    def _jacobian(self, snes: PETSc.SNES, x: PETSc.Vec, matrix: PETSc.Mat, preconditioner: PETSc.Mat) -> None:
        before, now = self._norms
        # So in the first iteration; PETSc reuses the factorisation of an unchanged matrix.
        if now > (self._reuse_below or 0.0) * before:
            function, args, context = self._assemble
            function(snes, x, matrix, preconditioner, *args, **context)

    def _reuse_preconditioner(self, ksp: PETSc.KSP, rhs: PETSc.Vec, x: PETSc.Vec) -> None:
        reason, iterations = ksp.getConvergedReason(), ksp.getIterationNumber()  # of the last solve
        ksp.getPC().setReusePreconditioner(reason > 0 and iterations <= self._reuse_up_to)

    def _energy(self, snes: PETSc.SNES, x: PETSc.Vec) -> float:
        u = self.problem.solution.x
        u.array[: x.getLocalSize()] = x.array_r
        u.scatter_forward()
        value = min(energy(self.problem), UNDEFINED)
        if value < UNDEFINED and snes.getFunctionNorm() < NEAR * self.atol:
            # PETSc has no slack of its own: later energies come out lower.
            self._allowance += ROUNDING * abs(value)
        return value - self._allowance

    def destroy(self) -> None:
        for item in (self.snes, self._nonlinear.A, self._nonlinear.b, self._nonlinear.x):
            item.destroy()


def _check_energy(problem: Problem) -> None:
    if problem.energy is not None and np.iscomplexobj(problem.solution.x.array):
        remedy = "give no energy, or take real and imaginary part as two real unknowns"
        raise ValueError(f"NewtonSolver minimises over real unknowns, as an energy has no complex derivative: {remedy}")


def _descend(ksp: PETSc.KSP, gradient: PETSc.Vec, step: PETSc.Vec) -> None:
    """Turn a Newton step, of which the negative is taken, so that the energy falls along it."""
    if gradient.dot(step).real < 0.0:
        step.scale(-1.0)
