"""Solvers of a time step: a method of the case, the operator always, the operator and the extrapolations adaptively."""

from __future__ import annotations

from collections.abc import Sequence

from lrsa_coupled.guess.extrapolated import ExtrapolatedGuess, step_target
from lrsa_coupled.guess.guarded import GuardedSolver
from lrsa_coupled.guess.policy import Policy
from lrsa_coupled.interfaces import Case, InitialGuess, Problem


def step_solver(
    case: Case, problem: Problem, atol: float, *, guesses: Sequence[InitialGuess], policy: Policy
) -> GuardedSolver:
    """Return the case's solver behind guesses, with its first extrapolation as the default. Collective."""
    first = extrapolations(case)[0]
    return GuardedSolver(guesses, step_target(case.solver(problem, atol), problem, atol, first), policy)


def extrapolations(case: Case) -> list[InitialGuess]:
    """Return the extrapolations of a case as guesses. Collective: no."""
    return [ExtrapolatedGuess(name, case.trajectory) for name in case.trajectory.extrapolations]
