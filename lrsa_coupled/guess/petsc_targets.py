"""A solve of a user's SNES or KSP as a target: from a guess, or as the user's program does it."""

from __future__ import annotations

import dataclasses
import math
import sys
import time
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, final

import numpy.typing as npt
from mpi4py import MPI
from petsc4py import PETSc

from lrsa_coupled.coupling.compat import assign
from lrsa_coupled.coupling.failures import reason_name
from lrsa_coupled.guess.acceptance import Acceptance, compare_energies, compare_norms
from lrsa_coupled.guess.pass_by import stopped_by_count
from lrsa_coupled.guess.target import Check, Target
from lrsa_coupled.guess.twin import Twin, communicator
from lrsa_coupled.interfaces import SolveResult, Unknown
from lrsa_coupled.mpi import agree

MAY_LOSE = 0.15
"""Share of a default solve that a guess of a KSP may lose by the acceptance test."""

MAY_EXCEED = 10.0
"""Residual norm of an accepted guess that has more energy than the user's own, relative to the user's own."""


class _PETScTarget(Target):
    """A solve of a user's solver.

    Args:
        solver: The user's; it is called once, whatever became of an attempt.
        problem: Its unknown, whose values the user's program sees unchanged after an attempt.
        b: Right-hand side of the solve.
        x: Its vector; holds the user's own initial guess.
    """

    in_script = True

    def __init__(self, solver: PETSc.SNES | PETSc.KSP, problem: Unknown, b: PETSc.Vec | None, x: PETSc.Vec) -> None:
        self.solver, self.problem, self.b, self.x = solver, problem, b, x
        self._values = [function.x.array.copy() for function in problem.functions]
        self._own, self._guess = x.copy(), x.duplicate()
        communicator(solver)

    def by_default(self) -> SolveResult:
        self._restore()
        self._own.copy(self.x)
        return self._solve()

    def destroy(self) -> None:
        self._own.destroy()
        self._guess.destroy()

    def _solve(self, iterations: int = 0) -> SolveResult:
        """Run the user's solver; ``iterations`` are those of an attempt."""
        started, solver = time.perf_counter(), self.solver
        solver.solve(self.b, self.x)
        if iterations:
            solver.setIterationNumber(solver.getIterationNumber() + iterations)
        return result_of(solver, time.perf_counter() - started)

    def _take_guess(self) -> PETSc.Vec:
        """Return the guess in the unknown as a vector, the unknown as it was before.

        In the null space of the matrix, where a solver leaves what it begins with, it is the user's own guess.
        """
        assign(self.problem.solution, self._guess)
        self._restore()
        agree(self.problem.mesh.comm)
        nullspace = self._matrix().getNullSpace()
        if nullspace.handle:
            self._guess.axpy(-1.0, self._own_guess())
            nullspace.remove(self._guess)
            self._guess.axpy(1.0, self._own_guess())
        return self._guess

    @contextmanager
    def _unknown_kept(self) -> Iterator[None]:
        """Leave the guess in the unknown as it is, where functions of the user's program write into it."""
        kept = [function.x.array.copy() for function in self.problem.functions]
        try:
            yield
        finally:
            _put(self.problem, kept)

    @abstractmethod
    def _matrix(self) -> PETSc.Mat:
        """Return the matrix, or Jacobian, of the solver."""

    def _own_guess(self) -> PETSc.Vec:
        """Return the user's own guess."""
        return self._own

    def _restore(self) -> None:
        _put(self.problem, self._values)


@final
class SNESTarget(_PETScTarget):
    """A solve of a SNES. A twin solves from the guess; from what it finds the user's SNES begins, and stops at once.

    A relative tolerance refers to the user's own guess, whatever the solve begins with.
    """

    def __init__(self, solver: PETSc.SNES, problem: Unknown, b: PETSc.Vec | None, x: PETSc.Vec) -> None:
        super().__init__(solver, problem, b, x)
        self._twin: Twin | None = None
        self._own_norm: float | None = None

    def norms(self) -> tuple[float, float]:
        if self._own_norm is None:
            with self._unknown_kept():
                self._own_norm = self._made_twin().norm(self._own)
        rtol, atol, _, _ = self.solver.getTolerances()
        return self._own_norm, max(atol, rtol * self._own_norm)

    def tolerance(self) -> float:
        """Return the residual norm that a solve aims at. Collective."""
        return self.norms()[1]

    def accept(self) -> Acceptance:
        """Reject a guess that is worse than the user's own by energy and by residual; the monitor does the rest."""
        if self.solver.getObjective() is None:
            return Acceptance(True, "")
        default, _ = self.norms()
        with self._unknown_kept():
            assign(self.problem.solution, self._guess)
            norm = self._made_twin().norm(self._guess)
            lower = compare_energies(*(self.solver.computeObjective(each) for each in (self._guess, self._own)))
        return lower if lower.accepted else compare_norms(norm, default, MAY_EXCEED)

    def from_guess(self, check: Check | None, max_iterations: int | None) -> SolveResult:
        atol, started = self.tolerance(), time.perf_counter()
        guess, twin = self._take_guess(), self._made_twin()
        twin.solve(guess, atol, max_iterations, check)
        result = _at_a_tolerance(twin.snes, result_of(twin.snes, time.perf_counter() - started))
        if atol > 0.0:
            return result
        # The length of a step has ended the solve: the residual must have fallen, too.
        stol, own = self.solver.getTolerances()[2], twin.norm(self._own)
        self._restore()
        return dataclasses.replace(result, converged=result.converged and result.residual <= math.sqrt(stol) * own)

    def deliver(self, result: SolveResult) -> SolveResult:
        self._restore()
        self._guess.copy(self.x)
        solver, strict = self.solver, self.solver.getErrorIfNotConverged()
        rtol, atol, stol, max_it = solver.getTolerances()
        solver.setTolerances(rtol=rtol, atol=self.tolerance(), stol=stol, max_it=max_it)
        solver.setErrorIfNotConverged(False)
        try:
            own = self._solve(result.iterations)
        finally:
            solver.setTolerances(rtol=rtol, atol=atol, stol=stol, max_it=max_it)
            solver.setErrorIfNotConverged(strict)
        own = dataclasses.replace(own, seconds={"solve": result.seconds["solve"] + own.seconds["solve"]})
        return _at_a_tolerance(solver, own)

    def destroy(self) -> None:
        super().destroy()
        if self._twin is not None:
            self._twin.destroy()

    def _matrix(self) -> PETSc.Mat:
        return self.solver.getJacobian()[0]

    def _made_twin(self) -> Twin:
        if self._twin is None:
            agree(self.problem.mesh.comm)
            self.solver.setUp()
            self._twin = Twin(self.solver, self.x)
        return self._twin


