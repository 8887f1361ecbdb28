"""The sums and maxima over ranks by which the operator runs on a partitioned point set."""

from __future__ import annotations

from typing import final

import numpy as np
import torch
from mpi4py import MPI

from lrsa_coupled.mpi import allreduce


@final
class MPIReducer:
    """All-reduce of tensors over a communicator, through the memory of the CPU; see ``operators.reducer.Reducer``."""

    def __init__(self, comm: MPI.Comm) -> None:
        self.comm = comm

    def max(self, tensor: torch.Tensor) -> torch.Tensor:
        return self._reduce(tensor, np.maximum)

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        return self._reduce(tensor, np.add)

    def _reduce(self, tensor: torch.Tensor, operation: np.ufunc) -> torch.Tensor:
        result = allreduce(self.comm, tensor.detach().to("cpu").contiguous().numpy(), operation)
        return torch.from_numpy(result).to(tensor.device)
