"""One optimiser step: the loss of a batch, its gradient over micro-batches and ranks, the update.

Nothing here waits for a GPU; the losses stay on the device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lrsa_coupled.data.dataset import Batch
from lrsa_coupled.training.evaluate import predict
from lrsa_coupled.training.losses import aligned, relative_h1, relative_l2, weighted_mean
from lrsa_coupled.training.run import Run

WARM_UP = 10
"""Steps after which the average of the weights forgets as slowly as it can, roughly; before, it follows the weights."""


def objective(run: Run, batch: Batch, *, number: int) -> Tensor:
    """Return the mean of the loss over the samples of a batch on the device of the run, in the precision of step ``number``."""
    training = run.config.training
    predicted = predict(run.forward, batch, precision=run.precision(number))
    exact = batch.outputs_BNK
    free = torch.ones_like(exact) if training.fit_constrained else batch.free_BNK
    predicted = aligned(predicted, exact, mass_BN=batch.mass_BN, free_BNK=free, fields=run.fields)
    loss = weighted_mean(
        relative_l2(predicted, exact, mass_BN=batch.mass_BN, free_BNK=free, fields=run.fields), run.fields
    )
    if batch.cells_EV is None:
        return loss
    errors = relative_h1(
        predicted, exact, points_BNd=batch.points_BNd, free_BNK=free, cells_EV=batch.cells_EV, fields=run.fields
    )
    return loss + training.gradient_weight * weighted_mean(errors, run.fields)


def take_step(run: Run, batches: Sequence[Batch], *, number: int) -> Tensor:
    """Take an optimiser step with this rank's micro-batches; return the loss over all ranks, NaN when a gradient is not finite.

    Collective: over the ranks of ``run.group``.

    Args:
        run: The run.
        batches: This rank's share of the batch.
        number: Steps taken before.
    """
    for optimiser in run.optimisers:
        optimiser.zero_grad(set_to_none=True)
    losses = []
    for batch in batches:
        loss = objective(run, batch.to(run.device), number=number) * (len(batch.points_BNd) / run.batch_size)
        loss.backward()
        losses.append(loss.detach())
    total = run.group.sum_gradients(run.model.parameters(), torch.stack(losses).sum())
    limit = run.config.training.gradient_clip or math.inf
    norm = torch.nn.utils.clip_grad_norm_(run.model.parameters(), limit)
    for optimiser in run.optimisers:
        optimiser.step()
    if run.average is not None:
        update_average(run, number)
    return torch.where(torch.isfinite(norm), total, torch.nan)


@torch.no_grad()
def update_average(run: Run, number: int) -> None:
    """Move the average of the weights towards them."""
    decay = min(run.config.training.ema or 0.0, (1 + number) / (WARM_UP + number))
    torch._foreach_lerp_(list(run.kept.parameters()), list(run.model.parameters()), 1.0 - decay)
