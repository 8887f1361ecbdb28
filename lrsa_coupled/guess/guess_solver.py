"""One solve from the learned guess, with the classical strategy as fall-back."""

from __future__ import annotations

import dataclasses
import logging
from typing import final

from lrsa_coupled.guess.fallback import solve_classically
from lrsa_coupled.guess.learned import LearnedGuess
from lrsa_coupled.interfaces import Case, Problem, Solver, SolveResult

logger = logging.getLogger(__name__)


@final
class GuessSolver(Solver):
    """Learned guess, the case's plain solver within a budget of iterations, else the case's first classical strategy."""

    def __init__(self, case: Case, guess: LearnedGuess, problem: Problem, atol: float) -> None:
        self.case = case
        self.guess = guess
        self.problem = problem
        self.atol = atol
        self.plain = case.solver(problem, atol, max_iterations=guess.settings.max_iterations)

    def solve(self) -> SolveResult:
        """Solve; ``seconds`` has transfer, inference and solve. Collective."""
        prediction = self.guess.start(self.case, self.problem)
        seconds = dict(prediction.seconds)
        result = None
        if prediction.accepted:
            result = self.plain.solve()
            seconds["solve"] = sum(result.seconds.values())
            if result.converged:
                return dataclasses.replace(result, seconds=seconds)
            self.guess.counts.fallbacks += 1
            logger.warning(
                "Newton from the learned guess failed (%s); the classical strategy takes over", result.reason
            )
        iterations = 0 if result is None else result.iterations
        return solve_classically(self.case, self.problem, self.atol, iterations=iterations, seconds=seconds)

    def destroy(self) -> None:
        """Free the plain solver. Collective."""
        self.plain.destroy()
