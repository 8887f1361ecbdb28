"""Solving through the gate: a start that is checked, watched and given up in time, or the classical strategy."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Mapping
from typing import final

import numpy as np
from mpi4py import MPI

from lrsa_coupled.coupling.fallback import solve_classically
from lrsa_coupled.coupling.gate import CLASSICAL, Decision, Gate
from lrsa_coupled.coupling.guess import LearnedGuess, Prediction
from lrsa_coupled.coupling.judge import judge
from lrsa_coupled.interfaces import Case, Problem, Solver, SolveResult

logger = logging.getLogger(__name__)

LEARNED = "learned"
HARDER = 1.5
"""How many times harder than expected a problem may be before a start on its way to the solution is given up."""

Start = Callable[[Problem], Prediction]
"""Puts a start with exact Dirichlet values into ``problem.solution`` and returns what became of it. Collective."""


def learned_start(case: Case, guess: LearnedGuess, max_distance: float) -> Start:
    """Return the start from an operator, which is not evaluated where a problem is too far from those it was trained on."""

    def start(problem: Problem) -> Prediction:
        started = time.perf_counter()
        distance = guess.distance(case, problem)
        if distance <= max_distance:
            return guess.start(case, problem)
        reason = f"the problem is {distance:.1f} standard deviations from those of the training, {max_distance:g} allowed"
        seconds = {"transfer": time.perf_counter() - started, "inference": 0.0}
        return guess.refuse(Prediction(np.zeros((0, 0)), seconds, False, reason))

    return start


def kind_of(problem: Problem) -> str:
    """Name the problems whose costs are comparable: as many ranks and, within a fifth or so, unknowns."""
    dofmap = problem.solution.function_space.dofmap
    unknowns = dofmap.index_map.size_global * dofmap.index_map_bs
    size = 2.0 ** (round(2.0 * math.log2(unknowns)) / 2.0)
    return f"{problem.mesh.comm.size} ranks, about {size:.2g} unknowns"


class Watch:
    """Ends a solve from a start that has used up its budget and is not on its way: called by the solver after each iteration.

    On its way is a solve that would end before a classical one of a problem ``HARDER`` than expected, if its residual norm goes on falling as that of Newton's method does near a
    solution: the number of digits gained, at present the mean over the last two iterations, doubles with each.

    Args:
        comm: Ranks of the problem.
        atol: Tolerance of the residual norm.
        started: When the start was begun, ``time.perf_counter()`` [s].
        budget: What a start gone wrong may cost [s].
        expected: What a classical solve is expected to cost [s].

    Attributes:
        reason: Why the solve was ended, empty when it was not.
    """

    def __init__(self, comm: MPI.Comm, atol: float, *, started: float, budget: float, expected: float) -> None:
        self.comm, self.atol = comm, atol
        self.started, self.budget, self.expected = started, budget, expected
        self.reason = ""
        self._norms: list[float] = []
        self._begun = 0.0

    def __call__(self, iteration: int, norm: float) -> bool:
        """Return whether to end the solve. Collective."""
        elapsed = self.comm.allreduce(time.perf_counter() - self.started, op=MPI.MAX)
        self._norms.append(norm)
        if iteration == 0:
            self._begun = elapsed
        if iteration == 0 or elapsed <= self.budget or norm <= self.atol:
            return False
        pace = (elapsed - self._begun) / iteration
        if elapsed + pace * self._remaining() <= HARDER * self.expected:
            return False
        self.reason = f"residual norm {norm:.2g} after {iteration} iterations, {self._norms[-2]:.2g} before the last, {self.atol:.2g} asked for"
        return True

    def _remaining(self) -> float:
        """Return the iterations from here to the tolerance."""
        before = self._norms[-3:]
        gained = math.log(before[0] / before[-1]) / (len(before) - 1) if before[-1] < before[0] else 0.0
        return math.log2(1.0 + math.log(before[-1] / self.atol) / (2.0 * gained)) if gained > 0.0 else math.inf


@final
class GatedSolver(Solver):
    """One solve through the gate; the answer meets the tolerance whatever the start.

    Args:
        case: The case.
        gate: Decides, and remembers what it has cost; shared by all solves of a run.
        starts: The starts by name, those of the gate.
        problem: Problem to solve.
        atol: Absolute tolerance of the residual norm.
    """

    def __init__(self, case: Case, gate: Gate, starts: Mapping[str, Start], *, problem: Problem, atol: float) -> None:
        self.case, self.gate, self.starts = case, gate, starts
        self.problem, self.atol = problem, atol
        self.comm: MPI.Comm = problem.mesh.comm
        self._plain: Solver | None = None

    def solve(self) -> SolveResult:
        """Choose, solve and note; ``seconds`` has transfer, inference and solve. Collective."""
        started = time.perf_counter()
        kind = kind_of(self.problem)
        choice, why = self.gate.choose(kind)
        if choice == CLASSICAL:
            result, outcome, wasted = self._classically({}, 0), "converged", 0.0
        else:
            result, outcome, wasted = self._from_start(choice, kind, started)
        if choice == CLASSICAL and not result.converged:
            outcome = f"failed: {result.reason}"
        total = self._slowest(time.perf_counter() - started)
        decision = Decision(len(self.gate.decisions) + 1, choice, why, outcome, wasted, total)
        self.gate.note(kind, decision)
        logger.info("gate: solve %d: %s (%s): %s, %.3g s", decision.number, choice, why, outcome, total)
        return result

    def destroy(self) -> None:
        """Free the solver of the start. Collective."""
        if self._plain is not None:
            self._plain.destroy()

    def _from_start(self, choice: str, kind: str, started: float) -> tuple[SolveResult, str, float]:
        """Solve from a start, else classically; return also the outcome and the time wasted."""
        prediction = self.starts[choice](self.problem)
        seconds = dict(prediction.seconds)
        iterations, outcome = 0, f"rejected: {prediction.reason}"
        if prediction.accepted:
            verdict = judge(self.problem, self.gate.settings.max_residual)
            outcome = f"rejected: {verdict.reason}"
            if verdict.accepted:
                expected = self.gate.expected(kind)
                budget = self.gate.settings.budget * expected
                result, outcome = self._watched(Watch(self.comm, self.atol, started=started, budget=budget, expected=expected))
                seconds["solve"] = sum(result.seconds.values())
                if result.converged:
                    return dataclasses.replace(result, seconds=seconds), outcome, 0.0
                iterations = result.iterations
        wasted = self._slowest(time.perf_counter() - started)
        if self.comm.rank == 0:
            logger.warning("the %s start is given up, %s; the classical strategy takes over", choice, outcome)
        return self._classically(seconds, iterations), outcome, wasted

    def _watched(self, watch: Watch) -> tuple[SolveResult, str]:
        self._plain = self.case.solver(self.problem, self.atol)
        self._plain.watch(watch)
        result = self._plain.solve()
        if result.converged:
            return result, "converged"
        return result, f"abandoned: {watch.reason}" if watch.reason else f"failed: {result.reason}"

    def _classically(self, seconds: Mapping[str, float], iterations: int) -> SolveResult:
        result = solve_classically(self.case, self.problem, self.atol, iterations=iterations, seconds=seconds)
        return dataclasses.replace(result, used_fallback=bool(seconds))

    def _slowest(self, seconds: float) -> float:
        return self.comm.allreduce(seconds, op=MPI.MAX)
