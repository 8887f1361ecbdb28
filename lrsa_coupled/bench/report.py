"""Tables of results for the terminal.

Ratios are geometric means over the samples that both methods solve; times are medians over all samples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from lrsa_coupled.bench.compare import LEARNED, NEED_DATA, STAGES, Times, best_baseline, best_of_each, speedup, speedups
from lrsa_coupled.bench.payback import pay_back_note, pay_back_rows, pay_backs
from lrsa_coupled.bench.rows import Cost, Results, Row

type Table = list[list[str]]
"""Rows of cells, the first of which is the heading."""


def table(results: Results) -> str:
    """Format results: costs by method, speed-ups of the learned guess, pay-back, failures and fallbacks."""
    parts = [heading(results), f"{align(cost_rows(results))}\nseconds are medians; below, ratios and savings are means"]
    if rows := speedup_rows(results.solved_times):
        parts += [align(rows), f"{align(pay_back_rows(pay_backs(results)))}\n{note(results)}"]
    return "\n\n".join([*parts, *filter(None, ["\n".join(remarks(results))])])


def heading(results: Results) -> str:
    """Say what was measured, in a line."""
    header = results.header
    parts = [f"{header.case}: {counted(results.num_samples, 'unseen sample')} (seed {header.seed})"]
    parts.append(f"resolution {header.resolution}, {counted(header.ranks, 'rank')}")
    if unknowns := results.unknowns:
        parts.append(f"{np.median(unknowns):.0f} unknowns")
    if header.rtol is not None:
        parts.append(f"residual reduced by {header.rtol:.0e}")
    return ", ".join(parts)


def cost_rows(results: Results) -> Table:
    """Return a table of costs by method."""
    stages = ("transfer", "inference", "solve", "total")
    head = ["method", "solved", "iterations", "(median)", *(f"{stage} [s]" for stage in stages)]
    rows = [[*head, "guess/solve", "guess error"]]
    for name, samples in results.methods.items():
        seconds = {stage: np.array([getattr(row.seconds, stage) for row in samples]) for stage in STAGES}
        seconds["solve"] += seconds["setup"]  # guarded solvers set up the one inside as they solve
        guess = seconds["transfer"] + seconds["inference"]
        share = f"{100 * np.median(guess / seconds['solve']):.1f} %" if guess.any() else "-"
        errors = [row.start_error for row in samples if row.start_error is not None]
        iterations = [row.iterations for row in samples]
        cells = [name, solved_count(samples), f"{np.mean(iterations):.2f}", f"{np.median(iterations):g}"]
        cells += [number(float(np.median(seconds[stage]))) for stage in stages]
        rows.append([*cells, share, f"{100 * np.mean(errors):.2f} %" if errors else "-"])
    return rows


def speedup_rows(times: Times) -> Table:
    """Return a table of speed-ups; empty without a learned guess or a baseline."""
    found = speedups(times)
    if not found:
        return []
    best = best_baseline(times)
    found[f"best baseline overall ({best})"] = found[best]
    found["best baseline of each sample"] = speedup(best_of_each(times), times[LEARNED])
    rows = [[f"{LEARNED} against", "speed-up", "least", "most", "losses", "compared"]]
    for name, result in found.items():
        numbers = [result.mean, min(result.ratios), max(result.ratios)] if result.ratios else []
        cells = [f"{value:.2f}" for value in numbers] or ["-"] * 3
        rows.append([name, *cells, str(result.losses), str(len(result.ratios))])
    return rows


def note(results: Results) -> str:
    """Say what is to be paid back."""
    return pay_back_note(
        results.header.costs.get(LEARNED, Cost()), with_data=any(name in NEED_DATA for name in results.methods)
    )


def remarks(results: Results) -> list[str]:
    """Say what failed and why, what the default method took over, and what the adaptive policy decided."""
    lines = []
    for name, samples in results.methods.items():
        failed = Counter(row.reason or "no reason given" for row in samples if not row.solved)
        lines += [f"{name}: failed on {count} ({reason})" for reason, count in failed.items()]
        if fallbacks := sum(row.used_fallback for row in samples):
            lines.append(f"{name}: the default method took over on {fallbacks} of {len(samples)}")
        lines += decision_lines(samples)
    return lines


def decision_lines(samples: Sequence[Row]) -> list[str]:
    """Say what the adaptive policy chose, what came of it, and what guesses that were not used have cost."""
    lines, decisions = [], [decision for row in samples for decision in row.decisions]
    for name in dict.fromkeys(str(decision["choice"]) for decision in decisions):
        taken = [decision for decision in decisions if decision["choice"] == name]
        outcomes = Counter(str(decision["outcome"]).split(":")[0] for decision in taken)
        counts = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items())
        median = float(np.median([decision["seconds"] for decision in taken]))
        wasted = sum(float(decision["wasted"] or 0.0) for decision in taken)
        lines.append(
            f"adaptive: {name} {len(taken)} times ({counts}), median {median:.3g} s, {wasted:.3g} s lost on bad guesses"
        )
    return lines


def median(samples: Sequence[Row], stage: str = "total") -> float:
    """Return the median seconds of a stage."""
    return float(np.median([getattr(row.seconds, stage) for row in samples]))


def mean_iterations(samples: Sequence[Row]) -> float:
    """Return the mean number of iterations."""
    return float(np.mean([row.iterations for row in samples]))


def solved_count(samples: Sequence[Row]) -> str:
    """Format how many samples are solved, of how many."""
    return f"{sum(row.solved for row in samples)}/{len(samples)}"


def counted(count: int, word: str) -> str:
    """Return the count and its word, with an s unless it is one."""
    return f"{count} {word}{'s' * (count != 1)}"


def number(value: float) -> str:
    """Format seconds."""
    digits = 0 if value == 0.0 else 4 if value < 0.1 else 3 if value < 10.0 else 1
    return f"{value:.{digits}f}"


def align(rows: Table) -> str:
    """Format a table: the first column to the left, the others to the right."""
    widths = [max(len(row[j]) for row in rows) for j in range(len(rows[0]))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])
