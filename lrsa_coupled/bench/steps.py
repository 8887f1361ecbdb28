"""Ways to take a time step with the solver at hand: as a strategy does, from the operator, through the gate."""

from __future__ import annotations

import dataclasses
import time
from abc import ABC, abstractmethod
from functools import partial
from typing import final

import numpy as np

from lrsa_coupled.guess import gated
from lrsa_coupled.guess.gate import Gate
from lrsa_coupled.guess.gated import Watch, Ways, kind_of, learned_start, solve_through
from lrsa_coupled.guess.learned import LearnedGuess, Prediction
from lrsa_coupled.guess.acceptance import Verdict, judge
from lrsa_coupled.coupling.transfer import NodeSet
from lrsa_coupled.interfaces import Case, Problem, SequenceSolver, SolveResult


class Step(ABC):
    """Puts a start into the solution and solves with the solver at hand."""

    @abstractmethod
    def __call__(self, problem: Problem, solver: SequenceSolver, atol: float) -> SolveResult:
        """Solve to an absolute tolerance. Collective."""

    def monitor(self, iteration: int, norm: float) -> bool:
        """Tell, after each iteration, whether to give up."""
        return False


@final
class ClassicalStep(Step):
    """A step by the solver of a strategy, which puts its own start."""

    def __call__(self, problem: Problem, solver: SequenceSolver, atol: float) -> SolveResult:
        """Solve. Collective."""
        return solver.solve()


@final
class LearnedStep(Step):
    """A step from the operator, or from the first extrapolation when its prediction is refused or fails."""

    def __init__(self, case: Case, guess: LearnedGuess, nodes: NodeSet) -> None:
        self.case, self.guess, self.nodes = case, guess, nodes

    def __call__(self, problem: Problem, solver: SequenceSolver, atol: float) -> SolveResult:
        """Predict and solve. Collective."""
        if not self.guess.start(self.case, problem, self.nodes).accepted:
            self.case.trajectory.extrapolate(problem, self.case.trajectory.extrapolations[0])
        result = solver.solve()
        if result.converged:
            return result
        self.case.trajectory.extrapolate(problem, self.case.trajectory.extrapolations[0])
        again = solver.solve()
        return dataclasses.replace(again, iterations=result.iterations + again.iterations, used_fallback=True)


@final
class GatedStep(Step):
    """A step from what the gate chooses among the operator and the extrapolations, the first of which is its classical choice."""

    def __init__(self, case: Case, gate: Gate, guess: LearnedGuess, nodes: NodeSet) -> None:
        self.case, self.gate = case, gate
        self._learned = learned_start(case, guess, gate.settings.max_distance, nodes)
        self._judged = False
        self._current: Watch | None = None

    def __call__(self, problem: Problem, solver: SequenceSolver, atol: float) -> SolveResult:
        """Choose, solve and note. Collective."""
        starts = {gated.LEARNED: partial(self._predict, problem)}
        starts |= {name: partial(self._extrapolate, problem, name) for name in self.case.trajectory.extrapolations[1:]}
        ways = Ways(
            tolerance=lambda: atol,
            judge=lambda: judge(problem, self.gate.settings.max_residual) if self._judged else Verdict(True, ""),
            from_start=partial(self._solve, solver),
            classically=lambda: self._classically(problem, solver),
            minimises=problem.energy is not None,
        )
        return solve_through(self.gate, kind_of(problem), starts, ways=ways, comm=problem.mesh.comm)

    def monitor(self, iteration: int, norm: float) -> bool:
        """Pass on what the solver says to the watch of the present solve."""
        return self._current is not None and self._current(iteration, norm)

    def _predict(self, problem: Problem) -> Prediction:
        self._judged = True
        return self._learned(problem)

    def _extrapolate(self, problem: Problem, name: str) -> Prediction:
        self._judged = False
        started = time.perf_counter()
        self.case.trajectory.extrapolate(problem, name)
        return Prediction(np.zeros((0, 0)), {"transfer": time.perf_counter() - started, "inference": 0.0}, True, "")

    def _solve(self, solver: SequenceSolver, watch: Watch) -> SolveResult:
        self._current = watch
        result = solver.solve()
        self._current = None
        return result

    def _classically(self, problem: Problem, solver: SequenceSolver) -> SolveResult:
        self.case.trajectory.extrapolate(problem, self.case.trajectory.extrapolations[0])
        return solver.solve()
