"""Relative errors of nodal predictions, one number a sample and field, and the training loss made of them.

Where a Dirichlet condition fixes an output it counts as exact, since a guess carries the exact value. Both errors
divide by the norm of the exact field, or by ``SMALL`` times that of a field as large as its standard deviation in
training, whichever is larger: a sample whose field vanishes does not take over the loss.

The columns of a basis count the less the later they come, see ``_taper``: the lowest K modes are cut out of a sequence,
of which the last and the first left out are often near each other, so that no span of K fields has all of the last.

Shapes: B batch, N points, d dimension of space, K outputs, P fields, E cells, V vertices of a cell, X = V - 1 edges.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lrsa_coupled.schema import Field

SMALL = 1e-3
DEPENDENT = 3e-4
"""Relative size from which a direction counts in a span; its square is the rounding of a Gram matrix in float32."""


@dataclass(frozen=True)
class FieldColumns:
    """The columns of the outputs that are a field, or a basis; ``scale`` is its size in training."""

    name: str
    columns: slice
    weight: float = 1.0
    scale: float = 0.0
    span: bool = False


@dataclass(frozen=True)
class Reference:
    """Exact outputs of some samples, and what errors are measured with.

    ``mass_BN`` is the lumped mass of the points in any unit; ``free_BNK`` is 0 where a Dirichlet condition fixes the
    output, else 1.
    """

    exact_BNK: Tensor
    mass_BN: Tensor
    free_BNK: Tensor
    fields: Sequence[FieldColumns]


def field_columns(fields: Sequence[Field], outputs_std: Sequence[float] | None = None) -> tuple[FieldColumns, ...]:
    """Lay ``fields`` side by side; ``outputs_std`` gives the standard deviation of each output."""
    columns, start = [], 0
    for item in fields:
        stop = start + item.components
        scale = 0.0 if outputs_std is None else math.hypot(*outputs_std[start:stop])
        columns.append(FieldColumns(item.name, slice(start, stop), item.loss_weight, scale, item.span))
        start = stop
    return tuple(columns)


def aligned(predicted_BNK: Tensor, reference: Reference) -> Tensor:
    """Return the predictions, those of a basis replaced by what is nearest to the exact ones in their span.

    Nearest in the norm of the lumped masses. The relative L2 error is then a root mean square of the sines of the
    angles between the exact fields and the span when the exact basis is orthonormal: signs, rotations and crossings of
    modes do not matter.

    Source: Björck & Golub (1973), "Numerical methods for computing angles between linear subspaces", Math. Comput. 27.
    """
    parts = []
    for item in reference.fields:
        tensors = (predicted_BNK, reference.free_BNK, reference.exact_BNK)
        predicted, free, exact = (tensor[..., item.columns] for tensor in tensors)
        parts.append(_nearest(predicted * free, exact, reference.mass_BN) if item.span else predicted)
    return torch.cat(parts, dim=-1)


def relative_l2(predicted_BNK: Tensor, reference: Reference) -> Tensor:
    """Return the errors ``|free (predicted - exact)| / |exact|`` ``(B, P)`` in the norm of the lumped masses."""
    root_BN1 = torch.sqrt(reference.mass_BN).unsqueeze(-1)
    taper_K = _taper(reference.exact_BNK, reference.fields)
    error_BNK = (predicted_BNK - reference.exact_BNK) * (reference.free_BNK * root_BN1) * taper_K
    unit_B = SMALL * torch.sqrt(reference.mass_BN.sum(dim=1))
    return _ratios(error_BNK, reference.exact_BNK * root_BN1 * taper_K, unit_B, reference)


def relative_h1(predicted_BNK: Tensor, reference: Reference, *, points_BNd: Tensor, cells_EV: Tensor) -> Tensor:
    """Return the relative H1 seminorms of the errors ``(B, P)`` over some simplices, by P1 gradients.

    ``cells_EV`` holds the row numbers of the points that are the vertices of each simplex, the same for all samples.
    Gradients on a surface or curve in space are tangential.
    """
    taper_K = _taper(reference.exact_BNK, reference.fields)
    corners_BEVd = points_BNd[:, cells_EV]
    edges_BEXd = corners_BEVd[:, :, 1:] - corners_BEVd[:, :, :1]
    if edges_BEXd.shape[2] == edges_BEXd.shape[3]:
        root_volume_BE11 = torch.sqrt(torch.linalg.det(edges_BEXd).abs())[..., None, None]
        inverse_BEdX = torch.linalg.inv_ex(edges_BEXd).inverse
    else:
        gram_BEXX = edges_BEXd @ edges_BEXd.transpose(2, 3)
        root_volume_BE11 = torch.linalg.det(gram_BEXX).clamp_min(0.0).pow(0.25)[..., None, None]
        inverse_BEdX = edges_BEXd.transpose(2, 3) @ torch.linalg.inv_ex(gram_BEXX).inverse
    operator_BEdX = inverse_BEdX * root_volume_BE11
    error_BEdK, exact_BEdK = (
        operator_BEdX @ (values_BNK[:, cells_EV[:, 1:]] - values_BNK[:, cells_EV[:, :1]])
        for values_BNK in (
            (predicted_BNK - reference.exact_BNK) * reference.free_BNK * taper_K,
            reference.exact_BNK * taper_K,
        )
    )
    diagonal_B = (points_BNd.amax(dim=1) - points_BNd.amin(dim=1)).norm(dim=-1)
    unit_B = SMALL * torch.sqrt(root_volume_BE11.square().sum(dim=(1, 2, 3))) / diagonal_B
    return _ratios(error_BEdK, exact_BEdK, unit_B, reference)


def weighted_mean(errors_BP: Tensor, fields: Sequence[FieldColumns]) -> Tensor:
    """Return the mean over the batch and, with the loss weights, over the fields."""
    weights_P = errors_BP.new_tensor([item.weight for item in fields])
    return (errors_BP.mean(dim=0) * weights_P).sum() / weights_P.sum()


def _nearest(basis_BNK: Tensor, exact_BNK: Tensor, mass_BN: Tensor) -> Tensor:
    """Project ``exact`` on the span of ``basis``; directions of a relative size below ``DEPENDENT`` count little."""
    weighted_BNK = basis_BNK * mass_BN.unsqueeze(-1)
    products = (weighted_BNK.transpose(1, 2) @ torch.cat((basis_BNK, exact_BNK), dim=-1)).double()
    gram_BKK, right_BKK = products.chunk(2, dim=-1)
    square_BK = torch.diagonal(gram_BKK, dim1=1, dim2=2)
    size_BK1 = square_BK.clamp_min(torch.finfo(basis_BNK.dtype).tiny).sqrt().unsqueeze(-1)
    shift_KK = DEPENDENT**2 * torch.eye(gram_BKK.shape[1], device=gram_BKK.device)
    scaled_BKK = gram_BKK / size_BK1 / size_BK1.transpose(1, 2) + shift_KK
    weights_BKK = torch.linalg.solve_ex(scaled_BKK, right_BKK / size_BK1).result / size_BK1
    return basis_BNK @ weights_BKK.to(basis_BNK.dtype)


def _taper(like_BNK: Tensor, fields: Sequence[FieldColumns]) -> Tensor:
    """Return the weights of the outputs: column j of a basis of K, from 0, has ``1 - (j / K)^2``, any other 1."""
    weights_K = like_BNK.new_ones(like_BNK.shape[-1])
    for item in fields:
        if item.span:
            count = item.columns.stop - item.columns.start
            steps_K = torch.arange(count, dtype=like_BNK.dtype, device=like_BNK.device)
            weights_K[item.columns] = 1.0 - (steps_K / count).square()
    return weights_K


def _ratios(error: Tensor, exact: Tensor, unit_B: Tensor, reference: Reference) -> Tensor:
    """Return the norms of the errors of the fields over those of the exact ones, or over their scale in ``unit``."""
    tiny = torch.finfo(exact.dtype).tiny ** 0.5
    ratios = []
    for item in reference.fields:
        error_B, exact_B = (
            torch.linalg.vector_norm(values[..., item.columns].flatten(start_dim=1), dim=1) for values in (error, exact)
        )
        ratios.append(error_B / torch.maximum(exact_B, item.scale * unit_B).clamp_min(tiny))
    return torch.stack(ratios, dim=1)
