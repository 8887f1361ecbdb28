"""Report of a surrogate's ledger (``bench/surrogate.py``): effectivity of its estimates, failed certificates, times to an error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from lrsa_coupled.bench.compare import speedup
from lrsa_coupled.bench.pictures import save_figure
from lrsa_coupled.bench.report import align, number

TARGETS = tuple(10.0**-k for k in range(1, 9))
"""Relative errors asked for."""

GOOD = (0.5, 3.0)
"""Effectivity indices, estimate by true error, that will do."""


def surrogate_table(ledger: Mapping[str, Any]) -> str:
    """Format a ledger for the terminal: effectivity indices, failed certificates, times to an error."""
    samples, ranks = ledger["samples"], ledger["ranks"]
    if not samples:
        return f"{ledger['case']}: the classical strategy has solved no sample"
    heading = (f"{ledger['case']}: {len(samples)} unseen sample{'s' * (len(samples) != 1)} (seed {ledger['seed']}), resolution {ledger['resolution']}, "
               f"{ranks} rank{'s' * (ranks != 1)}; relative errors in the {samples[0]['norm']}")  # fmt: skip
    errors = [s["prediction"] for s in samples if s["prediction"] is not None]
    predicted = (
        f"error of the prediction: median {np.median(errors):.2g}, 95 % {np.quantile(errors, 0.95):.2g}"
        if errors
        else "no prediction was accepted"
    )
    return "\n\n".join([f"{heading}\n{predicted}", align(_effectivity_rows(samples)), align(_time_rows(samples))])


def effectivity_picture(ledger: Mapping[str, Any], folder: Path) -> Path:
    """Write ``effectivity.png``, estimates over true errors. Call on one rank."""
    folder.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(6.0, 5.5), layout="constrained", facecolor="white")
    axis = figure.subplots()
    points = {
        "delivered field": (_delivered(ledger["samples"]), "tab:blue"),
        "bare prediction": (_predicted(ledger["samples"]), "tab:orange"),
    }
    for label, (pairs, colour) in points.items():
        axis.plot(
            pairs[:, 1],
            pairs[:, 0],
            "o",
            color=colour,
            markersize=4,
            alpha=0.4,
            markeredgewidth=0,
            label=f"{label} ({len(pairs)})",
        )
    every = np.concatenate([pairs for pairs, _ in points.values()])
    limits = np.array([0.3 * every.min(), 3.0 * every.max()]) if every.size else np.array([1e-9, 1.0])
    axis.plot(limits, limits, color="black", linewidth=0.8)
    axis.fill_between(
        limits,
        GOOD[0] * limits,
        GOOD[1] * limits,
        color="0.9",
        zorder=0,
        label=f"{GOOD[0]:g} to {GOOD[1]:g} times the error",
    )
    axis.set(xscale="log", yscale="log", xlim=limits, ylim=limits, xlabel="true relative error", ylabel="estimate")
    norms = sorted({f", {s['norm']}" for s in ledger["samples"]})
    axis.set_title(f"{ledger['case']}, {len(ledger['samples'])} unseen samples{''.join(norms)}", fontsize=10)
    axis.grid(linewidth=0.3)
    axis.legend(frameon=False)
    return save_figure(figure, folder / "effectivity.png")


def _delivered(samples: Sequence[Mapping[str, Any]], accept: float | None = None) -> npt.NDArray[np.float64]:
    """Return estimates and true errors of the certified fields ``(num_fields, 2)``, of one accuracy or all."""
    runs = [run for s in samples for run in s["surrogate"] if run["certified"] and accept in (None, run["accept"])]
    return np.array([(run["estimate"], run["error"]) for run in runs if run["error"] > 0.0]).reshape(-1, 2)


def _predicted(samples: Sequence[Mapping[str, Any]], accept: float = TARGETS[1]) -> npt.NDArray[np.float64]:
    """Return estimates and true errors of the predictions ``(num_predictions, 2)``, estimated on the way to ``accept``."""
    runs = [
        (run["prediction_estimate"], s["prediction"])
        for s in samples
        for run in s["surrogate"]
        if run["accept"] == accept and run["certified"]
    ]
    return np.array([pair for pair in runs if pair[0] is not None and pair[1] > 0.0]).reshape(-1, 2)


def _effectivity_rows(samples: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    rows = [
        [
            "estimate / true error",
            "certified",
            "5 %",
            "median",
            "95 %",
            f"in [{GOOD[0]:g}, {GOOD[1]:g}]",
            "true error above",
        ]
    ]
    for accept in (None, *TARGETS):
        name = "prediction" if accept is None else f"delivered, {accept:.0e} asked for"
        pairs = _predicted(samples) if accept is None else _delivered(samples, accept)
        if not len(pairs):
            rows.append([name, "0", *["-"] * 5])
            continue
        indices = pairs[:, 0] / pairs[:, 1]
        good = np.mean((indices >= GOOD[0]) & (indices <= GOOD[1]))
        above = "-" if accept is None else str(int(np.sum(pairs[:, 1] > accept)))
        quantiles = [f"{value:.2f}" for value in np.quantile(indices, [0.05, 0.5, 0.95])]
        rows.append([name, str(len(pairs)), *quantiles, f"{100 * good:.0f} %", above])
    return rows


def _time_rows(samples: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    rows = [["time to a relative error of", "surrogate [s]", "classical [s]", "times sooner", "losses", "fell back"]]
    for place, accept in enumerate(TARGETS):
        ours = {s["index"]: s["surrogate"][place] for s in samples}
        rival = {s["index"]: s["classical"][place]["seconds"] for s in samples if s["classical"][place] is not None}
        reached = {
            index: run["seconds"] for index, run in ours.items() if run["error"] is not None and run["error"] <= accept
        }
        result = speedup(rival, reached)
        medians = [number(float(np.median(list(times.values())))) if times else "-" for times in (reached, rival)]
        fallbacks = sum(run["fallback"] for run in ours.values())
        rows.append(
            [
                f"{accept:.0e}",
                *medians,
                f"{result.mean:.2f}" if result.compared else "-",
                str(result.losses),
                str(fallbacks),
            ]
        )
    return rows
