"""Figures of ledgers as inline SVG: text stays text, colours are those of the page, light or dark."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from lrsa_coupled.bench.page import INKS, OWN, Html, escape
from lrsa_coupled.bench.pictures import LEARNED

WIDTH = 5.2
"""Width of a figure [inch]: at full width of a phone the text keeps its size."""

COLOURS = {name: f"#0000{place:02x}" for place, name in enumerate(INKS, start=1)}
"""Stand-ins that no picture has by itself; the SVG has variables of the page in their places."""

_RC = {
    "svg.fonttype": "none", "svg.hashsalt": "ledger", "text.parse_math": False, "font.size": 9.0, "axes.linewidth": 0.6, "legend.frameon": False,
    "legend.fontsize": 8.5, "legend.handlelength": 1.6, "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
    "figure.facecolor": "none", "axes.facecolor": "none", "grid.linewidth": 0.5, "grid.color": COLOURS["line"], "axes.unicode_minus": False,
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), COLOURS["ink"]),
    **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), COLOURS["dim"]),
}  # fmt: skip

RIVALS = ("rival", "second", "third", "fourth", "fifth")
MARKERS = "osD^vP"


@dataclass(frozen=True)
class Curve:
    """A line with markers: its name in the legend, and its points."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


def strips(
    strategies: Sequence[Mapping[str, Any]], values: Sequence[Sequence[float]], *, label: str, logarithmic: bool
) -> Html:
    """Draw a row for each strategy: every sample, crosses where not solved, quartiles and median behind."""

    def draw(figure: Figure) -> None:
        axis = figure.subplots()
        for row, (strategy, numbers) in enumerate(zip(strategies, values, strict=True)):
            if numbers:
                _strip(axis, row, strategy, np.asarray(numbers, dtype=float))
        axis.set_yticks(range(len(strategies)), [strategy["name"] for strategy in strategies])
        axis.tick_params(axis="y", length=0)
        axis.set_ylim(len(strategies) - 0.5, -0.5)
        axis.grid(axis="x")
        axis.set_xlabel(label)
        if logarithmic:
            _logarithmic(axis.xaxis, _range(values))
        else:
            axis.set_xlim(0.0, 1.04 * max(_range(values)[1], 1.0))

    return _svg(draw, height=1.0 + 0.42 * len(strategies), label=f"{label} by strategy, one mark a sample")


def sorted_ratios(ratios: Mapping[str, Sequence[float]]) -> Html:
    """Draw the ratios of times to each rival, sorted, over the share of the samples."""

    def draw(figure: Figure) -> None:
        axis = figure.subplots()
        for (colour, marker), (name, numbers) in zip(_looks(ratios), ratios.items(), strict=True):
            y = np.sort(numbers)
            x = 100.0 * (np.arange(len(y)) + 0.5) / len(y)
            axis.plot(x, y, color=colour, marker=marker, markersize=3, linewidth=1.0, label=f"{name} ({len(y)})")
        axis.axhline(1.0, color=COLOURS["ink"], linewidth=1.0)
        axis.set_xlim(0.0, 100.0)
        axis.set_xlabel("samples [%], sorted for each rival")
        axis.set_ylabel("times sooner")
        _logarithmic(axis.yaxis, _range([*ratios.values(), [1.0]]))
        axis.grid(axis="y")
        _legend(figure, len(ratios))

    return _svg(draw, height=3.6, label="times sooner than each rival, sample by sample, sorted")


