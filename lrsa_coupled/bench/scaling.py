"""Several results side by side: time and speed-up of each method over the size of the problem and over ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lrsa_coupled.bench.compare import LEARNED, speedups
from lrsa_coupled.bench.report import Table, align, counted, number, table
from lrsa_coupled.bench.rows import Results

type Group = Sequence[Results]


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

    def curves(self, values: Callable[[Results], Mapping[str, float]]) -> dict[str, dict[float, float]]:
        """Return the numbers of each method over ``x``, where known."""
        found: dict[str, dict[float, float]] = {}
        for x, results in self.results.items():
            for name, value in values(results).items():
                found.setdefault(name, {})[x] = value
        return {name: found[name] for name in _learned_last(found)}


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
            ratios = speedup_table(some)
            parts += [f"{case}: speed-up (least to most)", align(ratios)] if ratios else []
            parts.append(caution(some))
    return "\n\n".join(part for part in parts if part)


def caution(group: Group) -> str:
    """Say in what the results of a case differ besides size and ranks; empty when in nothing."""
    found = []
    for name in ("seed", "rtol", "versions", "machine"):
        values = [getattr(results.header, name) for results in group]
        if any(value != values[0] for value in values):
            found.append(name if isinstance(values[0], dict) else f"{name} ({', '.join(map(str, values))})")
    indices = [sorted(row.sample for row in next(iter(results.methods.values()), [])) for results in group]
    found += ["samples"] if any(numbers != indices[0] for numbers in indices) else []
    return f"These results differ in more than size and ranks: {', '.join(found)}." if found else ""


def time_rows(group: Group) -> Table:
    """Return a table of median seconds of each method, for results of one case."""
    return _rows(group, lambda results: {name: number(seconds) for name, seconds in median_times(results).items()})


def speedup_table(group: Group) -> Table:
    """Return a table of the speed-ups of the learned guess, for results of one case; empty without any."""

    def cells(results: Results) -> dict[str, str]:
        compared = {name: found for name, found in speedups(results.solved_times).items() if found.ratios}
        return {n: f"{s.mean:.2f} ({min(s.ratios):.2f} to {max(s.ratios):.2f})" for n, s in compared.items()}

    return _rows(group, cells) if any(map(mean_speedups, group)) else []


def series_of(group: Group) -> list[Series]:
    """Return what can be drawn of the results of one case: sizes at a fixed number of ranks, ranks at a fixed size."""
    sized = all(results.unknowns for results in group)
    x, slope = ("unknowns", 1) if sized else ("resolution", None)
    found = []
    for ranks in sorted({results.header.ranks for results in group}):
        some = [results for results in group if results.header.ranks == ranks]
        sizes = {float(np.median(r.unknowns)) if sized else float(r.header.resolution or 0): r for r in some}
        found.append(Series(counted(ranks, "rank"), x, dict(sorted(sizes.items())), slope))
    for resolution in sorted({results.header.resolution or 0 for results in group}):
        counts = {float(r.header.ranks): r for r in group if (r.header.resolution or 0) == resolution}
        found.append(Series(f"resolution {resolution}", "ranks", dict(sorted(counts.items())), -1))
    return [series for series in found if len(series.results) > 1]


def median_times(results: Results) -> dict[str, float]:
    """Return the median total seconds of each method."""
    return {name: float(np.median([row.seconds.total for row in rows])) for name, rows in results.methods.items()}


def mean_speedups(results: Results) -> dict[str, float]:
    """Return the speed-up of the learned guess over each method, where they solve a sample in common."""
    return {name: found.mean for name, found in speedups(results.solved_times).items() if found.ratios}


def _rows(group: Group, cells: Callable[[Results], Mapping[str, str]]) -> Table:
    found = [cells(results) for results in group]
    names = _learned_last(dict.fromkeys(name for some in found for name in some))
    rows = [["resolution", "unknowns", "ranks", "samples", *names]]
    for results, some in zip(group, found, strict=True):
        header = results.header
        size = f"{np.median(results.unknowns):.0f}" if results.unknowns else "-"
        place = [str(header.resolution), size, str(header.ranks), str(results.num_samples)]
        rows.append([*place, *(some.get(name, "-") for name in names)])
    return rows


def _learned_last(names: Iterable[str]) -> list[str]:
    return sorted(names, key=lambda name: name == LEARNED)
