"""The methods that a benchmark compares: those of the case, nested iteration, the nearest sample, the operator always and adaptively."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lrsa_coupled.bench.compare import NEAREST
from lrsa_coupled.bench.pictures import GATED, LEARNED
from lrsa_coupled.config import Config
from lrsa_coupled.data.store import DataStore
from lrsa_coupled.guess.coarse_mesh import CoarseMeshGuess
from lrsa_coupled.guess.guarded import GuardedSolver
from lrsa_coupled.guess.learned import LearnedGuess
from lrsa_coupled.guess.nearest import NearestGuess, NearestSample
from lrsa_coupled.guess.policy import Always, Policy
from lrsa_coupled.guess.target import CaseTarget
from lrsa_coupled.interfaces import Case, InitialGuess, Problem, SolverFactory

COARSEST = 2
"""Least resolution of a mesh of nested iteration."""


@dataclass(frozen=True)
class Strategy:
    """A method: makes a solver of a problem; ``guess`` is what it begins with, None when that is no guess of its own or chosen anew."""

    name: str
    make: SolverFactory
    guess: InitialGuess | None = None


def rivals(case: Case, config: Config) -> list[Strategy]:
    """Return the methods that need no data: the case's own, and nested iteration over 1 to ``bench.coarse_meshes`` meshes, each half as fine as the next.

    A solve from an interpolated solution is allowed twice the iterations of a learned guess. Collective: no.
    """
    found = [Strategy(name, factory) for name, factory in case.methods().items()]
    resolution, limit = config.problem.resolution or case.resolution, 2 * config.guess.max_iterations
    counts = [count for count in range(1, (config.bench.coarse_meshes or 0) + 1) if resolution // 2**count >= COARSEST]
    for count in counts:
        coarser = [resolution // 2**n for n in range(count, 0, -1)]
        guess = CoarseMeshGuess(case, coarser, max_iterations=limit)
        found.append(guarded(case, guess.name, guess, Always(limit)))
    return found


def guarded(case: Case, name: str, guess: InitialGuess, policy: Policy, *, bare: bool = True) -> Strategy:
    """Return the guarded solver from a guess under a policy; ``bare``: the guess by itself is shown, too. Collective: no."""

    def make(problem: Problem, atol: float) -> GuardedSolver:
        return GuardedSolver([guess], CaseTarget(case, problem, atol), policy)

    return Strategy(name, make, guess if bare else None)


def nearest_strategy(case: Case, seed: int, data: Path) -> Strategy:
    """Return the nearest sample of a data set as guess; ValueError when it is of another case or holds the samples of the bench. Collective: no."""
    store = DataStore(data)
    if (difference := store.card.schema.difference(case.schema)) is not None:
        raise ValueError(f"{data} does not hold samples of '{case.name}': it has {difference}")
    refuse_seen(seed, store.card.seed, f"the data set {data}")
    return guarded(case, NEAREST, NearestGuess(case, NearestSample(store)), Always())


def load_guess(case: Case, config: Config, model: Path) -> LearnedGuess:
    """Load a model of a case; ValueError when it is of another one, or has seen the samples of the bench. Collective: no."""
    guess = LearnedGuess.load(model, config.guess).bind(case)
    refuse_seen(config.problem.test_seed, guess.predictor.card.data.seed, f"the data behind the model {model}")
    return guess


def learned_strategy(case: Case, guess: LearnedGuess) -> Strategy:
    """Return the operator, always."""
    return guarded(case, LEARNED, guess, Always(guess.predictor.settings.max_iterations))


def gated_strategy(case: Case, policy: Policy, guess: LearnedGuess) -> Strategy:
    """Return the operator where the policy chooses it."""
    return guarded(case, GATED, guess.bind(case, max_distance=policy.max_distance), policy, bare=False)


def refuse_seen(seed: int, seen: int, what: str) -> None:
    """Raise ValueError when the samples of the bench are those behind ``what``."""
    if seed == seen:
        raise ValueError(
            f"bench needs samples never trained on: its seed {seed} is the one of {what}; choose another seed"
        )
