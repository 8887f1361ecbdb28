"""Figures of results, each drawn on axes of matplotlib."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from lrsa_coupled.bench.compare import LEARNED, best_baseline
from lrsa_coupled.bench.rows import Results, Row

COLOURS = {"learned": "#b45309", "failed": "#c2202b", "line": "#d5dae0", "ink": "#1b1f24", "dim": "#57606a"}
BASELINES = (("#2f6db3", "o"), ("#0f7a5c", "s"), ("#8a3f9c", "D"), ("#5c6b00", "^"), ("#00727a", "v"))
"""Colours and markers of the baselines, in turn."""

_RC: Any = {
    "svg.fonttype": "none", "svg.hashsalt": "results", "text.parse_math": False, "font.size": 9.0,
    "axes.linewidth": 0.6, "legend.frameon": False, "legend.fontsize": 8.5, "legend.handlelength": 1.6,
    "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True, "axes.unicode_minus": False,
    "figure.facecolor": "white", "grid.linewidth": 0.5, "grid.color": COLOURS["line"],
}  # fmt: skip


def methods_figure(results: Results, title: str) -> Figure:
    """Draw iterations and time of every sample by method, side by side."""
    with matplotlib.rc_context(_RC):
        figure = Figure(figsize=(11.0, 1.4 + 0.55 * len(results.methods)), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        iterations(left, results)
        seconds(right, results)
        figure.suptitle(title, fontsize=10)
    return figure


def seconds(axis: Axes, results: Results) -> None:
    """Draw the time to solution of every sample by method."""
    _strips(axis, results, lambda row: row.seconds.total)
    axis.set_xlabel("time to solution, everything counted [s]")
    logarithmic(axis.xaxis)


def iterations(axis: Axes, results: Results) -> None:
    """Draw the iterations of every sample by method."""
    _strips(axis, results, lambda row: float(row.iterations))
    axis.set_xlabel("iterations")
    axis.set_xlim(0.0, max(1.0, axis.get_xlim()[1]))


def sorted_ratios(axis: Axes, ratios: Mapping[str, Sequence[float]]) -> None:
    """Draw the ratios of times to each baseline, sorted, over the share of the samples."""
    for (colour, marker), (name, numbers) in zip(_looks(ratios), ratios.items(), strict=True):
        x = 100.0 * (np.arange(len(numbers)) + 0.5) / len(numbers)
        label = f"{name} ({len(numbers)})"
        axis.plot(x, np.sort(numbers), color=colour, marker=marker, markersize=3, linewidth=1.0, label=label)
    axis.axhline(1.0, color=COLOURS["ink"], linewidth=1.0)
    axis.set(xlim=(0.0, 100.0), xlabel="samples [%], sorted for each baseline", ylabel="speed-up")
    logarithmic(axis.yaxis)


def study(axis: Axes, curves: Mapping[str, Sequence[float]]) -> None:
    """Draw the wall time of a study over the number of solves that are finished, by method."""
    for (colour, _), (name, times) in zip(_looks(curves), curves.items(), strict=True):
        axis.plot(range(len(times) + 1), [0.0, *times], color=colour, linewidth=1.4, label=name)
    axis.set(xlabel="solves", ylabel="wall time, everything counted [s]")
    axis.set_xlim(left=0.0)
    axis.set_ylim(bottom=0.0)
    axis.grid(visible=True)


def study_figure(curves: Mapping[str, Sequence[float]], title: str) -> Figure:
    """Draw the wall time of a study."""
    with matplotlib.rc_context(_RC):
        figure = Figure(figsize=(7.0, 4.5), layout="constrained")
        axis = figure.subplots()
        study(axis, curves)
        axis.legend()
        figure.suptitle(title, fontsize=10)
    return figure


def paired(axis: Axes, results: Results) -> None:
    """Draw the seconds of the best baseline and of the learned guess on the same samples, sorted by the former."""
    best = best_baseline(results.solved_times)
    learned = {row.sample: row for row in results.methods[LEARNED]}
    shared = (row for row in results.methods[best] if row.sample in learned)
    ordered = sorted(shared, key=lambda row: row.seconds.total)
    columns = {best: ordered, LEARNED: [learned[row.sample] for row in ordered]}
    times = np.array([[row.seconds.total for row in rows] for rows in columns.values()])
    x = np.arange(len(ordered))
    axis.vlines(x, times.min(axis=0), times.max(axis=0), color=COLOURS["line"], linewidth=1.5)
    for (colour, marker), (name, rows), y in zip(_looks(columns), columns.items(), times, strict=True):
        solved = np.array([row.solved for row in rows])
        axis.plot(x[solved], y[solved], marker, color=colour, markersize=4, markeredgewidth=0, label=name)
        if not solved.all():
            axis.plot(x[~solved], y[~solved], "x", color=colour, markersize=5, label=f"{name}, not solved")
    axis.set_xticks([])
    axis.set(xlim=(-1, len(ordered)), xlabel=f"samples, in the order of {best}", ylabel="time to solution [s]")
    logarithmic(axis.yaxis)


def scaling(
    axis: Axes,
    curves: Mapping[str, Mapping[float, float]],
    x: str,
    *,
    y: str,
    slope: int | None = None,
    level: float | None = None,
) -> None:
    """Draw curves over sizes or ranks, all axes logarithmic, and two lines if given.

    Args:
        axis: Where to draw.
        curves: Points of each curve.
        x: Name of the horizontal axis.
        y: Name of the vertical axis.
        slope: Of a dotted line through the first point of the last curve.
        level: Value of a line across.
    """
    for (colour, marker), (name, points) in zip(_looks(curves), curves.items(), strict=True):
        axis.plot([*points], [*points.values()], color=colour, marker=marker, markersize=4.5, label=name)
    xs = np.unique([place for points in curves.values() for place in points])
    if level is not None:
        axis.axhline(level, color=COLOURS["ink"], linewidth=1.0)
    if slope is not None:
        first, value = min([*curves.values()][-1].items())
        label = f"proportional to {'1 / ' * (slope < 0)}{x}"
        axis.plot(xs, value * (xs / first) ** slope, ":", color=COLOURS["dim"], linewidth=1.0, label=label)
    axis.set(xlabel=x, ylabel=y)
    logarithmic(axis.xaxis)
    axis.set_xticks(xs, [f"{value:.6g}" for value in xs])
    logarithmic(axis.yaxis)


def svg(draw: Callable[[Axes], None], *, height: float = 3.6) -> str:
    """Draw on a figure of a height [inch], in whose width text is read on a phone; return it as an ``svg`` element."""
    with matplotlib.rc_context(_RC):
        figure = Figure(figsize=(5.2, height), layout="constrained")
        axis = figure.subplots()
        draw(axis)
        if axis.get_legend_handles_labels()[0]:
            figure.legend(loc="outside upper left", ncols=2)
        buffer = io.StringIO()
        FigureCanvasSVG(figure).print_svg(buffer, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def unique_ids(svg: str, prefix: str) -> str:
    """Return a figure whose identifiers begin with a prefix, so that several can stand on a page."""
    return re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{prefix}-", svg)


def _strips(axis: Axes, results: Results, value: Callable[[Row], float]) -> None:
    """Draw a row for each method: every sample, crosses where not solved, quartiles and median behind."""
    methods = results.methods
    for place, (name, rows) in enumerate(methods.items()):
        numbers, solved = np.array([value(row) for row in rows]), np.array([row.solved for row in rows])
        colour = COLOURS["learned"] if name == LEARNED else BASELINES[0][0]
        low, middle, high = np.quantile(numbers, [0.25, 0.5, 0.75])
        axis.fill_betweenx([place - 0.34, place + 0.34], low, high, color=COLOURS["line"], linewidth=0)
        axis.vlines(middle, place - 0.34, place + 0.34, color=COLOURS["ink"], linewidth=1.5)
        y = place + 0.2 * np.sin(2.4 * np.arange(len(numbers)))
        axis.plot(numbers[solved], y[solved], "o", color=colour, markersize=3.5, alpha=0.65, markeredgewidth=0)
        axis.plot(numbers[~solved], y[~solved], "x", color=COLOURS["failed"], markersize=5)
    axis.set_yticks(range(len(methods)), list(methods))
    axis.tick_params(axis="y", length=0)
    axis.set_ylim(len(methods) - 0.5, -0.5)
    axis.grid(axis="x")


def _looks(names: Iterable[str]) -> list[tuple[str, str]]:
    """Return colour and marker of each name: the learned guess has its own."""
    turns = itertools.cycle(BASELINES)
    return [(COLOURS["learned"], "p") if name == LEARNED else next(turns) for name in names]


def logarithmic(axis: Axis) -> None:
    """Make an axis logarithmic with plain numbers at ticks as many as there is room for."""
    if axis is axis.axes.xaxis:
        axis.axes.set_xscale("log")
    else:
        axis.axes.set_yscale("log")
    low, high = axis.get_view_interval()
    subs = (1.0, 2.0, 5.0) if high / low > 4.0 else (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)
    axis.set_major_locator(LogLocator(subs=subs) if high / low < 1e4 else LogLocator())
    axis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:g}"))
    axis.set_minor_locator(NullLocator())
    axis.grid(visible=True)
