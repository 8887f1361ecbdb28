"""Optimisers by name, the schedule of their learning rate, and the average of the weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import AveragedModel

from lrsa_coupled.config import TrainingConfig
from lrsa_coupled.operators.model import Operator
from lrsa_coupled.training.muon import Muon


def make_optimisers(model: Operator, config: TrainingConfig) -> list[Optimizer]:
    """Return AdamW for all weights, or Muon for the matrices of the blocks and AdamW for the rest.

    Muon's updates are scaled to the size of AdamW's, so both take the same learning rate and weight decay.
    """
    muon = config.optimizer == "muon"
    matrices = [weight for weight in model.blocks.parameters() if muon and weight.ndim == 2]
    chosen = {id(weight) for weight in matrices}
    rest = [weight for weight in model.parameters() if id(weight) not in chosen]
    optimisers: list[Optimizer] = [AdamW(rest, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)]
    if matrices:
        optimisers.append(Muon(matrices, lr=config.learning_rate, weight_decay=config.weight_decay))
    return optimisers


def make_schedules(
    optimisers: Sequence[Optimizer], config: TrainingConfig, *, num_steps: int, done: int = 0
) -> list[OneCycleLR]:
    """Return the schedules of the learning rate for ``num_steps`` steps, of which ``done`` are taken.

    The rate rises along a cosine from 1/25 of the largest, ``one-cycle`` during the first 30 % of the steps, ``cosine``
    during the first 5 %, and falls along one to 1e-4 / 25 of it.
    """
    rise = {"one-cycle": 0.3, "cosine": 0.05}[config.schedule]
    peak, total = max(1, round(rise * num_steps)), max(3, num_steps)
    schedules = []
    for optimiser in optimisers:
        schedule = OneCycleLR(  # torch puts the peak at pct_start * total_steps - 1
            optimiser, config.learning_rate, total_steps=total, pct_start=(peak + 1) / total, cycle_momentum=False
        )
        schedules.append(schedule)
    if done > 0:
        move(schedules, done)
    return schedules


def move(schedules: Sequence[OneCycleLR], done: int) -> None:
    """Set the learning rates to those after ``done`` steps."""
    for schedule in schedules:
        schedule.load_state_dict({"last_epoch": done - 1, "_step_count": done + 1})
        schedule.step()


def make_average(model: Operator, decay: float) -> AveragedModel:
    """Return an exponential average of the weights, the first included; it forgets by ``decay`` a step."""

    def update(averages: Any, weights: Any, count: Any) -> None:
        # During the first steps, some ten, it follows the weights.
        kept = torch.clamp(count / (9 + count), max=decay)
        torch._foreach_sub_(averages, weights)
        torch._foreach_mul_(averages, kept)
        torch._foreach_add_(averages, weights)

    average = AveragedModel(model, multi_avg_fn=torch.no_grad()(update)).requires_grad_(False).eval()
    average.update_parameters(model)
    return average
