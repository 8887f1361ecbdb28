"""One optimiser step: the loss of a batch, its gradient over micro-batches and ranks, the update; and the validation.

A step does not wait for a GPU; its losses stay on the device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lrsa_coupled.config import Precision
from lrsa_coupled.data.batches import epoch_generator
from lrsa_coupled.data.dataset import Batch
from lrsa_coupled.training.evaluate import compared, predict
from lrsa_coupled.training.losses import relative_h1, relative_l2, weighted_mean
from lrsa_coupled.training.run import Run


def objective(run: Run, batch: Batch, *, number: int) -> Tensor:
    """Return the mean loss over the samples of a batch, in the precision of step ``number``."""
    training = run.config.training
    precision, fit = run.precision(number), training.fit_constrained
    if run.physics is not None:
        predicted_BNK = predict(run.forward, batch, precision=precision)
        losses = [run.physics.loss(*sample) for sample in _samples(batch, predicted_BNK)]
        return torch.stack(losses).mean().to(run.device, torch.float32)
    predicted, reference = compared(run.forward, batch, run.fields, precision=precision, fit_constrained=fit)
    loss = weighted_mean(relative_l2(predicted, reference), run.fields)
    if batch.cells_EV is None:
        return loss
    errors = relative_h1(predicted, reference, points_BNd=batch.points_BNd, cells_EV=batch.cells_EV)
    return loss + training.gradient_weight * weighted_mean(errors, run.fields)


def take_step(run: Run, batches: Sequence[Batch], *, number: int) -> Tensor:
    """Take a step with the micro-batches of this rank, ``number`` having been taken before.

    Returns the loss over all ranks, NaN when a gradient is not finite. Collective: over the ranks of ``run.group``.
    """
    for optimiser in run.optimisers:
        optimiser.zero_grad(set_to_none=True)
    losses = []
    for batch in batches:
        loss = objective(run, batch.to(run.device), number=number) * (len(batch.points_BNd) / run.batch_size)
        loss.backward()
        losses.append(loss.detach())
    total = run.group.sum_gradients(run.model.parameters(), torch.stack(losses).sum())
    norm = torch.nn.utils.clip_grad_norm_(run.model.parameters(), run.config.training.gradient_clip or math.inf)
    for optimiser in run.optimisers:
        optimiser.step()
    if run.average is not None:
        run.average.update_parameters(run.model)
    return torch.where(torch.isfinite(norm), total, torch.nan)


@torch.no_grad()
def validate(run: Run, samples: Tensor, *, precision: Precision) -> Tensor:
    """Return relative L2 errors of some samples ``(samples, fields)``, the same at every call; each rank does a share.

    At 2048 random points of each sample, at all of them when the model is trained so. Without labels the error of each
    field is the residual. Collective: over the ranks of ``run.group``.
    """
    training, group = run.config.training, run.group
    generator = epoch_generator(training.seed, 0)
    errors_SP = torch.zeros(len(samples), len(run.fields), device=run.device)
    whole = run.physics is not None or not training.num_points
    num_points, size = (None, 1) if whole else (2048, training.batch_size)
    for number, places in enumerate(torch.arange(len(samples)).split(size)):
        own = slice((group.rank - number) % group.size, None, group.size)
        draw = run.dataset.draw(samples[places], num_points, generator=generator).part(own)
        for batch in run.dataset.gather(draw) if len(draw.samples_B) > 0 else ():
            if run.physics is not None:
                values_BNK = predict(run.validated, batch.to(run.device), precision=precision)
                errors = [run.physics.error(*sample) for sample in _samples(batch, values_BNK)]
                errors_SP[places[own]] = torch.tensor(errors, device=run.device).unsqueeze(1)
                continue
            predicted, reference = compared(run.validated, batch.to(run.device), run.fields, precision=precision)
            errors_SP[places[own]] = relative_l2(predicted, reference)
    return group.sum(errors_SP).cpu()


def _samples(batch: Batch, values_BNK: Tensor) -> list[tuple[int, Tensor]]:
    """Return the index of each sample of a batch of whole ones, and its values."""
    assert batch.indices_B is not None
    return [*zip(batch.indices_B.tolist(), values_BNK, strict=True)]
