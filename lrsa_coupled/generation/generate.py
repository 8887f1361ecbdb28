"""Data generation: samples, or chains of them, handed out to groups of ranks."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import itertools
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpi4py import MPI

from lrsa_coupled import config as configuration
from lrsa_coupled.config import Config, GenerateConfig
from lrsa_coupled.data import store
from lrsa_coupled.data.card import DataCard, create
from lrsa_coupled.data.claims import Shares
from lrsa_coupled.data.format import digest
from lrsa_coupled.data.writer import DAMAGED, ShardWriter, drop_failed, repair, tidy
from lrsa_coupled.generation.counter import SharedCounter
from lrsa_coupled.generation.failures import check_draw
from lrsa_coupled.generation.plan import Chain, Generation, is_chained, plan, sample_parameters
from lrsa_coupled.generation.sample_solver import SampleSolver, SolveBy
from lrsa_coupled.generation.source import source_digest
from lrsa_coupled.interfaces import Case, InitialGuess
from lrsa_coupled.logs import progress
from lrsa_coupled.mpi import StopSignals, allreduce, collective_errors, share
from lrsa_coupled.settings import nearest

logger = logging.getLogger(__name__)


type Learn = Callable[[MPI.Comm], SolveBy]
"""Makes what solves the samples of a group of ranks. Collective."""


@dataclass(frozen=True)
class GenerateSummary:
    """What a data set holds after ``generate``, and how this run went.

    Args:
        samples: Samples present, solved or failed.
        solved: Those with arrays.
        failed: Failed samples by reason.
        made: Samples of this run.
        seconds: Wall time of this run [s].
        idle: Share of the groups' time in which they waited for the last sample of another.
        overhead: Share of the groups' busy time that is neither mesh nor problem nor solve.
        stopped: Name of the signal that ended the run early, None without one.
    """

    samples: int
    solved: int
    failed: dict[str, list[int]]
    made: int
    seconds: float
    idle: float
    overhead: float
    stopped: str | None


def generate(case: Case, config: Config, folder: Path, comm: MPI.Intracomm, *, retry_failed: bool = False,
             accept_changed_case: bool = False, learn: Learn | None = None) -> GenerateSummary:  # fmt: skip
    """Make the samples that ``folder`` lacks, after putting it in order.

    Collective. Groups of ``ranks_per_sample`` ranks take the next missing sample whenever they are free and solve it on
    a mesh distributed over them. A sample is on disk before the next one is taken; SIGTERM or SIGUSR1 on any rank ends
    the run after the current ones. Several jobs may run at once, on any number of machines that share the folder: each
    takes samples that no other has begun with, at the end also those that another has begun with and not finished.

    With ``guess = "nearest"`` samples are made in generations, each as large as all before it, and begin with the
    nearest sample of the generations before: that depends on the index alone, not on ranks, order or restarts. Where a
    sample follows from the one before (``reuse``, ``guess = "previous"``) groups take chains; one that was not finished
    is solved again from its beginning, and what is missing of it is written. With ``guess = "learning"``, for which
    ``study.farm`` gives ``learn``, guesses depend on what came before, so answers agree to the tolerance of the solves.

    With ``unsolved`` nothing is solved: outputs are rough solutions, see ``generation/unsolved.py``.

    A sample fails for a numerical reason only, see ``coupling/failures.py``, and is not tried again but with
    ``retry_failed``. Any other exception, of the case too, ends the run; what is finished is on disk. A data set knows
    the source of its case; when that has changed, ``accept_changed_case`` makes the missing samples by the new one.

    Raises:
        ValueError: For settings that do not go with each other or with the case, a folder that holds another data
            set, or a case that draws different samples on different ranks; on all ranks.
        OSError: If the folder cannot be written; on all ranks.
        BaseException: Whatever a function of the case raises, unless it is a numerical failure, which is recorded with
            the sample; see ``mpi.collective_errors``.
    """
    started = time.perf_counter()
    if config.generate.unsolved:  # what a case sets for its solves has no meaning
        config = dataclasses.replace(config, generate=_without_solves(config.generate))
    _check(case, config, comm.size)
    if (config.generate.guess == "learning") != (learn is not None):
        raise ValueError("generate.guess=learning is for study.farm.generate_learning, which calls generate")
    with StopSignals() as stop:
        check_draw(case, config.problem.training_seed, comm)
        share(comm, lambda: _create(case, config, folder, accept_changed_case))
        with collective_errors(comm):
            damages = store.DataStore(folder, tolerant=True).verify(comm.rank, comm.size)
        damages = [damage for part in comm.allgather(damages) for damage in part]
        settings, seed = config.generate, config.problem.training_seed
        missing = share(comm, lambda: _put_in_order(folder, damages, settings, retry_failed))
        share(comm, lambda: _check_quantities(folder, settings))
        generations = share(comm, lambda: plan(case, settings, missing, seed=seed))
        worker = _Worker(case, config, folder, comm=comm, learn=learn)
        longest, stopped = 0.0, ""
        for generation in generations:
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
        overhead=1.0 - useful * config.generate.ranks_per_sample / busy if made else 0.0, stopped=stopped or None,
    )  # fmt: skip


class _Worker:
    """A group of ranks that solve samples until none is left; making, ``run`` and ``free`` are collective.

    Attributes:
        made: Samples written by this rank.
        busy: Time until the group's last sample was done [s].
        useful: Part of it that meshes, problems and solves took [s]; on the first rank of the group.
    """

    def __init__(self, case: Case, config: Config, folder: Path, *, comm: MPI.Intracomm, learn: Learn | None) -> None:
        settings = config.generate
        self.case, self.config, self.folder, self.comm = case, config, folder, comm
        self.group = comm.Split(comm.rank // settings.ranks_per_sample, comm.rank)
        self.writer = ShardWriter(folder, settings.samples_per_shard)
        solve_by = None if learn is None else learn(self.group)
        if settings.unsolved:
            from lrsa_coupled.generation.unsolved import RoughSolutions  # torch comes with it

            solve_by = RoughSolutions(case)
        self.solver = SampleSolver(case, config, self.group, solve_by=solve_by)
        self.shares = Shares(folder)
        self.made, self.busy, self.useful, self.finished = 0, 0.0, 0.0, 0.0

    def run(self, generation: Generation, stop: StopSignals) -> float:
        """Take chains while there are any and no signal has come; return the time of the slowest group [s]."""
        started = time.perf_counter()
        if self._take_all(generation.chains, generation.first, stop=stop, shared=True):
            rest = share(self.comm, lambda: _rest(self.folder, generation.chains))
            self._take_all(rest, generation.first, stop=stop, shared=False)
        self.busy += self.finished - started
        return self.comm.allreduce(self.finished - started, op=MPI.MAX)

    def free(self) -> None:
        """Free the solver and the group."""
        self.solver.begin()
        self.group.Free()

    def _take_all(self, chains: tuple[Chain, ...], first: int, *, stop: StopSignals, shared: bool) -> int:
        """Take chains, ``shared`` ones only if no other job has begun with them; return how many it has. Collective."""
        with SharedCounter(self.comm) as counter:
            queue = _Queue(self.group, counter, chains, self.shares if shared else None)
            self._take(queue, self._guesses(first), stop)
        return self.comm.allreduce(queue.left_out)

    def _take(self, queue: _Queue, guesses: list[InitialGuess], stop: StopSignals) -> None:
        chains = queue.chains
        before = list(itertools.accumulate((len(chain.missing) for chain in chains), initial=0))
        with progress(description="samples", total=before[-1]) as bar:
            place = queue.next()
            while place < len(chains) and not self._stopped(stop):
                bar.update(before[place] - bar.n)
                for _ in self._solve(chains[place], guesses, stop):
                    bar.update()
                place = queue.next()
            if place < len(chains):
                queue.counter.stop()  # by a signal that the other groups may not have seen
            self.writer.close()
            self.finished = time.perf_counter()
            if not stop.name:
                bar.update(before[-1] - bar.n)

    def _solve(self, chain: Chain, guesses: list[InitialGuess], stop: StopSignals) -> Iterator[int]:
        """Solve a chain, write the samples that are missing and yield their indices."""
        self.solver.begin()
        ended = time.perf_counter()
        for index in chain.indices:
            record = self.solver.solve(index, guesses)
            began, ended = ended, time.perf_counter()
            if record is not None:
                self.useful += record.seconds
                record = dataclasses.replace(record, seconds=ended - began)  # arrays, and writing those before, too
            if index in chain.missing:
                with collective_errors(self.group):
                    if record is not None:
                        self.writer.add(record)
                        self.made += 1
                yield index
            if self._stopped(stop):
                return

    def _stopped(self, stop: StopSignals) -> bool:
        """Return whether a rank of the group has seen a signal, the same on all of them."""
        return allreduce(self.group, bool(stop.name), max)

    def _guesses(self, first: int) -> list[InitialGuess]:
        """Return the guesses of a generation whose samples may use those below ``first``."""
        case, settings = self.case, self.config.generate
        if settings.guess == "learned" and settings.model:
            from lrsa_coupled.guess.learned import LearnedGuess  # torch comes with it

            return [LearnedGuess.load(settings.model, self.config.guess).bind(case)]
        if settings.guess == "nearest" and first:
            from lrsa_coupled.guess.nearest import NearestGuess, NearestSample  # half a second of SciPy

            data = store.DataStore(self.folder)
            below = [index for index in data.solved if index < first]
            return [NearestGuess(case, NearestSample(data, below))] if below else []
        return []


class _Queue:
    """The chains that a group of ranks takes from, shared with the other groups and, given ``shares``, other jobs.

    Attributes:
        left_out: Chains that another job has begun with; on the first rank of the group.
    """

    def __init__(
        self, group: MPI.Comm, counter: SharedCounter, chains: tuple[Chain, ...], shares: Shares | None
    ) -> None:
        self.group, self.counter, self.chains, self.shares = group, counter, chains, shares
        self.left_out = 0

    def next(self) -> int:
        """Return the place of the next chain, the same on all ranks of the group. Collective over the group."""
        return self.group.bcast(self._take() if self.group.rank == 0 else None)

    def _take(self) -> int:
        place = self.counter.take()
        while self.shares and place < len(self.chains) and not self.shares.take(min(self.chains[place].missing)):
            self.left_out += 1
            place = self.counter.take()
        return place


def _rest(folder: Path, chains: tuple[Chain, ...]) -> tuple[Chain, ...]:
    """Return the chains with samples that are not on disk."""
    present = store.DataStore(folder).entries.keys()
    rest = (dataclasses.replace(chain, missing=chain.missing - present) for chain in chains)
    return tuple(chain for chain in rest if chain.missing)


def _check(case: Case, config: Config, num_ranks: int) -> None:
    settings, guess, reuse = config.generate, config.generate.guess, config.generate.reuse
    if config.problem.rtol not in (None, case.rtol):
        text = f"load_case(..., rtol={config.problem.rtol}) sets the tolerance of a case"
        raise ValueError(f"{text}: got '{case.name}' with {case.rtol} and problem.rtol = {config.problem.rtol}")
    if config.guess.policy == "adaptive":
        raise ValueError("arrays must not depend on timings: generate takes guess.policy=always or none, got adaptive")
    if settings.unsolved and case.trajectory is not None:
        text = "samples without solutions are of problems that do not depend on each other"
        raise ValueError(f"{text}, those of '{case.name}' are steps of time")
    if settings.quantities and not case.quantities:
        raise ValueError(f"generate.quantities needs quantities of the case, '{case.name}' has none")
    if (guess == "learned") != (settings.model is not None):
        raise ValueError(f"generate.guess=learned and generate.model belong together, got {guess} and {settings.model}")
    if num_ranks % settings.ranks_per_sample:
        text = "ranks_per_sample must divide the number of ranks"
        raise ValueError(f"{text}, got {settings.ranks_per_sample} and {num_ranks}")
    if settings.method is not None and settings.method not in case.methods():
        near = nearest(settings.method, list(case.methods()))
        raise ValueError(f"unknown generate.method '{settings.method}'{near}")
    if is_chained(case, settings) and case.fixed_mesh is None:
        text = "generate.reuse and generate.guess=previous need a case on one mesh (fixed_mesh)"
        raise ValueError(f"{text}; '{case.name}' makes one for each sample")
    if settings.recycle and reuse == "nothing":
        raise ValueError("generate.recycle needs generate.reuse=setup or reuse=preconditioner, got reuse=nothing")
    if case.trajectory is not None and (settings.sort or guess in ("previous", "nearest", "learning")):
        text = "the steps of a trajectory follow one another in time"
        raise ValueError(f"{text}: generate.sort and guess={guess} do not go with '{case.name}'")
    if settings.sort and not is_chained(case, settings):
        text = "generate.sort orders samples of which one follows from another"
        raise ValueError(f"{text}: it needs generate.reuse or generate.guess=previous")
    if reuse != "nothing" and guess in ("nearest", "learned"):
        text = f"generate.guess={guess} makes a solver for each sample"
        raise ValueError(f"{text} and does not go with reuse={reuse}")


def _without_solves(settings: GenerateConfig) -> GenerateConfig:
    return dataclasses.replace(
        settings, method=None, guess="none", model=None, reuse="nothing", recycle=None, sort=False
    )


def _create(case: Case, config: Config, folder: Path, accept_changed_case: bool) -> None:
    defaults = {"method": case.default_method, "options": dataclasses.asdict(case.default_options)}
    create(folder, card_of(case, config), defaults=defaults, accept_changed_case=accept_changed_case)
    configuration.save(config, folder)


def _put_in_order(folder: Path, damages: list[store.Damage], settings: GenerateConfig, retry_failed: bool) -> list[int]:
    """Repair and tidy the data set; return the missing samples, with the failed ones if these are to be retried."""
    for damage in damages:
        logger.warning("%s; what is lost is made again, the file is kept in %s", damage, folder / DAMAGED)
    repair(folder, damages)
    if retry_failed:
        drop_failed(folder)
    tidy(folder, settings.samples_per_shard)
    return sorted(set(range(settings.samples)) - set(store.DataStore(folder).entries))


def _check_quantities(folder: Path, settings: GenerateConfig) -> None:
    """Refuse samples with quantities beside some without."""
    data = store.DataStore(folder)
    has = bool(data.solved) and data.read(data.solved[0]).quantities != "{}"
    if data.solved and has != settings.quantities:
        what = f"samples {'with' if has else 'without'} quantities"
        raise ValueError(
            f"{folder} holds {what}: go on with generate.quantities={str(has).lower()}, or choose another folder"
        )


def _finish(folder: Path, samples_per_shard: int) -> tuple[int, int, dict[str, list[int]]]:
    tidy(folder, samples_per_shard)
    data = store.DataStore(folder)
    Shares(folder).remove(data.entries)
    return len(data.entries), len(data.solved), data.failures()


def card_of(case: Case, config: Config) -> DataCard:
    """Return the card of the data set that a case and its settings make. Collective: no."""
    parameters = sample_parameters(case, config.problem.training_seed, 0)
    return DataCard(
        schema=case.schema,
        seed=config.problem.training_seed,
        resolution=config.problem.resolution or case.resolution,
        parameters={f.name: f.metadata.get("unit", "1") for f in dataclasses.fields(parameters)},
        settings=_settings(case, config),
        source=source_digest(case),
        versions={name: _version(name) for name in ("lrsa-coupled", "fenics-basix", "gmsh")},
    )


def _settings(case: Case, config: Config) -> dict[str, Any]:
    """Return what else the arrays depend on, within the tolerance of the solves, unless it is the default."""
    settings = config.generate
    guess: str = settings.guess
    if settings.model is not None:
        from lrsa_coupled.training.checkpoint import CARD  # torch comes with it

        guess += f" {digest([(Path(settings.model) / CARD).read_bytes()])}"
    entries: dict[str, Any] = {
        "rtol": case.rtol,
        "guess": guess,
        "method": settings.method or case.default_method,
        "options": dataclasses.asdict(case.options),
    }
    if settings.unsolved:
        entries["unsolved"] = True
    if is_chained(case, settings):
        length = settings.samples_per_chain if case.trajectory is None else case.trajectory.num_steps
        entries["chains"] = [length, settings.reuse, settings.recycle, settings.sort]
    return {name: value for name, value in entries.items() if value}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
