"""A user's SNES or KSP as a target: solved from a guess, or as the script does, from what was in the unknown."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from functools import partial
from typing import final

import numpy as np
from mpi4py import MPI
from dolfinx.fem.petsc import assign, create_vector
from petsc4py import PETSc

from lrsa_coupled.coupling.residual import set_dirichlet
from lrsa_coupled.guess.acceptance import Acceptance, compare_energies, compare_norms
from lrsa_coupled.guess.target import Check, Target
from lrsa_coupled.interfaces import SolveResult, Unknown

Run = Callable[[bool], None]
"""Solves and leaves the solution in the unknown; True starts from what is there, False as the script does."""


@final
class Hooks:
    """What PETSc calls in a solve, set once for all solves; nothing happens while both are None.

    Attributes:
        check: Ends a SNES.
        compare: Is given right-hand side and initial guess of a KSP.
    """

    def __init__(self, solver: PETSc.SNES | PETSc.KSP) -> None:
        self.check: Check | None = None
        self.compare: Callable[[PETSc.Vec, PETSc.Vec], None] | None = None
        if isinstance(solver, PETSc.SNES):
            solver.setMonitor(self._monitor)
        else:
            solver.setPreSolve(self._pre_solve)

    def _monitor(self, snes: PETSc.SNES, iteration: int, norm: float) -> None:
        if self.check is not None and not snes.getConvergedReason() and self.check(iteration, norm):
            snes.setConvergedReason(PETSc.SNES.ConvergedReason.DIVERGED_LOCAL_MIN)

    def _pre_solve(self, ksp: PETSc.KSP, b: PETSc.Vec, x: PETSc.Vec) -> None:
        if self.compare is not None:
            self.compare(b, x)


class _PETScTarget(Target):
    """A solve by an object of a script, whose settings are put back; the unknown holds the script's own guess."""

    def __init__(self, solver: PETSc.SNES | PETSc.KSP, problem: Unknown, run: Run, hooks: Hooks) -> None:
        self.solver, self.problem, self.run, self.hooks = solver, problem, run, hooks
        self.u = problem.solution
        self.own_guess = self.u.x.array.copy()
        self.nonzero = False

    def by_default(self) -> SolveResult:
        self.u.x.array[:] = self.own_guess
        return self._solve(self.nonzero)

    def _solve(self, nonzero: bool) -> SolveResult:
        started = time.perf_counter()
        self.run(nonzero)
        solver, seconds = self.solver, {"solve": time.perf_counter() - started}
        reason, text = solver.getConvergedReason(), f"{type(solver).__name__} reason {solver.getConvergedReason()}"
        norm = solver.getFunctionNorm() if isinstance(solver, PETSc.SNES) else solver.getResidualNorm()
        return SolveResult(reason > 0, text, "", solver.getIterationNumber(), norm, seconds)

    def _attempt(self) -> SolveResult:
        """Solve from what is in the unknown; an error of PETSc is a failure."""
        try:
            return self._solve(True)
        except PETSc.Error as error:
            return SolveResult(False, f"PETSc error {error.ierr}", "", self.solver.getIterationNumber(), float("nan"))


