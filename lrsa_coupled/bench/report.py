"""Reports of a ledger: a table for the terminal, a JSON file, PNG pictures.

Ratios are geometric means over the samples that both strategies solved; times are medians over all samples, failed ones as they are.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from lrsa_coupled.bench.pictures import LEARNED, fields_figure, save_figure
from lrsa_coupled.files import write_text_atomically

if TYPE_CHECKING:
    from lrsa_coupled.bench.ledger import BenchRun

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
    rivals = [name for name in times if name != LEARNED]
    return min(rivals, key=lambda name: (-len(times[name]), np.mean(np.log([*times[name].values()] or [1.0]))))


def oracle_times(times: Mapping[str, Mapping[int, float]]) -> dict[int, float]:
    """Return the least time among the rivals, sample by sample: a bound that no rival can know in advance."""
    best: dict[int, float] = {}
    for name, rival in times.items():
        if name != LEARNED:
            best |= {index: min(seconds, best.get(index, seconds)) for index, seconds in rival.items()}
    return best


def table(ledger: Mapping[str, Any]) -> str:
    """Format a ledger for the terminal: costs by strategy, speed-ups of the learned guess, failures and fall-backs."""
    times = solved_times(ledger)
    parts = [_heading(ledger), align(_cost_rows(ledger))]
    if LEARNED in times and len(times) > 1:
        parts.append(align(_speedup_rows(times)))
    return "\n\n".join(part for part in [*parts, _remarks(ledger)] if part)


def write_json(ledger: Mapping[str, Any], path: Path) -> None:
    """Write a ledger by atomic rename. Call on one rank.

    Raises:
        ValueError: If the ledger holds a number that is not finite.
        OSError: If the file cannot be written.
    """
    write_text_atomically(path, json.dumps(ledger, indent=1, allow_nan=False) + "\n")


def pictures(run: BenchRun, folder: Path) -> list[Path]:
    """Write ``fields.png`` (truth, learned start, error) and ``strategies.png`` (iterations and time). Call on one rank."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [save_figure(_strategies_figure(run.ledger), folder / "strategies.png")]
    if run.example is not None:
        paths.insert(0, save_figure(fields_figure(run.example), folder / "fields.png"))
    return paths


def _heading(ledger: Mapping[str, Any]) -> str:
    count = max((len(strategy["samples"]) for strategy in ledger["strategies"]), default=0)
    ranks = ledger["ranks"]
    return (
        f"{ledger['case']}: {count} unseen sample{'s' * (count != 1)} (seed {ledger['seed']}), resolution {ledger['resolution']}, "
        f"{ranks} rank{'s' * (ranks != 1)}, residual reduced by {ledger['tolerance']:.0e}"
    )


def _cost_rows(ledger: Mapping[str, Any]) -> list[list[str]]:
    rows = [["strategy", "solved", "iterations", "(median)", *(f"{s} [s]" for s in STAGES), "start/solve", "start error"]]
    for strategy in ledger["strategies"]:
        samples = strategy["samples"]
        if not samples:
            rows.append([strategy["name"], "0/0", *["-"] * 8])
            continue
        seconds = {stage: np.array([s["seconds"][stage] for s in samples]) for stage in STAGES}
        start = seconds["transfer"] + seconds["inference"]
        share = f"{100 * np.median(start / seconds['solve']):.1f} %" if start.any() else "-"
        errors = [s["relative_error"] for s in samples if s["relative_error"] is not None]
        iterations = [s["iterations"] for s in samples]
        rows.append([
            strategy["name"], f"{sum(s['solved'] for s in samples)}/{len(samples)}",
            f"{np.mean(iterations):.2f}", f"{np.median(iterations):g}",
            *(_number(float(np.median(seconds[stage]))) for stage in STAGES),
            share, f"{100 * np.mean(errors):.2f} %" if errors else "-",
        ])  # fmt: skip
    return rows


