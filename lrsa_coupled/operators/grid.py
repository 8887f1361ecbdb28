"""Points that form a uniform grid, in any order, for operators that need one.

Shapes: B batch, N points, d dimension of space.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

ANY_POINTS = "train with training.num_points=none, or use an operator for any points (lrsa without grid_convolution)"


@dataclass(frozen=True)
class Grid:
    """Points along each axis; ``order_N`` holds the rows of the points in the order of the grid, last axis fastest."""

    shape: tuple[int, ...]
    order_N: Tensor

    def into(self, values_BNC: Tensor) -> Tensor:
        """Return values at the points in the order of the grid."""
        return values_BNC[:, self.order_N]

    def back(self, values_BNC: Tensor) -> Tensor:
        """Return values in the order of the grid in that of the points."""
        return values_BNC[:, torch.argsort(self.order_N)]


def find_grid(points_BNd: Tensor) -> Grid:
    """Find the grid that the points of all samples form. Synchronises with a GPU.

    ValueError when the points are no uniform grid, or not the same for all samples.
    """
    points_Nd = points_BNd[0]
    extent_d = points_Nd.amax(dim=0) - points_Nd.amin(dim=0)
    if not torch.allclose(points_BNd, points_Nd.expand_as(points_BNd), rtol=0.0, atol=1e-5 * float(extent_d.max())):
        raise ValueError(f"the samples do not share one grid: {ANY_POINTS}")
    shape, key_N = [], torch.zeros(len(points_Nd), dtype=torch.int64, device=points_BNd.device)
    for axis in points_Nd.unbind(dim=-1):
        ordered = torch.sort(axis).values
        steps = torch.diff(ordered)
        size = 1 + int((steps > 0.5 * steps.max()).sum()) if len(steps) else 1
        scaled = (axis - ordered[0]) / (ordered[-1] - ordered[0]).clamp_min(torch.finfo(axis.dtype).tiny) * (size - 1)
        place_N = torch.round(scaled)
        if (scaled - place_N).abs().max() > max(1e-3, 1e-5 * size):
            raise ValueError(f"the points are no uniform grid: {ANY_POINTS}")
        shape.append(size)
        key_N = key_N * size + place_N.to(torch.int64)
    order_N = torch.argsort(key_N)
    if not torch.equal(key_N[order_N], torch.arange(math.prod(shape), device=key_N.device)):
        sizes = " x ".join(map(str, shape))
        raise ValueError(f"{len(key_N)} points do not fill a grid of {sizes}: train with training.num_points=none")
    return Grid(tuple(shape), order_N)
