"""Pay-back: after how many solves data and training of an operator have paid for themselves.

``N* = (cost of data + cost of training) / mean saving of a solve``, all as wall time x ranks. The mean is over the
samples that the baseline solves; where the learned guess fails, its time is lost. What it solves and the baseline
does not is left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lrsa_coupled.bench.compare import LEARNED, NEED_DATA, baselines_of, best_baseline
from lrsa_coupled.bench.rows import Cost, Results, Row

if TYPE_CHECKING:
    from lrsa_coupled.training.checkpoint import ModelCard


@dataclass(frozen=True)
class PayBack:
    """Pay-back of one method against a baseline.

    Args:
        baseline: Name of the baseline, with what is special about the comparison.
        cost: What has to be paid back, wall time x ranks [s]; None when not known.
        savings: What each sample that the baseline solves saves, wall time x ranks [s].
    """

    baseline: str
    cost: float | None
    savings: Sequence[float]

    @property
    def saved(self) -> float:
        """Mean saving of a solve [s]; NaN without samples."""
        return float(np.mean(self.savings)) if self.savings else math.nan

    @property
    def error(self) -> float:
        """Standard error of ``saved`` [s]; NaN with fewer than two samples."""
        count = len(self.savings)
        return float(np.std(self.savings, ddof=1) / math.sqrt(count)) if count > 1 else math.nan

    @property
    def solves(self) -> float | None:
        """The count N*, infinite when nothing is saved; None when the cost is not known or no sample is compared."""
        if self.saved <= 0.0:
            return math.inf
        return None if self.cost is None or not self.savings else float(math.ceil(self.cost / self.saved))

    @property
    def text(self) -> str:
        """``solves`` for people: a number, ``never``, ``unknown``, ``not sure`` within two errors, ``-`` for none."""
        if not self.savings:
            return "-"
        if 0.0 < self.saved < 2.0 * self.error:
            return "not sure"
        return "unknown" if self.solves is None else "never" if self.solves == math.inf else f"{self.solves:.0f}"


def pay_backs(results: Results) -> list[PayBack]:
    """Compare the learned guess with every baseline, the best without data first; empty without one of them.

    What needs the data too comes twice: against it training alone may be to be paid back, less the time of its own fit.
    """
    methods, times = results.methods, results.solved_times
    baselines = baselines_of(methods)
    if LEARNED not in methods or not baselines:
        return []
    without_data = {name: times[name] for name in baselines if name not in NEED_DATA}
    best = best_baseline(without_data) if without_data else None
    cost, found = results.header.costs.get(LEARNED, Cost()), []
    for name in sorted(baselines, key=lambda name: name != best):
        saved = savings(methods[name], methods[LEARNED])
        found.append(PayBack(f"{name} (best without data)" if name == best else name, cost.total, saved))
        if name in NEED_DATA:
            fitting = results.header.costs.get(name, Cost()).training or 0.0
            beyond = None if cost.training is None else max(cost.training - fitting, 0.0)
            found.append(PayBack(f"{name}, data available", beyond, saved))
    return found


def savings(baseline: Sequence[Row], learned: Sequence[Row]) -> list[float]:
    """Return what is saved on each sample that the baseline solves, wall time x ranks [s]."""
    times = {row.sample: row.seconds.total for row in baseline if row.solved}
    return [
        row.ranks * ((times[row.sample] if row.solved else 0.0) - row.seconds.total)
        for row in learned
        if row.sample in times
    ]


def cost_of(card: ModelCard) -> Cost:
    """Return what the data and the training of a model cost."""
    training = None if card.seconds is None else card.seconds * card.ranks
    return Cost(card.data.seconds or None, training or None)


def pay_back_rows(found: Sequence[PayBack]) -> list[list[str]]:
    """Return the rows of a table, the first of which is its heading; none without any."""
    if not found:
        return []
    rows = [["pay-back against", "N* [solves]", "saved a solve [s]", "+-", "compared"]]
    for item in found:
        numbers = [f"{value:.3g}" if math.isfinite(value) else "-" for value in (item.saved, item.error)]
        rows.append([item.baseline, item.text, *numbers, str(len(item.savings))])
    return rows


def pay_back_note(cost: Cost, *, with_data: bool = False) -> str:
    """Say what is paid back and how it is counted."""
    parts = {"data": cost.data, "training": cost.training}
    hours = " + ".join(f"{k} {'unknown' if v is None else f'{v / 3600.0:.3g} h'}" for k, v in parts.items())
    text = f"N* = ({hours}) / mean saving of a solve, as wall time x ranks"
    text += "; data available: training alone counts, as that baseline needs the data too" * with_data
    return text + "; the model's card does not say what is unknown" * (cost.total is None)
