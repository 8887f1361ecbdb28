"""The optimiser, its learning rate by step, its state as tensors."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

from lrsa_coupled.config import TrainingConfig
from lrsa_coupled.operators.lrsa import LRSA

WARM_UP = {"one-cycle": 0.3, "cosine": 0.05}
START_DIVISOR = 25.0
END_DIVISOR = 1e4


def make_optimiser(model: LRSA, config: TrainingConfig) -> AdamW:
    """Return AdamW for all weights."""
    return AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)


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


def set_learning_rate(optimiser: Optimizer, value: float) -> None:
    """Set the learning rate of all parameter groups."""
    for group in optimiser.param_groups:
        group["lr"] = value


def optimiser_tensors(optimiser: Optimizer) -> dict[str, Tensor]:
    """Return the state of an optimiser as tensors named ``<parameter>.<entry>``."""
    tensors = {}
    for parameter, entries in optimiser.state_dict()["state"].items():
        for entry, value in entries.items():
            tensors[f"{parameter}.{entry}"] = torch.as_tensor(value).detach().cpu().contiguous()
    return tensors


def load_optimiser_tensors(optimiser: Optimizer, tensors: dict[str, Tensor]) -> None:
    """Set the state from ``optimiser_tensors`` of an optimiser made alike.

    Raises:
        ValueError: If a name is not of that form.
    """
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        try:
            parameter, entry = name.split(".")
            state.setdefault(int(parameter), {})[entry] = tensor
        except ValueError as error:
            raise ValueError(f"'{name}' is not an optimiser state of this run") from error
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def _cosine(start: float, end: float, *, part: float) -> float:
    return end + 0.5 * (start - end) * (1.0 + math.cos(math.pi * part))
