"""Unseen samples of a case, and times of solves on them."""

from __future__ import annotations

import dataclasses
import gc
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from mpi4py import MPI

from lrsa_coupled.bench.machine import header_of
from lrsa_coupled.bench.rows import Cost, Results, Row, Seconds
from lrsa_coupled.config import Config
from lrsa_coupled.coupling.contract import problem_of
from lrsa_coupled.coupling.residual import reference_norm, residual_norm
from lrsa_coupled.generation.plan import sample_parameters
from lrsa_coupled.guess.learned import LearnedGuess
from lrsa_coupled.interfaces import Case, Problem, Solver, SolveResult
from lrsa_coupled.training.checkpoint import load_card

SLACK = 1e-6
"""Share by which rounding may lift the reassembled residual above the tolerance."""


@dataclass(frozen=True)
class Samples:
    """The samples that a benchmark measures, and the operators that it may use.

    Args:
        model: The given model, else the shipped one; None without either.
        operators: Folders of all operators that the case ships.
    """

    case: Case
    config: Config
    comm: MPI.Intracomm
    model: Path | None = None
    operators: tuple[Path, ...] = ()

    @property
    def seed(self) -> int:
        """Their seed."""
        return self.config.problem.test_seed

    @property
    def resolution(self) -> int:
        """Resolution of their meshes."""
        return self.config.problem.resolution or self.case.resolution

    def problem(self, index: int) -> Problem:
        """Set up a sample. Collective."""
        return self._problem(self.seed, index)

    def training_problem(self, index: int) -> Problem:
        """Set up a sample of the seed of training data. Collective."""
        return self._problem(self.config.problem.training_seed, index)

    def _problem(self, seed: int, index: int) -> Problem:
        gc.collect()  # meshes of earlier samples, whose communicators MPI counts
        parameters = sample_parameters(self.case, seed, index)
        return problem_of(self.case, self.comm, parameters, self.resolution)

    def atol(self, problem: Problem) -> float:
        """Return the residual norm to reach. Collective."""
        return self.case.rtol * reference_norm(problem)

    def guess(self) -> LearnedGuess:
        """Load the model; ValueError without one, or when it does not fit or has seen the samples."""
        if self.model is None:
            raise ValueError(f"the case '{self.case.name}' ships no model; name one with --model")
        return load_guess(self.case, self.config, self.model)

    def row(
        self, method: str, index: int, *, problem: Problem, atol: float, result: SolveResult, seconds: float
    ) -> Row:
        """Return the row of a solve whose result is in the problem. Collective: the residual is assembled again."""
        residual = residual_norm(problem)
        solved = result.converged and residual <= (1.0 + SLACK) * atol
        missed = "the true residual misses the tolerance" if result.converged else result.reason
        return Row(
            method=method,
            sample=index,
            unknowns=num_unknowns(problem),
            seconds=Seconds(total=seconds, solve=seconds),
            iterations=result.iterations,
            solved=bool(solved),
            residual=residual if math.isfinite(residual) else None,
            atol=atol,
            used_fallback=result.used_fallback,
            reason=None if solved else missed,
        )

    def results(
        self, study: str, rows: Iterable[Row], costs: Mapping[str, Cost] | None = None, *, rtol: float | None
    ) -> Results:
        """Put a header over rows; its settings of operator and training are those of the model, if there is one."""
        settings: dict[str, object] = dataclasses.asdict(self.config)
        if self.model is not None:
            card = load_card(self.model)
            settings |= {each: dataclasses.asdict(vars(card)[each]) for each in ("operator", "training")}
            settings["model"] = str(self.model)
        header = header_of(study, self.case.name, settings, ranks=self.comm.size)
        place = {"seed": self.seed, "resolution": self.resolution, "rtol": rtol, "costs": dict(costs or {})}
        return Results.of(msgspec.structs.replace(header, **place), rows)


def load_guess(case: Case, config: Config, model: Path) -> LearnedGuess:
    """Load a model of a case; ValueError when it is of another one, or has seen the samples of the benchmark."""
    guess = LearnedGuess.load(model, config.guess).bind(case)
    data = guess.predictor.card.data
    refuse_seen(config.problem.test_seed, {data.seed, *data.seeds}, f"the data behind the model {model}")
    return guess


def refuse_seen(seed: int, seen: set[int], what: str) -> None:
    """Raise ValueError when the samples of the benchmark are among those behind ``what``, which have these seeds."""
    if seed in seen:
        raise ValueError(f"samples must be unseen: the seed {seed} is the one of {what}; choose another seed")


def num_unknowns(problem: Problem) -> int:
    """Return the unknowns of the discrete problem on all ranks."""
    dofmap = problem.solution.function_space.dofmap
    return int(dofmap.index_map.size_global * dofmap.index_map_bs)


def solve(make: Callable[[], Solver]) -> SolveResult:
    """Make a solver, solve, and free it. Collective."""
    solver = make()
    result = solver.solve()
    solver.destroy()
    return result


def timed[T](problem: Problem, work: Callable[[], T], repeats: int = 1) -> tuple[T, float]:
    """Work from a zero solution; return its last value and the median time of the slowest rank [s]. Collective."""
    times = []
    for _ in range(repeats):
        problem.solution.x.array[:] = 0.0
        problem.mesh.comm.Barrier()
        started = time.perf_counter()
        value = work()
        times.append(problem.mesh.comm.allreduce(time.perf_counter() - started, op=MPI.MAX))
    return value, float(np.median(times))
