"""The sums and maxima over ranks by which the operator runs on a partitioned point set."""

from __future__ import annotations

from typing import final

import torch
from mpi4py import MPI


@final
class MPIReducer:
    """All-reduce of tensors over a communicator, through the memory of the CPU; see ``operators.reducer.Reducer``."""

    def __init__(self, comm: MPI.Comm) -> None:
        self.comm = comm

    def max(self, tensor: torch.Tensor) -> torch.Tensor:
        return self._reduce(tensor, MPI.MAX)

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        return self._reduce(tensor, MPI.SUM)

    def _reduce(self, tensor: torch.Tensor, operation: MPI.Op) -> torch.Tensor:
        result = tensor.detach().to("cpu", copy=True).contiguous()
        self.comm.Allreduce(MPI.IN_PLACE, result.numpy(), op=operation)
        return result.to(tensor.device)
