"""From coordinates, nodal inputs and scalars to point features.

Shapes: B batch, N points, d dimension of space, F nodal inputs, G scalars, J frequencies, C width.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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

    def forward(self, points_BNd: Tensor, inputs_BNF: Tensor, *, scalars_BG: Tensor) -> Tensor:
        """Return the features ``(B, N, C)`` of normalised points, inputs and scalars."""
        parts = [points_BNd, inputs_BNF, scalars_BG[:, None, :].expand(-1, points_BNd.shape[1], -1)]
        if len(self.frequencies_J) > 0:
            angles = (points_BNd.unsqueeze(-1) * self.frequencies_J).flatten(start_dim=2)
            parts += [torch.sin(angles), torch.cos(angles)]
        return self.second(F.gelu(self.first(torch.cat(parts, dim=-1))))
