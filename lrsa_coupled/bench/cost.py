"""Time and memory of an operator on random points, each measured in a process of its own.

Shapes: B batch, N points.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import statistics
import time
from dataclasses import dataclass
from fractions import Fraction
from multiprocessing.connection import Connection
from threading import Thread
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from lrsa_coupled.bench.machine import PeakMemory, memory
from lrsa_coupled.config import OperatorConfig
from lrsa_coupled.operators.model import Operator
from lrsa_coupled.operators.precision import autocast, choose_device

FEW = 512
"""Operations are counted at one, two and three times so many points: their number is a quadratic polynomial."""


@dataclass(frozen=True)
class Work:
    """What is measured: an operator of ``dim`` dimensions on ``batch`` samples of ``points`` points.

    Args:
        sizes: Dimension of space, inputs, scalars, outputs.
        grid: Points a side of a grid; None for random points.
        backward: Whether the gradient is computed, too.
        chunk_size: Points at a time, for ``lrsa``; None for all.
        memory_share: What a measurement on the CPU may use of the memory that is free.
    """

    operator: OperatorConfig
    points: int
    batch: int = 1
    sizes: tuple[int, int, int, int] = (2, 1, 0, 1)
    grid: int | None = None
    precision: str = "fp32"
    device: str = "auto"
    backward: bool = False
    compile: bool = False
    chunk_size: int | None = None
    repeats: int = 5
    memory_share: float = 0.8


@dataclass(frozen=True)
class Cost:
    """Median time [s], peak memory [bytes] beyond weights and inputs, floating-point operations of the products.

    ``error`` says why there are none of these.
    """

    seconds: float = 0.0
    memory: int = 0
    flops: int = 0
    error: str = ""


def measure(work: Work) -> Cost:
    """Measure in a new process, so that nothing is left from others; ``error`` says why that failed.

    The process ends with this call, and with this process however that one ends.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send_cost, args=(sender, work, torch.get_num_threads()), daemon=True)
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError as error:
        process.join()
        if process.exitcode is not None and process.exitcode < 0:
            return Cost(error="out of memory (killed)")
        raise RuntimeError(f"the measurement ended with exit code {process.exitcode}; its error is above") from error
    finally:
        process.kill()
        process.join()
        receiver.close()


def flop_counter() -> FlopCounterMode:
    """Return a counter of the operations of products; it adds those of attention on a CPU, which torch leaves out."""

    def attention(
        queries: torch.Size, keys: torch.Size, values: torch.Size, *_: Any, out_shape: Any = None, **__: Any
    ) -> int:
        return sdpa_flop_count(queries, keys, values)

    return FlopCounterMode(
        display=False,
        custom_mapping={torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention},  # noqa: SLF001
    )


def _send_cost(sender: Connection, work: Work, threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that waits for the answer ends this one
    Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    try:
        cost = _measured(work)
    except (RuntimeError, MemoryError, ValueError) as error:
        text = str(error) or "out of memory"
        cost = Cost(error="out of memory" if "memory" in text.lower() else text.splitlines()[0])
    sender.send(cost)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _measured(work: Work) -> Cost:
    device = choose_device(work.device)
    if device.type == "cpu":
        limit = memory("VmData") + int(work.memory_share * os.sysconf("SC_AVPHYS_PAGES") * resource.getpagesize())
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    torch.manual_seed(0)
    model = Operator(work.operator, *work.sizes).to(device).train(work.backward)
    flops = _flops(model, work)
    arguments = [tensor.to(device) for tensor in _arguments(work, work.points)]
    forward = torch.compile(model) if work.compile else model

    def once() -> None:
        with autocast(work.precision, device), torch.set_grad_enabled(work.backward):
            outputs = forward(*arguments, chunk_size=work.chunk_size)
        if work.backward:
            model.zero_grad(set_to_none=True)
            outputs.square().mean().backward()

    once()  # not counted: compiles
    times = []
    if device.type == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
    else:
        peak = PeakMemory()
    for _ in range(work.repeats):
        started = time.perf_counter()
        once()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    grown = torch.cuda.max_memory_allocated() - before if device.type == "cuda" else peak.grown()
    return Cost(statistics.median(times), grown, flops)


def _arguments(work: Work, points: int) -> list[Tensor]:
    dim, num_inputs, num_scalars, _ = work.sizes
    if work.grid:
        axis = torch.linspace(0.0, 1.0, work.grid)
        mesh = torch.meshgrid(*[axis] * dim, indexing="ij")
        place = torch.stack(mesh, dim=-1).reshape(1, -1, dim).expand(work.batch, -1, -1)
    else:
        place = torch.rand(work.batch, points, dim)
    rest = torch.rand(work.batch, place.shape[1], num_inputs), torch.rand(work.batch, num_scalars)
    mass = torch.full((work.batch, place.shape[1]), 1.0 / place.shape[1])
    return [place, *rest, mass]


def _flops(model: Operator, work: Work) -> int:
    """Count the products of a forward pass; a backward pass has twice as many."""
    if work.grid:
        forward = _counted(model, work, work.points)
    else:
        one, two, three = (_counted(model, work, times * FEW) for times in (1, 2, 3))
        steps = Fraction(work.points - FEW, FEW)
        forward = int(one + steps * (two - one) + steps * (steps - 1) / 2 * (three - 2 * two + one))
    return forward * (3 if work.backward else 1)


def _counted(model: Operator, work: Work, points: int) -> int:
    device = model.head.weight.device
    with torch.no_grad(), flop_counter() as counter:
        model(*(tensor.to(device) for tensor in _arguments(work, points)))
    return counter.get_total_flops()
