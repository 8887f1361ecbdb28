"""What limits a trained model, by its errors and its loss curve: samples, steps or size."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from lrsa_coupled.reading import parse_json
from lrsa_coupled.training.losses import weighted_mean
from lrsa_coupled.training.run import Run
from lrsa_coupled.training.step import validate


@dataclass(frozen=True)
class Thresholds:
    """From where a sign counts.

    Args:
        gap: Ratio of the errors on validation and on training samples from which samples are too few.
        falling: Ratio of the loss in the third fifth of a run to that in the second, before the learning rate comes
            down, below which steps are too few.
        epochs: Passes through the samples below which steps are too few whatever the loss does.
    """

    gap: float = 1.5
    falling: float = 0.9
    epochs: int = 30


THRESHOLDS = Thresholds()

LONGER = "a longer training helps most, training.initial=MODEL begins with this one"


@torch.no_grad()
def what_limits(run: Run, valid_error: float) -> str:
    """Return a sentence for people. Collective: over the ranks of the run."""
    samples = run.train_samples[: max(8, len(run.valid_samples))]
    errors_SP = validate(run, samples, precision=run.config.training.precision)
    # An energy is no measure of what is left: it ends at another number for each sample.
    what, key = ("error", "loss") if run.physics is None else ("residual", "valid_error")
    losses, epochs = (read_losses(run.out, name) if run.group.rank == 0 else [] for name in (key, "loss"))
    return sentence(valid_error, float(weighted_mean(errors_SP, run.fields)), losses, what=what, epochs=len(epochs))


def read_losses(out: Path, key: str = "loss") -> list[float]:
    """Read the loss of each epoch, or what else is measured; lines that hold none are left out."""
    losses = []
    for line in (out / "metrics.jsonl").read_bytes().splitlines():
        with suppress(ValueError):
            losses.append(parse_json(line.decode(), where="metrics.jsonl").get(key))
    return [loss for loss in losses if isinstance(loss, float)]


def sentence(valid_error: float, train_error: float, losses: Sequence[float], *, what: str = "error",
             epochs: int | None = None) -> str:  # fmt: skip
    """Say what limits a model of these errors and this loss of each epoch."""
    both = f"{what} {valid_error:.2%} on validation samples, {train_error:.2%} on training samples"
    if valid_error > THRESHOLDS.gap * train_error:
        return f"too few samples ({both}): more of them help most"
    fifth, epochs = len(losses) // 5, len(losses) if epochs is None else epochs
    if epochs < THRESHOLDS.epochs or not fifth:
        return f"too few steps ({both}, {epochs} epochs): {LONGER}"
    if sum(losses[2 * fifth : 3 * fifth]) < THRESHOLDS.falling * sum(losses[fifth : 2 * fifth]):
        return f"too few steps ({both}, the loss was still falling): {LONGER}"
    return f"too small ({both}, the loss no longer fell): a larger operator.width or a longer training helps most"
