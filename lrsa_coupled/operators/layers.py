"""Layers that several operators are made of.

Shapes: B batch, N = X Y points of a grid, N points without one, d dimension of space, F nodal inputs, G scalars,
J frequencies, C width, H heads, D = C / H.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lrsa_coupled.operators.attention import normalise, softmax_attention


class Lift(nn.Module):
    """Two-layer network from (coordinates, sinusoids of them, nodal inputs, scalars) of a point to its features.

    The sinusoids are ``sin(pi f x)`` and ``cos(pi f x)`` of every normalised coordinate for ``num_frequencies``
    frequencies in geometric progression from 2^-4 to 2^4; none when ``num_frequencies`` is 0.
    """

    def __init__(self, dim: int, width: int, *, num_inputs: int, num_scalars: int, num_frequencies: int) -> None:
        super().__init__()
        frequencies = [math.pi * 2.0 ** (-4.0 + 8.0 * j / max(1, num_frequencies - 1)) for j in range(num_frequencies)]
        self.frequencies_J = nn.Buffer(torch.tensor(frequencies, dtype=torch.float32))
        self.first = nn.Linear(dim * (1 + 2 * num_frequencies) + num_inputs + num_scalars, width)
        self.second = nn.Linear(width, width)

    def forward(self, points_BNd: Tensor, inputs_BNF: Tensor, scalars_BG: Tensor) -> Tensor:
        """Return the features ``(B, N, C)`` of normalised points, inputs and scalars."""
        parts = [points_BNd, inputs_BNF, scalars_BG[:, None, :].expand(-1, points_BNd.shape[1], -1)]
        if len(self.frequencies_J) > 0:
            angles = (points_BNd.unsqueeze(-1) * self.frequencies_J).flatten(start_dim=2)
            parts += [torch.sin(angles), torch.cos(angles)]
        return self.second(F.gelu(self.first(torch.cat(parts, dim=-1))))


class PointBlock(nn.Module, ABC):
    """A block of an operator."""

    @abstractmethod
    def forward(self, features_BNC: Tensor, bias_BN: Tensor | None, shape: tuple[int, ...] | None) -> Tensor:
        """Map the features of all points to such features ``(B, N, C)``; ValueError when another grid is needed.

        Args:
            features_BNC: Features.
            bias_BN: Logarithms of the masses of the points, None where they do not count.
            shape: Shape of the grid that the points lie on, in its order; None without a grid.
        """

    def initialise(self) -> None:
        """Draw the weights that are neither of linear layers nor queries; there are none by default."""


def normed_linear(features: Tensor, norm: nn.RMSNorm, linear: nn.Linear, rows: slice = slice(None)) -> Tensor:
    """Return ``linear(norm(features))``, or some ``rows`` of it; the gain of the norm multiplies the matrix."""
    bias = None if linear.bias is None else linear.bias[rows]
    return F.linear(normalise(features), linear.weight[rows] * norm.weight, bias)


class GridConvolution(nn.Module):
    """Dense 3 x 3 convolution over the neighbours on a uniform grid, zeros beyond its edge, then a layer norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.kernel = nn.Linear(9 * width, width)  # a matrix, as optimisers want it
        self.norm = nn.LayerNorm(width)

    def forward(self, features_BNC: Tensor, shape: tuple[int, ...] | None) -> Tensor:
        """Map features ``(B, N, C)`` in the order of a grid of ``shape``; ValueError when it is not two-dimensional."""
        if shape is None or len(shape) != 2:
            raise ValueError(f"operator: grid_convolution needs the points of a grid of two axes, got {shape}")
        image_BCXY = features_BNC.unflatten(1, shape).permute(0, 3, 1, 2)  # channels last in memory
        weight_CC33 = self.kernel.weight.unflatten(1, (-1, 3, 3))
        result_BCXY = F.conv2d(image_BCXY, weight_CC33, self.kernel.bias, padding=1)
        return self.norm(result_BCXY.permute(0, 2, 3, 1).flatten(1, 2))


def grid_convolution(width: int, *, convolve: bool, skip: bool) -> GridConvolution | None:
    """Return the convolution if there is one; ValueError when ``skip`` is to add its result without it."""
    if skip and not convolve:
        raise ValueError("operator: grid_skip adds the result of grid_convolution, which is off")
    return GridConvolution(width) if convolve else None


class FeedForward(nn.Module):
    """Norm, linear, GELU, linear, added to the argument; with ``convolve`` a convolution over the grid after the norm.

    With ``skip`` the result of the convolution is added, too.
    """

    def __init__(self, width: int, ratio: int, *, convolve: bool = False, skip: bool = False) -> None:
        super().__init__()
        self.skip = skip
        self.norm = nn.RMSNorm(width)
        self.convolution = grid_convolution(width, convolve=convolve, skip=skip)
        self.first = nn.Linear(width, ratio * width)
        self.second = nn.Linear(ratio * width, width)

    def forward(self, features: Tensor, shape: tuple[int, ...] | None = None) -> Tensor:
        """Map ``(..., C)`` to ``(..., C)``; ``shape`` is that of the grid, for the convolution."""
        if self.convolution is None:
            return features + self.second(F.gelu(normed_linear(features, self.norm, self.first)))
        local = self.convolution(self.norm(features), shape)
        added = self.second(F.gelu(self.first(local)))
        return features + added + local if self.skip else features + added


class SelfAttention(nn.Module):
    """Self-attention, added to the argument."""

    def __init__(self, width: int, num_heads: int, *, qk_norm: bool) -> None:
        super().__init__()
        self.num_heads, self.qk_norm = num_heads, qk_norm
        self.norm = nn.RMSNorm(width)
        self.projection = nn.Linear(width, 3 * width, bias=False)
        self.gain_D = nn.Parameter(torch.ones(width // num_heads))
        self.output = nn.Linear(width, width)

    def forward(self, features_BNC: Tensor) -> Tensor:
        """Map ``(B, N, C)`` to ``(B, N, C)``."""
        projected = normed_linear(features_BNC, self.norm, self.projection)
        queries, keys, values = split_heads(projected, 3, num_heads=self.num_heads, normalised=2 if self.qk_norm else 0)
        mixed_BHND = softmax_attention(queries * self.gain_D, keys, values, bounded=self.qk_norm)
        return features_BNC + self.output(merge_heads(mixed_BHND))


def split_heads(projected: Tensor, parts: int, *, num_heads: int, normalised: int = 0) -> tuple[Tensor, ...]:
    """View ``(B, N, parts C)`` as ``parts`` tensors ``(B, H, N, D)``, the first ``normalised`` of them normalised.

    The parts are split as they lie in memory: compiled, vector instructions put their gradients together.
    """
    head_width = projected.shape[-1] // (parts * num_heads)
    heads = projected.unflatten(-1, (parts, num_heads, head_width)).unbind(2)
    return tuple((normalise(head) if place < normalised else head).transpose(1, 2) for place, head in enumerate(heads))


def merge_heads(heads_BHND: Tensor) -> Tensor:
    """Return ``(B, H, N, D)`` as ``(B, N, C)``."""
    return heads_BHND.transpose(1, 2).flatten(start_dim=2)
