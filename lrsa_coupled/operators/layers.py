"""Layers that several operators are made of.

Shapes: B batch, N points, C width, H heads, D = C / H.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lrsa_coupled.operators.attention import attend, normalise


def normed_linear(features: Tensor, norm: nn.RMSNorm, linear: nn.Linear, rows: slice = slice(None)) -> Tensor:
    """Return ``linear(norm(features))``, or some of its outputs; the gain of the norm is applied to the matrix, which is the smaller one."""
    bias = None if linear.bias is None else linear.bias[rows]
    return F.linear(normalise(features), linear.weight[rows] * norm.weight, bias)


class FeedForward(nn.Module):
    """Norm, linear, GELU, linear, added to the argument."""

    def __init__(self, width: int, ratio: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width)
        self.first = nn.Linear(width, ratio * width)
        self.second = nn.Linear(ratio * width, width)

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(..., C)`` to ``(..., C)``."""
        return features + self.second(F.gelu(normed_linear(features, self.norm, self.first)))


class SelfAttention(nn.Module):
    """Self-attention, added to the argument."""

    def __init__(self, width: int, num_heads: int, *, qk_norm: bool = True) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.normalise = normalise if qk_norm else nn.Identity()
        self.norm = nn.RMSNorm(width)
        self.projection = nn.Linear(width, 3 * width, bias=False)
        self.gain_D = nn.Parameter(torch.ones(width // num_heads))
        self.output = nn.Linear(width, width)

    def forward(self, features_BNC: Tensor) -> Tensor:
        """Map ``(B, N, C)`` to ``(B, N, C)``."""
        queries, keys, values = split_heads(normed_linear(features_BNC, self.norm, self.projection), 3, num_heads=self.num_heads)
        mixed_BHND = attend(self.normalise(queries) * self.gain_D, self.normalise(keys), values_BHND=values)
        return features_BNC + self.output(merge_heads(mixed_BHND))


def split_heads(projected: Tensor, parts: int, *, num_heads: int) -> tuple[Tensor, ...]:
    """View ``(B, N, parts C)`` as ``parts`` tensors ``(B, H, N, D)``."""
    head_width = projected.shape[-1] // (parts * num_heads)
    return projected.unflatten(-1, (parts, num_heads, head_width)).permute(2, 0, 3, 1, 4).unbind(0)


def split_normalised(projected: Tensor, parts: int, *, num_heads: int, qk_norm: bool = True) -> tuple[Tensor, ...]:
    """Split ``(B, N, parts C)`` into tensors ``(B, H, N, D)``, normalised in one pass in the order they lie in memory."""
    if not qk_norm:
        return split_heads(projected, parts, num_heads=num_heads)
    head_width = projected.shape[-1] // (parts * num_heads)
    normalised = normalise(projected.unflatten(-1, (parts, num_heads, head_width)))
    return normalised.permute(2, 0, 3, 1, 4).unbind(0)


def merge_heads(heads_BHND: Tensor) -> Tensor:
    """Return ``(B, H, N, D)`` as ``(B, N, C)``."""
    return heads_BHND.transpose(1, 2).flatten(start_dim=2)
