"""The pilot of an estimate: samples solved on all meshes, and what such a solve costs."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from lrsa_coupled.config import GuessConfig
from lrsa_coupled.interfaces import Case
from lrsa_coupled.mpi import collective_errors
from lrsa_coupled.study.solves import Ask, Solves

Array = npt.NDArray[np.float64]

AFTER = 10**9
"""Above all indices of samples: what else is drawn begins here. Zeros at the end of a seed count for nothing."""


@dataclass(frozen=True)
class SampleDraw:
    """Parameters of a sample; of a trajectory those of its last step.

    Member 0 is those that ``generate`` draws, member 1 independent others, 2 + j member 0 with the j-th field of 1.
    """

    case: Case
    seed: int

    def __call__(self, index: int, member: int) -> Any:
        entropy = [self.seed, index] if member != 1 else [self.seed, AFTER, index]
        parameters = self.case.sample(np.random.default_rng(entropy))
        if member > 1:
            name = dataclasses.fields(parameters)[member - 2].name
            parameters = dataclasses.replace(parameters, **{name: getattr(self(index, 1), name)})
        steps = self.case.trajectory
        return parameters if steps is None else steps.at_step(parameters, steps.num_steps - 1)


@dataclass(frozen=True)
class Study:
    """What is asked, and how it is answered.

    Args:
        names: Quantities; the target is that of the first one.
        resolutions: Of the meshes, the one that counts first.
        pilot: Samples that are solved on all of them.
        model: Folder of the operator, None where there is none.
        settings: Of its evaluation.
        seconds: Time of the work besides solves by part, wall time x ranks [s]; it grows.
    """

    case: Case
    comm: MPI.Intracomm
    solves: Solves
    names: tuple[str, ...]
    resolutions: tuple[int, ...]
    pilot: int
    seed: int
    model: Path | None = None
    settings: GuessConfig = GuessConfig()
    seconds: dict[str, float] = field(default_factory=dict)

    def values(self, resolutions: Sequence[int], indices: Sequence[int]) -> Array:
        """Return quantities ``(N, len(resolutions), Q)`` of the samples that all meshes have solved. Collective."""
        asks = [[Ask(resolution, index) for resolution in resolutions] for index in indices]
        self.solves.ask([each for row in asks for each in row])
        rows = ([self.solves.answers[each].values for each in row] for row in asks)
        solved = [[[v[name] for name in self.names] for v in row] for row in map(_whole, rows) if row]
        return np.array(solved, dtype=np.float64).reshape(-1, len(resolutions), len(self.names))

    def draw(self, index: int, member: int = 0) -> Any:
        """Return the parameters of a sample; members are A, B, then A with one of its fields from B."""
        return self.solves.draw(index, member)

    @cached_property
    def pilots(self) -> Array:
        """Quantities of the pilot ``(N, L, Q)``. Collective at first."""
        return self.values(self.resolutions, range(self.pilot))

    @cached_property
    def costs(self) -> tuple[float, ...]:
        """Median cost of a solve on each mesh, of the pilot, to two digits, wall time x ranks [s]."""
        found = []
        for resolution in self.resolutions:
            asks = (Ask(resolution, index) for index in range(self.pilot))
            found.append(float(f"{np.median([self.solves.answers[each].seconds for each in asks]):.2g}"))
        return tuple(found)

    def spent(self, what: str, started: float) -> None:
        """Add the time since then to a part, as if on all ranks. Collective."""
        seconds = self.comm.allreduce(time.perf_counter() - started, op=MPI.MAX) * self.comm.size
        self.seconds[what] = self.seconds.get(what, 0.0) + seconds


def shared[T](comm: MPI.Intracomm, work: Callable[[int], T], count: int) -> list[T]:
    """Do pieces of work, each on one rank, and return all results on all of them. Collective."""
    with collective_errors(comm):
        mine = {number: work(number) for number in range(comm.rank, count, comm.size)}
    found = {number: result for part in comm.allgather(mine) for number, result in part.items()}
    return [found[number] for number in range(count)]


def _whole(row: Sequence[Mapping[str, float] | None]) -> list[Mapping[str, float]]:
    """Return a row without gaps, or nothing."""
    return [each for each in row if each is not None] if None not in row else []
