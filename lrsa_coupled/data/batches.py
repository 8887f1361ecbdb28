"""The order of training: which samples validate, batches of an epoch, drawn in a thread while the last one is at work.

Shapes: B batch, N points of a batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lrsa_coupled.data.dataset import Batch, PointDataset
from lrsa_coupled.data.symmetries import SymmetryGroup


def epoch_generator(seed: int, epoch: int) -> torch.Generator:
    """Return a generator that depends on seed and epoch alone; epoch 0 is for validation, training begins with 1."""
    state = np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


@dataclass(frozen=True)
class BatchPlan:
    """How an epoch is cut into optimiser steps of ``batch_size`` samples with ``num_points`` each, None for all points.

    Ranks share a step; each works on ``micro_batch_size`` samples at a time, None for all of its own. An element of the
    group ``symmetries``, drawn for each step, is applied to its samples.
    """

    batch_size: int
    num_points: int | None
    with_cells: bool
    micro_batch_size: int | None = None
    rank: int = 0
    num_ranks: int = 1
    symmetries: SymmetryGroup | None = None


def training_batches(
    dataset: PointDataset, samples: Tensor, plan: BatchPlan, *, generator: torch.Generator, first: int = 0
) -> Iterator[list[Batch]]:  # fmt: skip
    """Yield this rank's micro-batches of each optimiser step of an epoch, in random order.

    Each step has ``batch_size`` samples, an incomplete one is left out. What is drawn does not depend on the number of
    ranks nor on ``first``, the step to begin with.
    """
    batch_size = min(plan.batch_size, len(samples))
    shuffled = samples[torch.randperm(len(samples), generator=generator)]
    for step in range(len(samples) // batch_size):
        chosen = shuffled[step * batch_size : (step + 1) * batch_size]
        draw = dataset.draw(chosen, plan.num_points, generator=generator, with_cells=plan.with_cells)
        group = plan.symmetries
        element = 0 if group is None else int(torch.randint(len(group), (), generator=generator))
        if step < first:
            continue
        own = draw.part(slice(plan.rank, None, plan.num_ranks))
        size = plan.micro_batch_size or max(1, len(own.samples_B))
        parts = [own.part(slice(start, start + size)) for start in range(0, len(own.samples_B), size)]
        batches = [batch for part in parts for batch in dataset.gather(part)]
        yield batches if group is None else [group.apply(batch, element) for batch in batches]


def split_samples(count: int, fraction: float, *, seed: int) -> tuple[Tensor, Tensor]:
    """Return the positions of training and validation samples: the last ``fraction`` of a permutation, at least one.

    ValueError for fewer than two samples, or a ``fraction`` that leaves nothing to train on.
    """
    if count < 2:
        raise ValueError(f"training needs at least 2 solved samples, the data set has {count}: generate more")
    num_valid = max(1, round(fraction * count))
    if not 0.0 <= fraction < 1.0 or num_valid >= count:
        raise ValueError(f"training.valid_fraction = {fraction} leaves no sample of {count} to train on")
    order = torch.from_numpy(np.random.default_rng(seed).permutation(count))
    return order[:-num_valid], order[-num_valid:]


def drawn_ahead[T](batches: Iterator[T]) -> Iterator[T]:
    """Yield the same batches, drawn in a thread of their own; an error there is raised here."""
    pool = ThreadPoolExecutor(max_workers=1)
    try:
        drawn = deque(pool.submit(next, batches, None) for _ in range(2))
        while (batch := drawn.popleft().result()) is not None:
            drawn.append(pool.submit(next, batches, None))
            yield batch
    finally:
        pool.shutdown(cancel_futures=True)
