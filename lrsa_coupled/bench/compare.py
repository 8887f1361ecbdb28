"""Strategies compared by their times: samples that both solved, the best rival, a bound that no rival can beat."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from lrsa_coupled.bench.pictures import GATED, LEARNED
from lrsa_coupled.settings import nearest

NEAREST = "nearest sample"
STAGES = ("transfer", "inference", "solve", "total")


@dataclass(frozen=True)
class Speedup:
    """How many times sooner the learned guess ends than a rival.

    Args:
        mean: Geometric mean of (rival's time / learned time) over the compared samples; NaN when there are none.
        low: Smallest ratio.
        high: Largest ratio.
        losses: Samples where the learned guess is slower, or fails where the rival solves.
        compared: Samples that both solved.
    """

    mean: float
    low: float
    high: float
    losses: int
    compared: int


def speedup(rival: Mapping[int, float], learned: Mapping[int, float]) -> Speedup:
    """Compare two strategies by their total seconds, given by sample index for the solved samples."""
    both = sorted(set(rival) & set(learned))
    ratios = np.array([rival[index] / learned[index] for index in both])
    losses = int(np.sum(ratios < 1.0)) + len(set(rival) - set(learned))
    if not both:
        return Speedup(np.nan, np.nan, np.nan, losses, 0)
    return Speedup(float(np.exp(np.mean(np.log(ratios)))), float(ratios.min()), float(ratios.max()), losses, len(both))


def solved_times(ledger: Mapping[str, Any]) -> dict[str, dict[int, float]]:
    """Return the total seconds of every solved sample, by strategy and index."""
    return {
        strategy["name"]: {s["index"]: s["seconds"]["total"] for s in strategy["samples"] if s["solved"]}
        for strategy in ledger["strategies"]
    }


def best_rival(times: Mapping[str, Mapping[int, float]]) -> str:
    """Return the rival that solves the most samples and, among equals, has the least geometric mean of time."""
    return min(
        rivals_of(times), key=lambda name: (-len(times[name]), np.mean(np.log([*times[name].values()] or [1.0])))
    )


def oracle_times(times: Mapping[str, Mapping[int, float]]) -> dict[int, float]:
    """Return the least time among the rivals, sample by sample: a bound that no rival can know in advance."""
    best: dict[int, float] = {}
    for name in rivals_of(times):
        best |= {index: min(seconds, best.get(index, seconds)) for index, seconds in times[name].items()}
    return best


def rivals_of(names: Iterable[str]) -> list[str]:
    """Return the strategies without an operator."""
    return [name for name in names if name not in (LEARNED, GATED)]


class Named(Protocol):
    """What is compared."""

    @property
    def name(self) -> str:
        """Name in tables and on the command line."""


def chosen[T: Named](items: Sequence[T], only: Sequence[str], *, what: str) -> list[T]:
    """Return the items with the names ``only``, all when there are none; ValueError for a name that no item has. Collective: no."""
    known = [item.name for item in items]
    for name in only:
        if name not in known:
            raise ValueError(f"unknown {what} '{name}'{nearest(name, known)}")
    return [item for item in items if not only or item.name in only]
