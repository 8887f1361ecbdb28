"""Fourier neural operator in two dimensions, for points of a uniform grid.

Shapes: B batch, N = X Y points in the order of the grid, C width, m modes kept of an axis.

Source: Li et al. (2021), Fourier neural operator for parametric PDEs, arXiv 2010.08895, section 4.
"""

from __future__ import annotations

import math
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lrsa_coupled.config import FnoConfig
from lrsa_coupled.operators.layers import PointBlock
from lrsa_coupled.operators.precision import in_full_precision

PADDING = 0.1
"""Share of an axis added in zeros, as the solution is not periodic."""


@final
class Block(PointBlock):
    """One Fourier layer ``gelu(W x + inverse FFT(R FFT(x)))``; R has the lowest modes, both signs on the first axis."""

    def __init__(self, config: FnoConfig) -> None:
        super().__init__()
        width, self.modes = config.width, config.num_modes
        self.pointwise = nn.Linear(width, width)
        # Real and imaginary part on the last axis; [0] for positive, [1] for negative wave numbers of the first axis.
        self.spectral_2CCmm2 = nn.Parameter(torch.empty(2, width, width, self.modes, self.modes, 2))

    @torch.no_grad()
    def initialise(self) -> None:
        """Draw the spectral weights uniformly from [0, 1 / C^2), as the source does."""
        nn.init.uniform_(self.spectral_2CCmm2, 0.0, 1.0 / self.pointwise.in_features**2)

    def forward(self, features_BNC: Tensor, bias_BN: Tensor | None, shape: tuple[int, ...] | None) -> Tensor:
        if shape is None or len(shape) != 2 or min(shape) < 2 * self.modes:
            raise ValueError(f"operator: fno needs a grid of two axes of at least {2 * self.modes} points, got {shape}")
        with in_full_precision(features_BNC.device):
            dtype = torch.promote_types(features_BNC.dtype, torch.float32)
            spectral_BNC = self._convolve(features_BNC.to(dtype), shape)
        return F.gelu(self.pointwise(features_BNC) + spectral_BNC)

    def _convolve(self, features_BNC: Tensor, shape: tuple[int, ...]) -> Tensor:
        padded = tuple(size + math.ceil(PADDING * size) for size in shape)
        modes_BXYC = torch.fft.rfft2(features_BNC.unflatten(1, shape), s=padded, dim=(1, 2))
        low = self.modes
        weights_2CCmm = torch.view_as_complex(self.spectral_2CCmm2)
        result_BXYC = torch.zeros_like(modes_BXYC)
        for rows, weights_CCmm in zip((slice(None, low), slice(padded[0] - low, None)), weights_2CCmm, strict=True):
            result_BXYC[:, rows, :low] = torch.einsum("bxyi,ioxy->bxyo", modes_BXYC[:, rows, :low], weights_CCmm)
        grid_BXYC = torch.fft.irfft2(result_BXYC, s=padded, dim=(1, 2))[:, : shape[0], : shape[1]]
        return grid_BXYC.flatten(1, 2)
