"""Sums and maxima over the ranks that share a point set; over MPI see ``coupling/reducer.py``."""

from __future__ import annotations

from typing import Any, Protocol, final

import torch
import torch.distributed as dist
from torch import Tensor


class Reducer(Protocol):
    """All-reduce over the ranks that share a point set; collective, the result is new and without a gradient."""

    def max(self, tensor: Tensor, /) -> Tensor:
        """Return the elementwise maximum over the ranks."""

    def sum(self, tensor: Tensor, /) -> Tensor:
        """Return the elementwise sum over the ranks."""


@final
class TorchReducer:
    """All-reduce through ``torch.distributed``: NCCL for tensors on GPUs, Gloo on CPUs."""

    def max(self, tensor: Tensor) -> Tensor:
        return self._reduce(tensor, dist.ReduceOp.MAX)

    def sum(self, tensor: Tensor) -> Tensor:
        return self._reduce(tensor, dist.ReduceOp.SUM)

    def _reduce(self, tensor: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
        result = tensor.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(result, op=operation)
        return result


def sum_over_ranks(tensor: Tensor, reducer: Reducer) -> Tensor:
    """Return the sum over the ranks, with the gradient of the sum of their losses. Collective, forward and backward."""
    return _SumOverRanks.apply(tensor, reducer)


class _SumOverRanks(torch.autograd.Function):
    """Every rank's loss depends on every rank's summand, so the gradients are summed too."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, reducer: Reducer) -> Tensor:
        ctx.reducer = reducer
        return reducer.sum(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.reducer.sum(gradient), None
