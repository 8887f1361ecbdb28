"""What few samples are worth: guesses by the nearest one, their modes, and an operator trained on them for minutes.

The first samples of a data set, as many as each size says, are all that is known. Unseen problems are solved by the
default method and from each guess; ``values`` holds ``samples``, and ``cost``, the time of these samples and of the
training or fit [s]. A second run goes on with the models that are there.
"""

from __future__ import annotations

import dataclasses
import shutil
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from lrsa_coupled.bench.compare import LEARNED, NEAREST, POD, speedup
from lrsa_coupled.bench.payback import savings
from lrsa_coupled.bench.report import Table, align, counted, mean_iterations, solved_count
from lrsa_coupled.bench.rows import Cost, Results, Row

if TYPE_CHECKING:
    from lrsa_coupled.bench.samples import Samples
    from lrsa_coupled.data.store import DataStore

ON_RANKS = True
STUDY = "few-samples"


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="training data, as generate makes them")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the trained models")
    text = "numbers of samples"
    parser.add_argument("--sizes", type=int, nargs="+", default=[16, 32, 64, 128, 256], metavar="N", help=text)
    parser.add_argument("--minutes", type=float, default=1.0, metavar="M", help="time of each training; 1 by default")


def run(args: Namespace, samples: Samples) -> Results:
    """Train and solve; ValueError for several ranks, or more samples than there are."""
    from lrsa_coupled.bench.measure import compare_methods
    from lrsa_coupled.data.store import DataStore

    case, comm, sizes = samples.case, samples.comm, sorted({*args.sizes})
    store = DataStore(args.data)
    if comm.size > 1 or sizes[0] < 3 or len(store.solved) < sizes[-1]:
        given = f"{counted(comm.size, 'rank')}, sizes {sizes[0]} to {sizes[-1]}, {len(store.solved)} solved samples"
        raise ValueError(f"few-samples needs one rank and sizes from 3 to the number of samples, got {given}")
    rows: list[Row] = []
    for size in sizes:
        data, model = args.out / f"{size}-samples", args.out / f"{size}-model"
        if not (model / "model.json").is_file():
            _train(_first(store, size, data), model, samples, minutes=args.minutes)
        only = [case.default_method]
        found = compare_methods(case, samples.config, comm, model=model, data=data, only=only).results
        costs = found.header.costs
        spent = costs[LEARNED].data or float("nan")
        for row in found.rows:
            if row.method in (*only, NEAREST, POD, LEARNED):
                own = costs.get(row.method, Cost()).training or 0.0
                values = {"samples": size, "cost": 0.0 if row.method in only else spent + own}
                rows.append(msgspec.structs.replace(row, values=values))
    return samples.results(STUDY, rows, rtol=case.rtol)


def table(results: Results) -> str:
    """Format results."""
    header = results.header
    text = f"{header.case}: {counted(results.num_samples, 'unseen problem')}, resolution {header.resolution}"
    return f"{text}; the training time counts\n\n{align(curve_rows(results))}"


def curve_rows(results: Results) -> Table:
    """Return a row for each size and guess: its error, iterations and gain, and when it is paid back."""
    default = next(iter(results.methods))
    rows = [["samples", "guess", "error [%]", "solved", "iterations", f"times faster than {default}", "cost [s]"]]
    rows[0] += ["paid back after"]
    for size in dict.fromkeys(row.values["samples"] for row in results.rows):
        of_size = Results(results.header, [row for row in results.rows if row.values["samples"] == size]).methods
        for name, found in of_size.items():
            rows.append([str(size), name, *_cells(found, of_size[default])])
    return rows


def _cells(found: Sequence[Row], default: Sequence[Row]) -> list[str]:
    errors = [row.start_error for row in found if row.start_error is not None]
    error = f"{100 * np.mean(errors):.3g}" if errors else "-"
    cells = [error, solved_count(found), f"{mean_iterations(found):.1f}"]
    if found is default:
        return [*cells, "1", "-", "-"]
    times = ({row.sample: row.seconds.total for row in rows if row.solved} for rows in (default, found))
    gain, saved, cost = speedup(*times), savings(default, found), found[0].number("cost")
    ratio = f"{gain.mean:.2f}" if gain.ratios else "-"
    mean = float(np.mean(saved or [0.0]))
    paid = f"{np.ceil(cost / mean):.0f} solves" if mean > 0.0 and np.isfinite(cost) else "never"
    return [*cells, ratio, f"{cost:.3g}", paid]


def _first(store: DataStore, size: int, folder: Path) -> Path:
    """Make a data set of the first solved samples."""
    from lrsa_coupled.data.card import create
    from lrsa_coupled.data.writer import ShardWriter

    shutil.rmtree(folder, ignore_errors=True)
    create(folder, store.card)
    writer = ShardWriter(folder, 16)
    for index in store.solved[:size]:
        writer.add(store.read(index))
    writer.close()
    return folder


def _train(data: Path, out: Path, samples: Samples, *, minutes: float) -> None:
    """Train for some minutes with the settings of the case, those of the recipe where it has none."""
    from lrsa_coupled.config import over
    from lrsa_coupled.data.store import DataStore
    from lrsa_coupled.training.loop import train
    from lrsa_coupled.training.recipe import DataFacts, recipe

    config = over(samples.config, recipe(DataFacts.of(DataStore(data)), minutes=minutes))
    train(data, out, dataclasses.replace(config, training=dataclasses.replace(config.training, minutes=minutes)))
