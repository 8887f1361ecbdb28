"""Full attention between all points: a pre-norm Transformer block with QK norm, quadratic in the number of points.

Shapes: B batch, N points, C width.

Source: Vaswani et al. (2017), Attention is all you need; QK norm as in the LRSA block.
"""

from __future__ import annotations

from typing import final

from torch import Tensor

from lrsa_coupled.config import FullConfig
from lrsa_coupled.operators.layers import FeedForward, PointBlock, SelfAttention


@final
class Block(PointBlock):
    """Self-attention, then a feed-forward network; the masses of the points do not count."""

    def __init__(self, config: FullConfig) -> None:
        super().__init__()
        self.attention = SelfAttention(config.width, config.num_heads, qk_norm=config.qk_norm)
        self.ffn = FeedForward(config.width, config.ffn_ratio, convolve=config.grid_convolution, skip=config.grid_skip)

    def forward(self, features_BNC: Tensor, bias_BN: Tensor | None, shape: tuple[int, ...] | None) -> Tensor:
        return self.ffn(self.attention(features_BNC), shape)