@final
class SNESTarget(_PETScTarget):
    """A solve by a SNES. A relative tolerance refers to the script's own guess, whatever the solve begins with."""

    def __init__(self, snes: PETSc.SNES, problem: Unknown, run: Run, hooks: Hooks) -> None:
        super().__init__(snes, problem, run, hooks)
        self.x = create_vector(self.u.function_space)
        self.f = self.x.duplicate()
        self._tolerance: float | None = None

    @property
    def minimises(self) -> bool:
        return self.solver.getObjective() is not None

    def tolerance(self) -> float:
        if self._tolerance is None:
            rtol, atol, _, _ = self.solver.getTolerances()
            here = self.u.x.array.copy()
            self.u.x.array[:] = self.own_guess
            self._tolerance = max(atol, rtol * self._measured(self._norm))
            self.u.x.array[:] = here
        return self._tolerance

    def accept(self, max_residual: float) -> Acceptance:
        here, measure = self.u.x.array.copy(), self.solver.computeObjective if self.minimises else self._norm
        own = self._measured(measure)
        self.u.x.array[:] = self.own_guess
        set_dirichlet(self.problem)
        default = self._measured(measure)
        self.u.x.array[:] = here
        return compare_energies(own, default) if self.minimises else compare_norms(own, default, max_residual)

    def from_guess(self, check: Check | None, max_iterations: int | None) -> SolveResult:
        rtol, atol, stol, max_it = self.solver.getTolerances()
        limit = max_it if max_iterations is None else min(max_it, max_iterations)
        self.solver.setTolerances(rtol=rtol, atol=self.tolerance(), stol=stol, max_it=limit)
        self.hooks.check = check
        try:
            return self._attempt()
        finally:
            self.hooks.check = None
            self.solver.setTolerances(rtol=rtol, atol=atol, stol=stol, max_it=max_it)

    def destroy(self) -> None:
        self.x.destroy()
        self.f.destroy()

    def _norm(self, x: PETSc.Vec) -> float:
        self.solver.computeFunction(x, self.f)
        return self.f.norm()

    def _measured(self, measure: Callable[[PETSc.Vec], float]) -> float:
        """Measure what is in the unknown, where the callback may leave its argument."""
        here = self.u.x.array.copy()
        assign(self.u, self.x)
        value = measure(self.x)
        self.u.x.array[:] = here
        return float(value)


@final
class KSPTarget(_PETScTarget):
    """A solve by a KSP; matrix and right-hand side exist when it begins: the guess is compared there."""

    def __init__(self, ksp: PETSc.KSP, problem: Unknown, run: Run, hooks: Hooks) -> None:
        super().__init__(ksp, problem, run, hooks)
        self.nonzero = ksp.getInitialGuessNonzero()
        if not self.nonzero:
            self.own_guess = np.zeros_like(self.own_guess)
        self._found = Acceptance(True, "")

    @property
    def minimises(self) -> bool:
        return False  # a KSP is not monitored

    def tolerance(self) -> float:
        return 0.0  # not monitored either; its relative tolerance refers to the right-hand side

    def accept(self, max_residual: float) -> Acceptance:
        self.hooks.compare = partial(self._compare, max_residual)
        return self._found

    def from_guess(self, check: Check | None, max_iterations: int | None) -> SolveResult:
        self.solver.setInitialGuessNonzero(True)
        try:
            result = self._attempt()
        finally:
            self.hooks.compare = None
            self.solver.setInitialGuessNonzero(self.nonzero)
        if self._found.accepted or not result.converged:
            return result
        return dataclasses.replace(result, reason=self._found.reason, used_fallback=True)

    def _compare(self, max_residual: float, b: PETSc.Vec, x: PETSc.Vec) -> None:
        """Compare the guess with the script's own: by the energy under conjugate gradients, else by the residual."""
        default, product = x.duplicate(), b.duplicate()
        self.u.x.array[:] = self.own_guess
        assign(self.u, default)
        own_guess = default.copy()
        set_dirichlet(self.problem)
        assign(self.u, default)
        kinds, values = PETSc.KSP.Type, []
        energy = self.solver.getType() in (kinds.CG, kinds.FCG, kinds.PIPECG)
        for vector in (x, default):
            self.solver.getOperators()[0].mult(vector, product)
            if energy:
                values.append(0.5 * product.dot(vector) - b.dot(vector))
            else:
                product.aypx(-1.0, b)
                values.append(product.norm())
        mine, other = values
        self._found = compare_energies(mine, other) if energy else compare_norms(mine, other, max_residual)
        if not self._found.accepted:
            own_guess.copy(x)
        for vector in (default, product, own_guess):
            vector.destroy()