def _speedup_rows(times: Mapping[str, Mapping[int, float]]) -> list[list[str]]:
    best = best_rival(times)
    rivals = {name: rival for name, rival in times.items() if name != LEARNED}
    rivals[f"best rival overall ({best})"] = times[best]
    rivals["best rival of each sample (oracle)"] = oracle_times(times)
    rows = [[f"{LEARNED} against", "times sooner", "least", "most", "losses", "compared"]]
    for name, rival in rivals.items():
        result = speedup(rival, times[LEARNED])
        ratios = [f"{value:.2f}" if result.compared else "-" for value in (result.mean, result.low, result.high)]
        rows.append([name, *ratios, str(result.losses), str(result.compared)])
    return rows


def _remarks(ledger: Mapping[str, Any]) -> str:
    lines = []
    for strategy in ledger["strategies"]:
        failed = Counter(s.get("reason") or "no reason given" for s in strategy["samples"] if not s["solved"])
        lines += [f"{strategy['name']}: failed on {count} ({reason})" for reason, count in failed.items()]
        fallbacks = sum(bool(s.get("used_fallback")) for s in strategy["samples"])
        if fallbacks:
            lines.append(f"{strategy['name']}: the classical strategy took over on {fallbacks} of {len(strategy['samples'])}")
    return "\n".join(lines)


def _number(value: float) -> str:
    return "0" if value == 0.0 else f"{value:.4f}" if value < 0.1 else f"{value:.3f}" if value < 10.0 else f"{value:.1f}"


def align(rows: Sequence[Sequence[str]]) -> str:
    """Format rows as a table: a heading, the first column to the left, the others to the right."""
    widths = [max(len(row[j]) for row in rows) for j in range(len(rows[0]))]
    lines = ["  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]) for row in rows]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _strategies_figure(ledger: Mapping[str, Any]) -> Figure:
    strategies = ledger["strategies"]
    figure = Figure(figsize=(11.0, 1.4 + 0.55 * len(strategies)), layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2, sharey=True)
    _strip(left, strategies, [[s["iterations"] for s in strategy["samples"]] for strategy in strategies])
    _strip(right, strategies, [[s["seconds"]["total"] for s in strategy["samples"]] for strategy in strategies])
    left.set_xlabel("iterations")
    left.set_xlim(left=0)
    right.set_xlabel("time to solution, everything counted [s]")
    right.set_xscale("log")
    right.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    right.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    right.xaxis.set_minor_formatter(NullFormatter())
    if not all(s["solved"] for strategy in strategies for s in strategy["samples"]):
        cross = Line2D([], [], color="tab:red", marker="x", linestyle="", label="not solved")
        right.legend(handles=[cross], loc="lower right", bbox_to_anchor=(1.0, 0.98), frameon=False)
    left.set_yticks(range(len(strategies)), [strategy["name"] for strategy in strategies])
    left.invert_yaxis()
    figure.suptitle(_heading(ledger), fontsize=10)
    return figure


def _strip(axis: Axes, strategies: Sequence[Mapping[str, Any]], values: Sequence[Sequence[float]]) -> None:
    """Draw a box (quartiles, median) and the samples of every strategy; crosses are samples that were not solved."""
    for row, (strategy, numbers) in enumerate(zip(strategies, values, strict=True)):
        if not numbers:
            continue
        solved = np.array([s["solved"] for s in strategy["samples"]])
        colour = "tab:orange" if strategy["name"] == LEARNED else "tab:blue"
        axis.boxplot([numbers], positions=[row], orientation="horizontal", widths=0.55, showfliers=False, manage_ticks=False,
                     medianprops={"color": "black"}, boxprops={"color": "0.6"}, whiskerprops={"color": "0.6"},
                     capprops={"color": "0.6"})  # fmt: skip
        x, y = np.array(numbers, dtype=float), row + 0.18 * np.sin(2.4 * np.arange(len(numbers)))
        axis.plot(x[solved], y[solved], "o", color=colour, markersize=4, alpha=0.6, markeredgewidth=0)
        axis.plot(x[~solved], y[~solved], "x", color="tab:red", markersize=6)
    axis.grid(axis="x", which="both", linewidth=0.3)
    axis.spines[["top", "right"]].set_visible(False)
