"""Methods compared by their times: samples that both solve, the best baseline, a bound that no baseline can beat."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from lrsa_coupled.settings import nearest

LEARNED, ADAPTIVE, NEAREST = "learned guess", "learned guess, adaptive", "nearest sample"
POD = "modes, Gaussian process"
NEED_DATA = (NEAREST, POD)
"""Baselines that need a data set."""
STAGES = ("transfer", "inference", "setup", "solve", "total")

type Times = Mapping[str, Mapping[int, float]]
"""Total seconds by method and sample, of solved samples."""


@dataclass(frozen=True)
class Speedup:
    """How many times faster the learned guess is than a baseline.

    Args:
        mean: Geometric mean of ``ratios``; NaN without any.
        losses: Samples where the learned guess is slower, or fails where the baseline solves.
        ratios: Time of the baseline / learned time, of each sample that both solve.
    """

    mean: float
    losses: int
    ratios: Sequence[float]


def speedup(baseline: Mapping[int, float], learned: Mapping[int, float]) -> Speedup:
    """Compare two methods by their total seconds, given by sample for the solved samples."""
    ratios = [baseline[index] / learned[index] for index in sorted(set(baseline) & set(learned))]
    losses = sum(ratio < 1.0 for ratio in ratios) + len(set(baseline) - set(learned))
    return Speedup(float(np.exp(np.mean(np.log(ratios)))) if ratios else np.nan, losses, ratios)


def speedups(times: Times) -> dict[str, Speedup]:
    """Compare the learned guess with every other method; empty without it or without a baseline."""
    if LEARNED not in times or not baselines_of(times):
        return {}
    return {name: speedup(seconds, times[LEARNED]) for name, seconds in times.items() if name != LEARNED}


def best_baseline(times: Times) -> str:
    """Return the baseline that solves the most samples and, among equals, has the least geometric mean of time."""
    return min(
        baselines_of(times), key=lambda name: (-len(times[name]), np.mean(np.log([*times[name].values()] or [1.0])))
    )


def best_of_each(times: Times) -> dict[int, float]:
    """Return the least time among the baselines, sample by sample: a bound that no baseline can know in advance."""
    best: dict[int, float] = {}
    for name in baselines_of(times):
        best |= {index: min(seconds, best.get(index, seconds)) for index, seconds in times[name].items()}
    return best


def baselines_of(names: Iterable[str]) -> list[str]:
    """Return the methods without an operator."""
    return [name for name in names if name not in (LEARNED, ADAPTIVE)]


class Named(Protocol):
    """What is compared."""

    @property
    def name(self) -> str:
        """Name in tables and on the command line."""


def chosen[T: Named](items: Sequence[T], only: Sequence[str], *, what: str) -> list[T]:
    """Return the items with the names ``only``, all when there are none; ValueError for a name that no item has."""
    known = [item.name for item in items]
    for name in only:
        if name not in known:
            raise ValueError(f"unknown {what} '{name}'{nearest(name, known)}")
    return [item for item in items if not only or item.name in only]
