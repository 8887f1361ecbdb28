"""Break-even: after how many solves data and training of an operator have paid for themselves.

``N* = (cost of data + cost of training) / mean saving of a solve``, all as wall time x ranks. The mean is over the samples that the rival
solves; where the learned guess fails its time is lost. What the learned guess solves and the rival does not is left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lrsa_coupled.bench.compare import NEAREST, best_rival, rivals_of, solved_times
from lrsa_coupled.bench.pictures import LEARNED

if TYPE_CHECKING:
    from lrsa_coupled.training.checkpoint import ModelCard

PARTS = ("data", "training")


@dataclass(frozen=True)
class BreakEven:
    """Break-even of the learned guess against one rival.

    Args:
        rival: Name of the rival, with what is special about the comparison.
        cost: What has to be paid back, wall time x ranks [s]; None when not known.
        saved: Mean saving of a solve, wall time x ranks [s]; NaN without samples.
        error: Standard error of ``saved`` [s]; NaN with fewer than two samples.
        compared: Samples that the rival solves.
    """

    rival: str
    cost: float | None
    saved: float
    error: float
    compared: int

    @property
    def solves(self) -> float | None:
        """The count N*, infinite when nothing is saved; None when the cost is not known or no sample is compared."""
        if self.saved <= 0.0:
            return math.inf
        return None if self.cost is None or not self.compared else float(math.ceil(self.cost / self.saved))

    @property
    def text(self) -> str:
        """``solves`` for people: a whole number, ``never``, ``unknown``, or ``-`` without samples."""
        if not self.compared:
            return "-"
        return "unknown" if self.solves is None else "never" if self.solves == math.inf else f"{self.solves:.0f}"


def break_even(ledger: Mapping[str, Any]) -> list[BreakEven]:
    """Compare the learned guess with every rival, the best classical one first; empty without a learned guess or a rival.

    The nearest sample comes twice: it needs the data too, so that against someone who has them training alone is to be paid back.
    """
    times, costs = solved_times(ledger), costs_of(ledger)
    rivals = rivals_of(times)
    if LEARNED not in times or not rivals:
        return []
    classical = {name: times[name] for name in rivals if name != NEAREST}
    best = best_rival(classical) if classical else ""
    found = []
    for name in sorted(rivals, key=lambda name: name != best):
        savings = _savings(ledger, times[name])
        found.append(compared(f"{name} (best classical)" if name == best else name, costs, savings))
        if name == NEAREST:
            found.append(compared(f"{name}, data at hand", {"data": 0.0, "training": costs["training"]}, savings))
    return found


def cost_of(card: ModelCard) -> dict[str, float | None]:
    """Return what the data and the training of a model cost, wall time x ranks [s]; None where its card does not say."""
    costs = {"data": card.data.seconds or 0.0, "training": (card.seconds or 0.0) * card.ranks}
    return {name: seconds if 0.0 < seconds < math.inf else None for name, seconds in costs.items()}


def costs_of(ledger: Mapping[str, Any]) -> dict[str, float | None]:
    """Return what data and training cost, wall time x ranks [s]; None when the ledger does not say."""
    costs = ledger.get("cost") or {}
    return {part: costs.get(part) for part in PARTS}


def break_even_rows(ledger: Mapping[str, Any]) -> list[list[str]]:
    """Return the rows of a table, the first of which is its heading; none when there is nothing to compare."""
    return rows_of(break_even(ledger))


def rows_of(found: Sequence[BreakEven]) -> list[list[str]]:
    """Return the rows of a table of comparisons, the first of which is its heading; none without any."""
    if not found:
        return []
    rows = [["break-even against", "N* [solves]", "saved a solve [s]", "+-", "compared"]]
    for item in found:
        numbers = [f"{value:.3g}" if math.isfinite(value) else "-" for value in (item.saved, item.error)]
        rows.append([item.rival, item.text, *numbers, str(item.compared)])
    return rows


def break_even_note(ledger: Mapping[str, Any]) -> str:
    """Say what is paid back and how it is counted."""
    costs = costs_of(ledger)
    nearest = any(strategy["name"] == NEAREST for strategy in ledger["strategies"])
    at_hand = "; data at hand: training alone counts, as the nearest sample needs the data too" if nearest else ""
    return note_of(costs, at_hand)


def note_of(costs: Mapping[str, float | None], more: str = "") -> str:
    """Say what is paid back and how it is counted, in a ledger of any kind; ``costs`` as ``cost_of`` returns them."""
    hours = " + ".join(
        f"{part} {'unknown' if cost is None else f'{cost / 3600.0:.3g} h'}" for part, cost in costs.items()
    )
    missing = "; the model's card does not say what is unknown" if None in costs.values() else ""
    return f"N* = ({hours}) / mean saving of a solve, as wall time x ranks{more}{missing}"


def compared(name: str, costs: Mapping[str, float | None], savings: Sequence[float]) -> BreakEven:
    """Compare two ways by what one saves on each sample, wall time x ranks [s]; ``costs`` are those of its operator, by part."""
    known = [cost for cost in costs.values() if cost is not None]
    return BreakEven(name, math.fsum(known) if len(known) == len(PARTS) else None, *_mean(savings), len(savings))


def _savings(ledger: Mapping[str, Any], rival: Mapping[int, float]) -> list[float]:
    """Return what is saved on each sample that the rival solves, wall time x ranks [s]."""
    learned = next(strategy["samples"] for strategy in ledger["strategies"] if strategy["name"] == LEARNED)
    savings = [
        (rival[s["index"]] if s["solved"] else 0.0) - s["seconds"]["total"] for s in learned if s["index"] in rival
    ]
    return [ledger["ranks"] * saving for saving in savings]


def _mean(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and its standard error, NaN where there are too few values."""
    mean = float(np.mean(values)) if values else math.nan
    return mean, float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan
