"""How many samples of which model reach a standard error at least cost; costs in any unit, numpy only."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Allocation:
    """Samples of models.

    Args:
        models: Their places, the one that counts first; of multilevel Monte Carlo from the finest to the coarsest.
        counts: Samples of each; of multilevel Monte Carlo those of its difference to the next.
        cost: Of all of them.
    """

    models: tuple[int, ...]
    counts: tuple[int, ...]
    cost: float


def monte_carlo(variance: float, cost: float, target: float) -> Allocation:
    """Return the samples after which the mean has the variance ``target``."""
    count = max(math.ceil(variance / target), 2)
    return Allocation((0,), (count,), count * cost)


def multilevel(answers: Array, costs: Sequence[float], target: float) -> Allocation:
    """Choose meshes and their samples from answers ``(N, L)`` of a pilot, the finest mesh first.

    Source: Giles (2008), Oper. Res. 56, eq. (3): samples in proportion to the root of variance over cost.
    """
    best = None
    for models in _subsets(len(costs)):
        pairs = list(itertools.pairwise(models))
        spreads = [float(np.var(answers[:, one] - answers[:, two], ddof=1)) for one, two in pairs]
        spreads.append(float(np.var(answers[:, models[-1]], ddof=1)))
        prices = [costs[one] + costs[two] for one, two in pairs] + [costs[models[-1]]]
        total = sum(math.sqrt(v * c) for v, c in zip(spreads, prices, strict=True))
        exact = (total / target * math.sqrt(v / c) for v, c in zip(spreads, prices, strict=True))
        counts = tuple(max(math.ceil(each), 2) for each in exact)
        cost = sum(n * c for n, c in zip(counts, prices, strict=True))
        if best is None or cost < best.cost:
            best = Allocation(models, counts, cost)
    assert best is not None
    return best


def multifidelity(answers: Array, costs: Sequence[float], target: float) -> Allocation:
    """Choose models and their samples from answers ``(N, L)`` of a pilot, the model that counts first.

    Source: Peherstorfer, Willcox & Gunzburger (2016), SIAM J. Sci. Comput. 38, theorem 3.4 and algorithm 1.
    """
    variance = float(np.var(answers[:, 0], ddof=1))
    rho = np.nan_to_num(np.atleast_2d(np.corrcoef(answers, rowvar=False))[0])
    best = monte_carlo(variance, costs[0], target)
    for models in _subsets(len(costs)):
        order = (0, *sorted(models[1:], key=lambda i: -abs(rho[i])))
        squares = [1.0, *(min(float(rho[i]) ** 2, 1.0 - 1e-9) for i in order[1:]), 0.0]
        w = [costs[i] for i in order]
        gains = [before - after for before, after in itertools.pairwise(squares)]
        if len(order) < 2 or any(gain <= 0.0 for gain in gains):
            continue
        if any(w[i - 1] * gains[i] <= w[i] * gains[i - 1] for i in range(1, len(order))):
            continue
        ratios = [math.sqrt(w[0] * gain / (each * gains[0])) for gain, each in zip(gains, w, strict=True)]
        left = 1.0 - sum(
            (1.0 / less - 1.0 / more) * square
            for (less, more), square in zip(itertools.pairwise(ratios), squares[1:], strict=False)
        )
        exact = variance * left / target
        first = max(math.ceil(exact), 2)
        counts = tuple(max(math.ceil(exact * ratio), first) for ratio in ratios)
        cost = sum(n * each for n, each in zip(counts, w, strict=True))
        if cost < best.cost:
            best = Allocation(order, counts, cost)
    return best


def controlled(
    variance: float, left: float, *, cost: float, cheap: float, target: float, least: int = 2
) -> tuple[int, int]:
    """Return solves and further cheap evaluations of a control variate that leaves a share ``left`` of the variance.

    ``least``: solves that there are anyway.
    """
    known = max(1.0 - left, 0.0)
    total = math.sqrt(left * cost) + math.sqrt(known * cheap)
    solves = max(math.ceil(variance / target * math.sqrt(left / cost) * total), least)
    remaining = target - left * variance / solves
    return solves, max(math.ceil(known * variance / remaining), 2)


def _subsets(count: int) -> list[tuple[int, ...]]:
    """Return all choices of models with the first one."""
    rest = range(1, count)
    return [(0, *chosen) for size in range(count) for chosen in itertools.combinations(rest, size)]
