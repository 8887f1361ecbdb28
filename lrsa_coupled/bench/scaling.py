"""Several ledgers side by side: time and speed-up of each strategy over the size of the problem and over ranks."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lrsa_coupled.bench.compare import Speedup, solved_times, speedup
from lrsa_coupled.bench.pictures import LEARNED
from lrsa_coupled.bench.plots import Curve
from lrsa_coupled.bench.report import align, number, table

Ledgers = Sequence[Mapping[str, Any]]

SAME = ("seed", "tolerance", "versions", "machine")
"""Entries that ledgers of one case should share when they are compared."""


@dataclass(frozen=True)
class Series:
    """Ledgers of one case that differ in size alone, or in the number of ranks alone.

    Args:
        title: What they share and what they differ in.
        x: Name of what differs.
        values: Its value in each ledger, ascending.
        ledgers: The ledgers.
        slope: Exponent of the time of a perfect solver over ``x``; 0 when there is none.
    """

    title: str
    x: str
    values: Sequence[float]
    ledgers: Ledgers
    slope: int


def unknowns(ledger: Mapping[str, Any]) -> float | None:
    """Return the unknowns of the discrete problem, median over the samples; None when the ledger does not say."""
    counts = [sample.get("unknowns") for strategy in ledger["strategies"][:1] for sample in strategy["samples"]]
    return float(np.median(counts)) if counts and None not in counts else None


def by_case(ledgers: Ledgers) -> dict[str, list[Mapping[str, Any]]]:
    """Return the ledgers of each case, by size and then by ranks."""
    ordered = sorted(ledgers, key=lambda ledger: (ledger["resolution"], ledger["ranks"]))
    return {
        case: [ledger for ledger in ordered if ledger["case"] == case]
        for case in dict.fromkeys(ledger["case"] for ledger in ledgers)
    }


def ledgers_text(ledgers: Ledgers) -> str:
    """Format ledgers for the terminal: each by itself, then those of a case side by side."""
    parts = [f"{table(ledger)}\n" for ledger in ledgers]
    for case, group in by_case(ledgers).items():
        if len(group) > 1:
            parts += [f"{case}: median time [s]", align(scaling_rows(group, what="time"))]
            parts += [
                f"{case}: times sooner (least to most)",
                align(scaling_rows(group, what="times sooner")),
                caution(group),
            ]
    return "\n\n".join(part for part in parts if part)


def caution(ledgers: Ledgers) -> str:
    """Say in what the ledgers of a case differ besides size and ranks; empty when in nothing."""
    found = _differences(ledgers)
    return f"These ledgers differ in more than size and ranks: {', '.join(found)}." if found else ""


def scaling_rows(ledgers: Ledgers, *, what: str) -> list[list[str]]:
    """Return the rows of a table of the ledgers of one case, the first of which is its heading.

    Args:
        ledgers: Ledgers of one case.
        what: ``time`` for the median seconds of each strategy, ``times sooner`` for the ratios of the learned guess.
    """
    names = _names(ledgers)
    if what == "times sooner":
        names = [name for name in names if name != LEARNED]
    rows = [["resolution", "unknowns", "ranks", "samples", *names]]
    for ledger in ledgers:
        size, times = unknowns(ledger), solved_times(ledger)
        cells = [_median_cell(ledger, name) if what == "time" else _ratio_cell(times, name) for name in names]
        count = max(len(strategy["samples"]) for strategy in ledger["strategies"])
        rows.append(
            [
                str(ledger["resolution"]),
                "-" if size is None else f"{size:.0f}",
                str(ledger["ranks"]),
                str(count),
                *cells,
            ]
        )
    return rows


def series_of(ledgers: Ledgers) -> list[Series]:
    """Return what can be drawn of the ledgers of one case: sizes at a fixed number of ranks, ranks at a fixed size."""
    found = []
    sized = all(unknowns(ledger) is not None for ledger in ledgers)
    size: Callable[[Mapping[str, Any]], float] = (
        (lambda ledger: unknowns(ledger) or 0.0) if sized else (lambda ledger: ledger["resolution"])
    )
    for ranks, group in _groups(ledgers, lambda ledger: ledger["ranks"]):
        title = f"{ranks} rank{'s' * (ranks != 1)}"
        found += _series(title, "unknowns" if sized else "resolution", group, value=size, slope=int(sized))
    for resolution, group in _groups(ledgers, lambda ledger: ledger["resolution"]):
        found += _series(f"resolution {resolution}", "ranks", group, value=lambda ledger: ledger["ranks"], slope=-1)
    return found


def time_curves(series: Series) -> list[Curve]:
    """Return the median time of each strategy, the learned guess last."""
    return _curves(series, _names(series.ledgers), lambda ledger, name: _median(ledger, name))


def ratio_curves(series: Series) -> list[Curve]:
    """Return how many times sooner the learned guess ends than each rival."""

    def ratio(ledger: Mapping[str, Any], name: str) -> float | None:
        result = _ratio(solved_times(ledger), name)
        return None if result is None or not result.compared else result.mean

    return _curves(series, [name for name in _names(series.ledgers) if name != LEARNED], ratio)


def _differences(ledgers: Ledgers) -> list[str]:
    found = []
    for name in SAME:
        values = [ledger.get(name) for ledger in ledgers]
        if any(value != values[0] for value in values):
            shown = "" if isinstance(values[0], Mapping) else f" ({', '.join(str(value) for value in values)})"
            found.append(f"{name}{shown}")
    indices = [
        sorted(s["index"] for strategy in ledger["strategies"][:1] for s in strategy["samples"]) for ledger in ledgers
    ]
    return [*found, "samples"] if any(numbers != indices[0] for numbers in indices) else found


def _names(ledgers: Ledgers) -> list[str]:
    """Return the strategies of any of the ledgers, the learned guess last."""
    names = dict.fromkeys(strategy["name"] for ledger in ledgers for strategy in ledger["strategies"])
    return [*(name for name in names if name != LEARNED), *(name for name in names if name == LEARNED)]


def _groups(ledgers: Ledgers, key: Callable[[Mapping[str, Any]], int]) -> list[tuple[int, list[Mapping[str, Any]]]]:
    return [(value, list(group)) for value, group in itertools.groupby(sorted(ledgers, key=key), key=key)]


def _series(
    title: str, x: str, ledgers: Ledgers, *, value: Callable[[Mapping[str, Any]], float], slope: int
) -> list[Series]:
    ordered = sorted(ledgers, key=value)
    values = [value(ledger) for ledger in ordered]
    return [Series(title, x, values, ordered, slope)] if len(set(values)) > 1 else []


def _curves(series: Series, names: Sequence[str], y: Callable[[Mapping[str, Any], str], float | None]) -> list[Curve]:
    curves = []
    for name in names:
        points = [(x, y(ledger, name)) for x, ledger in zip(series.values, series.ledgers, strict=True)]
        known = [(x, value) for x, value in points if value is not None]
        if known:
            curves.append(Curve(name, [x for x, _ in known], [value for _, value in known]))
    return curves


def _median(ledger: Mapping[str, Any], name: str) -> float | None:
    seconds = [
        s["seconds"]["total"]
        for strategy in ledger["strategies"]
        if strategy["name"] == name
        for s in strategy["samples"]
    ]
    return float(np.median(seconds)) if seconds else None


def _median_cell(ledger: Mapping[str, Any], name: str) -> str:
    seconds = _median(ledger, name)
    return "-" if seconds is None else number(seconds)


def _ratio(times: Mapping[str, Mapping[int, float]], name: str) -> Speedup | None:
    return speedup(times[name], times[LEARNED]) if name in times and LEARNED in times else None


def _ratio_cell(times: Mapping[str, Mapping[int, float]], name: str) -> str:
    result = _ratio(times, name)
    return (
        "-" if result is None or not result.compared else f"{result.mean:.2f} ({result.low:.2f} to {result.high:.2f})"
    )
