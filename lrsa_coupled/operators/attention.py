"""Softmax attention between points and latent tokens, on one process or over a partitioned point set.

Queries and keys of every attention are normalised head by head (QK norm); as only their product enters the scores, one learned gain a
head channel stands for the gains of both and is applied on the side of the latent tokens, the smaller one.

Shapes: B batch, N points on this rank, H heads, M latent tokens, D head width, E = D + 1.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-6


class Reducer(Protocol):
    """All-reduce over the ranks that share a point set; forward only. Both methods are collective and return a new tensor."""

    def max(self, tensor: Tensor, /) -> Tensor:
        """Return the elementwise maximum over the ranks."""

    def sum(self, tensor: Tensor, /) -> Tensor:
        """Return the elementwise sum over the ranks."""


def normalise_heads(tensor: Tensor) -> Tensor:
    """Scale the last axis to a root mean square of one."""
    return F.rms_norm(tensor, tensor.shape[-1:], None, EPS)


def attend(queries_BHMD: Tensor, keys_BHND: Tensor, *, values_BHND: Tensor) -> Tensor:
    """Softmax attention of normalised queries and keys, scale ``1 / sqrt(D)``; rows of the two sides may differ in number."""
    return F.scaled_dot_product_attention(queries_BHMD, keys_BHND, values_BHND)


def pool(
    queries_HMD: Tensor,
    keys_BHND: Tensor,
    *,
    values_BHND: Tensor,
    bias_BN: Tensor | None = None,
    reducer: Reducer | None = None,
) -> Tensor:
    """Attend from learned queries to the points.

    Collective: over the ranks of ``reducer``, else no. Memory: ``O(B H M N)`` with a reducer, ``O(N)`` without.

    Args:
        queries_HMD: Normalised queries, shared by the batch.
        keys_BHND: Normalised keys of the points of this rank, N may be 0 with a reducer.
        values_BHND: Values of the points of this rank.
        bias_BN: Added to the scores of a point; a constant added to all points of all ranks changes nothing.
        reducer: Combines the ranks; each holds points of its own.
    Returns:
        Pooled values ``(B, H, M, D)``, the same on all ranks.
    """
    if reducer is not None:
        with torch.autocast(values_BHND.device.type, enabled=False):
            return _pool_over_ranks(queries_HMD, keys_BHND, values_BHND=values_BHND, bias_BN=bias_BN, reducer=reducer)
    queries_BHMD = queries_HMD.expand(keys_BHND.shape[0], -1, -1, -1)
    mask = None if bias_BN is None else bias_BN[:, None, None, :]
    return F.scaled_dot_product_attention(queries_BHMD, keys_BHND, values_BHND, attn_mask=mask)


def _pool_over_ranks(
    queries_HMD: Tensor, keys_BHND: Tensor, *, values_BHND: Tensor, bias_BN: Tensor | None, reducer: Reducer
) -> Tensor:  # fmt: skip
    """Softmax over all ranks' points from (B, H, M) maxima and one packed (B, H, M, D + 1) sum, at least in float32."""
    dtype = torch.promote_types(values_BHND.dtype, torch.float32)
    queries_HMD = queries_HMD.to(dtype) * queries_HMD.shape[-1] ** -0.5
    scores_BHMN = torch.matmul(queries_HMD, keys_BHND.to(dtype).transpose(-1, -2))
    if bias_BN is not None:
        scores_BHMN = scores_BHMN + bias_BN[:, None, None, :].to(dtype)
    if scores_BHMN.shape[-1] > 0:
        peak_BHM = scores_BHMN.amax(dim=-1)
    else:
        peak_BHM = scores_BHMN.new_full(scores_BHMN.shape[:-1], -torch.inf)
    peak_BHM = reducer.max(peak_BHM)
    weights_BHMN = torch.exp(scores_BHMN - peak_BHM.unsqueeze(-1))
    weighted_BHMD = torch.matmul(weights_BHMN, values_BHND.to(dtype))
    packed_BHME = reducer.sum(torch.cat((weighted_BHMD, weights_BHMN.sum(dim=-1, keepdim=True)), dim=-1))
    return packed_BHME[..., :-1] / packed_BHME[..., -1:]
