"""The certificate of a surrogate against the truth, and the time to an accuracy against the case's own solver.

A row is one answer to one accuracy: method ``surrogate`` or ``baseline``, in ``values`` the accuracy ``accept``, the
true ``error``, and of the surrogate the ``estimate``, that of the bare prediction (``prediction_estimate``), the true
error of the prediction (``prediction``), and the ``norm``. Errors are relative, in the norm of the certificate at the
true solution: the default solver to its tolerance, then two Newton steps with MUMPS. Estimates are None without a
certificate, an error is None where nothing is delivered. Seconds go from the bare problem to the field, without mesh
and forms.

**Baseline.** Of a linear problem with an energy the same conjugate gradients from zero, stopped by the same estimate.
Of any other the default solver with the residual tolerance 1e-1, 1e-2, ... that serves best: the fastest of those
whose true error is within the accuracy. No user could know that tolerance.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from lrsa_coupled.bench.compare import speedup
from lrsa_coupled.bench.experiments import add_model
from lrsa_coupled.bench.pictures import save_figure
from lrsa_coupled.bench.report import Table, align, heading, number
from lrsa_coupled.bench.rows import Results, Row
from lrsa_coupled.logs import progress
from lrsa_coupled.mpi import collective_errors, share

if TYPE_CHECKING:
    from lrsa_coupled.bench.samples import Samples

ON_RANKS = True
STUDY, SURROGATE, BASELINE = "certificates", "surrogate", "baseline"

TARGETS = tuple(10.0**-k for k in range(1, 9))
"""Relative errors asked for."""

GOOD = (0.5, 3.0)
"""Effectivity indices, estimate by true error, that will do."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    add_model(parser)
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="write a PNG picture of estimates over errors")


def run(args: Namespace, samples: Samples) -> Results:
    """Measure; ValueError, on all ranks, if the model belongs to another case or has seen the samples. Collective."""
    from lrsa_coupled.bench.answers import Answers

    settings = samples.config.bench
    with collective_errors(samples.comm):
        guess = samples.guess()
    Answers(samples, guess, settings.samples, repeats=1, targets=TARGETS[:1]).rows()  # not counted: compiles the forms
    rows: list[Row] = []
    for index in progress(range(settings.samples), description=f"{STUDY} of {samples.case.name}"):
        rows += Answers(samples, guess, index, repeats=settings.repeats, targets=TARGETS).rows()
    results = samples.results(STUDY, rows, rtol=samples.case.rtol)
    if args.pictures is not None:
        share(samples.comm, lambda: print(f"picture: {effectivity_picture(results, args.pictures)}"))
    return results


def table(results: Results) -> str:
    """Format results: effectivity indices, failed certificates, times to an error."""
    answers = results.methods.get(SURROGATE, [])
    if not answers:
        return f"{results.header.case}: the default solver has solved no sample"
    predictions = {row.sample: row.number("prediction") for row in answers if row.values["prediction"] is not None}
    errors = list(predictions.values())
    predicted = "no prediction was accepted"
    if errors:
        predicted = f"error of the prediction: median {np.median(errors):.2g}, 95 % {np.quantile(errors, 0.95):.2g}"
    parts = [f"{heading(results)}; relative errors in the {answers[0].values['norm']}\n{predicted}"]
    return "\n\n".join([*parts, align(_effectivity_rows(answers)), align(_time_rows(results))])


def effectivity_picture(results: Results, folder: Path) -> Path:
    """Write ``effectivity.png``, estimates over true errors. Call on one rank."""
    answers = results.methods.get(SURROGATE, [])
    figure = Figure(figsize=(6.0, 5.5), layout="constrained", facecolor="white")
    axis = figure.subplots()
    points = {
        "delivered field": (_delivered(answers), "tab:blue"),
        "bare prediction": (_predicted(answers), "tab:orange"),
    }
    for label, (pairs, colour) in points.items():
        text = f"{label} ({len(pairs)})"
        axis.plot(*pairs.T[::-1], "o", color=colour, markersize=4, alpha=0.4, markeredgewidth=0, label=text)
    every = np.concatenate([pairs for pairs, _ in points.values()])
    limits = np.array([0.3 * every.min(), 3.0 * every.max()]) if every.size else np.array([1e-9, 1.0])
    axis.plot(limits, limits, color="black", linewidth=0.8)
    low, high = GOOD
    label = f"{low:g} to {high:g} times the error"
    axis.fill_between(limits, low * limits, high * limits, color="0.9", zorder=0, label=label)
    axis.set(xscale="log", yscale="log", xlim=limits, ylim=limits, xlabel="true relative error", ylabel="estimate")
    axis.set_title(heading(results), fontsize=8)
    axis.grid(linewidth=0.3)
    axis.legend(frameon=False)
    return save_figure(figure, folder / "effectivity.png")


def _delivered(answers: Sequence[Row], accept: float | None = None) -> npt.NDArray[np.float64]:
    """Return estimates and true errors of the certified fields ``(num_fields, 2)``, of one accuracy or all."""
    rows = [row for row in answers if row.solved and accept in (None, row.values["accept"])]
    pairs = [(row.number("estimate"), row.number("error")) for row in rows]
    return np.array([pair for pair in pairs if pair[1] > 0.0]).reshape(-1, 2)


def _predicted(answers: Sequence[Row]) -> npt.NDArray[np.float64]:
    """Return estimates and true errors of the predictions ``(num_predictions, 2)``, from the runs to one accuracy."""
    rows = [row for row in answers if row.solved and row.values["accept"] == TARGETS[1]]
    pairs = [(row.number("prediction_estimate"), row.number("prediction")) for row in rows]
    return np.array([pair for pair in pairs if pair[1] > 0.0 and pair[0] == pair[0]]).reshape(-1, 2)


def _effectivity_rows(answers: Sequence[Row]) -> Table:
    good = f"in [{GOOD[0]:g}, {GOOD[1]:g}]"
    rows = [["estimate / true error", "certified", "5 %", "median", "95 %", good, "true error above"]]
    for accept in (None, *TARGETS):
        name = "prediction" if accept is None else f"delivered, {accept:.0e} asked for"
        pairs = _predicted(answers) if accept is None else _delivered(answers, accept)
        if not len(pairs):
            rows.append([name, "0", *["-"] * 5])
            continue
        indices = pairs[:, 0] / pairs[:, 1]
        within = np.mean((indices >= GOOD[0]) & (indices <= GOOD[1]))
        above = "-" if accept is None else str(int(np.sum(pairs[:, 1] > accept)))
        quantiles = [f"{value:.2f}" for value in np.quantile(indices, [0.05, 0.5, 0.95])]
        rows.append([name, str(len(pairs)), *quantiles, f"{100 * within:.0f} %", above])
    return rows


def _time_rows(results: Results) -> Table:
    rows = [["time to a relative error of", "surrogate [s]", "baseline [s]", "speed-up", "losses", "fell back"]]
    for accept in TARGETS:
        ours, others = (
            [row for row in results.methods.get(name, []) if row.values["accept"] == accept]
            for name in (SURROGATE, BASELINE)
        )
        reached = {row.sample: row.seconds.total for row in ours if row.number("error") <= accept}
        baseline = {row.sample: row.seconds.total for row in others}
        result = speedup(baseline, reached)
        medians = [number(float(np.median(list(times.values())))) if times else "-" for times in (reached, baseline)]
        mean, fallbacks = f"{result.mean:.2f}" if result.ratios else "-", sum(row.used_fallback for row in ours)
        rows.append([f"{accept:.0e}", *medians, mean, str(result.losses), str(fallbacks)])
    return rows
