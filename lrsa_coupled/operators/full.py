"""Full attention between all points: a pre-norm Transformer block with QK norm, quadratic in the number of points.

Shapes: B batch, N points, C width.

Source: Vaswani et al. (2017), Attention is all you need; QK norm as in the LRSA block.
"""

from __future__ import annotations

from typing import final

from torch import Tensor, nn

from lrsa_coupled.config import OperatorConfig
from lrsa_coupled.operators.layers import FeedForward, SelfAttention


@final
class FullAttentionBlock(nn.Module):
    """Self-attention, then a feed-forward network."""

    def __init__(self, config: OperatorConfig) -> None:
        super().__init__()
        self.attention = SelfAttention(config.width, config.num_heads, qk_norm=config.qk_norm)
        self.ffn = FeedForward(config.width, config.ffn_ratio, convolve=config.grid_convolution, skip=config.grid_skip)

    def forward(self, features_BNC: Tensor, shape: tuple[int, ...] | None = None) -> Tensor:
        """Map features to features ``(B, N, C)``; ``shape`` is that of the grid, if any."""
        return self.ffn(self.attention(features_BNC), shape)
