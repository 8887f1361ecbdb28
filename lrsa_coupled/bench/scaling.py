"""Several results side by side: time and speed-up of each method over the size of the problem and over ranks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lrsa_coupled.bench.compare import LEARNED, Speedup, speedup
from lrsa_coupled.bench.report import Table, align, number, plural, table
from lrsa_coupled.bench.rows import Results

type Group = Sequence[Results]
type Value = Callable[[Results, str], float | None]
"""A number of a method, None when it is not known."""

SAME = ("seed", "rtol", "versions", "machine")
"""Entries of the header that results of one case should share when they are compared."""


@dataclass(frozen=True)
class Series:
    """Results of one case that differ in size alone, or in the number of ranks alone.

    Args:
        title: What they share.
        x: Name of what differs.
        results: By its value, ascending.
        slope: Exponent of the time of a perfect solver over ``x``; None when there is none.
    """

    title: str
    x: str
    results: Mapping[float, Results]
    slope: int | None

    def curves(self, y: Value) -> dict[str, dict[float, float]]:
        """Return the numbers of each method over ``x``, where known."""
        names = _names([*self.results.values()])
        points = {name: {x: y(results, name) for x, results in self.results.items()} for name in names}
        known = {name: {x: v for x, v in some.items() if v is not None} for name, some in points.items()}
        return {name: some for name, some in known.items() if some}


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
            found.append(name if isinstance(values[0], dict) else f"{name} ({', '.join(map(str, values))})")
    indices = [sorted(row.sample for row in next(iter(results.methods.values()), [])) for results in group]
    found += ["samples"] if any(numbers != indices[0] for numbers in indices) else []
    return f"These results differ in more than size and ranks: {', '.join(found)}." if found else ""


def time_rows(group: Group) -> Table:
    """Return a table of median seconds of each method, for results of one case."""

    def cell(results: Results, name: str) -> str:
        seconds = median_time(results, name)
        return "-" if seconds is None else number(seconds)

    return _rows(group, _names(group), cell)


def speedup_table(group: Group) -> Table:
    """Return a table of the speed-ups of the learned guess, for results of one case."""

    def cell(results: Results, name: str) -> str:
        found = _speedup(results, name)
        return f"{found.mean:.2f} ({found.low:.2f} to {found.high:.2f})" if found.compared else "-"

    return _rows(group, [name for name in _names(group) if name != LEARNED], cell)


def series_of(group: Group) -> list[Series]:
    """Return what can be drawn of the results of one case: sizes at a fixed number of ranks, ranks at a fixed size."""
    sized = all(results.unknowns for results in group)
    x, slope = ("unknowns", 1) if sized else ("resolution", None)
    found = []
    for ranks in sorted({results.header.ranks for results in group}):
        some = [results for results in group if results.header.ranks == ranks]
        sizes = {float(np.median(r.unknowns)) if sized else float(r.header.resolution or 0): r for r in some}
        found.append(Series(f"{ranks} {plural(ranks, 'rank')}", x, dict(sorted(sizes.items())), slope))
    for resolution in sorted({results.header.resolution or 0 for results in group}):
        counts = {float(r.header.ranks): r for r in group if (r.header.resolution or 0) == resolution}
        found.append(Series(f"resolution {resolution}", "ranks", dict(sorted(counts.items())), -1))
    return [series for series in found if len(series.results) > 1]


def median_time(results: Results, name: str) -> float | None:
    """Return the median total seconds of a method."""
    seconds = [row.seconds.total for row in results.methods.get(name, [])]
    return float(np.median(seconds)) if seconds else None


def mean_speedup(results: Results, name: str) -> float | None:
    """Return the speed-up of the learned guess over a method."""
    found = _speedup(results, name)
    return found.mean if found.compared and name != LEARNED else None


def _speedup(results: Results, name: str) -> Speedup:
    times = results.solved_times
    return speedup(times.get(name, {}), times.get(LEARNED, {}))


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
