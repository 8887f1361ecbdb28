"""Quantities of many solves by groups of ranks, on several meshes; what is solved is on disk and not solved again.

Folder ``solves``: JSON Lines, a file for each process that wrote, a line for each solve. One that a killed process left
without its end is not read.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import msgspec
import numpy as np
from mpi4py import MPI

from lrsa_coupled.config import Config
from lrsa_coupled.coupling.quantities import Quantities, Quantity
from lrsa_coupled.coupling.residual import reference_norm
from lrsa_coupled.files import append_line, flush, process_name
from lrsa_coupled.generation.counter import SharedCounter
from lrsa_coupled.generation.failures import numerical_failures
from lrsa_coupled.guess.guarded import GuardedSolver
from lrsa_coupled.guess.policy import Adaptive
from lrsa_coupled.guess.target import CaseTarget
from lrsa_coupled.interfaces import Case, InitialGuess, NumericalError
from lrsa_coupled.logs import progress
from lrsa_coupled.mpi import StopSignals, collective_errors, share
from lrsa_coupled.reading import Damaged, open_regular
from lrsa_coupled.study.cases import coarse_of

if TYPE_CHECKING:
    from lrsa_coupled.guess.learned import LearnedGuess

FOLDER = "solves"
FLUSHED_EVERY = 1.0
"""Time between two writes to disk [s]."""


@dataclass(frozen=True, order=True)
class Ask:
    """A solve: resolution of the mesh, index of the sample, and which of the parameters that belong to it."""

    resolution: int
    index: int
    member: int = 0


@dataclass(frozen=True)
class Answer:
    """The quantities of a solve, None where it failed, for what reason, and its wall time x ranks [s]."""

    ask: Ask
    values: dict[str, float] | None
    reason: str
    seconds: float


class StoppedError(Exception):
    """A signal has come, whose name this is; what is solved is on disk."""


Draw = Callable[[int, int], Any]
"""Index and member of a sample to its parameters."""


@final
class Solves:
    """Answers what is asked, each solve by a group of ``generate.ranks_per_sample`` ranks. Collective: all methods.

    Args:
        case: The case.
        config: Its settings.
        folder: Of the estimate.
        comm: All ranks.
        quantities: What is asked of each solution.
        draw: Parameters of a sample.
        model: Folder of an operator whose predictions are guesses of the solves; ValueError if it does not fit.

    Attributes:
        answers: Those known, on every rank.
        asked: What has been asked for.
    """

    def __init__(self, case: Case, config: Config, folder: Path, *, comm: MPI.Intracomm,
                 quantities: Sequence[Quantity], draw: Draw, model: Path | None = None) -> None:  # fmt: skip
        if comm.size % config.generate.ranks_per_sample:
            sizes = f"{config.generate.ranks_per_sample} and {comm.size}"
            raise ValueError(f"ranks_per_sample must divide the number of ranks, got {sizes}")
        self.case, self.config, self.folder, self.comm = case, config, folder / FOLDER, comm
        self.quantities, self.draw = tuple(quantities), draw
        self.answers: dict[Ask, Answer] = share(comm, lambda: read_answers(self.folder))
        self.asked: set[Ask] = set()
        self._learned: LearnedGuess | None = None
        if model is not None:
            from lrsa_coupled.guess.learned import LearnedGuess  # torch comes with it

            with collective_errors(comm):
                self._learned = LearnedGuess.load(model, config.guess).bind(case)
        self._group = comm.Split(comm.rank // config.generate.ranks_per_sample, comm.rank)
        self._solvers: dict[int, Solver] = {}
        self._ended = self._flushed = 0.0  # when the last solve of this rank had ended, and its file was on disk
        self._file = self.folder / f"{process_name()}~{secrets.token_hex(4)}.jsonl"

    def ask(self, asks: Sequence[Ask]) -> list[Answer]:
        """Return the answers; StoppedError after a signal, once the solves that had begun are on disk."""
        self.asked |= {*asks}
        missing = sorted({each for each in asks if each not in self.answers}, key=_expensive_first)
        if missing:
            made, signal = [], ""
            self._ended = time.perf_counter()
            with StopSignals() as stop, SharedCounter(self.comm) as counter:
                with progress(description="solves", unit="solve", total=len(missing), delay=1.0) as bar:
                    place = self._next(counter)
                    while place < len(missing) and not self._group.allreduce(bool(stop.name), op=MPI.LOR):
                        bar.update(place - bar.n)
                        made.append(self._solve(missing[place]))
                        place = self._next(counter)
                signal = stop.name
            if made and self._group.rank == 0:
                flush(self._file)
            for part in self.comm.allgather(made if self._group.rank == 0 else []):
                self.answers |= {answer.ask: answer for answer in part}
            if name := max(self.comm.allgather(signal)):
                raise StoppedError(name)
        return [self.answers[each] for each in asks]

    def free(self) -> None:
        """Free the group."""
        self._solvers.clear()
        self._group.Free()

    def _next(self, counter: SharedCounter) -> int:
        return self._group.bcast(counter.take() if self._group.rank == 0 else None)

    def _solve(self, ask: Ask) -> Answer:
        if ask.resolution not in self._solvers:
            solver = Solver(self.case, self.config, self._group, ask.resolution, learned=self._learned)
            self._solvers[ask.resolution] = solver
        values, reason = self._solvers[ask.resolution].solve(self.draw(ask.index, ask.member), self.quantities)
        started, self._ended = self._ended, time.perf_counter()  # with what writing the one before has taken
        seconds = self._group.allreduce(self._ended - started, op=MPI.MAX) * self._group.size
        answer = Answer(ask, values, reason, round(seconds, 6))
        if self._group.rank == 0:
            self._write(answer)
        return answer

    def _write(self, answer: Answer) -> None:
        """Append an answer; a crash of the machine, not of the program, may lose those of the last second."""
        self.folder.mkdir(parents=True, exist_ok=True)
        append_line(self._file, json.dumps(dataclasses.asdict(answer)))
        if self._ended - self._flushed >= FLUSHED_EVERY:
            flush(self._file)
            self._flushed = self._ended


class Solver:
    """Solves on meshes of one resolution; of a case on one mesh that, and the compiled forms, are made once.

    Each solve is by default, or from nested iteration or the operator's prediction once that has been faster.
    """

    def __init__(self, case: Case, config: Config, comm: MPI.Comm, resolution: int, *,
                 learned: LearnedGuess | None = None) -> None:  # fmt: skip
        self.case, self.comm, self.resolution = case, comm, resolution
        problem = dataclasses.replace(config.problem, resolution=resolution)
        coarse = coarse_of(case, dataclasses.replace(config, problem=problem))
        self.guesses: list[InitialGuess] = [guess for guess in (coarse, learned) if guess is not None]
        self.policy = Adaptive(config.guess, [guess.name for guess in self.guesses])
        self.policy.log_level = logging.DEBUG
        self._problem: Any = None
        self._quantities: Quantities | None = None

    def solve(self, parameters: Any, quantities: Sequence[Quantity]) -> tuple[dict[str, float] | None, str]:
        """Return the quantities, or None and why the solve has failed. Collective."""
        try:
            with numerical_failures(self.comm, f"a solve of '{self.case.name}'"):
                problem = self._set_up(parameters)
                target = CaseTarget(self.case, problem, self.case.rtol * reference_norm(problem))
                result = GuardedSolver(self.guesses, target, self.policy).solve()
        except NumericalError as error:
            return None, str(error)
        if not result.converged:
            return None, result.reason
        if self.case.fixed_mesh is None or self._quantities is None:
            self._quantities = Quantities(quantities, problem)
        values = self._quantities()
        wrong = [name for name, value in values.items() if not np.isfinite(value)]
        return (None, f"{wrong[0]} is {values[wrong[0]]}") if wrong else (values, "")

    def _set_up(self, parameters: Any) -> Any:
        fixed = self.case.fixed_mesh
        if fixed is not None and self._problem is not None:
            return fixed.update(self._problem, parameters)
        problem = self.case.problem(self.case.mesh(self.comm, parameters, self.resolution), parameters)
        self._problem = None if fixed is None else problem
        return problem


def _expensive_first(ask: Ask) -> tuple[int, int, int]:
    return -ask.resolution, ask.index, ask.member


def read_answers(folder: Path) -> dict[Ask, Answer]:
    """Read the answers on disk; Damaged for a line that is none, but for one without an end."""
    found: dict[Ask, Answer] = {}
    for path in sorted(folder.glob("*.jsonl")):
        with open_regular(path) as stream:
            *lines, _ = stream.read().split(b"\n")
        for number, line in enumerate(lines, 1):
            try:
                answer = msgspec.json.decode(line, type=Answer)
            except (msgspec.DecodeError, RecursionError) as error:
                raise Damaged(f"{path}, line {number}: expected a solve, got {line[:60]!r}: {error}") from error
            found.setdefault(answer.ask, answer)
    return found
