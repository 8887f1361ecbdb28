"""Extrapolation of the states before a time step."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import final

from lrsa_coupled.guess.target import SolverTarget
from lrsa_coupled.interfaces import Guess, InitialGuess, Problem, SequenceSolver, SolveResult


@final
class ExtrapolatedGuess(InitialGuess):
    """An extrapolation of a case of trajectories.

    Args:
        name: Name of the extrapolation.
        extrapolate: Puts the extrapolation of a name, Dirichlet values included, into the solution of a problem.
    """

    tested = False

    def __init__(self, name: str, extrapolate: Callable[[Problem, str], None]) -> None:
        self.name, self._extrapolate = name, extrapolate

    def put(self, problem: Problem) -> Guess:
        """Extrapolate. Collective: no."""
        started = time.perf_counter()
        self._extrapolate(problem, self.name)
        return Guess(seconds={"transfer": time.perf_counter() - started, "inference": 0.0})


def step_target(solver: SequenceSolver, problem: Problem, atol: float, default: InitialGuess) -> SolverTarget:
    """Return the target of a time step: the solver of all steps, by default from one extrapolation. Collective: no."""

    def solve(problem: Problem, atol: float) -> SolveResult:
        default.put(problem)
        return solver.solve()

    return SolverTarget(solver, problem, atol, solve)
