"""FLARE: learned queries gather the points into latent tokens, and the same scores spread the tokens back.

Shapes: B batch, N points, C width, H heads, M latent tokens, D = C / H.

Source: Puri et al. (2025), FLARE: fast low-rank attention routing engine, arXiv 2508.12594.
"""

from __future__ import annotations

from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lrsa_coupled.config import FlareConfig
from lrsa_coupled.operators.attention import softmax_attention
from lrsa_coupled.operators.layers import GridConvolution, PointBlock, merge_heads, split_heads


class ResidualMLP(nn.Module):
    """Linear, three residual layers with GELU, linear, as in the source; the ends are residual too."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(width, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.last = nn.Linear(width, width)

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(..., C)`` to ``(..., C)``."""
        features = features + F.gelu(self.first(features))
        for layer in self.layers:
            features = features + F.gelu(layer(features))
        return features + self.last(features)


@final
class Block(PointBlock):
    """One FLARE block: ``x + FLARE(norm x)``, then ``x + MLP(norm x)``; the masses of the points do not count."""

    def __init__(self, config: FlareConfig) -> None:
        super().__init__()
        width, self.num_heads = config.width, config.num_heads
        self.norm = nn.LayerNorm(width)
        self.keys, self.values = ResidualMLP(width), ResidualMLP(width)
        self.queries_HMD = nn.Parameter(torch.empty(config.num_heads, config.num_latents, width // config.num_heads))
        self.output = nn.Linear(width, width)
        self.ffn_norm, self.ffn = nn.LayerNorm(width), ResidualMLP(width)
        self.convolution = GridConvolution(width) if config.grid_convolution else None

    def forward(self, features_BNC: Tensor, bias_BN: Tensor | None, shape: tuple[int, ...] | None) -> Tensor:
        normalised_BNC = self.norm(features_BNC)
        keys_BHND, values_BHND = (
            split_heads(network(normalised_BNC), 1, num_heads=self.num_heads)[0] for network in (self.keys, self.values)
        )
        queries_BHMD = self.queries_HMD.to(keys_BHND.dtype).expand(len(features_BNC), -1, -1, -1)
        tokens_BHMD = softmax_attention(queries_BHMD, keys_BHND, values_BHND, scale=1.0)
        spread_BHND = softmax_attention(keys_BHND, queries_BHMD, tokens_BHMD, scale=1.0)
        features_BNC = features_BNC + self.output(merge_heads(spread_BHND))
        hidden_BNC = self.ffn_norm(features_BNC)
        return features_BNC + self.ffn(hidden_BNC if self.convolution is None else self.convolution(hidden_BNC, shape))
