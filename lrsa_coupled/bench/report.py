"""Reports of a ledger: a table for the terminal, a JSON file, PNG pictures.

Ratios are geometric means over the samples that both strategies solved; times are medians over all samples, failed ones as they are.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from lrsa_coupled.bench.breakeven import break_even_note, break_even_rows
from lrsa_coupled.bench.compare import STAGES, best_rival, oracle_times, rivals_of, solved_times, speedup
from lrsa_coupled.bench.pictures import LEARNED, fields_figure, save_figure
from lrsa_coupled.files import write_text_atomically

if TYPE_CHECKING:
    from lrsa_coupled.bench.ledger import BenchRun


def table(ledger: Mapping[str, Any]) -> str:
    """Format a ledger for the terminal: costs by strategy, speed-ups of the learned guess, break-even, failures and fall-backs."""
    parts = [heading(ledger), align(cost_rows(ledger))]
    if rows := speedup_rows(solved_times(ledger)):
        parts += [align(rows), f"{align(break_even_rows(ledger))}\n{break_even_note(ledger)}"]
    return "\n\n".join([*parts, *filter(None, ["\n".join(remarks(ledger))])])


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


def heading(ledger: Mapping[str, Any]) -> str:
    """Say what was measured, in a line."""
    count = max((len(strategy["samples"]) for strategy in ledger["strategies"]), default=0)
    ranks = ledger["ranks"]
    return (
        f"{ledger['case']}: {count} unseen sample{'s' * (count != 1)} (seed {ledger['seed']}), resolution {ledger['resolution']}, "
        f"{ranks} rank{'s' * (ranks != 1)}, residual reduced by {ledger['tolerance']:.0e}"
    )


def cost_rows(ledger: Mapping[str, Any]) -> list[list[str]]:
    """Return the rows of a table of costs by strategy, the first of which is its heading."""
    rows = [
        ["strategy", "solved", "iterations", "(median)", *(f"{s} [s]" for s in STAGES), "start/solve", "start error"]
    ]
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
            *(number(float(np.median(seconds[stage]))) for stage in STAGES),
            share, f"{100 * np.mean(errors):.2f} %" if errors else "-",
        ])  # fmt: skip
    return rows


def speedup_rows(times: Mapping[str, Mapping[int, float]]) -> list[list[str]]:
    """Return the rows of a table of speed-ups, the first of which is its heading; none without a learned guess or a rival."""
    if LEARNED not in times or not rivals_of(times):
        return []
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


def remarks(ledger: Mapping[str, Any]) -> list[str]:
    """Say what failed and why, and what the classical strategy took over."""
    lines = []
    for strategy in ledger["strategies"]:
        failed = Counter(s.get("reason") or "no reason given" for s in strategy["samples"] if not s["solved"])
        lines += [f"{strategy['name']}: failed on {count} ({reason})" for reason, count in failed.items()]
        fallbacks = sum(bool(s.get("used_fallback")) for s in strategy["samples"])
        if fallbacks:
            lines.append(
                f"{strategy['name']}: the classical strategy took over on {fallbacks} of {len(strategy['samples'])}"
            )
    return [*lines, *ledger.get("gate", {}).get("summary", "").splitlines()]


def number(value: float) -> str:
    """Format seconds."""
    return (
        "0" if value == 0.0 else f"{value:.4f}" if value < 0.1 else f"{value:.3f}" if value < 10.0 else f"{value:.1f}"
    )


def align(rows: Sequence[Sequence[str]]) -> str:
    """Format rows as a table: a heading, the first column to the left, the others to the right."""
    widths = [max(len(row[j]) for row in rows) for j in range(len(rows[0]))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
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
    figure.suptitle(heading(ledger), fontsize=10)
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
