"""Data generation: samples handed out to groups of ranks, each solved by the case's first classical strategy."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mpi4py import MPI

from lrsa_coupled import config as configuration
from lrsa_coupled.config import Config, GenerateConfig
from lrsa_coupled.coupling.guess import GuessSolver, LearnedGuess
from lrsa_coupled.coupling.nearest import NearestSample, NearestSolver
from lrsa_coupled.coupling.residual import reference_norm
from lrsa_coupled.coupling.sample_arrays import gather_arrays
from lrsa_coupled.data import store
from lrsa_coupled.data.format import SampleRecord, digest
from lrsa_coupled.data.writer import ShardWriter, repair, tidy
from lrsa_coupled.interfaces import Case, SolverFactory
from lrsa_coupled.logs import progress
from lrsa_coupled.mpi import SharedCounter, StopSignals, collective_errors, share
from lrsa_coupled.training.checkpoint import CARD

logger = logging.getLogger(__name__)


NEAREST_ITERATIONS = 8
"""Newton iterations granted to the start from the nearest sample."""

FIRST_GENERATION = 64
"""Samples that start classically before the others start from the nearest sample."""


@dataclass(frozen=True)
class Generation:
    """Samples that may start from those with an index below ``first``; classically when that is 0."""

    first: int
    indices: list[int]


@dataclass(frozen=True)
class GenerateSummary:
    """What a data set holds after ``generate``, and how this run went.

    Args:
        samples: Samples present, solved or failed.
        solved: Those with arrays.
        failed: Number of failed samples by reason.
        made: Samples of this run.
        seconds: Wall time of this run [s].
        idle: Share of the groups' time in which they waited for the last sample of another.
        overhead: Share of the groups' busy time that is neither mesh nor problem nor solve.
        stopped: Name of the signal that ended the run early, empty without one.
    """

    samples: int
    solved: int
    failed: dict[str, int]
    made: int
    seconds: float
    idle: float
    overhead: float
    stopped: str


def sample_parameters(case: Case, seed: int, index: int) -> Any:
    """Draw the parameters of sample ``index`` of the sequence ``seed``; independent of any other sample."""
    return case.sample(np.random.default_rng([seed, index]))


def generate(case: Case, config: Config, folder: Path, comm: MPI.Comm) -> GenerateSummary:
    """Make the samples that ``folder`` lacks, after putting it in order.

    Collective. Groups of ``ranks_per_sample`` ranks take the next missing sample whenever they are free and solve it on a mesh distributed
    over them. A sample is on disk before the next one is taken; SIGTERM or SIGUSR1 ends the run after the current ones.

    With ``start = "nearest"`` samples are made in generations, each as large as all before it, and start from the nearest sample of the
    generations before: what a sample starts from depends on its index alone, not on ranks, order or restarts.

    Raises:
        ValueError: For zero samples, ranks that do not divide into groups, or a folder that holds another data set; on all ranks.
        OSError: If the folder cannot be written; on all ranks.
    """
    started = time.perf_counter()
    _check(config.generate, comm.size)
    share(comm, lambda: _create(case, config, folder))
    with collective_errors(comm):
        damages = store.DataStore(folder, tolerant=True).verify(comm.rank, comm.size)
    damages = [damage for part in comm.allgather(damages) for damage in part]
    missing = share(comm, lambda: _put_in_order(folder, damages, config.generate))
    worker = _Worker(case, config, folder, comm)
    longest, stopped = 0.0, ""
    with StopSignals() as stop:
        for generation in _generations(missing, config.generate):
            longest += worker.run(generation, stop)
            stopped = max(comm.allgather(stop.name))
            if stopped:
                break
    made, busy, useful = (comm.allreduce(value) for value in (worker.made, worker.busy, worker.useful))
    worker.free()
    samples, solved, failed = share(comm, lambda: _finish(folder, config.generate.samples_per_shard))
    return GenerateSummary(
        samples, solved, failed, made, time.perf_counter() - started,
        idle=1.0 - busy / (comm.size * longest) if made else 0.0,
        overhead=1.0 - useful * config.generate.ranks_per_sample / busy if made else 0.0, stopped=stopped,
    )  # fmt: skip


def solve_sample(case: Case, config: Config, index: int, comm: MPI.Comm, *, make_solver: SolverFactory) -> SampleRecord | None:
    """Sample, mesh and solve on the ranks of ``comm``; a failure becomes a record with its reason. Collective; None above rank 0."""
    started = time.perf_counter()
    parameters = sample_parameters(case, config.generate.seed, index)
    text = json.dumps(dataclasses.asdict(parameters))
    try:
        mesh = case.mesh(comm, parameters, config.generate.resolution or case.resolution)
        problem = case.problem(mesh, parameters)
        solver = make_solver(problem, case.rtol * reference_norm(problem))
        result = solver.solve()
        solver.destroy()
        seconds = time.perf_counter() - started
        arrays = gather_arrays(case, problem) if result.converged else None
    except (ImportError, OSError, TypeError, ValueError):
        raise
    except Exception as error:  # gmsh raises nothing more specific; a sample that cannot be made is recorded, not dropped
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        record = SampleRecord(index, "failed", reason, text, 0, float("nan"), time.perf_counter() - started, None)
        return record if comm.rank == 0 else None
    status = "ok" if result.converged else "failed"
    record = SampleRecord(index, status, result.reason, text, result.iterations, result.residual, seconds, arrays)
    return record if comm.rank == 0 else None


class _Worker:
    """A group of ranks that solve samples until none is left; making, ``run`` and ``free`` are collective.

    Attributes:
        made: Samples written by this rank.
        busy: Time until the group's last sample was done [s].
        useful: Part of it that meshes, problems and solves took [s]; on the first rank of the group.
    """

    def __init__(self, case: Case, config: Config, folder: Path, comm: MPI.Comm) -> None:
        settings = config.generate
        self.case, self.config, self.folder, self.comm = case, config, folder, comm
        self.group = comm.Split(comm.rank // settings.ranks_per_sample, comm.rank)
        self.writer = ShardWriter(folder, settings.samples_per_shard)
        self.made, self.busy, self.useful, self.finished = 0, 0.0, 0.0, 0.0

    def run(self, generation: Generation, stop: StopSignals) -> float:
        """Take samples while there are any and no signal has come; return the time of the slowest group [s]."""
        counter, started = SharedCounter(self.comm), time.perf_counter()
        with collective_errors(self.comm):
            self._take(generation.indices, self._solver_factory(generation.first), counter=counter, stop=stop)
        counter.free()
        self.busy += self.finished - started
        return self.comm.allreduce(self.finished - started, op=MPI.MAX)

    def free(self) -> None:
        """Free the group."""
        self.group.Free()

    def _take(self, indices: list[int], make_solver: SolverFactory, *, counter: SharedCounter, stop: StopSignals) -> None:
        with progress(description="samples", total=len(indices)) as bar:
            place = self._next(counter, stop)
            while place is not None and place < len(indices):
                record = solve_sample(self.case, self.config, indices[place], self.group, make_solver=make_solver)
                if record is not None:
                    self.writer.add(record)
                    self.made += 1
                    self.useful += record.seconds
                bar.update(place + 1 - bar.n)
                place = self._next(counter, stop)
            self.writer.close()
            self.finished = time.perf_counter()
            if place is not None:
                bar.update(len(indices) - bar.n)

    def _next(self, counter: SharedCounter, stop: StopSignals) -> int | None:
        """Return the place of the next sample, the same on all ranks of the group; None once one of them has seen a signal."""
        if self.group.allreduce(bool(stop.name), op=MPI.LOR):
            return None
        return self.group.bcast(counter.take() if self.group.rank == 0 else None)

    def _solver_factory(self, first: int) -> SolverFactory:
        """Return what makes the solvers of a generation whose samples may start from those below ``first``."""
        case, settings = self.case, self.config.generate
        classical = next(iter(case.strategies().values()))
        if settings.start == "classical" or (settings.start == "nearest" and not first):
            return classical
        if settings.start == "learned":
            guess = LearnedGuess.load(Path(settings.model), self.config.guess)
            guess.check(case)
            return lambda problem, atol: GuessSolver(case, guess, problem, atol)
        data = store.DataStore(self.folder)
        below = [index for index in data.solved if index < first]
        if not below:
            return classical
        nearest = NearestSample(data, below)
        return lambda problem, atol: NearestSolver(case, nearest, problem, atol=atol, max_iterations=NEAREST_ITERATIONS)


def _generations(missing: list[int], settings: GenerateConfig) -> list[Generation]:
    """Cut the missing samples at ``FIRST_GENERATION`` times powers of two; one generation when samples do not start from each other."""
    if settings.start != "nearest":
        return [Generation(0, missing)]
    generations, first, end = [], 0, FIRST_GENERATION
    while first < settings.samples:
        generations.append(Generation(first, [index for index in missing if first <= index < end]))
        first, end = end, 2 * end
    return [generation for generation in generations if generation.indices]


def _check(settings: GenerateConfig, num_ranks: int) -> None:
    if settings.samples < 1 or settings.samples_per_shard < 1:
        raise ValueError(f"generate needs at least one sample and one sample a shard, got {settings.samples} and {settings.samples_per_shard}")
    if (settings.start == "learned") != bool(settings.model):
        raise ValueError(f"generate.start=learned and generate.model belong together, got start={settings.start} and model='{settings.model}'")
    if settings.ranks_per_sample < 1 or num_ranks % settings.ranks_per_sample:
        raise ValueError(f"ranks_per_sample must divide the number of ranks, got {settings.ranks_per_sample} and {num_ranks}")


def _create(case: Case, config: Config, folder: Path) -> None:
    store.create(folder, _meta(case, config))
    configuration.save(config, folder)


def _put_in_order(folder: Path, damages: list[store.Damage], settings: GenerateConfig) -> list[int]:
    """Repair and tidy the data set; return the missing samples."""
    for damage in damages:
        logger.warning("%s; what is lost is made again", damage)
    repair(folder, damages)
    tidy(folder, settings.samples_per_shard)
    return sorted(set(range(settings.samples)) - set(store.DataStore(folder).entries))


def _finish(folder: Path, samples_per_shard: int) -> tuple[int, int, dict[str, int]]:
    tidy(folder, samples_per_shard)
    data = store.DataStore(folder)
    return len(data.entries), len(data.solved), data.failures()


def _meta(case: Case, config: Config) -> dict[str, Any]:
    parameters = sample_parameters(case, config.generate.seed, 0)
    return {
        "case": case.name,
        "dim": case.dim,
        "seed": config.generate.seed,
        "resolution": config.generate.resolution or case.resolution,
        "rtol": case.rtol,
        "start": _start_name(config.generate),
        "parameters": {f.name: f.metadata.get("unit", "1") for f in dataclasses.fields(parameters)},
        "inputs": [dataclasses.asdict(f) for f in case.inputs],
        "scalars": list(case.scalars),
        "outputs": [dataclasses.asdict(f) for f in case.outputs],
        "versions": {"lrsa-coupled": _version("lrsa-coupled"), "fenics-basix": _version("fenics-basix"), "gmsh": _version("gmsh")},
    }


def _start_name(settings: GenerateConfig) -> str:
    """Name the start, with the digest of the model if there is one: the arrays depend on it within the tolerance of the solves."""
    return f"{settings.start} {digest([(Path(settings.model) / CARD).read_bytes()])}" if settings.model else settings.start


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