def paired(rival: str, pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> Html:
    """Draw the seconds of a rival and of the learned guess on the same samples, in the order of the rival's."""
    ordered = sorted(pairs, key=lambda pair: pair[0]["seconds"]["total"])

    def draw(figure: Figure) -> None:
        axis = figure.subplots()
        seconds = np.array([[sample["seconds"]["total"] for sample in pair] for pair in ordered])
        x = np.arange(len(ordered))
        axis.vlines(x, seconds.min(axis=1), seconds.max(axis=1), color=COLOURS["line"], linewidth=1.5)
        for column, (name, colour, marker) in enumerate(((rival, "rival", "o"), (LEARNED, "learned", "s"))):
            solved = np.array([pair[column]["solved"] for pair in ordered])
            axis.plot(
                x[solved],
                seconds[solved, column],
                marker,
                color=COLOURS[colour],
                markersize=3.5,
                markeredgewidth=0,
                label=name,
            )
            if not solved.all():
                axis.plot(
                    x[~solved],
                    seconds[~solved, column],
                    "x",
                    color=COLOURS[colour],
                    markersize=5,
                    label=f"{name}, not solved",
                )
        axis.set_xlim(-1, len(ordered))
        axis.xaxis.set_major_locator(NullLocator())
        axis.set_xlabel(f"samples, in the order of {rival}")
        axis.set_ylabel("time to solution [s]")
        _logarithmic(axis.yaxis, _range(seconds.tolist()))
        axis.grid(axis="y")
        _legend(figure, 4)

    return _svg(draw, height=3.6, label=f"time of {rival} and of the learned guess on each sample")


def scaling(curves: Sequence[Curve], *, x: str, y: str, guide: int = 0, level: float | None = None) -> Html:
    """Draw curves over sizes or ranks, all axes logarithmic.

    Args:
        curves: The curves.
        x: Name of the horizontal axis.
        y: Name of the vertical axis.
        guide: Slope of a dotted line through the start of the last curve; 0 for none.
        level: Value of a line across.
    """

    def draw(figure: Figure) -> None:
        axis = figure.subplots()
        for (colour, marker), curve in zip(_looks([curve.name for curve in curves]), curves, strict=True):
            axis.plot(curve.x, curve.y, color=colour, marker=marker, markersize=4.5, linewidth=1.2, label=curve.name)
        xs = np.unique([value for curve in curves for value in curve.x])
        ys = [*(curve.y for curve in curves), [] if level is None else [level]]
        if guide:
            first = int(np.argmin(curves[-1].x))
            line = curves[-1].y[first] * (xs / curves[-1].x[first]) ** guide
            axis.plot(
                xs, line, ":", color=COLOURS["dim"], linewidth=1.0, label=f"proportional to {'1 / ' * (guide < 0)}{x}"
            )
            ys.append(line.tolist())
        if level is not None:
            axis.axhline(level, color=COLOURS["ink"], linewidth=1.0)
        axis.set_xlabel(x)
        axis.set_ylabel(y)
        _logarithmic(axis.xaxis, (xs[0], xs[-1]))
        axis.set_xticks(xs, [f"{value:.6g}" for value in xs])
        _logarithmic(axis.yaxis, _range(ys))
        axis.grid(axis="y")
        _legend(figure, len(curves) + bool(guide))

    return _svg(draw, height=3.8, label=f"{y} over {x}")


def _strip(axis: Axes, row: int, strategy: Mapping[str, Any], numbers: npt.NDArray[np.float64]) -> None:
    colour = COLOURS["learned" if strategy["name"] == LEARNED else "rival"]
    low, middle, high = np.quantile(numbers, [0.25, 0.5, 0.75])
    axis.fill_betweenx([row - 0.34, row + 0.34], low, high, color=COLOURS["line"], linewidth=0)
    axis.vlines(middle, row - 0.34, row + 0.34, color=COLOURS["ink"], linewidth=1.5)
    solved = np.array([sample["solved"] for sample in strategy["samples"]])
    y = row + 0.2 * np.sin(2.4 * np.arange(len(numbers)))
    axis.plot(numbers[solved], y[solved], "o", color=colour, markersize=3.5, alpha=0.65, markeredgewidth=0)
    axis.plot(numbers[~solved], y[~solved], "x", color=COLOURS["failed"], markersize=5)


def _looks(names: Sequence[str] | Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return colour and marker of each name: the learned guess has its own."""
    rivals = [name for name in names if name != LEARNED]
    places = {name: place for place, name in enumerate(rivals)}
    return [
        (COLOURS["learned"], "*")
        if name == LEARNED
        else (COLOURS[RIVALS[places[name] % len(RIVALS)]], MARKERS[places[name] % len(MARKERS)])
        for name in names
    ]


def _range(values: Sequence[Sequence[float]]) -> tuple[float, float]:
    numbers = [number for part in values for number in part]
    return (min(numbers), max(numbers)) if numbers else (1.0, 1.0)


def _logarithmic(axis: Axis, limits: tuple[float, float]) -> None:
    """Make an axis logarithmic with plain numbers at ticks as many as there is room for, and a margin at the ends."""
    low, high = limits
    margin = max(1.12, (high / low) ** 0.05)
    if axis.axis_name == "x":
        axis.axes.set_xscale("log")
        axis.axes.set_xlim(low / margin, high * margin)
    else:
        axis.axes.set_yscale("log")
        axis.axes.set_ylim(low / margin, high * margin)
    subs = (1.0, 2.0, 5.0) if high / low > 4.0 else (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)
    axis.set_major_locator(LogLocator(subs=subs) if high / low < 1e4 else LogLocator())
    axis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:g}"))
    axis.set_minor_formatter(NullFormatter())
    axis.set_minor_locator(NullLocator())


def _legend(figure: Figure, count: int) -> None:
    figure.legend(loc="outside upper left", ncols=2 if count > 1 else 1)


def _svg(draw: Callable[[Figure], None], *, height: float, label: str) -> Html:
    """Draw on a figure and return it as an ``svg`` element."""
    with matplotlib.rc_context(_RC):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        draw(figure)
        buffer = io.StringIO()
        FigureCanvasSVG(figure).print_svg(buffer, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return _inline(buffer.getvalue(), label)


def _inline(text: str, label: str) -> Html:
    """Return the ``svg`` element of a file fit for a page: its variables for colours, its font, identifiers that ``document`` makes unique."""
    text = text[text.index("<svg") :]
    box = re.search(r'viewBox="([^"]*)"', text)
    assert box is not None
    body = re.sub(r"\s*<metadata>.*?</metadata>", "", text[text.index(">") + 1 :], flags=re.DOTALL)
    used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', body))
    body = re.sub(r' id="([^"]*)"', lambda m: f' id="{OWN}{m[1]}"' if m[1] in used else "", body)
    body = re.sub(r'(url\(#|href="#)', rf"\1{OWN}", body).replace("xlink:href", "href")
    body = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", body)
    for name, stand_in in COLOURS.items():
        body = body.replace(stand_in, f"var(--{name})")
    return Html(f'<svg viewBox="{box[1]}" role="img" aria-label="{escape(label)}">{body.rstrip()}')
