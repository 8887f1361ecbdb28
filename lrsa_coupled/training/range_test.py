"""Learning-rate range test: a short run whose learning rate grows from step to step.

Source: Smith (2017), Cyclical learning rates for training neural networks, section 3.3.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lrsa_coupled.config import Config
from lrsa_coupled.data.batches import drawn_ahead, epoch_generator, training_batches
from lrsa_coupled.data.dataset import Batch, PointDataset
from lrsa_coupled.data.store import DataStore
from lrsa_coupled.files import atomic_path, write_text_atomically
from lrsa_coupled.logs import progress
from lrsa_coupled.training.optimiser import set_learning_rate
from lrsa_coupled.training.run import Run, check_settings, prepare
from lrsa_coupled.training.step import take_step
from lrsa_coupled.training.team import Team

NUM_STEPS, LOWEST, HIGHEST = 200, 1e-6, 1.0
MEMORY = 0.9
"""Weight of the past in the smoothed loss, a step."""
DIVERGED = 2.0
"""The test ends when the smoothed loss is this multiple of its lowest value."""


def range_test(data: Path, out: Path, config: Config) -> dict[str, Any]:
    """Train a new model for up to 200 steps while the learning rate grows from 1e-6 to 1, and write what happens to the loss.

    Writes ``learning_rates.json`` (rates, losses, smoothed losses) and ``learning_rates.png`` into ``out``.

    Returns:
        ``steps``, ``steepest`` (rate where the smoothed loss falls fastest), ``lowest_loss`` (rate where it is lowest: training.learning_rate
        is best chosen between the two, nearer to the first) and the two files.
    Raises:
        ValueError: If the data set or a setting cannot be used, or the loss is not finite at the lowest rate.
    """
    check_settings(config.training)
    run = prepare(PointDataset(DataStore(data), memory_gib=config.data.memory_gib), config, out, team=Team())
    rates, losses, smoothed = [], [], []
    for number, batches in enumerate(progress(_steps(run), description="range test", unit="step", total=NUM_STEPS)):
        rate = LOWEST * (HIGHEST / LOWEST) ** (number / (NUM_STEPS - 1))
        set_learning_rate(run.optimisers, rate)
        loss = float(take_step(run, batches, number=number))
        if not math.isfinite(loss):
            break
        rates.append(rate)
        losses.append(loss)
        weight = MEMORY * (1.0 - MEMORY**number) / (1.0 - MEMORY ** (number + 1))
        smoothed.append(loss if number == 0 else weight * smoothed[-1] + (1.0 - weight) * loss)
        if smoothed[-1] > DIVERGED * min(smoothed):
            break
    if len(rates) < 2:
        raise ValueError(
            f"the loss is not finite at a learning rate of {LOWEST:g}: the data or the settings are at fault"
        )
    lowest = int(np.argmin(smoothed))
    slope = np.gradient(np.log(smoothed[: max(2, lowest + 1)]))
    result = {"steps": len(rates), "steepest": rates[int(np.argmin(slope))], "lowest_loss": rates[lowest]}
    out.mkdir(parents=True, exist_ok=True)
    curves = {"learning_rate": rates, "loss": losses, "smoothed": smoothed}
    write_text_atomically(out / "learning_rates.json", json.dumps(result | curves, indent=1) + "\n")
    _draw(result | curves, out / "learning_rates.png")
    return result | {"curve": str(out / "learning_rates.json"), "picture": str(out / "learning_rates.png")}


def _steps(run: Run) -> Iterator[list[Batch]]:
    """Yield the batches of as many epochs as it takes."""
    left, epoch = NUM_STEPS, 1
    while left > 0:
        generator = epoch_generator(run.config.training.seed, epoch)
        for batches in drawn_ahead(training_batches(run.dataset, run.train_samples, run.plan, generator=generator)):
            yield batches
            left -= 1
            if left == 0:
                return
        epoch += 1


def _draw(result: dict[str, Any], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.0, 4.0), layout="constrained")
    axes = figure.subplots()
    axes.loglog(result["learning_rate"], result["loss"], color="0.75", label="loss of the step")
    axes.loglog(result["learning_rate"], result["smoothed"], color="C0", label="smoothed")
    for name, style in (("steepest", "--"), ("lowest_loss", ":")):
        axes.axvline(result[name], color="C3", linestyle=style, label=f"{name.replace('_', ' ')}: {result[name]:.1e}")
    axes.set(xlabel="learning rate", ylabel="loss")
    axes.legend()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
