"""Errors of predictions: on a validation subset during training, and of a trained model on a whole data set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lrsa_coupled.config import Config, TrainingConfig
from lrsa_coupled.data.batches import epoch_generator
from lrsa_coupled.data.dataset import Batch, PointDataset
from lrsa_coupled.data.description import Description
from lrsa_coupled.data.store import DataStore
from lrsa_coupled.interfaces import Field
from lrsa_coupled.logs import progress
from lrsa_coupled.operators.model import Operator
from lrsa_coupled.operators.precision import autocast, choose_device
from lrsa_coupled.training import checkpoint
from lrsa_coupled.training.checkpoint import ModelCard
from lrsa_coupled.training.losses import FieldColumns, field_columns, relative_l2
from lrsa_coupled.training.team import Team

VALIDATION_POINTS = 2048

Forward = Callable[..., Tensor]


def predict(forward: Forward, batch: Batch, *, precision: str) -> Tensor:
    """Return the outputs ``(B, N, K)`` of a batch in physical units; the blocks run in ``precision``."""
    with autocast(precision, batch.points_BNd.device):
        return forward(batch.points_BNd, batch.inputs_BNF, batch.scalars_BG, batch.mass_BN)


@torch.no_grad()
def validate(
    model: Operator, dataset: PointDataset, *, samples: Tensor, fields: tuple[FieldColumns, ...], training: TrainingConfig, team: Team
) -> Tensor:  # fmt: skip
    """Return relative L2 errors ``(samples, fields)``, the same at every call; each rank does a share. Collective over ``team``.

    At a random subset of the points of each sample, at all of them when the model is trained so.
    """
    device = model.head.weight.device
    generator = epoch_generator(training.seed, 0)
    errors_SP = torch.zeros(len(samples), len(fields), device=device)
    num_points, size = (VALIDATION_POINTS, training.batch_size) if training.num_points > 0 else (0, 1)
    for number, places in enumerate(torch.arange(len(samples)).split(size)):
        own = slice((team.rank - number) % team.size, None, team.size)
        draw = dataset.draw(samples[places], num_points, generator=generator).part(own)
        for batch in dataset.gather(draw) if len(draw.samples_B) > 0 else ():
            errors_SP[places[own]] = _errors(model, batch.to(device), fields=fields, precision=training.precision)
    return team.sum(errors_SP).cpu()


@torch.no_grad()
def evaluate(model: Path, data: Path, config: Config) -> dict[str, Any]:
    """Compute the relative L2 errors of a trained model on all solved samples of a data set, at all nodes.

    Constrained values count as exact, as in a guess. Precision is that of ``config.guess``, device that of ``config.training``.

    Args:
        model: Folder of the checkpoint.
        data: Folder of the data set.
        config: Configuration of the run.
    Returns:
        ``case``, ``samples`` (number), ``fields``: for each output ``mean``, ``median``, ``p95``, ``worst`` and ``worst_sample`` (index).
    Raises:
        ValueError: If a file is damaged or missing, or the data set is of another case.
    """
    device = choose_device(config.training.device)
    operator, card = checkpoint.load(model)
    dataset = PointDataset(DataStore(data), memory_gib=config.data.memory_gib)
    check_match(card, dataset.description)
    operator.to(device)
    fields = field_columns(card.outputs, operator.normaliser.outputs_std.tolist())
    errors = []
    for place in progress(range(len(dataset)), description="evaluating", delay=2.0):
        errors.append(_errors(operator, dataset.whole(place).to(device), fields=fields, precision=config.guess.precision).cpu())
    table_SP = torch.cat(errors).numpy().astype(np.float64)
    summary = {item.name: _statistics(table_SP[:, column], dataset.indices) for column, item in enumerate(fields)}
    return {"case": card.case, "samples": len(dataset), "fields": summary}


def check_match(card: ModelCard, description: Description) -> None:
    """Raise ValueError unless a model and a data set are of the same case, with the same fields."""
    pairs = (
        ("case", card.case, description.case),
        ("dimension", card.dim, description.dim),
        ("inputs", _shapes(card.inputs), _shapes(description.inputs)),
        ("scalars", list(card.scalars), list(description.scalars)),
        ("outputs", _shapes(card.outputs), _shapes(description.outputs)),
    )
    for name, of_model, of_data in pairs:
        if of_model != of_data:
            raise ValueError(f"the model's {name} is {of_model!r}, the data set's is {of_data!r}: they do not belong together")


def _errors(forward: Forward, batch: Batch, *, fields: tuple[FieldColumns, ...], precision: str) -> Tensor:
    predicted = predict(forward, batch, precision=precision)
    return relative_l2(predicted, batch.outputs_BNK, mass_BN=batch.mass_BN, free_BNK=batch.free_BNK, fields=fields)


def _shapes(fields: tuple[Field, ...]) -> list[tuple[str, int]]:
    return [(item.name, item.components) for item in fields]


def _statistics(errors_S: npt.NDArray[np.float64], indices: list[int]) -> dict[str, float | int]:
    worst = int(np.argmax(errors_S))
    return {
        "mean": float(errors_S.mean()),
        "median": float(np.median(errors_S)),
        "p95": float(np.percentile(errors_S, 95)),
        "worst": float(errors_S[worst]),
        "worst_sample": indices[worst],
    }
