"""The start strategies that a ledger compares: those of the case, nested iteration, the nearest sample, the operator, the gate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lrsa_coupled.bench.compare import NEAREST
from lrsa_coupled.bench.pictures import GATED, LEARNED
from lrsa_coupled.config import Config
from lrsa_coupled.guess import gated
from lrsa_coupled.guess.gate import Gate
from lrsa_coupled.guess.gated import GatedSolver, learned_start
from lrsa_coupled.guess.learned import LearnedGuess
from lrsa_coupled.guess.guess_solver import GuessSolver
from lrsa_coupled.guess.nearest import NearestSample, NearestSolver, nearest_start
from lrsa_coupled.guess.coarse_mesh import NestedSolver, coarser_problems
from lrsa_coupled.data.store import DataStore
from lrsa_coupled.interfaces import Case, Problem, SolverFactory

COARSEST = 2
"""Least resolution of a mesh of nested iteration."""


@dataclass(frozen=True)
class Strategy:
    """A way to start: makes a solver of a problem; ``put_start`` puts the bare start into the solution, None for a cold one.

    ``prepare`` comes before and is not timed, as mesh and forms of the problem itself are not.
    """

    name: str
    make: SolverFactory
    put_start: Callable[[Problem], bool] | None = None
    prepare: Callable[[Problem], None] | None = None


def rivals(case: Case, config: Config) -> list[Strategy]:
    """Return the strategies that need no data: the case's own, and nested iteration over 1 to ``bench.coarser`` meshes, each half as fine as the next.

    A solve from an interpolated solution is granted twice the iterations of a learned start. Collective: no.
    """
    found = [Strategy(name, factory) for name, factory in case.methods().items()]
    resolution = config.problem.resolution or case.resolution
    counts = [count for count in range(1, (config.bench.coarse_meshes or 0) + 1) if resolution // 2**count >= COARSEST]
    at_hand: list[Problem] = []
    coarser: list[Problem] = []  # than the one at hand, from the coarsest one

    def prepare(problem: Problem) -> None:
        if problem not in at_hand:
            at_hand[:] = [problem]
            coarser[:] = coarser_problems(case, problem, [resolution // 2**count for count in reversed(counts)])

    def nested(count: int) -> Strategy:
        def make(problem: Problem, atol: float) -> NestedSolver:
            return NestedSolver(
                case, coarser[-count:], problem, atol=atol, max_iterations=2 * config.guess.max_iterations
            )

        return Strategy(f"nested, {count} coarser mesh{'es' * (count > 1)}", make, prepare=prepare)

    return found + [nested(count) for count in counts]


def nearest_strategy(case: Case, seed: int, data: Path) -> Strategy:
    """Return the start from the nearest sample of a data set; ValueError when it is of another case or holds the samples of the bench. Collective: no."""
    store = DataStore(data)
    if (difference := store.card.schema.difference(case.schema)) is not None:
        raise ValueError(f"{data} does not hold samples of '{case.name}': it has {difference}")
    refuse_seen(seed, store.card.seed, f"the data set {data}")
    nearest = NearestSample(store)

    def put_start(problem: Problem) -> bool:
        nearest_start(case, nearest, problem)
        return True

    return Strategy(NEAREST, lambda problem, atol: NearestSolver(case, nearest, problem, atol=atol), put_start)


def load_guess(case: Case, config: Config, model: Path) -> LearnedGuess:
    """Load a model of a case; ValueError when it is of another one, or has seen the samples of the bench. Collective: no."""
    guess = LearnedGuess.load(model, config.guess)
    guess.check(case)
    refuse_seen(config.problem.test_seed, guess.card.data.seed, f"the data behind the model {model}")
    return guess


def learned_strategy(case: Case, guess: LearnedGuess) -> Strategy:
    """Return the start from an operator."""

    def put_start(problem: Problem) -> bool:
        return guess.start(case, problem).accepted

    return Strategy(LEARNED, lambda problem, atol: GuessSolver(case, guess, problem, atol), put_start)


def gated_strategy(case: Case, gate: Gate, guess: LearnedGuess) -> Strategy:
    """Return the start that a gate chooses."""
    starts = {gated.LEARNED: learned_start(case, guess, gate.settings.max_distance)}
    return Strategy(GATED, lambda problem, atol: GatedSolver(case, gate, starts, problem=problem, atol=atol))


def refuse_seen(seed: int, seen: int, what: str) -> None:
    """Raise ValueError when the samples of the bench are those behind ``what``."""
    if seed == seen:
        raise ValueError(
            f"bench needs samples never trained on: its seed {seed} is the one of {what}; choose another seed"
        )
