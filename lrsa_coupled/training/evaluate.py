"""Predictions beside what they are measured against, and the errors of a trained model on a whole data set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lrsa_coupled.config import Config
from lrsa_coupled.data.cells import are_simplices
from lrsa_coupled.data.dataset import Batch, PointDataset
from lrsa_coupled.data.store import DataStore
from lrsa_coupled.logs import progress
from lrsa_coupled.operators.precision import autocast, choose_device
from lrsa_coupled.schema import Field, Schema
from lrsa_coupled.training import checkpoint
from lrsa_coupled.training.checkpoint import ModelCard
from lrsa_coupled.training.losses import FieldColumns, Reference, aligned, field_columns, relative_h1, relative_l2

Fields = tuple[FieldColumns, ...]
Forward = Callable[..., Tensor]


def predict(forward: Forward, batch: Batch, *, precision: str) -> Tensor:
    """Return predictions ``(B, N, K)`` in physical units; the blocks run in ``precision``."""
    with autocast(precision, batch.points_BNd.device):
        return forward(batch.points_BNd, batch.inputs_BNF, batch.scalars_BG, batch.mass_BN)


def compared(
    forward: Forward, batch: Batch, fields: Fields, *, precision: str, fit_constrained: bool = False
) -> tuple[Tensor, Reference]:
    """Return predictions ``(B, N, K)`` in physical units and what they are measured against.

    The blocks run in ``precision``; of the span of a basis counts what is nearest to the exact one.
    """
    predicted_BNK = predict(forward, batch, precision=precision)
    free_BNK = torch.ones_like(batch.outputs_BNK) if fit_constrained else batch.free_BNK
    reference = Reference(batch.outputs_BNK, batch.mass_BN, free_BNK, fields)
    return aligned(predicted_BNK, reference), reference


@dataclass(frozen=True)
class Worst:
    """The sample where the error of a field is largest: exact and predicted values ``(N, components)`` at its nodes."""

    field: Field
    index: int
    error: float
    points: npt.NDArray[np.float32]
    cells: npt.NDArray[np.int32]
    exact: npt.NDArray[np.float32]
    predicted: npt.NDArray[np.float32]


@torch.no_grad()
def evaluate(model: Path, data: Path, config: Config) -> tuple[dict[str, Any], list[Worst]]:
    """Compute the relative errors of a trained model on all solved samples of a data set, at all nodes.

    Constrained values count as exact, as in a guess. Precision is that of ``config.guess``, device that of
    ``config.training``.

    Returns:
        ``case``, ``samples`` (number) and ``fields``: for each output ``l2`` and, on simplices, ``h1`` (seminorm of P1
        gradients), each with ``mean``, ``median``, ``p95``, ``worst`` and ``worst_sample`` (index). And for each output
        the sample of the worst L2 error. ValueError when a file is damaged or missing, or the data set of another case.
    """
    trained = _Trained(model, data, config)
    dataset, schema = trained.dataset, trained.card.schema
    places = progress(range(len(dataset)), description="evaluating", delay=2.0)
    rows = [_both_errors(*trained.predicted(place)).cpu() for place in places]
    table_SEP = torch.stack(rows).numpy().astype(np.float64)
    summary, worst = {}, []
    for column, (item, field) in enumerate(zip(trained.fields, schema.outputs, strict=True)):
        norms = zip(("l2", "h1"), table_SEP[:, :, column].T, strict=False)
        summary[item.name] = {norm: _statistics(errors_S, dataset.indices) for norm, errors_S in norms}
        place = int(np.argmax(table_SEP[:, 0, column]))
        batch, outputs_BNK, _ = trained.predicted(place)
        both = (batch.outputs_BNK, _as_guess(batch, outputs_BNK))
        assert batch.cells_EV is not None
        tensors = (batch.points_BNd[0], batch.cells_EV, *(each[0, :, item.columns] for each in both))
        arrays = (tensor.cpu().numpy() for tensor in tensors)
        worst.append(Worst(field, dataset.indices[place], table_SEP[place, 0, column], *arrays))
    return {"case": schema.name, "samples": len(dataset), "fields": summary}, worst


@torch.no_grad()
def predictions(model: Path, data: Path, config: Config, indices: Sequence[int]) -> Iterator[npt.NDArray[np.float64]]:
    """Yield the outputs of solved samples as a model predicts them ``(N, K)``, constrained values exact.

    Errors as those of ``evaluate``.
    """
    trained = _Trained(model, data, config)
    for index in indices:
        batch, predicted_BNK, _ = trained.predicted(trained.dataset.indices.index(index), with_cells=False)
        yield _as_guess(batch, predicted_BNK)[0].double().cpu().numpy()


class _Trained:
    """A trained model and the solved samples of a data set; ValueError as ``evaluate``."""

    def __init__(self, model: Path, data: Path, config: Config) -> None:
        self._device, self._precision = choose_device(config.training.device), config.guess.precision
        self._operator, self.card = checkpoint.load(model)
        self.dataset = PointDataset(DataStore(data), memory_gib=config.data.memory_gib)
        check_match(self.card, self.dataset.schema)
        self._operator.to(self._device)
        self.fields = field_columns(self.card.schema.outputs, self._operator.normaliser.outputs_std.tolist())

    def predicted(self, place: int, *, with_cells: bool = True) -> tuple[Batch, Tensor, Reference]:
        """Return a sample, what is predicted of it, and what that is measured against."""
        batch = self.dataset.whole(place, with_cells=with_cells).to(self._device)
        return batch, *compared(self._operator, batch, self.fields, precision=self._precision)


def _as_guess(batch: Batch, predicted_BNK: Tensor) -> Tensor:
    """Return predictions with the constrained values exact."""
    return torch.where(batch.free_BNK > 0, predicted_BNK, batch.outputs_BNK)


def _both_errors(batch: Batch, predicted_BNK: Tensor, reference: Reference) -> Tensor:
    """Return L2 and, on simplices, H1 errors of a batch of one: ``(1 or 2, fields)``."""
    errors = [relative_l2(predicted_BNK, reference)]
    if batch.cells_EV is not None and are_simplices(batch.cells_EV.shape[1], batch.points_BNd.shape[-1]):
        errors.append(relative_h1(predicted_BNK, reference, points_BNd=batch.points_BNd, cells_EV=batch.cells_EV))
    return torch.cat(errors)


def check_match(card: ModelCard, schema: Schema) -> None:
    """Raise ValueError unless a model is of the schema of a data set."""
    if (difference := card.schema.difference(schema)) is not None:
        raise ValueError(f"the model and the data set do not belong together: the model has {difference}")


def _statistics(errors_S: npt.NDArray[np.float64], indices: list[int]) -> dict[str, float | int]:
    worst = int(np.argmax(errors_S))
    values = (errors_S.mean(), np.median(errors_S), np.percentile(errors_S, 95), errors_S[worst])
    named = dict(zip(("mean", "median", "p95", "worst"), map(float, values), strict=True))
    return named | {"worst_sample": indices[worst]}
