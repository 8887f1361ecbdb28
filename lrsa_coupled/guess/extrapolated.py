"""Extrapolation of the states before a time step."""

from __future__ import annotations

from typing import final

from lrsa_coupled.guess.target import SolverTarget
from lrsa_coupled.interfaces import Guess, InitialGuess, Problem, Solver, SolveResult, Trajectory


@final
class ExtrapolatedGuess(InitialGuess):
    """One of the extrapolations of a trajectory."""

    trusted = True

    def __init__(self, name: str, trajectory: Trajectory) -> None:
        self.name, self.trajectory = name, trajectory

    def put(self, problem: Problem) -> Guess:
        self.trajectory.extrapolate(problem, self.name)
        return Guess()


def step_target(solver: Solver, problem: Problem, atol: float, default: InitialGuess) -> SolverTarget:
    """Return the target of a time step: the solver of all steps, by default from one extrapolation. Collective: no."""

    def solve(problem: Problem, atol: float) -> SolveResult:
        default.put(problem)
        return solver.solve()

    return SolverTarget(solver, problem, atol, solve)
