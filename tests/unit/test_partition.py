"""Evaluation in chunks and over ranks: values, gradients and traffic against the evaluation in one piece."""

from __future__ import annotations

import copy
import dataclasses
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from lrsa_coupled.operators.precision import autocast
from lrsa_coupled.operators.reducer import TorchReducer
from tests.operators import (
    CONFIG,
    LIMITS,
    VARIANTS,
    arguments,
    assert_equal_gradients,
    exact_outputs,
    gradients,
    make_operator,
    relative,
)

PARTITIONS = {1: [50], 2: [20, 30], 3: [1, 0, 49], 7: [9, 0, 1, 14, 3, 23, 0]}


class Ranks:
    """Threads that stand for ranks; ``reducer`` counts what is sent."""

    def __init__(self, size: int) -> None:
        self.size, self.numbers = size, 0
        self._barrier = threading.Barrier(size, timeout=60.0)
        self._parts: list[Any] = [None] * size

    def run(self, function: Callable[[int, Any], Any]) -> list[Any]:
        """Call ``function(rank, reducer)`` on all ranks at once."""
        results: list[Any] = [None] * self.size

        def work(rank: int) -> None:
            try:
                results[rank] = function(rank, _ThreadReducer(self, rank))
            except BaseException as error:  # noqa: BLE001 - reported by the thread of the test
                results[rank] = error
                self._barrier.abort()

        threads = [threading.Thread(target=work, args=(rank,)) for rank in range(self.size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, threading.BrokenBarrierError):
                raise result
        return results

    def reduce(self, rank: int, tensor: torch.Tensor, combine: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """Combine the tensors of all ranks."""
        self._parts[rank] = tensor.detach()
        self._barrier.wait()
        result = combine(torch.stack(self._parts))
        self.numbers += tensor.numel() if rank == 0 else 0
        self._barrier.wait()
        return result


class _ThreadReducer:
    def __init__(self, ranks: Ranks, rank: int) -> None:
        self.ranks, self.rank = ranks, rank

    def max(self, tensor):
        return self.ranks.reduce(self.rank, tensor, lambda parts: parts.amax(dim=0))

    def sum(self, tensor):
        return self.ranks.reduce(self.rank, tensor, lambda parts: parts.sum(dim=0))


@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("config", VARIANTS)
@pytest.mark.parametrize("chunk_size", [1, 7, 50, 64])
def test_chunks_change_neither_values_nor_gradients(config, chunk_size, dtype):
    model, (points, inputs, scalars, mass) = make_operator(config, dtype=dtype), arguments(dtype=dtype)
    exact = exact_outputs(points)
    whole = model(points, inputs, scalars, mass)
    expected = gradients(model, whole, exact, mass=mass)
    outputs = model(points, inputs, scalars, mass, chunk_size=chunk_size)
    assert relative(outputs, whole) < LIMITS[dtype]
    assert_equal_gradients(gradients(model, outputs, exact, mass=mass), expected, limit=LIMITS[dtype])
    with torch.inference_mode():
        assert relative(model(points, inputs, scalars, mass, chunk_size=chunk_size), whole) < LIMITS[dtype]


def test_chunks_bound_what_is_kept_for_the_backward_pass():
    config = dataclasses.replace(CONFIG, num_blocks=3)
    model, (points, inputs, scalars, mass) = make_operator(config), arguments(batch=1, points=2000)
    kept: dict[int, int] = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = model(points, inputs, scalars, mass, chunk_size=100)
    assert outputs.requires_grad
    weights = sum(weight.untyped_storage().nbytes() for weight in model.parameters())
    assert sum(kept.values()) < 4 * 2000 * config.width * (config.num_blocks + 2) + 2 * weights


@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("config", VARIANTS)
@pytest.mark.parametrize("chunk_size", [None, 6])
@pytest.mark.parametrize("size", PARTITIONS)
def test_ranks_change_neither_values_nor_gradients(size, chunk_size, config, dtype):
    model, (points, inputs, scalars, mass) = make_operator(config, dtype=dtype), arguments(dtype=dtype)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(3)).split(PARTITIONS[size])
    exact = exact_outputs(points)
    whole = model(points, inputs, scalars, mass)
    expected = gradients(model, whole, exact, mass=mass)

    def work(rank, reducer):
        own, mine = order[rank], copy.deepcopy(model)
        outputs = mine(points[:, own], inputs[:, own], scalars, mass[:, own], reducer=reducer, chunk_size=chunk_size)
        return outputs, gradients(mine, outputs, exact[:, own], mass=mass[:, own])

    outputs, parts = zip(*Ranks(size).run(work), strict=True)
    assert relative(torch.cat(outputs, dim=1), whole[:, torch.cat(order)]) < LIMITS[dtype]
    found = {name: sum(part[name] for part in parts) for name in expected}
    assert_equal_gradients(found, expected, limit=LIMITS[dtype])


def test_traffic_does_not_depend_on_the_number_of_points():
    model, heads, latents, head_width = (
        make_operator(),
        CONFIG.num_heads,
        CONFIG.num_latents,
        CONFIG.width // CONFIG.num_heads,
    )
    for num_points in (10, 1000):
        points, inputs, scalars, mass = (part.chunk(2, dim=1) for part in arguments(batch=1, points=num_points))
        scalars = arguments(batch=1)[2]
        ranks = Ranks(2)
        with torch.inference_mode():
            ranks.run(lambda rank, r, p=points, i=inputs, m=mass: model(p[rank], i[rank], scalars, m[rank], reducer=r))
        assert ranks.numbers == CONFIG.num_blocks * heads * latents * (head_width + 2)


def test_bf16_over_ranks_and_chunks():
    model, (points, inputs, scalars, mass) = make_operator(), arguments()
    halves = [part.split(25, 1) for part in (points, inputs, mass)]

    def work(rank, reducer):
        own = [half[rank] for half in halves]
        with torch.inference_mode(), autocast("bf16", torch.device("cpu")):
            return model(own[0], own[1], scalars, own[2], reducer=reducer, chunk_size=10)

    with torch.inference_mode():
        whole = model(points, inputs, scalars, mass)
    assert 0.0 < relative(torch.cat(Ranks(2).run(work), dim=1), whole) < 0.03


def _over_gloo(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    model, (points, inputs, scalars, mass) = make_operator(dtype=torch.float64), arguments(dtype=torch.float64)
    whole = model(points, inputs, scalars, mass)
    expected = gradients(model, whole, exact_outputs(points), mass=mass)
    own = slice(0, 18) if rank == 0 else slice(18, 50)
    outputs = model(points[:, own], inputs[:, own], scalars, mass[:, own], reducer=TorchReducer())
    assert relative(outputs, whole[:, own]) < 1e-12
    found = gradients(model, outputs, exact_outputs(points)[:, own], mass=mass[:, own])
    for gradient in found.values():
        dist.all_reduce(gradient)
    assert_equal_gradients(found, expected, limit=1e-12)
    dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="this torch has no Gloo")
def test_ranks_of_torch_distributed(tmp_path: Path):
    mp.spawn(_over_gloo, args=(str(tmp_path),), nprocs=2)
