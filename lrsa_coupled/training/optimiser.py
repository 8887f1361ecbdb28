"""Optimisers by name and their learning rate by step."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

from lrsa_coupled.config import TrainingConfig
from lrsa_coupled.operators.model import Operator
from lrsa_coupled.training.muon import Muon

WARM_UP = {"one-cycle": 0.3, "cosine": 0.05}
START_DIVISOR = 25.0
END_DIVISOR = 1e4


def make_optimisers(model: Operator, config: TrainingConfig) -> list[Optimizer]:
    """Return AdamW for all weights, or Muon for the matrices of the blocks and AdamW for the rest.

    Muon's updates are scaled to the size of AdamW's, so both take the same learning rate and weight decay.
    """
    matrices = (
        [weight for weight in model.blocks.parameters() if weight.ndim == 2] if config.optimizer == "muon" else []
    )
    chosen = {id(weight) for weight in matrices}
    rest = [weight for weight in model.parameters() if id(weight) not in chosen]
    optimisers: list[Optimizer] = [AdamW(rest, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)]
    if matrices:
        optimisers.append(Muon(matrices, lr=config.learning_rate, weight_decay=config.weight_decay))
    return optimisers


def learning_rate(config: TrainingConfig, step: int, *, num_steps: int) -> float:
    """Return the learning rate of step 0 <= step < num_steps.

    Both rise along a cosine from 1/25 of the maximum, ``one-cycle`` during the first 30 % of the steps, ``cosine`` during the first 5 %,
    and fall along one to 1e-4 / 25 of it.
    """
    start, end = 1.0 / START_DIVISOR, 1.0 / (START_DIVISOR * END_DIVISOR)
    peak = max(1, round(WARM_UP[config.schedule] * num_steps))
    if step < peak:
        return config.learning_rate * _cosine(start, 1.0, part=step / peak)
    return config.learning_rate * _cosine(1.0, end, part=(step - peak) / max(1, num_steps - 1 - peak))


def set_learning_rate(optimisers: list[Optimizer], value: float) -> None:
    """Set the learning rate of all parameter groups."""
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["lr"] = value


def optimiser_tensors(optimisers: list[Optimizer]) -> dict[str, Tensor]:
    """Return the states of all optimisers as tensors named ``<optimiser>.<parameter>.<entry>``."""
    tensors = {}
    for place, optimiser in enumerate(optimisers):
        for parameter, entries in optimiser.state_dict()["state"].items():
            for entry, value in entries.items():
                tensors[f"{place}.{parameter}.{entry}"] = torch.as_tensor(value).detach().cpu().contiguous()
    return tensors


def load_optimiser_tensors(optimisers: list[Optimizer], tensors: dict[str, Tensor]) -> None:
    """Set the states from ``optimiser_tensors`` of optimisers made alike.

    Raises:
        ValueError: If a name is not of that form or names no parameter.
    """
    states: list[dict[int, dict[str, Tensor]]] = [{} for _ in optimisers]
    for name, tensor in tensors.items():
        try:
            place, parameter, entry = name.split(".")
            states[int(place)].setdefault(int(parameter), {})[entry] = tensor
        except (ValueError, IndexError) as error:
            raise ValueError(f"'{name}' is not an optimiser state of this run") from error
    for optimiser, state in zip(optimisers, states, strict=True):
        optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def _cosine(start: float, end: float, *, part: float) -> float:
    return end + 0.5 * (start - end) * (1.0 + math.cos(math.pi * part))
