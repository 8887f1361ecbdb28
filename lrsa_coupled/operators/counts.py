"""Size and cost of the LRSA model in closed form."""

from __future__ import annotations

from lrsa_coupled.config import OperatorConfig
from lrsa_coupled.operators.embedding import lift_width


def parameter_count(config: OperatorConfig, dim: int, *, num_inputs: int, num_scalars: int, num_outputs: int) -> int:
    """Return the number of trained values, in closed form."""
    width, head_width = config.width, config.width // config.num_heads
    features = lift_width(dim, num_inputs=num_inputs, num_scalars=num_scalars, num_frequencies=config.num_frequencies)
    hidden = config.ffn_ratio * width
    ffn = 2 * width * hidden + hidden + 2 * width
    mixing = 4 * width * width + (2 * width + head_width if config.latent_attention else 4 * width)
    at_ends = (3 + 1 + 2 + 1 - 2 * config.tied) * width * width + 4 * width + (1 if config.tied else 2) * head_width
    convolution = (9 * width + 3) * width if config.grid_convolution else 0
    block = at_ends + mixing + 3 * ffn + convolution + config.num_latents * width
    lift = (features + 1) * width + (width + 1) * width
    return lift + config.num_blocks * block + width + (width + 1) * num_outputs


def flop_count(
    config: OperatorConfig, num_points: int, *, dim: int, num_inputs: int, num_scalars: int, num_outputs: int
) -> int:
    """Return the floating-point operations of the matrix products of a forward pass of one sample, two a multiply-add."""
    width, latents = config.width, config.num_latents
    features = lift_width(dim, num_inputs=num_inputs, num_scalars=num_scalars, num_frequencies=config.num_frequencies)
    at_points = (3 + 1 + 2 * config.ffn_ratio - config.tied) * width * width + 4 * latents * width
    at_points += 9 * width * width if config.grid_convolution else 0
    at_latents = (1 + 4 + 2 + 4 * config.ffn_ratio - config.tied) * width * width
    at_latents += 2 * latents * width if config.latent_attention else 0
    ends = (features + width + num_outputs) * width
    return 2 * (num_points * (ends + config.num_blocks * at_points) + config.num_blocks * latents * at_latents)
