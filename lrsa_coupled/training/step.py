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
from lrsa_coupled.training.losses import Reference, aligned, relative_h1, relative_l2, weighted_mean
from lrsa_coupled.training.run import Run


def objective(run: Run, batch: Batch, *, number: int) -> Tensor:
    """Return the mean loss over the samples of a batch, in the precision of step ``number``."""
    training = run.config.training
    free = torch.ones_like(batch.outputs_BNK) if training.fit_constrained else batch.free_BNK
    reference = Reference(batch.outputs_BNK, batch.mass_BN, free, run.fields)
    predicted = aligned(predict(run.forward, batch, precision=run.precision(number)), reference)
    loss = weighted_mean(relative_l2(predicted, reference), run.fields)
    if batch.cells_EV is None:
        return loss
    errors = relative_h1(predicted, reference, points_BNd=batch.points_BNd, cells_EV=batch.cells_EV)
    return loss + training.gradient_weight * weighted_mean(errors, run.fields)


def take_step(run: Run, batches: Sequence[Batch], *, number: int) -> Tensor:
    """Take an optimiser step; return the loss over all ranks, NaN when a gradient is not finite.

    Collective: over the ranks of ``run.group``.

    Args:
        run: The run.
        batches: The micro-batches of this rank.
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
    norm = torch.nn.utils.clip_grad_norm_(run.model.parameters(), run.config.training.gradient_clip or math.inf)
    for optimiser in run.optimisers:
        optimiser.step()
    if run.average is not None:
        run.average.update_parameters(run.model)
    return torch.where(torch.isfinite(norm), total, torch.nan)
