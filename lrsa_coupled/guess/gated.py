"""Solving through the gate: a start that is checked, watched and given up in time, or the classical strategy."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import final

import numpy as np
from mpi4py import MPI

from lrsa_coupled.guess.fallback import solve_classically
from lrsa_coupled.guess.gate import CLASSICAL, Decision, Gate
from lrsa_coupled.guess.learned import LearnedGuess, Prediction
from lrsa_coupled.guess.acceptance import Verdict, judge
from lrsa_coupled.coupling.transfer import NodeSet
from lrsa_coupled.interfaces import Case, Problem, Described, Solver, SolveResult, Unknown

logger = logging.getLogger(__name__)

LEARNED = "learned"
HARDER = 1.5
"""How many times harder than expected a problem may be before a start on its way to the solution is given up."""

STALLED = 0.5
"""Reduction of the residual norm in an iteration from which Newton's method is not near a solution."""

Start = Callable[[Problem], Prediction]
"""Puts a start with exact Dirichlet values into ``problem.solution`` and returns what became of it. Collective."""


def learned_start(case: Described, guess: LearnedGuess, max_distance: float, nodes: NodeSet | None = None) -> Start:
    """Return the start from an operator, which is not evaluated where a problem is too far from those it was trained on.

    ``nodes`` are those of all problems to come, when they share one unknown.
    """

    def start(problem: Problem) -> Prediction:
        started = time.perf_counter()
        features = case.features(problem)
        distance = guess.distance(features, problem.mesh.comm)
        if distance <= max_distance:
            found = time.perf_counter() - started
            prediction = guess.start(case, problem, nodes, features=features)
            return dataclasses.replace(
                prediction, seconds={**prediction.seconds, "transfer": prediction.seconds["transfer"] + found}
            )
        reason = (
            f"the problem is {distance:.1f} standard deviations from those of the training, {max_distance:g} allowed"
        )
        seconds = {"transfer": time.perf_counter() - started, "inference": 0.0}
        return guess.refuse(Prediction(np.zeros((0, 0)), seconds, False, reason))

    return start


def kind_of(problem: Unknown) -> str:
    """Name the problems whose costs are comparable: as many ranks and, within a fifth or so, unknowns."""
    dofmap = problem.solution.function_space.dofmap
    unknowns = dofmap.index_map.size_global * dofmap.index_map_bs
    size = 2.0 ** (round(2.0 * math.log2(unknowns)) / 2.0)
    return f"{problem.mesh.comm.size} ranks, about {size:.2g} unknowns"


class Watch:
    """Ends a solve from a start that has used up its budget and is not on its way: called by the solver after each iteration.

    On its way is a solve whose residual norm falls to less than ``stalled``, the mean of the last two iterations, and that would end before a
    classical one of a problem ``HARDER`` than expected, if the norm went on falling as that of Newton's method does near a solution: the number
    of digits gained doubles with each iteration.

    Args:
        comm: Ranks of the problem.
        atol: Tolerance of the residual norm.
        started: When the start was begun, ``time.perf_counter()`` [s].
        budget: What a start gone wrong may cost [s].
        expected: What a classical solve is expected to cost [s].
        stalled: Reduction of the residual norm in an iteration from which the solve is not on its way.

    Attributes:
        reason: Why the solve was ended, empty when it was not.
    """

    def __init__(
        self, comm: MPI.Comm, atol: float, *, started: float, budget: float, expected: float, stalled: float = STALLED
    ) -> None:
        self.comm, self.atol, self.stalled = comm, atol, stalled
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
        return (
            math.inf
            if gained <= -math.log(self.stalled)
            else math.log2(1.0 + math.log(before[-1] / self.atol) / (2.0 * gained))
        )


@dataclass(frozen=True)
class Ways:
    """How a problem is solved once its start is chosen; all collective.

    Args:
        tolerance: Returns the tolerance of the residual norm that a watched solve aims at.
        judge: Says whether the start in the solution is worth solving from.
        from_start: Solves from the start in the solution, under a watch; a result with ``used_fallback`` has dropped it unused.
        classically: Solves by the classical strategy, whatever is in the solution.
        minimises: Whether the solver lowers an energy; the residual norm may then fall slowly for a while.
    """

    tolerance: Callable[[], float]
    judge: Callable[[], Verdict]
    from_start: Callable[[Watch], SolveResult]
    classically: Callable[[], SolveResult]
    minimises: bool


