"""What few samples are worth: guesses by the nearest one, their modes, and an operator trained on them for minutes.

The first samples of a data set, as many as each size says, are all that is known, with ``--unsolved`` beside samples
without solutions: then there are operators that are trained on those with a loss that needs none, and with the errors
on the known samples added to it. Unseen problems are solved by the default method and from each guess; ``values`` holds
``samples``, ``steps`` of the training, and ``cost``, the time of all these samples and of the training or fit [s]. A
second run goes on with the models that are there.
"""

from __future__ import annotations

import dataclasses
import shutil
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np

from lrsa_coupled.bench.compare import LEARNED, NEAREST, POD, speedup
from lrsa_coupled.bench.payback import savings
from lrsa_coupled.bench.report import Table, align, counted, mean_iterations, solved_count
from lrsa_coupled.bench.rows import Cost, Results, Row
from lrsa_coupled.config import over
from lrsa_coupled.data.card import create
from lrsa_coupled.data.store import DataStore
from lrsa_coupled.data.writer import ShardWriter
from lrsa_coupled.training.loop import train
from lrsa_coupled.training.recipe import DataFacts, recipe

if TYPE_CHECKING:
    from lrsa_coupled.bench.samples import Samples

ON_RANKS = True
STUDY = "few-samples"


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="training data, as generate makes them")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the trained models")
    text = "numbers of samples; 0 is for operators that need none"
    parser.add_argument("--sizes", type=int, nargs="+", default=[16, 32, 64, 128, 256], metavar="N", help=text)
    text = "samples without solutions, of the seed and resolution of the data"
    parser.add_argument("--unsolved", type=Path, metavar="DIR", help=text)
    text = "how operators are trained on them; residual by default"
    parser.add_argument("--loss", choices=["energy", "residual"], default="residual", help=text)
    parser.add_argument("--minutes", type=float, default=1.0, metavar="M", help="time of each training; 1 by default")


def run(args: Namespace, samples: Samples) -> Results:
    """Train and solve; ValueError for several ranks, or more samples than there are."""
    from lrsa_coupled.bench.measure import compare_methods

    case, comm, sizes = samples.case, samples.comm, sorted({*args.sizes})
    store = DataStore(args.data)
    too_few = [size for size in sizes if size < 3 and (size or args.unsolved is None)]
    if comm.size > 1 or too_few or len(store.solved) < sizes[-1]:
        given = f"{counted(comm.size, 'rank')}, sizes {sizes[0]} to {sizes[-1]}, {len(store.solved)} solved samples"
        text = "few-samples needs one rank and sizes from 3 (or 0, with --unsolved) to the number of samples"
        raise ValueError(f"{text}, got {given}")
    rows: list[Row] = []
    for size in sizes:
        known = _first(store, size, args.out / f"{size}-samples") if size else None
        trainings = [] if known is None else [_Training(LEARNED, known)]
        if args.unsolved is not None:
            name = f"{LEARNED}, {'' if known is None else 'samples and '}{args.loss}"
            trainings.append(_Training(name, args.unsolved, args.loss, known))
        for training in trainings:
            out = args.out / f"{size}-{training.loss}"
            steps = training.run(out, samples, minutes=args.minutes)
            data, only = known if training.loss == "data" else None, [case.default_method]
            found = compare_methods(case, samples.config, comm, model=out, data=data, only=only).results
            costs = found.header.costs
            for row in found.rows:
                name, values = row.method, {"samples": size, "cost": training.data_seconds, "steps": None}
                if name == LEARNED:
                    spent = training.data_seconds + (costs[name].training or np.nan)
                    name, values = training.name, values | {"steps": steps, "cost": spent}
                elif name in (NEAREST, POD):
                    values["cost"] = training.data_seconds + (costs.get(name, Cost()).training or 0.0)
                elif name not in only or training is not trainings[0]:
                    continue
                rows.append(msgspec.structs.replace(row, method=name, values=values))
    return dataclasses.replace(samples, model=None).results(STUDY, rows, rtol=case.rtol)


@dataclass(frozen=True)
class _Training:
    """How an operator is trained: on solved samples, or with another loss and, if any, the errors on ``labels``."""

    name: str
    data: Path
    loss: Literal["data", "energy", "residual"] = "data"
    labels: Path | None = None

    @property
    def data_seconds(self) -> float:
        """What its samples have taken [s]."""
        folders = [self.data] if self.labels is None else [self.data, self.labels]
        return sum(DataStore(folder).seconds() for folder in folders)

    def run(self, out: Path, samples: Samples, *, minutes: float) -> int:
        """Train for some minutes by the settings of the case, those of the recipe where it has none.

        Returns the number of steps; a training that has ended is not repeated.
        """
        store = DataStore(self.data)
        config = over(samples.config, recipe(DataFacts.of(store), minutes=minutes))
        labels = None if self.labels is None else DataStore(self.labels)
        settings = dataclasses.replace(
            config.training, minutes=minutes, loss=self.loss, labels=None if labels is None else str(labels.folder)
        )
        physics = None
        if self.loss != "data":
            from lrsa_coupled.generation.unsolved import SamplePhysics

            by_energy = self.loss == "energy"
            physics = SamplePhysics(samples.case, store.card, by_energy=by_energy, labels=labels)
        return int(train(self.data, out, dataclasses.replace(config, training=settings), physics=physics)["steps"])


def table(results: Results) -> str:
    """Format results."""
    header = results.header
    text = f"{header.case}: {counted(results.num_samples, 'unseen problem')}, resolution {header.resolution}"
    return f"{text}; the training time counts\n\n{align(curve_rows(results))}"


def curve_rows(results: Results) -> Table:
    """Return a row for each size and guess: its error, iterations and gain, and when it is paid back."""
    default = next(iter(results.methods))
    rows = [["samples", "guess", "error [%]", "solved", "iterations", f"times faster than {default}", "steps"]]
    rows[0] += ["cost [s]", "paid back after"]
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
        return [*cells, "1", "-", "-", "-"]
    times = ({row.sample: row.seconds.total for row in rows if row.solved} for rows in (default, found))
    gain, saved, cost = speedup(*times), savings(default, found), found[0].number("cost")
    ratio = f"{gain.mean:.2f}" if gain.ratios else "-"
    mean = float(np.mean(saved or [0.0]))
    paid = f"{np.ceil(cost / mean):.0f} solves" if mean > 0.0 and np.isfinite(cost) else "never"
    steps = found[0].values["steps"]
    return [*cells, ratio, "-" if steps is None else str(steps), f"{cost:.3g}", paid]


def _first(store: DataStore, size: int, folder: Path) -> Path:
    """Make a data set of the first solved samples."""
    shutil.rmtree(folder, ignore_errors=True)
    create(folder, store.card)
    writer = ShardWriter(folder, 16)
    for index in store.solved[:size]:
        writer.add(store.read(index))
    writer.close()
    return folder
