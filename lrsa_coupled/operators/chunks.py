"""Functions of points applied to a few of them at a time, forward and backward, so that memory does not grow with what lies between.

Shapes: B batch, N points, n points of a chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor


def over_chunks(function: Callable[..., Tensor], tensors: Sequence[Tensor], *, size: int, shared: Sequence[Tensor] = (),
                weights: Sequence[Tensor] = ()) -> Tensor:  # fmt: skip
    """Return ``function(*tensors, *shared)``, evaluated on chunks of the points and put together along axis 1.

    Of a chunk nothing is kept for the backward pass, which evaluates the function again. Gradients of second order are not supported.

    Args:
        function: Maps chunks ``(B, n, ...)`` of the tensors to ``(B, n, ...)`` or to one row ``(B, 1, ...)``; n may be 0.
        tensors: What belongs to the points, ``(B, N, ...)``.
        size: Points of a chunk; 0 evaluates the function once and leaves the backward pass to autograd.
        shared: Further arguments, the same for all chunks.
        weights: Tensors that the function uses and that are to have gradients.
    """
    if size == 0:
        return function(*tensors, *shared)
    return _OverChunks.apply(function, size, len(tensors), len(shared), *tensors, *shared, *weights)


class _OverChunks(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, function: Callable[..., Tensor], size: int, num_tensors: int, num_shared: int, *arguments: Tensor
    ) -> Tensor:
        tensors, shared = arguments[:num_tensors], arguments[num_tensors : num_tensors + num_shared]
        device = tensors[0].device.type
        ctx.function, ctx.size, ctx.counts = function, size, (num_tensors, num_shared)
        ctx.autocast = (device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))
        ctx.save_for_backward(*arguments)
        result, start = torch.empty(0), 0
        for chunks in _chunks(tensors, size):
            part = function(*chunks, *shared)
            if start == 0:
                rows = tensors[0].shape[1] if part.shape[1] == chunks[0].shape[1] else -(-tensors[0].shape[1] // size)
                result = part.new_empty((part.shape[0], max(rows, part.shape[1]), *part.shape[2:]))
            result[:, start : start + part.shape[1]] = part
            start += part.shape[1]
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        num_tensors, num_shared = ctx.counts
        arguments, needed = ctx.saved_tensors, ctx.needs_input_grad[4:]
        tensors, shared = (
            arguments[:num_tensors],
            [tensor.detach() for tensor in arguments[num_tensors : num_tensors + num_shared]],
        )
        found: list[Tensor | None] = [
            torch.empty_like(tensor) if need else None for tensor, need in zip(tensors, needed, strict=False)
        ]
        found += [torch.zeros_like(rest) if need else None for rest, need in zip(arguments, needed, strict=True)][
            num_tensors:
        ]
        weights = arguments[num_tensors + num_shared :]
        start = row = 0
        for chunks in _chunks(tensors, ctx.size):
            inputs = [tensor.requires_grad_(need) for tensor, need in zip((*chunks, *shared), needed, strict=False)]
            with torch.enable_grad(), torch.autocast(ctx.autocast[0], dtype=ctx.autocast[1], enabled=ctx.autocast[2]):
                part = ctx.function(*inputs)
            wanted = [(place, tensor) for place, tensor in enumerate((*inputs, *weights)) if needed[place]]
            slope = gradient[:, row : row + part.shape[1]]
            parts = torch.autograd.grad(
                part, [tensor for _, tensor in wanted], slope, allow_unused=True, materialize_grads=True
            )
            for (place, _), value in zip(wanted, parts, strict=True):
                if place < num_tensors:
                    found[place][:, start : start + value.shape[1]] = value
                else:
                    found[place] += value
            start, row = start + chunks[0].shape[1], row + part.shape[1]
        return None, None, None, None, *found


def _chunks(tensors: Sequence[Tensor], size: int) -> Iterator[list[Tensor]]:
    """Yield views of ``size`` points, without history; one of none when there are no points."""
    for start in range(0, max(1, tensors[0].shape[1]), size):
        yield [tensor.detach()[:, start : start + size] for tensor in tensors]
