"""The guarded solver: an initial guess is tested, its solve monitored and given up in time for the default solve."""

from __future__ import annotations

import dataclasses
import logging
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import final

import numpy as np
from mpi4py import MPI

from lrsa_coupled.coupling.failures import interrupts
from lrsa_coupled.guess.acceptance import Acceptance
from lrsa_coupled.guess.monitor import Limits, Monitor
from lrsa_coupled.guess.policy import Choice, Decision, Policy
from lrsa_coupled.guess.record import DEFAULT
from lrsa_coupled.guess.target import Target
from lrsa_coupled.interfaces import InitialGuess, Problem, SequenceSolver, SolveResult, Unknown
from lrsa_coupled.mpi import agree, collective_errors

logger = logging.getLogger(__name__)


@dataclass
class _Attempt:
    """A solve from a guess.

    Args:
        outcome: As in ``Decision``.
        result: Of the solve, if there was one.
        seconds: Transfer and inference [s].
        iterations: Of solves that should have led to the guess.
    """

    outcome: str = ""
    result: SolveResult | None = None
    seconds: dict[str, float] = field(default_factory=lambda: {"transfer": 0.0, "inference": 0.0})
    iterations: int = 0


@final
class GuardedSolver(SequenceSolver):
    """Solves a target from the guess that a policy chooses; the answer meets the tolerance whatever the guess.

    The guesses have different names; without any the solve is the default one. All solves of a run share the policy.
    """

    def __init__(self, guesses: Sequence[InitialGuess], target: Target, policy: Policy) -> None:
        self.guesses, self.target, self.policy = {guess.name: guess for guess in guesses}, target, policy

    def solve(self) -> SolveResult:
        """Choose, solve and note what it cost; ``seconds`` has transfer, inference and solve. Collective.

        An exception of the default solve is noted before it goes on; so is one of an attempt, but where the target
        stands in a user's program: there it is an attempt that has failed.
        """
        comm, started = self.target.problem.mesh.comm, time.perf_counter()
        kind = kind_of(self.target.problem)
        none = Choice(DEFAULT, "no choice")  # the ranks may differ after an error on one of them: rank 0 decides
        choice = comm.bcast(self._safely(lambda: self.policy.choose(kind, list(self.guesses)), none))
        attempt, wasted, risk = _Attempt(), 0.0, 0.0
        if choice.name != DEFAULT:
            attempt = self._attempt(choice, started)
            elapsed = time.perf_counter() - started
            risk = slowest(comm, _risk(elapsed, attempt.result))
            if attempt.outcome != "converged":
                dropped = attempt.result is not None and attempt.result.converged  # by the solver, at no further cost
                wasted = slowest(comm, sum(attempt.seconds.values()) if dropped else elapsed)
        decision = Decision(0, choice.name, choice.why, attempt.outcome, wasted, 0.0, risk, solved=False)
        try:
            result = self._or_default(attempt, choice.name)
        except Exception as error:  # on this rank: the others may not come here
            self._note(kind, decision, f"failed: {describe(error)}", time.perf_counter() - started)
            raise
        count = result.iterations if choice.name == DEFAULT else 0
        decision = dataclasses.replace(decision, solved=result.converged, iterations=count)
        outcome = "converged" if result.converged else f"failed: {result.reason}"
        self._note(kind, decision, outcome, slowest(comm, time.perf_counter() - started))
        spent = time.perf_counter() - started - sum(attempt.seconds.values())
        return dataclasses.replace(result, seconds=attempt.seconds | {"solve": spent})

    def _safely[T](self, function: Callable[[], T], otherwise: T) -> T:
        """Call what chooses and takes down; where the target stands in a user's program an error is logged instead."""
        try:
            return function()
        except Exception as error:
            if not self.target.in_script:
                raise
            logger.warning("the choice of a guess has failed, the own solve goes on: %s", describe(error))
            return otherwise

    def update(self, problem: Problem, atol: float) -> None:
        self.target.update(problem, atol)

    def monitor(self, check: Callable[[int, float], bool]) -> None:
        self.target.monitor(check)

    def destroy(self) -> None:
        self.target.destroy()

    def _attempt(self, choice: Choice, started: float) -> _Attempt:
        """Solve from a guess; where the target stands in a user's program, nothing that goes wrong leaves this.

        But an interrupt does, and ``mpi.OutOfReach``.
        """
        attempt, target = _Attempt(), self.target
        quiet = warnings.catch_warnings(action="ignore") if target.in_script else nullcontext()
        try:
            with quiet, collective_errors(target.problem.mesh.comm), interrupts():
                self._try(attempt, choice, started)
        except Exception as error:
            if not target.in_script:
                raise
            attempt.outcome, attempt.result = f"failed: {describe(error)}", None
        if attempt.outcome == "converged" and attempt.result is not None:
            attempt.result = target.deliver(attempt.result)
            if not attempt.result.converged:
                attempt.outcome = f"failed: {attempt.result.reason}"
        return attempt

    def _try(self, attempt: _Attempt, choice: Choice, started: float) -> None:
        """Put the guess, test it, and solve from it if it is accepted."""
        target, guess = self.target, self.guesses[choice.name]
        comm = target.problem.mesh.comm
        put = guess.put(target.problem)
        attempt.seconds["transfer"] = time.perf_counter() - started
        attempt.seconds |= put.seconds
        attempt.iterations = put.iterations
        agree(comm)
        test = Acceptance(put.accepted, put.reason)
        if put.accepted and choice.tested and not guess.trusted:
            test = target.accept()
        if not test.accepted:
            attempt.outcome = f"rejected: {test.reason}"
            return
        check, norms = None, None if choice.expected is None else target.norms()
        if choice.expected is not None and norms is not None:
            check = Monitor(comm, Limits(*norms, choice.budget, choice.expected, choice.iterations), started=started)
        limit = None if guess.trusted else choice.max_iterations
        result = target.from_guess(check, limit)
        attempt.result = result
        if result.converged:
            attempt.outcome = f"rejected: {result.reason}" if result.used_fallback else "converged"
        else:
            reason = check.reason if check else None
            limited = limit is not None and result.iterations >= limit
            failed = f"failed: {result.reason}{f', guess.max_iterations is {limit}' * limited}"
            attempt.outcome = f"abandoned: {reason}" if reason else failed

    def _or_default(self, attempt: _Attempt, name: str) -> SolveResult:
        """Return the result of an attempt, or of the default solve where it did not converge."""
        first = attempt.result
        if first is not None and first.converged:
            return first
        if name == DEFAULT:
            return dataclasses.replace(self.target.by_default(), used_fallback=False)
        level = logging.INFO if self.target.in_script else logging.WARNING
        logger.log(level, "the %s guess is given up, %s; the default solver takes over", name, attempt.outcome)
        result = self.target.by_default()
        iterations = attempt.iterations + result.iterations + (0 if first is None else first.iterations)
        return dataclasses.replace(result, iterations=iterations, used_fallback=True)

    def _note(self, kind: str, decision: Decision, outcome: str, seconds: float) -> None:
        """Take down a decision; ``outcome`` is that of the default solve where no guess was tried."""
        number, outcome = len(self.policy.decisions) + 1, decision.outcome or outcome
        decision = dataclasses.replace(decision, number=number, outcome=outcome, seconds=seconds)
        self._safely(lambda: self.policy.note(kind, decision), None)
        if self.target.problem.mesh.comm.rank == 0:
            try:
                self.policy.save()
            except OSError as error:
                logger.warning("the record of costs is not written: %s", error)
        line = "solve %d: %s (%s): %s, %.3g s"
        logger.log(self.policy.log_level, line, number, decision.choice, decision.why, outcome, seconds)


def describe(error: Exception) -> str:
    """Return type and first line of an error."""
    return f"{type(error).__name__}: {error}".splitlines()[0]


def kind_of(problem: Unknown) -> str:
    """Name the problems whose costs are comparable: as many ranks and, within a fifth or so, unknowns."""
    size = 2.0 ** (np.round(2.0 * np.log2(unknowns_of(problem))) / 2.0)
    return f"{problem.mesh.comm.size} ranks, about {size:.2g} unknowns"


def unknowns_of(problem: Unknown) -> int:
    """Return the number of unknowns on all ranks. Collective: no."""
    maps = [function.function_space.dofmap for function in problem.functions]
    return sum(dofmap.index_map.size_global * dofmap.index_map_bs for dofmap in maps)


def slowest(comm: MPI.Comm, seconds: float) -> float:
    """Return the time of the slowest rank [s]. Collective."""
    return comm.allreduce(seconds, op=MPI.MAX)


def _risk(spent: float, result: SolveResult | None) -> float:
    """Return what of the time spent was before the solve, and an iteration [s]."""
    return spent if result is None else spent - sum(result.seconds.values()) * (1.0 - 1.0 / max(result.iterations, 1))
