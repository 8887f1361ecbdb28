"""The guarded solver: an initial guess is tested, its solve monitored and given up in time for the default solve."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import final

from mpi4py import MPI

from lrsa_coupled.guess.acceptance import Acceptance
from lrsa_coupled.guess.monitor import Monitor
from lrsa_coupled.guess.policy import DEFAULT, Choice, Decision, Policy
from lrsa_coupled.guess.target import Target
from lrsa_coupled.interfaces import Guess, InitialGuess, Problem, SequenceSolver, SolveResult, Unknown

logger = logging.getLogger(__name__)


@final
class GuardedSolver(SequenceSolver):
    """Solves a target from the guess that a policy chooses; the answer meets the tolerance whatever the guess.

    The guesses have different names; without any the solve is the default one. All solves of a run share the policy.
    """

    def __init__(self, guesses: Sequence[InitialGuess], target: Target, policy: Policy) -> None:
        self.guesses, self.target, self.policy = {guess.name: guess for guess in guesses}, target, policy

    def solve(self) -> SolveResult:
        """Choose, solve and note what it cost; ``seconds`` has transfer, inference and solve. Collective."""
        target, comm, started = self.target, self.target.problem.mesh.comm, time.perf_counter()
        kind = kind_of(target.problem)
        choice = self.policy.choose(kind, list(self.guesses))
        wasted = risk = 0.0
        seconds = {"transfer": 0.0, "inference": 0.0}
        if choice.name == DEFAULT:
            result = dataclasses.replace(target.by_default(), used_fallback=False)
            outcome = "converged" if result.converged else f"failed: {result.reason}"
        else:
            guess = self.guesses[choice.name].put(target.problem)
            seconds["transfer"] = time.perf_counter() - started
            seconds |= guess.seconds
            first, outcome = self._attempt(guess, choice, started)
            elapsed = time.perf_counter() - started
            risk = slowest(comm, _risk(elapsed, first))
            if outcome != "converged":
                dropped = first is not None and first.converged  # by the solver, at no further cost
                wasted = slowest(comm, sum(seconds.values()) if dropped else elapsed)
                if guess.accepted:
                    logger.warning("the %s guess is given up, %s; the default solver takes over", choice.name, outcome)
            result = self._or_default(first, guess.iterations)
        seconds["solve"] = time.perf_counter() - started - sum(seconds.values())
        number, total = len(self.policy.decisions) + 1, slowest(comm, time.perf_counter() - started)
        self.policy.note(kind, Decision(number, choice.name, choice.why, outcome, wasted, total, risk))
        if comm.rank == 0:
            self.policy.save()
        level = self.policy.log_level
        logger.log(level, "solve %d: %s (%s): %s, %.3g s", number, choice.name, choice.why, outcome, total)
        return dataclasses.replace(result, seconds=seconds)

    def update(self, problem: Problem, atol: float) -> None:
        self.target.update(problem, atol)

    def monitor(self, check: Callable[[int, float], bool]) -> None:
        self.target.monitor(check)

    def destroy(self) -> None:
        self.target.destroy()

    def _attempt(self, guess: Guess, choice: Choice, started: float) -> tuple[SolveResult | None, str]:
        """Solve from a guess if it is accepted; return the result, None without a solve, and the outcome."""
        target, trusted = self.target, self.guesses[choice.name].trusted
        test = Acceptance(guess.accepted, guess.reason)
        if guess.accepted and choice.max_residual is not None and not trusted:
            test = target.accept(choice.max_residual)
        if not test.accepted:
            return None, f"rejected: {test.reason}"
        check = None
        if choice.expected is not None:
            comm, atol, stalled = target.problem.mesh.comm, target.tolerance(), 1.0 if target.minimises else 0.5
            check = Monitor(
                comm, atol, started=started, budget=choice.budget, expected=choice.expected, stalled=stalled
            )
        result = target.from_guess(check, None if trusted else choice.max_iterations)
        if result.converged:
            return result, f"rejected: {result.reason}" if result.used_fallback else "converged"
        return result, f"abandoned: {check.reason}" if check and check.reason else f"failed: {result.reason}"

    def _or_default(self, first: SolveResult | None, iterations: int) -> SolveResult:
        """Return the result of an attempt, or of the default solve where it did not converge."""
        if first is not None and first.converged:
            return first
        result = self.target.by_default()
        iterations += result.iterations + (0 if first is None else first.iterations)
        return dataclasses.replace(result, iterations=iterations, used_fallback=True)


def kind_of(problem: Unknown) -> str:
    """Name the problems whose costs are comparable: as many ranks and, within a fifth or so, unknowns."""
    dofmap = problem.solution.function_space.dofmap
    unknowns = dofmap.index_map.size_global * dofmap.index_map_bs
    size = 2.0 ** (round(2.0 * math.log2(unknowns)) / 2.0)
    return f"{problem.mesh.comm.size} ranks, about {size:.2g} unknowns"


def slowest(comm: MPI.Comm, seconds: float) -> float:
    """Return the time of the slowest rank [s]. Collective."""
    return comm.allreduce(seconds, op=MPI.MAX)


def _risk(spent: float, result: SolveResult | None) -> float:
    """Return what of the time spent was before the solve, and an iteration [s]."""
    return spent if result is None else spent - sum(result.seconds.values()) * (1.0 - 1.0 / max(result.iterations, 1))
