"""A user's SNES or KSP solved from a prediction, or from the script's own start: whatever is in the unknown when the solve begins."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import final

import numpy as np
from mpi4py import MPI  # noqa: F401  (MPI is loaded before PETSc)
from dolfinx.fem.petsc import assign, create_vector
from petsc4py import PETSc

from lrsa_coupled.guess.gated import Watch
from lrsa_coupled.guess.acceptance import Verdict, compare_norms
from lrsa_coupled.coupling.residual import set_dirichlet
from lrsa_coupled.interfaces import SolveResult, Unknown

Run = Callable[[bool], None]
"""Solves and leaves the solution in the unknown; True starts from what is there, False as the script does."""


@final
class Hooks:
    """What PETSc calls in a solve, set once for all solves; nothing happens while both are None.

    Attributes:
        watch: Ends a SNES.
        look: Sees right-hand side and start of a KSP.
    """

    def __init__(self, solver: PETSc.SNES | PETSc.KSP) -> None:
        self.watch: Watch | None = None
        self.look: Callable[[PETSc.Vec, PETSc.Vec], None] | None = None
        if isinstance(solver, PETSc.SNES):
            solver.setMonitor(self._monitor)
        else:
            solver.setPreSolve(self._look)

    def _monitor(self, snes: PETSc.SNES, iteration: int, norm: float) -> None:
        if self.watch is not None and not snes.getConvergedReason() and self.watch(iteration, norm):
            snes.setConvergedReason(PETSc.SNES.ConvergedReason.DIVERGED_LOCAL_MIN)

    def _look(self, ksp: PETSc.KSP, b: PETSc.Vec, x: PETSc.Vec) -> None:
        if self.look is not None:
            self.look(b, x)


@final
class NonlinearWays:
    """The ways of one solve by a SNES; its tolerances are put back afterwards. Collective: all methods."""

    def __init__(self, snes: PETSc.SNES, what: Unknown, run: Run, *, hooks: Hooks, max_residual: float) -> None:
        self.snes, self.what, self.run, self.hooks, self.max_residual = snes, what, run, hooks, max_residual
        self.u = what.solution
        self.start = self.u.x.array.copy()
        self.x = create_vector(self.u.function_space)
        self.f = self.x.duplicate()
        self.minimises = snes.getObjective() is not None

    def tolerance(self) -> float:
        """Return the absolute tolerance that the script's own start would have to meet."""
        rtol, atol, _, _ = self.snes.getTolerances()
        here = self.u.x.array.copy()
        self.u.x.array[:] = self.start
        tolerance = max(atol, rtol * self._norm())
        self.u.x.array[:] = here
        return tolerance

    def judge(self) -> Verdict:
        """Compare the prediction with the script's own start, both with exact Dirichlet values."""
        here = self.u.x.array.copy()
        measure = self._objective if self.minimises else self._norm
        own = measure()
        self.u.x.array[:] = self.start
        set_dirichlet(self.what)
        cold = measure()
        self.u.x.array[:] = here
        if measure == self._norm:
            return compare_norms(own, cold, self.max_residual)
        return Verdict(
            own < cold, f"objective {own:.4g}, that of the own start {cold:.4g}"
        )  # also False when not a number

    def from_start(self, watch: Watch) -> SolveResult:
        """Solve from what is in the unknown."""
        rtol, atol, stol, max_it = self.snes.getTolerances()
        self.snes.setTolerances(rtol=rtol, atol=watch.atol, stol=stol, max_it=max_it)
        self.hooks.watch = watch
        try:
            return self._result(True)
        except PETSc.Error as error:
            return SolveResult(False, f"PETSc error {error.ierr}", "", self.snes.getIterationNumber(), float("nan"))
        finally:
            self.hooks.watch = None
            self.snes.setTolerances(rtol=rtol, atol=atol, stol=stol, max_it=max_it)

    def classically(self) -> SolveResult:
        """Solve from the script's own start."""
        self.u.x.array[:] = self.start
        return self._result(False)

    def destroy(self) -> None:
        """Free the work vectors. Collective."""
        self.x.destroy()
        self.f.destroy()

    def _result(self, nonzero: bool) -> SolveResult:
        started = time.perf_counter()
        self.run(nonzero)
        reason = self.snes.getConvergedReason()
        seconds = {"solve": time.perf_counter() - started}
        return SolveResult(
            reason > 0,
            f"SNES reason {reason}",
            "",
            self.snes.getIterationNumber(),
            self.snes.getFunctionNorm(),
            seconds,
        )

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
class LinearWays:
    """The ways of one solve by a KSP. Matrix and right-hand side exist when the KSP begins: the prediction is judged there. Collective: all methods."""

    def __init__(self, ksp: PETSc.KSP, what: Unknown, run: Run, *, hooks: Hooks, max_residual: float) -> None:
        self.ksp, self.what, self.run, self.hooks, self.max_residual = ksp, what, run, hooks, max_residual
        self.u = what.solution
        self.own_start = self.ksp.getInitialGuessNonzero()
        self.start = self.u.x.array.copy() if self.own_start else np.zeros_like(self.u.x.array)
        self.verdict = Verdict(True, "")
        self.minimises = False  # of no use either

    def tolerance(self) -> float:
        """Of no use: a KSP is not watched, and its relative tolerance refers to the right-hand side."""
        return 0.0

    def judge(self) -> Verdict:
        """Leave it to ``_look``."""
        return self.verdict

    def from_start(self, watch: Watch) -> SolveResult:
        """Solve from what is in the unknown, or from the script's own start when that is better."""
        self.hooks.look = self._look
        self.ksp.setInitialGuessNonzero(True)
        try:
            result = self._result(True)
        except PETSc.Error as error:
            return SolveResult(False, f"PETSc error {error.ierr}", "", self.ksp.getIterationNumber(), float("nan"))
        finally:
            self.hooks.look = None
            self.ksp.setInitialGuessNonzero(self.own_start)
        if self.verdict.accepted:
            return result
        return dataclasses.replace(result, reason=self.verdict.reason, used_fallback=True)

    def classically(self) -> SolveResult:
        """Solve from the script's own start."""
        self.u.x.array[:] = self.start
        return self._result(self.own_start)

    def destroy(self) -> None:
        """Nothing to free."""

    def _result(self, nonzero: bool) -> SolveResult:
        started = time.perf_counter()
        self.run(nonzero)
        reason = self.ksp.getConvergedReason()
        seconds = {"solve": time.perf_counter() - started}
        return SolveResult(
            reason > 0, f"KSP reason {reason}", "", self.ksp.getIterationNumber(), self.ksp.getResidualNorm(), seconds
        )

    def _look(self, b: PETSc.Vec, x: PETSc.Vec) -> None:
        """Compare the prediction in ``x`` with the script's own start: by the energy under conjugate gradients, else by the residual norm."""
        cold, product = x.duplicate(), b.duplicate()
        self.u.x.array[:] = self.start
        assign(self.u, cold)
        own_start = cold.copy()
        set_dirichlet(self.what)
        assign(self.u, cold)
        matrix, values = self.ksp.getOperators()[0], []
        energy = self.ksp.getType() in (PETSc.KSP.Type.CG, PETSc.KSP.Type.FCG, PETSc.KSP.Type.PIPECG)
        for vector in (x, cold):
            matrix.mult(vector, product)
            if energy:
                values.append(0.5 * product.dot(vector) - b.dot(vector))
            else:
                product.aypx(-1.0, b)
                values.append(product.norm())
        if energy:
            self.verdict = Verdict(
                values[0] < values[1], f"energy {values[0]:.4g}, that of the own start {values[1]:.4g}"
            )
        else:
            self.verdict = compare_norms(*values, self.max_residual)
        if not self.verdict.accepted:
            own_start.copy(x)
        for vector in (cold, product, own_start):
            vector.destroy()
