"""Several results side by side: time and speed-up of each method over the size of the problem and over ranks."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lrsa_coupled.bench.compare import LEARNED, speedup
from lrsa_coupled.bench.report import Table, align, number, plural, table
from lrsa_coupled.bench.rows import Results

type Group = Sequence[Results]

SAME = ("seed", "rtol", "versions", "machine")
"""Entries of the header that results of one case should share when they are compared."""


@dataclass(frozen=True)
class Curve:
    """A line with markers: its name in the legend, and its points."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class Series:
    """Results of one case that differ in size alone, or in the number of ranks alone.

    Args:
        title: What they share.
        x: Name of what differs.
        values: Its value in each of the results, ascending.
        results: The results.
        slope: Exponent of the time of a perfect solver over ``x``; None when there is none.
    """

    title: str
    x: str
    values: Sequence[float]
    results: Group
    slope: int | None


def by_case(group: Group) -> dict[str, list[Results]]:
    """Return the results of each case, by size and then by ranks."""
    ordered = sorted(group, key=lambda results: (results.header.resolution or 0, results.header.ranks))
    cases = dict.fromkeys(results.header.case for results in group)
    return {case: [results for results in ordered if results.header.case == case] for case in cases}


def side_by_side_text(group: Group) -> str:
    """Format results for the terminal: each by itself, then those of a case side by side."""
    parts = [f"{table(results)}\n" for results in group]
    for case, some in by_case(group).items():
        if len(some) > 1:
            parts += [f"{case}: median time [s]", align(time_rows(some))]
            parts += [f"{case}: speed-up (least to most)", align(speedup_table(some)), caution(some)]
    return "\n\n".join(part for part in parts if part)


def caution(group: Group) -> str:
    """Say in what the results of a case differ besides size and ranks; empty when in nothing."""
    found = []
    for name in SAME:
        values = [getattr(results.header, name) for results in group]
        if any(value != values[0] for value in values):
            shown = "" if isinstance(values[0], dict) else f" ({', '.join(map(str, values))})"
            found.append(f"{name}{shown}")
    indices = [sorted(row.sample for row in next(iter(results.methods.values()), [])) for results in group]
    found += ["samples"] if any(numbers != indices[0] for numbers in indices) else []
    return f"These results differ in more than size and ranks: {', '.join(found)}." if found else ""


def time_rows(group: Group) -> Table:
    """Return a table of median seconds of each method, for results of one case."""
    return _rows(group, _names(group), lambda results, name: _format(_median(results, name), number))


def speedup_table(group: Group) -> Table:
    """Return a table of the speed-ups of the learned guess, for results of one case."""

    def cell(results: Results, name: str) -> str:
        times = results.solved_times
        result = speedup(times.get(name, {}), times.get(LEARNED, {}))
        return f"{result.mean:.2f} ({result.low:.2f} to {result.high:.2f})" if result.compared else "-"

    return _rows(group, [name for name in _names(group) if name != LEARNED], cell)


def series_of(group: Group) -> list[Series]:
    """Return what can be drawn of the results of one case: sizes at a fixed number of ranks, ranks at a fixed size."""
    found = []
    sized = all(results.unknowns for results in group)

    def size(results: Results) -> float:
        return float(np.median(results.unknowns)) if sized else float(results.header.resolution or 0)

    def ranks(results: Results) -> int:
        return results.header.ranks

    def resolution(results: Results) -> int:
        return results.header.resolution or 0

    for count, some in itertools.groupby(sorted(group, key=ranks), key=ranks):
        name, slope = ("unknowns", 1) if sized else ("resolution", None)
        found += _series(f"{count} {plural(count, 'rank')}", name, list(some), value=size, slope=slope)
    for value, some in itertools.groupby(sorted(group, key=resolution), key=resolution):
        found += _series(f"resolution {value}", "ranks", list(some), value=ranks, slope=-1)
    return found


def time_curves(series: Series) -> list[Curve]:
    """Return the median time of each method, the learned guess last."""
    return _curves(series, _names(series.results), _median)


def speedup_curves(series: Series) -> list[Curve]:
    """Return the speed-up of the learned guess over each other method."""

    def ratio(results: Results, name: str) -> float | None:
        times = results.solved_times
        result = speedup(times.get(name, {}), times.get(LEARNED, {}))
        return result.mean if result.compared else None

    return _curves(series, [name for name in _names(series.results) if name != LEARNED], ratio)


def _rows(group: Group, names: Sequence[str], cell: Callable[[Results, str], str]) -> Table:
    rows = [["resolution", "unknowns", "ranks", "samples", *names]]
    for results in group:
        header = results.header
        size = f"{np.median(results.unknowns):.0f}" if results.unknowns else "-"
        cells = [str(header.resolution), size, str(header.ranks), str(results.num_samples)]
        rows.append([*cells, *(cell(results, name) for name in names)])
    return rows


def _names(group: Group) -> list[str]:
    """Return the methods of any of the results, the learned guess last."""
    names = dict.fromkeys(name for results in group for name in results.methods)
    return sorted(names, key=lambda name: name == LEARNED)


def _series(title: str, x: str, group: Group, *, value: Callable[[Results], float], slope: int | None) -> list[Series]:
    ordered = sorted(group, key=value)
    values = [value(results) for results in ordered]
    return [Series(title, x, values, ordered, slope)] if len(set(values)) > 1 else []


def _curves(series: Series, names: Sequence[str], y: Callable[[Results, str], float | None]) -> list[Curve]:
    curves = []
    for name in names:
        points = [(x, y(results, name)) for x, results in zip(series.values, series.results, strict=True)]
        known = [(x, value) for x, value in points if value is not None]
        if known:
            curves.append(Curve(name, [x for x, _ in known], [value for _, value in known]))
    return curves


def _median(results: Results, name: str) -> float | None:
    seconds = [row.seconds.total for row in results.methods.get(name, [])]
    return float(np.median(seconds)) if seconds else None


def _format(value: float | None, form: Callable[[float], str]) -> str:
    return "-" if value is None else form(value)
