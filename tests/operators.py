"""An operator and arguments for it, shared by the tests of its exactness."""

from __future__ import annotations

import dataclasses

import torch

from lrsa_coupled import config as configuration
from lrsa_coupled.config import LrsaConfig, OperatorConfig
from lrsa_coupled.operators.model import Operator

CONFIG = LrsaConfig(
    width=32, num_blocks=2, num_heads=4, num_latents=12, ffn_ratio=2, num_frequencies=3, mass_weighted=True
)
SIZES = {"num_inputs": 3, "num_scalars": 2, "num_outputs": 4}
REDUCED = LrsaConfig(
    width=24, num_blocks=1, num_heads=3, num_latents=6, tied=True, latent_attention=False, qk_norm=False
)
VARIANTS = [CONFIG, LrsaConfig(width=24, num_blocks=1, num_heads=2, num_latents=5), REDUCED]
BASELINES = ("flare", "transolver", "full", "fno")
LIMITS = {torch.float32: 1e-5, torch.float64: 1e-12}


def of_kind(config: LrsaConfig, kind: str, **changes: object) -> OperatorConfig:
    """Return a small operator of a kind: LRSA with masses, a Fourier operator of two modes."""
    changes |= {"lrsa": {"mass_weighted": True}, "fno": {"num_modes": 2}}.get(kind, {})
    return dataclasses.replace(configuration.of_kind(config, kind), **changes)


def make_operator(config: OperatorConfig = CONFIG, dim: int = 2, dtype: torch.dtype = torch.float32) -> Operator:
    """Return an operator away from the symmetric start, where gains are one and biases zero."""
    torch.manual_seed(0)
    model = Operator(config, dim, SIZES["num_inputs"], SIZES["num_scalars"], SIZES["num_outputs"])
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    return model.to(dtype)


def arguments(
    batch: int = 2, points: int = 50, dim: int = 2, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, ...]:
    """Return points, nodal inputs, scalars and masses."""
    generator = torch.Generator().manual_seed(1)
    draw = [
        torch.randn(*shape, generator=generator) for shape in ((batch, points, dim), (batch, points, 3), (batch, 2))
    ]
    mass = 0.1 + torch.rand(batch, points, generator=generator)
    return tuple(tensor.to(dtype) for tensor in (*draw, mass))


def relative(value: torch.Tensor, reference: torch.Tensor) -> float:
    """Return the relative Euclidean distance."""
    return ((value - reference).norm() / reference.norm()).item()


def exact_outputs(points: torch.Tensor) -> torch.Tensor:
    """Return some smooth field at the points."""
    return torch.sin(3.0 * points[..., :1] + torch.arange(4.0, dtype=points.dtype))


def gradients(
    model: Operator, outputs: torch.Tensor, exact: torch.Tensor, *, mass: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Return this rank's part of the gradients of the squared L2 error, by name."""
    model.zero_grad()
    (mass.unsqueeze(-1) * (outputs - exact).square()).sum().backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters()}


def assert_equal_gradients(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], *, limit: float) -> None:
    """Compare gradients by the size of the largest."""
    scale = max(gradient.norm().item() for gradient in expected.values())
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm().item() < limit * scale, name


def lrsa_parameter_count(config: LrsaConfig, dim: int, *, num_inputs: int, num_scalars: int, num_outputs: int) -> int:
    """Return the number of trained values of LRSA, in closed form."""
    width, head_width = config.width, config.width // config.num_heads
    features = dim * (1 + 2 * config.num_frequencies) + num_inputs + num_scalars
    hidden = config.ffn_ratio * width
    ffn = 2 * width * hidden + hidden + 2 * width
    mixing = 4 * width * width + (2 * width + head_width if config.latent_attention else 4 * width)
    at_ends = (3 + 1 + 2 + 1 - 2 * config.tied) * width * width + 4 * width + (1 if config.tied else 2) * head_width
    convolution = (9 * width + 3) * width if config.grid_convolution else 0
    block = at_ends + mixing + 3 * ffn + convolution + config.num_latents * width
    lift = (features + 1) * width + (width + 1) * width
    return lift + config.num_blocks * block + width + (width + 1) * num_outputs


def lrsa_flop_count(
    config: LrsaConfig, num_points: int, *, dim: int, num_inputs: int, num_scalars: int, num_outputs: int
) -> int:
    """Return the floating-point operations of the matrix products of LRSA for one sample, two a multiply-add."""
    width, latents = config.width, config.num_latents
    features = dim * (1 + 2 * config.num_frequencies) + num_inputs + num_scalars
    at_points = (3 + 1 + 2 * config.ffn_ratio - config.tied) * width * width + 4 * latents * width
    at_points += 9 * width * width if config.grid_convolution else 0
    at_latents = (1 + 4 + 2 + 4 * config.ffn_ratio - config.tied) * width * width
    at_latents += 2 * latents * width if config.latent_attention else 0
    ends = (features + width + num_outputs) * width
    return 2 * (num_points * (ends + config.num_blocks * at_points) + config.num_blocks * latents * at_latents)
