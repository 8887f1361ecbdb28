"""Which samples are solved together, and in which order: settings and indices decide, not ranks or restarts."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from lrsa_coupled.config import GenerateConfig
from lrsa_coupled.interfaces import Case

FIRST_GENERATION = 64
"""Samples that are solved without a guess before the others begin with the nearest sample."""

WINDOW = 1024
"""Samples with consecutive indices among which neighbours are looked for."""


@dataclass(frozen=True)
class Chain:
    """Samples that a group of ranks solves one after the other; those not in ``missing`` serve the others."""

    indices: tuple[int, ...]
    missing: frozenset[int]


@dataclass(frozen=True)
class Generation:
    """Chains whose guesses may be samples with an index below ``first``; none when that is 0."""

    first: int
    chains: tuple[Chain, ...]


def is_chained(case: Case, settings: GenerateConfig) -> bool:
    """Return whether a sample depends on the one solved before it, or is the time step after it.

    With ``guess = "learning"`` it depends on whatever came before: chains would not make it the same again.
    """
    reuses = settings.reuse != "nothing" and settings.guess != "learning"
    return case.trajectory is not None or reuses or settings.guess == "previous"


def sample_parameters(case: Case, seed: int, index: int) -> Any:
    """Draw the parameters of a sample: independent of all others, but the steps of a trajectory share its draw."""
    if case.trajectory is not None:
        trajectory, step = divmod(index, case.trajectory.num_steps)
        return case.trajectory.at_step(_draw(case, [seed, trajectory]), step)
    return _draw(case, [seed, index])


def _draw(case: Case, seed: list[int]) -> Any:
    parameters = case.sample(np.random.default_rng(seed))
    if not dataclasses.is_dataclass(parameters) or isinstance(parameters, type):
        found = f"got {type(parameters).__name__}"
        raise TypeError(f"sample() of '{case.name}' must return an instance of a frozen dataclass, {found}")
    _check_units(type(parameters))
    return parameters


@cache
def _check_units(kind: type) -> None:
    for item in dataclasses.fields(kind):
        for key, value in item.metadata.items():
            is_unit = str(key).lower().startswith("unit")
            if is_unit and (key != "unit" or not isinstance(value, str)):
                wanted = 'metadata={"unit": "..."}'
                raise ValueError(f"parameter '{item.name}': expected {wanted}, got {{{key!r}: {value!r}}}")


def plan(case: Case, settings: GenerateConfig, missing: Iterable[int], *, seed: int) -> list[Generation]:
    """Arrange the missing samples.

    With ``guess = "nearest"`` generations are cut at ``FIRST_GENERATION`` times powers of two, otherwise there is one.
    A chain in which samples are missing is solved again from its beginning to the last of them. A chain of time steps
    is a trajectory.
    """
    missing = frozenset(missing)
    if settings.guess == "nearest":
        ends = [0, FIRST_GENERATION]
        while ends[-1] < settings.samples:
            ends.append(2 * ends[-1])
        found = [Generation(first, _single(missing, first, end)) for first, end in itertools.pairwise(ends)]
        return [generation for generation in found if generation.chains]
    if not is_chained(case, settings):
        return [Generation(0, _single(missing, 0, settings.samples))] if missing else []
    chains = []
    size = settings.samples_per_chain if case.trajectory is None else case.trajectory.num_steps
    length = WINDOW if case.trajectory is None else max(WINDOW // size, 1) * size
    for first in range(0, settings.samples, length):
        window = range(first, min(first + length, settings.samples))
        if missing.isdisjoint(window):
            continue
        indices = list(window)
        if settings.sort:
            indices = [first + place for place in in_order([sample_parameters(case, seed, i) for i in window])]
        chains += [_chain(indices[start : start + size], missing) for start in range(0, len(indices), size)]
    return [Generation(0, tuple(chain for chain in chains if chain.missing))]


def in_order(parameters: Sequence[Any]) -> list[int]:
    """Order samples by nearest neighbours: each is followed by the nearest of those that remain, the first one stays.

    The distance is Euclidean over the real numbers of the parameters, those of one parameter (as a tuple of
    amplitudes) divided by the root of the sum of their variances. Integers, seeds and counts, do not take part.

    Source: Wang et al. (2024), Accelerating data generation for neural operators via Krylov subspace recycling, ICLR.
    """
    table = _table(parameters)
    remaining = np.arange(1, len(table))
    order = [0]
    while len(remaining):
        distances = np.linalg.norm(table[remaining] - table[order[-1]], axis=1)
        order.append(int(remaining[np.argmin(distances)]))
        remaining = remaining[remaining != order[-1]]
    return order


def _table(parameters: Sequence[Any]) -> npt.NDArray[np.float64]:
    columns = [np.zeros((len(parameters), 0))]
    for field in dataclasses.fields(parameters[0]):
        values = [getattr(p, field.name) for p in parameters]
        if not np.issubdtype(np.asarray(values).dtype, np.floating):
            continue
        block = np.asarray(values).reshape(len(parameters), -1)
        spread = np.sqrt(block.var(axis=0).sum())
        columns.append(block / spread if spread > 0.0 else block)
    return np.concatenate(columns, axis=1)


def _single(missing: frozenset[int], first: int, end: int) -> tuple[Chain, ...]:
    return tuple(Chain((index,), frozenset((index,))) for index in sorted(missing) if first <= index < end)


def _chain(indices: Sequence[int], missing: frozenset[int]) -> Chain:
    lost = missing.intersection(indices)
    length = max((place + 1 for place, index in enumerate(indices) if index in lost), default=0)
    return Chain(tuple(indices[:length]), lost)
