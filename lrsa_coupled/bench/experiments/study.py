"""What a study of many solves takes, from nothing and all in: by default, nested iteration, what it learns as it goes.

Each method makes the same data set on the same ranks, each rank its own samples. A row is the n-th solve that a method
has finished; ``values`` holds ``elapsed``, the wall time since its beginning: meshes, solves, files, trainings and
loading of models, at the last one the end of all [s].
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from lrsa_coupled.bench.experiments import add_model, add_only
from lrsa_coupled.bench.report import Table, align, counted
from lrsa_coupled.bench.rows import Results, Row, Seconds
from lrsa_coupled.data.models import model_path
from lrsa_coupled.mpi import share

if TYPE_CHECKING:
    from mpi4py import MPI

    from lrsa_coupled.bench.samples import Samples
    from lrsa_coupled.config import Config
    from lrsa_coupled.generation.sample_arrays import SampleGatherer
    from lrsa_coupled.generation.sample_solver import SolveBy
    from lrsa_coupled.interfaces import InitialGuess, Problem, SolveResult

ON_RANKS = True
STUDY = "study"
DEFAULT, NESTED, UNTRAINED = "default", "nested iteration", "learning, no model"
STARTING, FINISHED = "learning from the start", "learning, finished model"


class Way(Protocol):
    """A way to solve the samples of a study, as ``study.farm.Farm``."""

    def __call__(self, group: MPI.Comm) -> SolveBy:
        """Return what solves the samples of a group of ranks. Collective."""

    def destroy(self) -> None:
        """Free what is kept from solve to solve. Collective."""

    def close(self) -> None:
        """End what runs beside. Collective: no."""


@dataclass(frozen=True)
class Contender:
    """A way to solve the samples of a study: its name in tables, and what begins it for a data set in a folder."""

    name: str
    begin: Callable[[Path], Way]


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    add_model(parser)
    add_only(parser, "methods")


def run(args: Namespace, samples: Samples) -> Results:
    """Run the study by each method, on samples that no model has seen. Collective."""
    from lrsa_coupled.bench.compare import chosen

    if samples.model is not None:
        samples.guess()  # refuses a model that has seen the samples
    given = samples.config
    generate = dataclasses.replace(
        given.generate, samples=given.bench.samples, guess="learning", model=None, sort=False
    )
    problem = dataclasses.replace(given.problem, seed=samples.seed)
    config = dataclasses.replace(given, generate=generate, problem=problem)
    usual = contenders(samples, config)
    methods = chosen([*usual, *classical(samples)], args.only, what="method") if args.only else usual
    few = dataclasses.replace(config, generate=dataclasses.replace(generate, samples=samples.comm.size))
    _measured(samples, few, contenders(samples, few)[0])  # compiles the forms
    rows = [row for method in methods for row in _measured(samples, config, method)]
    return samples.results(STUDY, rows, rtol=samples.case.rtol)


def contenders(samples: Samples, config: Config) -> list[Contender]:
    """Return the methods, the default one first."""
    from lrsa_coupled.study.cases import coarse_of

    case, comm = samples.case, samples.comm
    coarse = coarse_of(case, config)
    found = [Contender(DEFAULT, lambda _: _Guarded(samples, []))]
    if coarse is not None:
        found.append(Contender(NESTED, lambda _: _Guarded(samples, [coarse])))

    def learning(folder: Path, *, when: Literal["beside", "never"], model: Path | None = None) -> Way:
        from lrsa_coupled.study.farm import Farm

        if model is not None:
            share(comm, lambda: shutil.copytree(model, model_path(folder, 1)))
        return Farm(case, config, folder, comm, when=when)

    found += [
        Contender(UNTRAINED, partial(learning, when="never")), Contender(STARTING, partial(learning, when="beside"))
    ]  # fmt: skip
    if samples.model is not None:
        found.append(Contender(FINISHED, partial(learning, when="never", model=samples.model)))
    return found


def classical(samples: Samples) -> list[Contender]:
    """Return the other methods of the case, which are measured where they are asked for."""

    def begin(_: Path, *, method: str) -> Way:
        return _Guarded(samples, [], method=method)

    case = samples.case
    others = [name for name in case.methods() if name != case.default_method]
    return [Contender(name, partial(begin, method=name)) for name in others]


def arguments(only: Sequence[str]) -> Namespace:
    """Return the arguments for ``bench --what study``."""
    return Namespace(only=only)


def picture(results: Results, folder: Path) -> Path:
    """Write ``study.png``, wall times over solves. Call on one rank."""
    from lrsa_coupled.bench import pictures, plots

    return pictures.save_figure(plots.study_figure(elapsed(results), heading(results)), folder / "study.png")


def heading(results: Results) -> str:
    """Say what was measured."""
    header = results.header
    ranks = counted(header.ranks, "rank")
    text = f"{header.case}: study of {counted(results.num_samples, 'solve')}, resolution {header.resolution}, {ranks}"
    return f"{text}, each at work on samples of its own"


def winner(results: Results) -> str:
    """Say which method has finished first, and how many times faster than the others."""
    totals = {name: times[-1] for name, times in elapsed(results).items()}
    best, *others = sorted(totals, key=totals.__getitem__)
    text = f"Of {counted(results.num_samples, 'solve')} '{best}' is the fastest way: {totals[best]:.4g} s in all"
    versus = (f"{totals[name] / totals[best]:.2f} times faster than '{name}'" for name in others)
    return f"{'; '.join([text, *versus])}."


def table(results: Results) -> str:
    """Format results."""
    return f"{heading(results)}\n\n{align(study_rows(results))}"


def study_rows(results: Results) -> Table:
    """Return the wall times of a study by method, and from which solve on each is ahead of the others."""
    curves = elapsed(results)
    first = next(iter(curves))
    rows = [["method", "all solves [s]", "of the last half, each [s]", f"times faster than {first}"]]
    rows[0] += [f"ahead of {name} from" for name in (DEFAULT, NESTED) if name in curves]
    for name, times in curves.items():
        half = len(times) // 2
        late = (times[-1] - times[half - 1]) / (len(times) - half) if half else times[-1]
        cells = [name, f"{times[-1]:.1f}", f"{late:.3g}", f"{curves[first][-1] / times[-1]:.2f}"]
        rows.append(cells + [_crossing(times, curves[other]) for other in (DEFAULT, NESTED) if other in curves])
    return rows


def elapsed(results: Results) -> dict[str, list[float]]:
    """Return the wall time until each solve of a study was finished [s], by method."""
    return {name: [row.number("elapsed") for row in rows] for name, rows in results.methods.items()}


def _crossing(times: Sequence[float], others: Sequence[float]) -> str:
    """Return the solve from which on a study is ahead of another, for people."""
    behind = [n for n, (one, other) in enumerate(zip(times, others, strict=False), 1) if one >= other]
    last = behind[-1] if behind else 0
    return "-" if last >= min(len(times), len(others)) else f"solve {last + 1}"


class _Guarded:
    """Solves from the same guesses each time, from zero by a method, that of the settings or the default by default."""

    def __init__(self, samples: Samples, guesses: Sequence[InitialGuess], *, method: str | None = None) -> None:
        from lrsa_coupled.generation.targets import Targets

        self.guesses, self.limit = guesses, 2 * samples.config.guess.max_iterations
        settings = samples.config.generate
        self._targets = Targets(samples.case, dataclasses.replace(settings, method=method or settings.method))

    def __call__(self, group: MPI.Comm) -> SolveBy:
        from lrsa_coupled.guess.guarded import GuardedSolver
        from lrsa_coupled.guess.policy import Always

        policy = Always(self.limit)

        def solve(problem: Problem, atol: float, gatherer: SampleGatherer) -> SolveResult:
            with self._targets.target(problem, atol) as target:
                return GuardedSolver(self.guesses, target, policy).solve()

        return solve

    def destroy(self) -> None:
        self._targets.destroy()

    def close(self) -> None:
        pass


def _measured(samples: Samples, config: Config, method: Contender) -> list[Row]:
    """Run a study and return its rows, on every rank. Collective."""
    from lrsa_coupled.generation.generate import generate

    comm, done = samples.comm, []
    place = share(comm, lambda: tempfile.mkdtemp(prefix="study-"))
    folder = Path(place) / "data"
    way = method.begin(folder)
    comm.Barrier()
    started = time.perf_counter()

    def timed(group: MPI.Comm) -> SolveBy:
        solve_by = way(group)

        def solve(problem: Problem, atol: float, gatherer: SampleGatherer) -> SolveResult:
            begun = time.perf_counter()
            result = solve_by(problem, atol, gatherer)
            now = time.perf_counter()
            if group.rank == 0:
                done.append((now - started, now - begun, result))
            return result

        return solve

    try:
        generate(samples.case, config, folder, comm, learn=timed)
        way.destroy()
    finally:
        way.close()
    total = comm.allreduce(time.perf_counter() - started, op=max)
    share(comm, lambda: shutil.rmtree(place))
    finished = sorted((each for part in comm.allgather(done) for each in part), key=lambda each: each[0])
    ends = [now for now, _, _ in finished[:-1]] + [total]
    return [
        Row(method=method.name, sample=n, seconds=Seconds(total=seconds), iterations=result.iterations,
            solved=result.converged, reason=None if result.converged else result.reason, values={"elapsed": now})
        for n, (now, (_, seconds, result)) in enumerate(zip(ends, finished, strict=True))
    ]  # fmt: skip