def solve_through(
    gate: Gate, kind: str, starts: Mapping[str, Callable[[], Prediction]], *, ways: Ways, comm: MPI.Comm
) -> SolveResult:
    """Choose a start, solve, and note what it cost. Collective.

    Args:
        gate: Decides and remembers.
        kind: Problems whose costs are comparable, see ``kind_of``.
        starts: The starts of the gate by name.
        ways: How to solve.
        comm: Ranks of the problem.

    Returns:
        ``seconds`` has transfer, inference and solve; ``used_fallback`` when a start was given up.
    """
    started = time.perf_counter()
    choice, why = gate.choose(kind)
    if choice == CLASSICAL:
        result, wasted, risk = ways.classically(), 0.0, 0.0
        outcome = "converged" if result.converged else f"failed: {result.reason}"
    else:
        prediction = starts[choice]()
        result, outcome = _try(prediction, gate, ways, started=started, expected=gate.expected(kind), comm=comm)
        risk = _risk(time.perf_counter() - started, result)
        seconds = {**prediction.seconds, "solve": 0.0 if result is None else sum(result.seconds.values())}
        dropped = (
            sum(prediction.seconds.values())
            if result is not None and result.converged
            else time.perf_counter() - started
        )
        wasted = 0.0 if outcome == "converged" else slowest(comm, dropped)
        if wasted:
            logger.warning("the %s start is given up, %s; the classical strategy takes over", choice, outcome)
        if result is None or not result.converged:
            last = ways.classically()
            seconds["solve"] += sum(last.seconds.values())
            spent = 0 if result is None else result.iterations
            result = dataclasses.replace(last, iterations=spent + last.iterations, used_fallback=True)
        result = dataclasses.replace(result, seconds=seconds)
    total = slowest(comm, time.perf_counter() - started)
    gate.note(kind, Decision(len(gate.decisions) + 1, choice, why, outcome, wasted, total, slowest(comm, risk)))
    if comm.rank == 0:
        gate.save()
    logger.info("gate: solve %d: %s (%s): %s, %.3g s", len(gate.decisions), choice, why, outcome, total)
    return result


def slowest(comm: MPI.Comm, seconds: float) -> float:
    """Return the time of the slowest rank [s]. Collective."""
    return comm.allreduce(seconds, op=MPI.MAX)


def _risk(spent: float, result: SolveResult | None) -> float:
    """Return what of the time spent was before the solve, and an iteration [s]."""
    return spent if result is None else spent - sum(result.seconds.values()) * (1.0 - 1.0 / max(result.iterations, 1))


def _try(
    prediction: Prediction, gate: Gate, ways: Ways, *, started: float, expected: float, comm: MPI.Comm
) -> tuple[SolveResult | None, str]:
    """Solve from a prediction if it passes; return the result, None without a solve, and the outcome."""
    verdict = ways.judge() if prediction.accepted else Verdict(False, prediction.reason)
    if not verdict.accepted:
        return None, f"rejected: {verdict.reason}"
    budget, stalled = gate.settings.budget * expected, 1.0 if ways.minimises else STALLED
    watch = Watch(comm, ways.tolerance(), started=started, budget=budget, expected=expected, stalled=stalled)
    result = ways.from_start(watch)
    if result.converged:
        return result, f"rejected: {result.reason}" if result.used_fallback else "converged"
    return result, f"abandoned: {watch.reason}" if watch.reason else f"failed: {result.reason}"


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
        self._plain: Solver | None = None

    def solve(self) -> SolveResult:
        """Choose, solve and note; ``seconds`` has transfer, inference and solve. Collective."""
        problem = self.problem
        starts = {name: partial(start, problem) for name, start in self.starts.items()}
        ways = Ways(
            tolerance=lambda: self.atol,
            judge=partial(judge, problem, self.gate.settings.max_residual),
            from_start=self._from_start,
            classically=self._classically,
            minimises=problem.energy is not None,
        )
        return solve_through(self.gate, kind_of(problem), starts, ways=ways, comm=problem.mesh.comm)

    def destroy(self) -> None:
        """Free the solver of the start. Collective."""
        if self._plain is not None:
            self._plain.destroy()

    def _from_start(self, watch: Watch) -> SolveResult:
        self._plain = self.case.solver(self.problem, self.atol)
        self._plain.monitor(watch)
        return self._plain.solve()

    def _classically(self) -> SolveResult:
        return dataclasses.replace(
            solve_classically(self.case, self.problem, self.atol, iterations=0, seconds={}), used_fallback=False
        )
