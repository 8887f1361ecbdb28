"""What the mean of a quantity costs by each method of ``estimate``, over half-widths of its interval.

A row is one method to one half-width of the 95 % interval of the first quantity's mean. Surrogates are run: ``gp``,
and ``operator`` with ``--model``, the shipped one, or ``--train N``. Solves, fits and cheap evaluations are counted,
data and training of an operator that is trained by the way, too; those of a finished model, by its card, stand in a
column of their own. Plain,
multilevel and multifidelity Monte Carlo are not run: their cost follows from the costs and correlations of the pilot,
at the optimal numbers of solves, which no run would know so well. Solves that several rows share count for each.

``seconds`` are wall time x ranks; ``values`` hold the half-width asked for (``error``) and reached (``half_width``),
the ``value``, the plain solves that it is ``worth``, the ``solves`` of the finest mesh, whether it is ``measured``, and
the time that data and training of a finished model took (``made_before``).
"""

from __future__ import annotations

import math
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lrsa_coupled.bench.experiments import add_model
from lrsa_coupled.bench.pictures import save_figure
from lrsa_coupled.bench.plots import logarithmic
from lrsa_coupled.bench.report import Table, align, counted
from lrsa_coupled.bench.rows import Results, Row, Seconds, Values
from lrsa_coupled.mpi import share

if TYPE_CHECKING:
    from lrsa_coupled.bench.samples import Samples
    from lrsa_coupled.study.estimate import Request

