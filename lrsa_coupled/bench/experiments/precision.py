"""Whole steps of training in fp32 and in bf16, in turn: what bfloat16 gains with the settings and the data of a case.

A step is loss, gradient and update, on the batches of the training; reading of samples is not in it. A row is a step;
``values`` holds its ``loss``.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from lrsa_coupled.bench.machine import header_of
from lrsa_coupled.bench.report import align
from lrsa_coupled.bench.rows import Results, Row, Seconds
from lrsa_coupled.config import Config, Precision
from lrsa_coupled.data.batches import epoch_generator, training_batches
from lrsa_coupled.data.dataset import Batch, PointDataset
from lrsa_coupled.data.store import DataStore
from lrsa_coupled.logs import progress
from lrsa_coupled.training.group import ProcessGroup
from lrsa_coupled.training.run import Run, prepare
from lrsa_coupled.training.step import take_step

ON_RANKS = False
STUDY = "precision"
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")
WARM_UP, STEPS = 10, 20
"""Steps that are not counted, in which torch compiles, and those that are."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="data set to train on")


def run(args: Namespace, config: Config) -> Results:
    """Take the first steps of a training in both precisions in turn; ValueError as for such a training."""
    dataset = PointDataset(DataStore(args.data), memory_gib=config.data.memory_gib)
    rows = []
    with TemporaryDirectory() as folder:
        runs = {}
        for name in PRECISIONS:
            training = dataclasses.replace(config.training, precision=name, fp32_epochs=0)
            settings = dataclasses.replace(config, training=training)
            runs[name] = prepare(dataset, settings, Path(folder), group=ProcessGroup())
        batches = {name: _batches(run) for name, run in runs.items()}
        for number in progress(range(-WARM_UP, STEPS), description="steps"):
            for name, run in runs.items():
                batch = next(batches[name])
                _wait(run)
                started = time.perf_counter()
                loss = take_step(run, batch, number=number + WARM_UP)
                _wait(run)
                seconds = Seconds(total=time.perf_counter() - started)
                if number >= 0:
                    row = Row(method=name, sample=number, seconds=seconds, solved=True, values={"loss": float(loss)})
                    rows.append(row)
    return Results.of(header_of(STUDY, dataset.schema.name, dataclasses.asdict(config)), rows)


def table(results: Results) -> str:
    """Format results: medians and quartiles."""
    lines = [["precision", "step [ms]", "quartiles", "speed-up over fp32", "loss"]]
    seconds = {name: [row.seconds.total for row in rows] for name, rows in results.methods.items()}
    for name, times in seconds.items():
        low, median, high = 1e3 * np.quantile(times, (0.25, 0.5, 0.75))
        ratio = 1e3 * np.median(seconds["fp32"]) / median
        loss = results.methods[name][-1].number("loss")
        lines.append([name, f"{median:.1f}", f"{low:.1f} to {high:.1f}", f"{ratio:.2f}", f"{loss:.4f}"])
    header, settings = results.header, results.header.settings
    kind, width, blocks = (settings[f"operator.{name}"] for name in ("kind", "width", "num_blocks"))
    batch = f"{settings['training.batch_size']} samples a step, {settings['training.num_points'] or 'all'} points each"
    count = f"{results.num_samples} steps in turn, {header.machine['processor']}"
    return f"{header.case}: {kind} of width {width}, {blocks} blocks; {batch}; {count}\n\n{align(lines)}"


def _batches(run: Run) -> Iterator[Sequence[Batch]]:
    """Yield the batches of a training, epoch after epoch."""
    for epoch in itertools.count(1):
        generator = epoch_generator(run.config.training.seed, epoch)
        yield from training_batches(run.dataset, run.train_samples, run.plan, generator=generator, first=0)


def _wait(run: Run) -> None:
    if run.device.type == "cuda":
        torch.cuda.synchronize(run.device)
