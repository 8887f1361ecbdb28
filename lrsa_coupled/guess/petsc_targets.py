"""A user's SNES or KSP as a target: solved from a guess, or as the script does, from what was in the unknown."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
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

ENERGY_METHODS = (PETSc.KSP.Type.CG, PETSc.KSP.Type.FCG, PETSc.KSP.Type.PIPECG)
"""Krylov methods that lower the energy of a linear system."""


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


@final
class SNESTarget(Target):
    """A solve by a SNES; its tolerances are put back afterwards. Collective: all methods.

    A relative tolerance refers to the residual of the script's own guess, whatever the solve begins with.
    """

    def __init__(self, snes: PETSc.SNES, problem: Unknown, run: Run, hooks: Hooks) -> None:
        self.snes, self.problem, self.run, self.hooks = snes, problem, run, hooks
        self.u = problem.solution
        self.own_guess = self.u.x.array.copy()
        self.x = create_vector(self.u.function_space)
        self.f = self.x.duplicate()
        self._tolerance: float | None = None

    @property
    def minimises(self) -> bool:
        """Whether the SNES has an objective."""
        return self.snes.getObjective() is not None

    def tolerance(self) -> float:
        """Return the absolute tolerance that a solve from the script's own guess would have to meet."""
        if self._tolerance is None:
            rtol, atol, _, _ = self.snes.getTolerances()
            here = self.u.x.array.copy()
            self.u.x.array[:] = self.own_guess
            self._tolerance = max(atol, rtol * self._norm())
            self.u.x.array[:] = here
        return self._tolerance

    def accept(self, max_residual: float) -> Acceptance:
        """Compare the guess with the script's own, both with exact Dirichlet values."""
        here = self.u.x.array.copy()
        measure = self._objective if self.minimises else self._norm
        own = measure()
        self.u.x.array[:] = self.own_guess
        set_dirichlet(self.problem)
        default = measure()
        self.u.x.array[:] = here
        return compare_energies(own, default) if self.minimises else compare_norms(own, default, max_residual)

    def from_guess(self, check: Check | None, max_iterations: int | None) -> SolveResult:
        """Solve from what is in the unknown."""
        rtol, atol, stol, max_it = self.snes.getTolerances()
        limit = max_it if max_iterations is None else min(max_it, max_iterations)
        self.snes.setTolerances(rtol=rtol, atol=self.tolerance(), stol=stol, max_it=limit)
        self.hooks.check = check
        try:
            return self._result(True)
        except PETSc.Error as error:
            return SolveResult(False, f"PETSc error {error.ierr}", "", self.snes.getIterationNumber(), float("nan"))
        finally:
            self.hooks.check = None
            self.snes.setTolerances(rtol=rtol, atol=atol, stol=stol, max_it=max_it)

    def by_default(self) -> SolveResult:
        """Solve from the script's own guess."""
        self.u.x.array[:] = self.own_guess
        return self._result(False)

    def destroy(self) -> None:
        """Free the work vectors."""
        self.x.destroy()
        self.f.destroy()

    def _result(self, nonzero: bool) -> SolveResult:
        seconds, reason = _timed(self.run, nonzero, self.snes)
        iterations, norm = self.snes.getIterationNumber(), self.snes.getFunctionNorm()
        return SolveResult(reason > 0, f"SNES reason {reason}", "", iterations, norm, seconds)

    def _norm(self) -> float:
        here = self.u.x.array.copy()
        assign(self.u, self.x)
        self.snes.computeFunction(self.x, self.f)
        self.u.x.array[:] = here  # the callback may have left its argument there
        return float(self.f.norm())

    def _objective(self) -> float:
        here = self.u.x.array.copy()
        assign(self.u, self.x)
        value = self.snes.computeObjective(self.x)
        self.u.x.array[:] = here
        return float(value)


@final
class KSPTarget(Target):
    """A solve by a KSP; matrix and right-hand side exist when it begins: the guess is compared there. Collective: all methods."""

    def __init__(self, ksp: PETSc.KSP, problem: Unknown, run: Run, hooks: Hooks) -> None:
        self.ksp, self.problem, self.run, self.hooks = ksp, problem, run, hooks
        self.u = problem.solution
        self.nonzero = ksp.getInitialGuessNonzero()
        self.own_guess = self.u.x.array.copy() if self.nonzero else np.zeros_like(self.u.x.array)
        self.found = Acceptance(True, "")
        self._max_residual: float | None = None

    @property
    def minimises(self) -> bool:
        """Of no use, as a KSP is not monitored."""
        return False

    def tolerance(self) -> float:
        """Return 0: a KSP is not monitored, and its relative tolerance refers to the right-hand side."""
        return 0.0

    def accept(self, max_residual: float) -> Acceptance:
        """Leave it to ``_compare``."""
        self._max_residual = max_residual
        return self.found

    def from_guess(self, check: Check | None, max_iterations: int | None) -> SolveResult:
        """Solve from what is in the unknown, or from the script's own guess when that is better."""
        self.hooks.compare = None if self._max_residual is None else self._compare
        self.ksp.setInitialGuessNonzero(True)
        try:
            result = self._result(True)
        except PETSc.Error as error:
            return SolveResult(False, f"PETSc error {error.ierr}", "", self.ksp.getIterationNumber(), float("nan"))
        finally:
            self.hooks.compare = None
            self.ksp.setInitialGuessNonzero(self.nonzero)
        if self.found.accepted:
            return result
        return dataclasses.replace(result, reason=self.found.reason, used_fallback=True)

    def by_default(self) -> SolveResult:
        """Solve from the script's own guess."""
        self.u.x.array[:] = self.own_guess
        return self._result(self.nonzero)

    def _result(self, nonzero: bool) -> SolveResult:
        seconds, reason = _timed(self.run, nonzero, self.ksp)
        iterations, norm = self.ksp.getIterationNumber(), self.ksp.getResidualNorm()
        return SolveResult(reason > 0, f"KSP reason {reason}", "", iterations, norm, seconds)

    def _compare(self, b: PETSc.Vec, x: PETSc.Vec) -> None:
        """Compare the guess in ``x`` with the script's own: by the energy under conjugate gradients, else by the residual norm."""
        default, product = x.duplicate(), b.duplicate()
        self.u.x.array[:] = self.own_guess
        assign(self.u, default)
        own_guess = default.copy()
        set_dirichlet(self.problem)
        assign(self.u, default)
        matrix, energy = self.ksp.getOperators()[0], self.ksp.getType() in ENERGY_METHODS
        values = []
        for vector in (x, default):
            matrix.mult(vector, product)
            if energy:
                values.append(0.5 * product.dot(vector) - b.dot(vector))
            else:
                product.aypx(-1.0, b)
                values.append(product.norm())
        self.found = compare_energies(*values) if energy else compare_norms(*values, self._max_residual)
        if not self.found.accepted:
            own_guess.copy(x)
        for vector in (default, product, own_guess):
            vector.destroy()


def _timed(run: Run, nonzero: bool, solver: PETSc.SNES | PETSc.KSP) -> tuple[dict[str, float], int]:
    """Solve; return the time and the converged reason."""
    started = time.perf_counter()
    run(nonzero)
    return {"solve": time.perf_counter() - started}, solver.getConvergedReason()
