"""Relative errors of nodal predictions, one number a sample and field, and the training loss made of them.

Where a Dirichlet condition fixes an output (``free_BNK`` is 0) it counts as exact, since a guess carries the exact value. Both errors divide
by the norm of the exact field, or by ``SMALL`` times that of a field as large as its standard deviation in training, whichever is larger: a
sample whose field vanishes does not take over the loss.

The columns of a basis count the less the later they come, see ``_taper``: the lowest K modes are cut out of a sequence, of which the last and
the first left out are often near each other, so that no span of K fields has all of the last.

With a ``reducer`` each rank gives its own points, and its own cells, of a partitioned point set; both errors are then collective, forward
and backward, and the same on all ranks, so a loss made of them counts once when each rank divides it by their number.

Shapes: B batch, N points, d dimension of space, K outputs, P fields, E cells, V = d + 1 vertices of a cell.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lrsa_coupled.schema import Field
from lrsa_coupled.operators.reducer import Reducer, sum_over_ranks

SMALL = 1e-3
DEPENDENT = 3e-4
"""Relative size of a direction from which it counts in the span of a basis; its square is the rounding of a Gram matrix in single precision."""


@dataclass(frozen=True)
class FieldColumns:
    """Columns ``start`` to ``stop`` of the outputs hold a field, or a basis of its ``span``; ``scale`` is its size in training (0: unknown)."""

    name: str
    start: int
    stop: int
    weight: float = 1.0
    scale: float = 0.0
    span: bool = False


def field_columns(fields: Sequence[Field], outputs_std: Sequence[float] | None = None) -> tuple[FieldColumns, ...]:
    """Lay ``fields`` side by side; ``outputs_std`` gives the standard deviation of each output."""
    columns, start = [], 0
    for item in fields:
        stop = start + item.components
        scale = 0.0 if outputs_std is None else math.sqrt(sum(value**2 for value in outputs_std[start:stop]))
        columns.append(FieldColumns(item.name, start, stop, item.loss_weight, scale, item.span))
        start = stop
    return tuple(columns)


def aligned(
    predicted_BNK: Tensor,
    exact_BNK: Tensor,
    *,
    mass_BN: Tensor,
    free_BNK: Tensor,
    fields: Sequence[FieldColumns],
    reducer: Reducer | None = None,
) -> Tensor:
    """Return the predictions, those of a field of which the span counts replaced by what is nearest to the exact ones in their span.

    Nearest in the norm of the lumped masses. The relative L2 error is then a root mean square of the sines of the angles between the exact fields
    and the span when the exact basis is orthonormal: signs, rotations and crossings of modes do not matter.

    Args:
        predicted_BNK: Predicted outputs.
        exact_BNK: Exact outputs.
        mass_BN: Lumped mass of the points, any unit.
        free_BNK: 0 where a Dirichlet condition fixes the output, else 1.
        fields: Columns of the fields.
        reducer: Combines the ranks that share the point set.
    Source: Björck & Golub (1973), "Numerical methods for computing angles between linear subspaces", Math. Comput. 27.
    """
    if not any(item.span for item in fields):
        return predicted_BNK
    parts = []
    for item in fields:
        columns = slice(item.start, item.stop)
        predicted = predicted_BNK[..., columns]
        parts.append(
            _nearest(predicted * free_BNK[..., columns], exact_BNK[..., columns], mass_BN, reducer)
            if item.span
            else predicted
        )
    return torch.cat(parts, dim=-1)


def relative_l2(
    predicted_BNK: Tensor,
    exact_BNK: Tensor,
    *,
    mass_BN: Tensor,
    free_BNK: Tensor,
    fields: Sequence[FieldColumns],
    reducer: Reducer | None = None,
) -> Tensor:
    """Return ``|free (predicted - exact)| / |exact|`` in the norm of the lumped masses.

    Args:
        predicted_BNK: Predicted outputs.
        exact_BNK: Exact outputs.
        mass_BN: Lumped mass of the points, any unit.
        free_BNK: 0 where a Dirichlet condition fixes the output, else 1.
        fields: Columns of the fields.
        reducer: Combines the ranks that share the point set.
    Returns:
        Errors ``(B, P)``.
    """
    root_BN1 = torch.sqrt(mass_BN).unsqueeze(-1)
    taper_K = _taper(exact_BNK, fields)
    error_BNK = (predicted_BNK - exact_BNK) * (free_BNK * root_BN1) * taper_K
    weighted_BNK = exact_BNK * root_BN1 * taper_K
    root_total_B = torch.sqrt(_total(mass_BN.sum(dim=1), reducer))
    errors = []
    for item in fields:
        columns = slice(item.start, item.stop)
        floor_B = SMALL * item.scale * root_total_B
        errors.append(_ratio(error_BNK[..., columns], weighted_BNK[..., columns], floor_B=floor_B, reducer=reducer))
    return torch.stack(errors, dim=1)


def relative_h1(
    predicted_BNK: Tensor,
    exact_BNK: Tensor,
    *,
    points_BNd: Tensor,
    free_BNK: Tensor,
    cells_EV: Tensor,
    fields: Sequence[FieldColumns],
    reducer: Reducer | None = None,
) -> Tensor:
    """Return the relative H1 seminorm of the error over some simplices, from the P1 gradients of the values at their vertices.

    Args:
        predicted_BNK: Predicted outputs.
        exact_BNK: Exact outputs.
        points_BNd: Coordinates of the points.
        free_BNK: 0 where a Dirichlet condition fixes the output, else 1.
        cells_EV: Row numbers of the points that are the vertices of each simplex, the same for all samples.
        fields: Columns of the fields.
    Returns:
        Errors ``(B, P)``.
    """
    taper_K = _taper(exact_BNK, fields)
    error_BNK = (predicted_BNK - exact_BNK) * free_BNK * taper_K
    corners_BEVd = points_BNd[:, cells_EV]
    edges_BEdd = corners_BEVd[:, :, 1:] - corners_BEVd[:, :, :1]
    inverse_BEdd = torch.linalg.inv_ex(edges_BEdd).inverse
    root_volume_BE11 = torch.sqrt(torch.linalg.det(edges_BEdd).abs())[..., None, None]
    operator_BEdd = inverse_BEdd * root_volume_BE11
    error_gradient, exact_gradient = (
        operator_BEdd @ (values[:, cells_EV[:, 1:]] - values[:, cells_EV[:, :1]])
        for values in (error_BNK, exact_BNK * taper_K)
    )
    unit_B = (
        SMALL * torch.sqrt(_total(root_volume_BE11.square().sum(dim=(1, 2, 3)), reducer)) / _extent(points_BNd, reducer)
    )
    errors = []
    for item in fields:
        columns = slice(item.start, item.stop)
        ratio_B = _ratio(
            error_gradient[..., columns], exact_gradient[..., columns], floor_B=item.scale * unit_B, reducer=reducer
        )
        errors.append(ratio_B)
    return torch.stack(errors, dim=1)


def weighted_mean(errors_BP: Tensor, fields: Sequence[FieldColumns]) -> Tensor:
    """Return the mean over the batch and, with the loss weights, over the fields."""
    weights_P = errors_BP.new_tensor([item.weight for item in fields])
    return (errors_BP.mean(dim=0) * weights_P).sum() / weights_P.sum()


def _nearest(basis_BNK: Tensor, exact_BNK: Tensor, mass_BN: Tensor, reducer: Reducer | None) -> Tensor:
    """Project ``exact`` on the span of ``basis``; directions of the basis of relative size below ``DEPENDENT`` count little."""
    weighted_BNK = basis_BNK * mass_BN.unsqueeze(-1)
    products = _total(weighted_BNK.transpose(1, 2) @ torch.cat((basis_BNK, exact_BNK), dim=-1), reducer).double()
    gram_BKK, right_BKK = products.chunk(2, dim=-1)
    size_BK1 = (
        torch.diagonal(gram_BKK, dim1=1, dim2=2).clamp_min(torch.finfo(basis_BNK.dtype).tiny).sqrt().unsqueeze(-1)
    )
    scaled_BKK = gram_BKK / size_BK1 / size_BK1.transpose(1, 2) + DEPENDENT**2 * torch.eye(
        gram_BKK.shape[1], device=gram_BKK.device
    )
    weights_BKK = torch.linalg.solve_ex(scaled_BKK, right_BKK / size_BK1).result / size_BK1
    return basis_BNK @ weights_BKK.to(basis_BNK.dtype)


def _taper(like_BNK: Tensor, fields: Sequence[FieldColumns]) -> Tensor:
    """Return the weights of the outputs: column j of a basis of K, from 0, has ``1 - (j / K)^2``, any other 1."""
    weights_K = like_BNK.new_ones(like_BNK.shape[-1])
    for item in fields:
        if item.span:
            count = item.stop - item.start
            weights_K[item.start : item.stop] = (
                1.0 - (torch.arange(count, dtype=like_BNK.dtype, device=like_BNK.device) / count).square()
            )
    return weights_K


def _ratio(error: Tensor, exact: Tensor, *, floor_B: Tensor, reducer: Reducer | None) -> Tensor:
    tiny = torch.finfo(exact.dtype).tiny ** 0.5
    return _norm(error, reducer) / torch.maximum(_norm(exact, reducer), floor_B).clamp_min(tiny)


def _norm(values: Tensor, reducer: Reducer | None) -> Tensor:
    norm_B = torch.linalg.vector_norm(values.flatten(start_dim=1), dim=1)
    if reducer is None:
        return norm_B
    return torch.sqrt(
        _total(norm_B.square(), reducer).clamp_min(torch.finfo(norm_B.dtype).tiny)
    )  # the root has no slope at zero


def _total(sums_B: Tensor, reducer: Reducer | None) -> Tensor:
    return sums_B if reducer is None else sum_over_ranks(sums_B, reducer)


def _extent(points_BNd: Tensor, reducer: Reducer | None) -> Tensor:
    """Return the diagonal of the box around the points; no rank's N is 0 without a reducer."""
    if points_BNd.shape[1] > 0:
        bounds = torch.stack((points_BNd.amax(dim=1), -points_BNd.amin(dim=1)))
    else:
        bounds = points_BNd.new_full((2, points_BNd.shape[0], points_BNd.shape[2]), -torch.inf)
    if reducer is not None:
        bounds = reducer.max(bounds)
    return (bounds[0] + bounds[1]).norm(dim=-1)