ON_RANKS = True
STUDY = "estimates"
OPERATOR, SURROGATES, MESHES = "operator", ("gp", "operator"), ("mlmc", "mfmc")
PLAIN = (100, 1000, 10_000, 20_000)
"""Solves of plain Monte Carlo whose half-widths are asked for."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    add_model(parser)
    parser.add_argument("--quantity", nargs="+", default=[], metavar="Q", help="quantities; the first one counts")
    text = "half-widths; by default those of plain Monte Carlo with 100, 1000, 10 000 and 20 000 solves"
    parser.add_argument("--error", type=float, nargs="+", default=[], metavar="E", help=text)
    parser.add_argument(
        "--train", type=int, metavar="N", help="train an operator on N solves instead of taking a model"
    )
    parser.add_argument("--pilot", type=int, default=32, metavar="N", help="samples of the pilot; 32 by default")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where solves are kept; by default nowhere")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="write a PNG picture of costs over half-widths")


def run(args: Namespace, samples: Samples) -> Results:
    """Measure. Collective."""
    from lrsa_coupled.study.estimate import Request

    with tempfile.TemporaryDirectory() as own:
        folder = samples.comm.bcast(args.folder or Path(own))
        has_operator = samples.case.points is not None and bool(args.train or samples.model)
        request = Request(
            tuple(args.quantity), error=1.0, pilot=args.pilot, method="operator" if args.train else "auto",
            model=None if args.train or samples.model is None else str(samples.model), train=args.train,
            coarser=True,
        )  # fmt: skip
        rows = _rows(samples, request, folder, args.error, SURROGATES if has_operator else SURROGATES[:1])
    results = samples.results(STUDY, rows, rtol=samples.case.rtol)
    if args.pictures is not None:
        share(samples.comm, lambda: print(f"picture: {picture(results, args.pictures)}"))
    return results


def arguments(only: Sequence[str]) -> Namespace:
    """Return the arguments for ``bench --what estimate``, which takes the shipped model or the one of the benchmark."""
    assert not only
    return Namespace(quantity=[], error=[], train=None, pilot=32, folder=None, pictures=None)


def heading(results: Results) -> str:
    """Say what was measured."""
    header = results.header
    quantity = next((str(row.values["quantity"]) for row in results.rows if "quantity" in row.values), "a quantity")
    ranks = counted(header.ranks, "rank")
    return f"{header.case}: cost of the mean of {quantity}, resolution {header.resolution}, {ranks}"


def winner(results: Results) -> str:
    """Say which method is the cheapest at the narrowest interval, and how many times cheaper than the next one."""
    width = min(row.number("error") for row in results.rows)
    costs = {row.method: row.seconds.total for row in results.rows if row.number("error") == width and row.solved}
    best, *others = sorted(costs, key=costs.__getitem__) or ["no method"]
    text = f"At a half-width of {width:.3g} {best} is the cheapest"
    versus = [f"{costs[name] / costs[best]:.2f} times cheaper than {name}" for name in others]
    return f"{text}: {'; '.join(versus)}." if versus else f"{text}."


def table(results: Results) -> str:
    """Format results."""
    return f"{heading(results)}\n\n{align(cost_rows(results))}"


def cost_rows(results: Results) -> Table:
    """Return costs by method and half-width, and how many times those of plain Monte Carlo and the best meshes are."""
    rows: Table = [["half-width", "method", "cost [s x ranks]", "plain / cost", "best mesh / cost", "both, model made"]]
    rows[0] += ["solves", "worth"]
    widths = sorted({row.number("error") for row in results.rows}, reverse=True)
    for width in widths:
        own = {row.method: row for row in results.rows if row.number("error") == width}
        plain, meshes = own["mc"].seconds.total, min(own[name].seconds.total for name in MESHES)
        for name, row in own.items():
            cost, measured = row.seconds.total, row.values["measured"]
            label = name if measured else f"{name} (expected)"
            counts = [f"{row.number(key):.0f}" if measured else "-" for key in ("solves", "worth")]
            ratios = [f"{plain / cost:.2f}", f"{meshes / cost:.2f}", "-"]
            if before := row.number("made_before") if measured else 0.0:
                ratios[2] = f"{plain / (cost + before):.2f}, {meshes / (cost + before):.2f}"
            rows.append([f"{width:.3g}", label, f"{cost:.4g}", *ratios, *counts])
    return rows


def picture(results: Results, folder: Path) -> Path:
    """Write ``estimates.png``, costs over half-widths. Call on one rank."""
    figure = Figure(figsize=(6.0, 4.5), layout="constrained", facecolor="white")
    axis = figure.subplots()
    draw(axis, results)
    axis.set_title(heading(results), fontsize=8)
    axis.legend(frameon=False)
    return save_figure(figure, folder / "estimates.png")


def draw(axis: Axes, results: Results) -> None:
    """Draw costs over half-widths."""
    for name, rows in results.methods.items():
        style = "o-" if rows[0].values["measured"] else "s--"
        axis.plot([row.number("error") for row in rows], [row.seconds.total for row in rows], style, label=name)
    axis.set(xlabel="half-width of the 95 % interval", ylabel="wall time x ranks [s]")
    logarithmic(axis.xaxis)
    logarithmic(axis.yaxis)
    axis.grid(linewidth=0.3)


def _rows(samples: Samples, request: Request, folder: Path, errors: Sequence[float], names: Sequence[str]) -> list[Row]:
    from lrsa_coupled.study.estimate import create, make_study, reach
    from lrsa_coupled.study.methods import METHODS
    from lrsa_coupled.study.statistics import NORMAL, mean

    create(samples.case, samples.config, request, folder, comm=samples.comm)
    study = make_study(samples.case, samples.config, request, folder, samples.comm)
    spread = float(np.var(study.pilots[:, 0, 0], ddof=1))
    rows, pilot, extra = [], {*study.solves.asked}, dict(study.seconds)
    widths = errors or [NORMAL * math.sqrt(spread / count) for count in PLAIN]
    first = study.names[0]
    for place, width in enumerate(sorted(widths, reverse=True)):
        target = (width / NORMAL) ** 2
        for name in ("mc", *MESHES):
            cost = METHODS[name](study).expected(target)
            rows.append(_row(name, place, seconds=cost, values={"quantity": first, "error": width, "measured": False}))
        for name in names:
            study.seconds.clear()
            study.seconds.update(extra if name == OPERATOR else {})
            study.solves.asked = {ask for ask in pilot if ask.resolution == study.resolutions[0]}
            method = METHODS[name](study)
            found = mean(reach(method, width, target)[first])
            asked = [study.solves.answers[ask] for ask in study.solves.asked]
            seconds = sum(answer.seconds for answer in asked) + sum(study.seconds.values())
            values: Values = {"quantity": first, "error": width, "half_width": found.half_width, "value": found.value}
            values |= {"worth": found.worth, "solves": len(asked), "measured": True}
            values |= {"made_before": sum(method.made_before().values())}
            rows.append(_row(name, place, seconds=seconds, values=values))
    study.solves.free()
    return rows


def _row(method: str, place: int, *, seconds: float, values: Values) -> Row:
    reached = not values["measured"] or float(values["half_width"] or 0.0) <= float(values["error"] or 0.0)
    return Row(method=method, sample=place, seconds=Seconds(total=seconds), solved=reached, values=values)
