"""Transolver: points are weighed into slices, attention runs between the slices, the same weights bring them back.

Shapes: B batch, N points, C width, H heads, M slices, D = C / H.

Source: Wu, Luo, Wang, Wang, Long (2024), Transolver: a fast Transformer solver for PDEs on general geometries, arXiv
2402.02366, equations (1) to (4), for unstructured points.
"""

from __future__ import annotations

from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lrsa_coupled.config import TransolverConfig
from lrsa_coupled.operators.layers import PointBlock, grid_convolution, merge_heads, split_heads


@final
class Block(PointBlock):
    """One Transolver block: ``x + PhysicsAttention(norm x)``, then ``x + MLP(norm x)``; all heads share the slices.

    The masses of the points do not count.
    """

    def __init__(self, config: TransolverConfig) -> None:
        super().__init__()
        width, self.num_heads = config.width, config.num_heads
        head_width = width // config.num_heads
        self.norm = nn.LayerNorm(width)
        self.projection = nn.Linear(width, 2 * width)
        self.slices = nn.Linear(head_width, config.num_latents)
        self.temperature_H11 = nn.Parameter(torch.full((config.num_heads, 1, 1), 0.5))
        self.token_projection = nn.Linear(head_width, 3 * head_width, bias=False)
        self.output = nn.Linear(width, width)
        self.ffn_norm = nn.LayerNorm(width)
        self.convolution = grid_convolution(width, convolve=config.grid_convolution, skip=config.grid_skip)
        self.skip = config.grid_skip
        self.first = nn.Linear(width, config.ffn_ratio * width)
        self.second = nn.Linear(config.ffn_ratio * width, width)

    def forward(self, features_BNC: Tensor, bias_BN: Tensor | None, shape: tuple[int, ...] | None) -> Tensor:
        to_slices_BHND, values_BHND = split_heads(self.projection(self.norm(features_BNC)), 2, num_heads=self.num_heads)
        # The fewest tensors of M numbers a point and head: the temperature divides before the slices.
        heat_H11 = self.temperature_H11
        scores_BHNM = F.linear(to_slices_BHND / heat_H11, self.slices.weight) + self.slices.bias / heat_H11
        weights_BHNM = torch.softmax(scores_BHNM, dim=-1)
        sums_BHME = weights_BHNM.transpose(-1, -2) @ F.pad(values_BHND, (0, 1), value=1.0)
        tokens_BHMD = sums_BHME[..., :-1] / (sums_BHME[..., -1:] + 1e-5)
        mixed_BHMD = F.scaled_dot_product_attention(
            *self.token_projection(tokens_BHMD.to(values_BHND.dtype)).chunk(3, dim=-1)
        )
        features_BNC = features_BNC + self.output(merge_heads(weights_BHNM @ mixed_BHMD))
        hidden_BNC = self.ffn_norm(features_BNC)
        if self.convolution is not None:
            hidden_BNC = self.convolution(hidden_BNC, shape)
            features_BNC = features_BNC + hidden_BNC if self.skip else features_BNC
        return features_BNC + self.second(F.gelu(self.first(hidden_BNC)))
