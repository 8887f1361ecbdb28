"""The methods that ``bench`` compares: those of the case, nested iteration, the nearest sample, the operator."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path

from mpi4py import MPI

from lrsa_coupled.bench.compare import ADAPTIVE, LEARNED, NEAREST, POD
from lrsa_coupled.bench.samples import refuse_seen
from lrsa_coupled.config import Config
from lrsa_coupled.data.store import DataStore
from lrsa_coupled.generation.plan import sample_parameters
from lrsa_coupled.guess.coarse_mesh import CoarseMeshGuess
from lrsa_coupled.guess.guarded import GuardedSolver
from lrsa_coupled.guess.learned import LearnedGuess
from lrsa_coupled.guess.nearest import NearestGuess, NearestSample
from lrsa_coupled.guess.pod import PodGuess
from lrsa_coupled.guess.policy import Adaptive, Always, Policy
from lrsa_coupled.guess.target import CaseTarget
from lrsa_coupled.interfaces import Case, InitialGuess, SolverFactory
from lrsa_coupled.mpi import collective_errors, print_once


@dataclass(frozen=True)
class Method:
    """A solver of problems, and what it begins with.

    Args:
        name: Its name in tables.
        make: Makes a solver of a problem.
        guess: The initial guess it always begins with.
        policy: The adaptive policy, whose decisions are recorded.
    """

    name: str
    make: SolverFactory
    guess: InitialGuess | None = None
    policy: Adaptive | None = None


def baselines(case: Case, config: Config, comm: MPI.Comm) -> list[Method]:
    """Return the methods that need no data: those of the case, and nested iteration over coarser meshes. Collective.

    A solve from an interpolated solution is allowed twice the iterations of a learned guess. Where the case refuses a
    coarse mesh, a line says what is left out.
    """
    found = [Method(name, factory) for name, factory in case.methods().items()]
    resolution, limit = config.problem.resolution or case.resolution, 2 * config.guess.max_iterations
    finer: CoarseMeshGuess | None = None
    for count in range(1, (config.bench.coarse_meshes or 0) + 1):
        coarser = [resolution // 2**k for k in range(count, 0, -1)]
        guess = CoarseMeshGuess(case, coarser, max_iterations=limit, finer=finer)
        if (reason := _refusal(case, config, coarser[0], comm)) is not None:
            print_once(f"{guess.name}: left out ({reason})")
            continue
        found.append(guarded(case, guess.name, guess, Always(limit)))
        finer = guess
    return found


def _refusal(case: Case, config: Config, resolution: int, comm: MPI.Comm) -> str | None:
    """Return why there is no mesh of a resolution, None when there is one. Collective."""
    if resolution < 2:
        return f"nested iteration needs resolutions of at least 2, got {resolution}"
    try:
        with collective_errors(comm):
            case.mesh(comm, sample_parameters(case, config.problem.test_seed, 0), resolution)
    except ValueError as error:
        return str(error)
    return None


def methods_of_data(case: Case, config: Config, data: Path, comm: MPI.Comm) -> tuple[list[Method], float]:
    """Return the solves from the nearest sample, and from modes of the samples, and the time of fitting these [s].

    ValueError when the data do not fit the benchmark; samples on several meshes have no modes. Collective.
    """
    with collective_errors(comm):
        store = _data_of(case, config, data)
        limit = Always(config.guess.max_iterations)
        found = [guarded(case, NEAREST, NearestGuess(case, NearestSample(store)), limit)]
    started = time.perf_counter()
    try:
        found.append(guarded(case, POD, PodGuess.load(case, store, comm), limit))
    except ValueError as error:
        print_once(f"{POD}: left out ({error})")
        return found, 0.0
    return found, time.perf_counter() - started


def _data_of(case: Case, config: Config, data: Path) -> DataStore:
    store = DataStore(data)
    if (difference := store.card.schema.difference(case.schema)) is not None:
        raise ValueError(f"{data} does not hold samples of '{case.name}': it has {difference}")
    if store.card.is_unsolved:
        raise ValueError(f"{data} holds samples without solutions: they are no initial guesses")
    refuse_seen(config.problem.test_seed, store.card.seeds, f"the data set {data}")
    return store


def learned_method(case: Case, config: Config, guess: LearnedGuess) -> Method:
    """Return the solve that always begins with the prediction of an operator."""
    return guarded(case, LEARNED, guess, Always(config.guess.max_iterations))


def adaptive_method(case: Case, config: Config, guess: LearnedGuess, *, record: bool = True) -> Method:
    """Return the solve from the prediction where the costs so far promise a gain; ``record`` as in ``guess.record``."""
    settings = config.guess if record else dataclasses.replace(config.guess, record=None)
    near = guess.bind(case, max_distance=settings.max_distance)
    policy = Adaptive(settings, [near.name])
    return dataclasses.replace(guarded(case, ADAPTIVE, near, policy), guess=None, policy=policy)


def guarded(case: Case, name: str, guess: InitialGuess, policy: Policy) -> Method:
    """Return the solve from a guess, with the case's default solver to fall back on."""
    return Method(name, lambda problem, atol: GuardedSolver([guess], CaseTarget(case, problem, atol), policy), guess)
