"""Affine maps between physical units and the units the operator works in, kept with its weights.

Shapes: B batch, N points, T points of all samples, S samples, d dimension, F nodal inputs, G scalars, K outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Normaliser(nn.Module):
    """Mean and standard deviation of coordinates, inputs, scalars and outputs, and the training range of the outputs.

    A channel that is constant in the training data has standard deviation 1. Results have the type of the buffers
    (float32); the difference with the mean is taken in the type of the argument when that is finer.
    """

    def __init__(self, dim: int, num_inputs: int, *, num_scalars: int, num_outputs: int) -> None:
        super().__init__()
        self.points_mean, self.points_std = _unit(dim)
        self.inputs_mean, self.inputs_std = _unit(num_inputs)
        self.scalars_mean, self.scalars_std = _unit(num_scalars)
        self.outputs_mean, self.outputs_std = _unit(num_outputs)
        self.outputs_min: Tensor = nn.Buffer(torch.full((num_outputs,), -1.0))
        self.outputs_max: Tensor = nn.Buffer(torch.ones(num_outputs))

    @torch.no_grad()
    def fit(
        self,
        points_Td: Tensor,
        inputs_TF: Tensor,
        *,
        scalars_SG: Tensor,
        outputs_TK: Tensor,
        base_TK: Tensor | None = None,
    ) -> None:
        """Set all buffers from training data in physical units; with a base, outputs are taken relative to it."""
        _set_moments(points_Td, mean=self.points_mean, std=self.points_std)
        _set_moments(inputs_TF, mean=self.inputs_mean, std=self.inputs_std)
        _set_moments(scalars_SG, mean=self.scalars_mean, std=self.scalars_std)
        difference_TK = outputs_TK if base_TK is None else outputs_TK - base_TK
        _set_moments(difference_TK, mean=self.outputs_mean, std=self.outputs_std)
        if outputs_TK.shape[1] > 0:
            self.outputs_min.copy_(outputs_TK.amin(dim=0))
            self.outputs_max.copy_(outputs_TK.amax(dim=0))

    def normalised(self, points_BNd: Tensor, inputs_BNF: Tensor, scalars_BG: Tensor) -> list[Tensor]:
        """Normalise coordinates, nodal inputs and scalars."""
        means = (self.points_mean, self.inputs_mean, self.scalars_mean)
        stds = (self.points_std, self.inputs_std, self.scalars_std)
        triples = zip((points_BNd, inputs_BNF, scalars_BG), means, stds, strict=True)
        return [((values - mean) / std).to(mean.dtype) for values, mean, std in triples]

    def physical_outputs(self, outputs_BNK: Tensor) -> Tensor:
        """Map the operator's outputs to physical units."""
        return torch.addcmul(self.outputs_mean, outputs_BNK.to(self.outputs_std.dtype), self.outputs_std)

    @torch.no_grad()
    def excess(self, outputs_BNK: Tensor) -> float:
        """Return how far predictions leave the training range: the largest |value - mid-range| / half-range.

        At most 1 inside the range, infinite when a value is not finite, 0 without points. A channel without range
        counts in units of its standard deviation (1).
        """
        if outputs_BNK.numel() == 0:
            return 0.0
        middle_K = 0.5 * (self.outputs_min + self.outputs_max)
        half_K = 0.5 * (self.outputs_max - self.outputs_min)
        half_K = torch.where(half_K > 0, half_K, self.outputs_std)
        largest = ((outputs_BNK - middle_K) / half_K).abs().amax()
        return float(torch.nan_to_num(largest, nan=torch.inf, posinf=torch.inf))


def _unit(size: int) -> tuple[Tensor, Tensor]:
    return nn.Buffer(torch.zeros(size)), nn.Buffer(torch.ones(size))


def _set_moments(values: Tensor, *, mean: Tensor, std: Tensor) -> None:
    values_mean = values.mean(dim=0, dtype=torch.float64)
    square = torch.zeros_like(values_mean)
    for chunk in values.split(1 << 20):
        square += (chunk.to(torch.float64) - values_mean).square_().sum(dim=0)
    values_std = torch.sqrt(square / max(1, len(values)))
    mean.copy_(values_mean)
    is_constant = values_std <= 1e-6 * values_mean.abs()
    std.copy_(torch.where(is_constant, 1.0, values_std))
