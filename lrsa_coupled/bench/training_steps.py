"""Whole steps of training in each number format, taken in turn: what bfloat16 gains with the settings and the data of a case.

A ledger is a dictionary for JSON: ``case``, ``data``, ``operator`` and ``training`` (settings), ``machine``, and ``steps``, one a format:
``precision``, ``seconds`` (list), ``loss`` (of the last step).

A step is loss, gradient and update, on batches of the training at a time; reading and cutting of samples is not in it.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from lrsa_coupled.bench.operators import this_machine
from lrsa_coupled.bench.report import align
from lrsa_coupled.config import Config
from lrsa_coupled.data.batches import epoch_generator, training_batches
from lrsa_coupled.data.dataset import Batch, PointDataset
from lrsa_coupled.data.store import DataStore
from lrsa_coupled.logs import progress
from lrsa_coupled.training.group import ProcessGroup
from lrsa_coupled.training.run import Run, prepare
from lrsa_coupled.training.step import take_step

PRECISIONS = ("fp32", "bf16")
WARM_UP, STEPS = 10, 20
"""Steps that are not counted, in which torch compiles, and those that are."""


def bench_steps(config: Config, data: Path) -> dict[str, Any]:
    """Take the first steps of a training in both formats in turn; nothing is kept of it.

    Raises:
        ValueError: As for a training with these settings on this data.
    """
    store = DataStore(data)
    dataset = PointDataset(store, memory_gib=config.data.memory_gib)
    seconds: dict[str, list[float]] = {name: [] for name in PRECISIONS}
    losses = {}
    with TemporaryDirectory() as folder:
        runs = {
            name: prepare(dataset, _with_precision(config, name), Path(folder), group=ProcessGroup())
            for name in PRECISIONS
        }
        batches = {name: _batches(run) for name, run in runs.items()}
        for number in progress(range(WARM_UP + STEPS), description="steps"):
            for name, run in runs.items():
                batch = next(batches[name])
                _wait(run)
                started = time.perf_counter()
                loss = take_step(run, batch, number=number)
                _wait(run)
                if number >= WARM_UP:
                    seconds[name].append(time.perf_counter() - started)
                losses[name] = float(loss)
    steps = [{"precision": name, "seconds": seconds[name], "loss": losses[name]} for name in PRECISIONS]
    settings = {"operator": dataclasses.asdict(config.operator), "training": dataclasses.asdict(config.training)}
    return {"case": dataset.schema.name, "data": str(data), **settings, "machine": this_machine(), "steps": steps}


def steps_table(ledger: Mapping[str, Any]) -> str:
    """Format a ledger for the terminal: medians and quartiles."""
    rows = [["precision", "step [ms]", "quartiles", "times sooner than fp32", "loss"]]
    medians = {row["precision"]: float(np.median(row["seconds"])) for row in ledger["steps"]}
    for row in ledger["steps"]:
        low, high = 1e3 * np.quantile(row["seconds"], (0.25, 0.75))
        own = medians[row["precision"]]
        rows.append(
            [
                row["precision"],
                f"{1e3 * own:.1f}",
                f"{low:.1f} to {high:.1f}",
                f"{medians['fp32'] / own:.2f}",
                f"{row['loss']:.4f}",
            ]
        )
    operator, training = ledger["operator"], ledger["training"]
    points = training["num_points"] or "all"
    head = (f"{ledger['case']}: {operator['kind']} of width {operator['width']}, {operator['num_blocks']} blocks; {training['batch_size']} samples a step, {points} points each; "
            f"{len(ledger['steps'][0]['seconds'])} steps in turn, {ledger['machine']}")  # fmt: skip
    return f"{head}\n\n{align(rows)}"


def _with_precision(config: Config, precision: str) -> Config:
    return dataclasses.replace(
        config, training=dataclasses.replace(config.training, precision=precision, fp32_epochs=0)
    )


def _batches(run: Run) -> Iterator[Sequence[Batch]]:
    """Yield the batches of a training, epoch after epoch."""
    for epoch in itertools.count(1):
        generator = epoch_generator(run.config.training.seed, epoch)
        yield from training_batches(run.dataset, run.train_samples, run.plan, generator=generator, first=0)


def _wait(run: Run) -> None:
    if run.device.type == "cuda":
        torch.cuda.synchronize(run.device)
