"""Functions of points applied to a few of them at a time, so that memory does not grow with what lies between.

Shapes: B batch, N points, n points of a chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def over_chunks(
    function: Callable[..., Tensor], tensors: Sequence[Tensor], *, size: int | None, shared: Sequence[Tensor] = ()
) -> Tensor:
    """Return ``function(*tensors, *shared)``, evaluated on chunks of the points and put together along axis 1.

    Of a chunk nothing but its arguments is kept for the backward pass, which evaluates the function again.

    Args:
        function: Maps chunks ``(B, n, ...)`` of the tensors to ``(B, n, ...)`` or to one row ``(B, 1, ...)``; n >= 0.
        tensors: What belongs to the points, ``(B, N, ...)``.
        size: Points of a chunk; None evaluates the function once, on all points.
        shared: Further arguments, the same for all chunks.
    """
    if size is None:
        return function(*tensors, *shared)
    chunks = list(zip(*(tensor.split(size, dim=1) for tensor in tensors), strict=True))
    if torch.is_grad_enabled():
        parts = [checkpoint(function, *c, *shared, use_reentrant=False, preserve_rng_state=False) for c in chunks]
        return torch.cat(parts, dim=1)
    first = function(*chunks[0], *shared)
    rows = tensors[0].shape[1] if first.shape[1] == chunks[0][0].shape[1] else len(chunks)
    result, begin = first.new_empty((len(first), rows, *first.shape[2:])), first.shape[1]
    result[:, :begin] = first
    for chunk in chunks[1:]:  # written in place: parts and result side by side would need twice the memory
        part = function(*chunk, *shared)
        result[:, begin : begin + part.shape[1]] = part
        begin += part.shape[1]
    return result