@final
class KSPTarget(_PETScTarget):
    """A solve of a KSP, which begins with an accepted guess; if it does not converge, it solves again without."""

    def __init__(self, solver: PETSc.KSP, problem: Unknown, b: PETSc.Vec, x: PETSc.Vec) -> None:
        super().__init__(solver, problem, b, x)
        self._nonzero = solver.getInitialGuessNonzero()
        self._zero = x.duplicate()
        self._zero.set(0.0)

    def norms(self) -> None:
        return None  # the guess is tested; what it may lose is a few iterations

    def accept(self) -> Acceptance:
        """Compare the preconditioned residual of the guess with that of the user's own guess.

        A guess that is worse by this norm may still need fewer iterations: what is rough of it goes first. It is
        rejected where it would cost more than ``MAY_LOSE`` at the mean rate of convergence: by a factor R it takes
        ``log R / log(1 / rtol)`` more iterations.
        """
        assign(self.problem.solution, self._guess)
        agree(self.problem.mesh.comm)
        self.solver.setUp()
        own, default = (self._residual(vector) for vector in (self._guess, self._own_guess()))
        rtol = min(max(self.solver.getTolerances()[0], sys.float_info.epsilon), 1.0)
        return compare_norms(own, default, rtol**-MAY_LOSE)

    def from_guess(self, check: Check | None, max_iterations: int | None) -> SolveResult:
        self._take_guess()
        agree(self.problem.mesh.comm)
        if not math.isfinite(self._guess.norm()):
            return SolveResult(False, "the guess is not finite", "", 0, math.nan)
        return SolveResult(True, "", "", 0, math.nan)  # the user's own KSP begins with it

    def deliver(self, result: SolveResult) -> SolveResult:
        solver, strict = self.solver, self.solver.getErrorIfNotConverged()
        self._guess.copy(self.x)
        solver.setInitialGuessNonzero(True)
        solver.setErrorIfNotConverged(False)
        try:
            return _at_a_tolerance(solver, self._solve())
        finally:
            solver.setInitialGuessNonzero(self._nonzero)
            solver.setErrorIfNotConverged(strict)

    def destroy(self) -> None:
        super().destroy()
        self._zero.destroy()

    def _matrix(self) -> PETSc.Mat:
        return self.solver.getOperators()[0]

    def _own_guess(self) -> PETSc.Vec:
        return self._own if self._nonzero else self._zero

    def _residual(self, x: PETSc.Vec) -> float:
        """Return the norm of the preconditioned residual of a vector."""
        assert self.b is not None
        residual = self.b.duplicate()
        self._matrix().mult(x, residual)
        residual.aypx(-1.0, self.b)
        preconditioned = x.duplicate()
        self.solver.getPC().apply(residual, preconditioned)
        norm = float(preconditioned.norm())
        preconditioned.destroy()
        residual.destroy()
        return norm


def result_of(solver: PETSc.SNES | PETSc.KSP, seconds: float) -> SolveResult:
    """Return the outcome of the last solve. Collective: no."""
    reason, linear = solver.getConvergedReason(), isinstance(solver, PETSc.KSP)
    norm = solver.getResidualNorm() if linear else solver.getFunctionNorm()
    name = reason_name((PETSc.KSP if linear else PETSc.SNES).ConvergedReason, reason)
    return SolveResult(reason > 0, name, "", solver.getIterationNumber(), norm, {"solve": seconds})


def _at_a_tolerance(solver: PETSc.SNES | PETSc.KSP, result: SolveResult) -> SolveResult:
    """Take an answer that a number of iterations has ended for none: it depends on the guess."""
    return dataclasses.replace(result, converged=result.converged and not stopped_by_count(solver))


def _put(problem: Unknown, arrays: Sequence[npt.NDArray[Any]]) -> None:
    for function, values in zip(problem.functions, arrays, strict=True):
        function.x.array[:] = values
