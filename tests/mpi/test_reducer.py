"""The operator over the ranks of MPI: values and gradients against the evaluation in one piece."""

from __future__ import annotations

import pytest
import torch
from mpi4py import MPI

from lrsa_coupled.coupling.reducer import MPIReducer
from tests.operators import (
    LIMITS,
    VARIANTS,
    arguments,
    assert_equal_gradients,
    exact_outputs,
    gradients,
    make_operator,
    relative,
)

COMM = MPI.COMM_WORLD


@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("config", VARIANTS)
@pytest.mark.parametrize("chunk_size", [None, 6])
def test_ranks_change_neither_values_nor_gradients(chunk_size, config, dtype):
    model, (points, inputs, scalars, mass) = make_operator(config, dtype=dtype), arguments(dtype=dtype)
    exact, reducer = exact_outputs(points), MPIReducer(COMM)
    whole = model(points, inputs, scalars, mass)
    expected = gradients(model, whole, exact, mass=mass)
    own = torch.randperm(50, generator=torch.Generator().manual_seed(3)).tensor_split(COMM.size)[COMM.rank]
    outputs = model(points[:, own], inputs[:, own], scalars, mass[:, own], reducer=reducer, chunk_size=chunk_size)
    assert relative(outputs, whole[:, own]) < LIMITS[dtype]
    parts = gradients(model, outputs, exact[:, own], mass=mass[:, own])
    found = {name: reducer.sum(part) for name, part in parts.items()}
    assert_equal_gradients(found, expected, limit=LIMITS[dtype])
