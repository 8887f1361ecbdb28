"""Softmax attention between points and latent tokens: whole, over chunks of points, over a partitioned point set.

The softmax over the points is a ratio of sums over the points. A chunk, or a rank, contributes its largest scores, its
sum of exponentials and its weighted sum of values, ``B H M (D + 2)`` numbers whatever its number of points; ``merge``
adds these up exactly.

Queries and keys of every attention are normalised head by head (QK norm); as only their product enters the scores, one
learned gain a head channel stands for the gains of both and is applied on the side of the latent tokens, the smaller
one.

Shapes: B batch, N points of a chunk, H heads, M latent tokens, D head width, E = D + 1, X = D + 2,
P chunks.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import Function

from lrsa_coupled.operators.precision import by_products, for_attention, in_full_precision
from lrsa_coupled.operators.reducer import Reducer, sum_over_ranks

LARGEST_SCORE = 60.0
"""Where ``by_exponentials`` clips scores, so that sums of exponentials stay finite; normalised queries stay below."""
PADDING = 8
"""Products of matrices in bfloat16 are fastest when their sizes are multiples of this."""


def normalise(tensor: Tensor) -> Tensor:
    """Scale the last axis to a root mean square of one."""
    return F.rms_norm(tensor, tensor.shape[-1:], None, 1e-6)


def softmax_attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    scale: float | None = None,
    bias: Tensor | None = None,
    bounded: bool = False,
) -> Tensor:
    """Return ``softmax(scale queries keys' + bias) values``.

    Queries are ``(B, H, rows, D)``, keys and values ``(B, H, columns, D)``, the bias ``(B, 1, 1, columns)``; the scale
    is ``1 / sqrt(D)`` when None. The result has the type of the values or, see ``precision.py``, float32. Torch's fused
    attention computes it or, in training in bfloat16 on a CPU, products of matrices. ``bounded``: queries and keys are
    normalised, so that scores without bias are small and no largest one needs to be subtracted.
    """
    with in_full_precision(values.device):
        if by_products(queries, keys, values):
            dtype, scale = values.dtype, queries.shape[-1] ** -0.5 if scale is None else scale
            queries, keys = (queries * scale).to(dtype), keys.to(dtype)
            if bounded:
                return by_exponentials(queries, keys, values, bias)
            scores = torch.matmul(queries.contiguous(), keys.contiguous().transpose(-1, -2))
            scores = scores if bias is None else scores + bias.to(dtype)
            return torch.matmul(torch.softmax(scores, dim=-1), values.contiguous())
        queries, keys, values = for_attention(queries, keys, values)
        return F.scaled_dot_product_attention(
            queries, keys, values, attn_mask=None if bias is None else bias.to(values.dtype), scale=scale
        )


def by_exponentials(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return ``softmax(queries keys' + bias) values`` for moderate scores, divided by the sum of exponentials last.

    Every pass over the scores is then a product of matrices or works number by number, and they lie in memory with the
    longer side, the points, as rows.
    """
    width = values.shape[-1]
    ones = torch.ones_like(values[..., :1])
    weighted = torch.cat((values, ones, values.new_zeros(*values.shape[:-1], -(width + 1) % PADDING)), dim=-1)
    if bias is not None:
        weighted = weighted * torch.exp(bias.transpose(-1, -2)).to(values.dtype)
    queries, keys, weighted = queries.contiguous(), keys.contiguous(), weighted.contiguous()
    gather = queries.shape[-2] < keys.shape[-2]
    rows, columns = (keys, queries) if gather else (queries, keys)
    summed = _ByExponentials.apply(rows, columns, weighted, gather)
    return summed[..., :width] / summed[..., width : width + 1]


class _ByExponentials(Function):
    """``exp(rows columns') values`` for many rows and few columns or, to gather, ``exp(columns rows') values``."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, columns: Tensor, values: Tensor, gather: bool) -> Tensor:
        scores = torch.matmul(rows, columns.transpose(-1, -2))
        exponentials = torch.exp(scores.clamp(-LARGEST_SCORE, LARGEST_SCORE))
        ctx.save_for_backward(rows, columns, values, exponentials)
        ctx.gather = gather
        return _over_rows(exponentials, values) if gather else torch.matmul(exponentials, values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        rows, columns, values, exponentials = ctx.saved_tensors
        gradient = gradient.contiguous()
        left, right = (values, gradient) if ctx.gather else (gradient, values)
        scores = torch.matmul(left, right.transpose(-1, -2)) * exponentials
        multiply = torch.matmul if ctx.gather else _over_rows
        return torch.matmul(scores, columns), _over_rows(scores, rows), multiply(exponentials, gradient), None


def _over_rows(left: Tensor, right: Tensor) -> Tensor:
    """Return ``left' right``, with the shorter matrix transposed in memory."""
    return torch.matmul(right.transpose(-1, -2).contiguous(), left).transpose(-1, -2)


def pool_partially(
    queries_HMD: Tensor, keys_BHND: Tensor, *, values_BHND: Tensor, bias_BN: Tensor | None = None
) -> Tensor:
    """Return what these points, N >= 0, contribute to the attention from learned queries to all; at least in float32.

    ``bias_BN`` is added to the scores of a point. Memory: ``O(B H M N)``.

    Returns:
        Sums of ``exp(score - peak)`` times (values, 1), and the peak, the largest score: ``(B, 1, H, M, D + 2)``.
    """
    dtype = torch.promote_types(values_BHND.dtype, torch.float32)
    with in_full_precision(values_BHND.device):
        queries_HMD = queries_HMD.to(dtype) * queries_HMD.shape[-1] ** -0.5
        scores_BHMN = torch.matmul(queries_HMD, keys_BHND.to(dtype).transpose(-1, -2))
        if bias_BN is not None:
            scores_BHMN = scores_BHMN + bias_BN[:, None, None, :].to(dtype)
        if scores_BHMN.shape[-1] > 0:
            peak_BHM1 = scores_BHMN.detach().amax(dim=-1, keepdim=True)
        else:
            peak_BHM1 = scores_BHMN.new_full((*scores_BHMN.shape[:-1], 1), -torch.inf)
        weights_BHMN = torch.exp(scores_BHMN - peak_BHM1)
        sums_BHMD = torch.matmul(weights_BHMN, values_BHND.to(dtype))
        return torch.cat((sums_BHMD, weights_BHMN.sum(dim=-1, keepdim=True), peak_BHM1), dim=-1).unsqueeze(1)


def merge(parts_BPHMX: Tensor, reducer: Reducer | None = None) -> Tensor:
    """Return the attention ``(B, H, M, D)`` to all points from what ``pool_partially`` returned for this rank's chunks.

    It is the same on all ranks, each of which holds points of its own; at least one chunk lies along axis 1. The peaks
    carry no gradient: the result does not depend on them. Under a reducer the gradients are those of the sum of the
    ranks' losses. Collective: over the ranks of ``reducer``, if any, forward and backward; two all-reduces forward, one
    backward.
    """
    peaks_BPHM1 = parts_BPHMX[..., -1:].detach()
    peak_BHM1 = peaks_BPHM1.amax(dim=1)
    if reducer is not None:
        peak_BHM1 = reducer.max(peak_BHM1)
    packed_BHME = (parts_BPHMX[..., :-1] * torch.exp(peaks_BPHM1 - peak_BHM1.unsqueeze(1))).sum(dim=1)
    if reducer is not None:
        packed_BHME = sum_over_ranks(packed_BHME, reducer)
    return packed_BHME[..., :-1] / packed_BHME[..., -1:]
