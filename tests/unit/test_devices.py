"""Operators on a GPU that is not there: no tensor is left on another device."""

from __future__ import annotations

import pytest
import torch

from lrsa_coupled.config import OperatorConfig
from lrsa_coupled.operators.grid import find_grid
from lrsa_coupled.operators.precision import autocast
from lrsa_coupled.operators.reducer import Reducer
from tests.devices import GPU, NUMBER, pretended_gpu
from tests.operators import BASELINES, CONFIG, VARIANTS, arguments, make_operator, of_kind

SIDE = NUMBER + 1
"""Of the grid that is found: one more than the number of steps that are read."""

ON_GRIDS = {"grid_convolution": True}
OPERATORS = {f"lrsa {number}": config for number, config in enumerate(VARIANTS)}
OPERATORS |= {kind: of_kind(CONFIG, kind) for kind in BASELINES}
OPERATORS |= {
    f"{kind} on a grid": of_kind(CONFIG, kind, **ON_GRIDS) for kind in ("lrsa", "flare", "transolver", "full")
}
OPERATORS["lrsa on a grid, added"] = of_kind(CONFIG, "lrsa", **ON_GRIDS, grid_skip=True)


class Alone(Reducer):
    """As if all other ranks had no points."""

    def max(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.detach().clone()

    sum = max


def on_gpu(config: OperatorConfig) -> tuple[torch.nn.Module, list[torch.Tensor]]:
    return make_operator(config).to(GPU), [tensor.to(GPU) for tensor in arguments(points=SIDE**2)]


def test_devices_that_are_mixed_are_found() -> None:
    with pretended_gpu():
        one, two = torch.ones(3), torch.ones(3, device=GPU)
        for mistake in (lambda: one + two, lambda: torch.equal(one, two), two.numpy):
            with pytest.raises((RuntimeError, TypeError), match="cuda"):
                mistake()


@pytest.mark.parametrize(("name", "precision"), [("lrsa 0", "fp32"), *((name, "bf16") for name in OPERATORS)])
def test_operators(name: str, precision: str) -> None:
    with pretended_gpu():
        model, given = on_gpu(OPERATORS[name])
        with autocast(precision, GPU):
            outputs = model(*given)
        outputs.square().mean().backward()
        assert outputs.device == GPU and outputs.dtype == torch.float32
        assert {weight.grad.device for weight in model.parameters()} == {GPU}
        assert model.normaliser.excess(outputs) == NUMBER


def test_grids() -> None:
    with pretended_gpu():
        points = torch.rand(2, SIDE**2, 2, device=GPU)
        grid = find_grid(points)
        assert grid.shape == (SIDE, SIDE) and grid.back(grid.into(points)).device == GPU
