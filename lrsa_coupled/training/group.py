"""The ranks that train one model together: each has a copy of it and a share of every batch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from lrsa_coupled.files import locked
from lrsa_coupled.operators.reducer import Reducer, TorchReducer


@dataclass(frozen=True)
class ProcessGroup:
    """This rank's place; ``reducer`` adds up over the ranks, None when there is one."""

    rank: int = 0
    size: int = 1
    reducer: Reducer | None = None

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the elementwise sum over the ranks. Collective."""
        return tensor if self.reducer is None else self.reducer.sum(tensor)

    @torch.no_grad()
    def sum_gradients(self, weights: Iterable[Tensor], loss: Tensor) -> Tensor:
        """Sum the gradients over the ranks, in place, and return the sum of the losses; one all-reduce. Collective."""
        if self.reducer is None:
            return loss
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        total = self.reducer.sum(torch.cat([loss.reshape(1), *(gradient.reshape(-1) for gradient in gradients)]))
        parts = total[1:].split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))
        return total[0]


@contextmanager
def sole_writer(out: Path, group: ProcessGroup, device: torch.device) -> Iterator[None]:
    """Hold the lock of an output folder on the first rank; an error of it is one on all ranks. Collective."""
    error: OSError | None = None
    with ExitStack() as held:
        if group.rank == 0:
            try:
                held.enter_context(locked(out))
            except OSError as caught:
                error = caught
        if group.sum(torch.tensor([float(error is not None)], device=device)).item():
            raise error or BlockingIOError(f"{out} cannot be written, as the first rank says")
        yield


def torchrun_group() -> ProcessGroup | None:
    """Join the processes of ``torchrun``, by NCCL on GPUs and Gloo on CPUs; None without it. Collective."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    if not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return ProcessGroup(dist.get_rank(), dist.get_world_size(), TorchReducer())
