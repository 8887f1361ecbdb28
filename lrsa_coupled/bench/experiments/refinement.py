"""What a prediction does when the points are refined, everywhere or in one half: mass-weighted against plain attention.

Works on samples whose nodes are a uniform grid of an odd number of points a side: every second node is the coarse
set, all of them the fine one, all of them in the first half and every second one in the rest the half-refined set. A
row is a set of one sample; ``values`` holds ``points``, ``error`` (relative L2 of the first output at the coarse
nodes, constrained values exact) and ``drift`` (distance from the coarse prediction, relative).

Shapes: N points of the fine grid, n points of a set, d dimension of space.
"""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lrsa_coupled.bench.machine import header_of
from lrsa_coupled.bench.report import align
from lrsa_coupled.bench.rows import Results, Row, Seconds, Values
from lrsa_coupled.config import Config
from lrsa_coupled.data.dataset import Batch, PointDataset
from lrsa_coupled.data.store import DataStore
from lrsa_coupled.logs import progress
from lrsa_coupled.operators.grid import Grid, find_grid
from lrsa_coupled.operators.precision import autocast, choose_device
from lrsa_coupled.training.checkpoint import load
from lrsa_coupled.training.evaluate import check_match

ON_RANKS = False
STUDY = "refinement"
SETS = ("coarse", "half", "fine")


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="folder of the model")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="data set")


def run(args: Namespace, config: Config) -> Results:
    """Predict every sample on the three sets; ValueError if model and data do not fit or the nodes are no such grid."""
    device = choose_device(config.training.device)
    operator, card = load(args.model)
    operator.to(device)
    dataset = PointDataset(DataStore(args.data), memory_gib=config.data.memory_gib)
    check_match(card, dataset.schema)
    sets = node_sets(find_grid(dataset.whole(0).points_BNd))
    columns, coarse = slice(0, card.schema.outputs[0].components), sets["coarse"][0]
    rows = []
    for sample in progress(range(len(dataset)), description="refining", delay=2.0):
        batch = dataset.whole(sample)
        truth, free = (values_BNK[0, coarse, columns] for values_BNK in (batch.outputs_BNK, batch.free_BNK))
        reference = None
        for name, (points, mass) in sets.items():
            started = time.perf_counter()
            with torch.inference_mode(), autocast(config.guess.precision, device):
                values_1nK = operator(*_arguments(batch, points, mass, device)).cpu()
            field = torch.where(free > 0, _at(coarse, points, values_1nK)[:, columns], truth)
            reference = field if reference is None else reference
            values: Values = {"points": len(points), "error": _distance(field, truth)}
            values["drift"] = _distance(field, reference)
            seconds = Seconds(total=time.perf_counter() - started)
            rows.append(Row(method=name, sample=sample, seconds=seconds, solved=True, values=values))
    return Results.of(header_of(STUDY, card.schema.name, {"mass_weighted": card.operator.needs_mass}), rows)


def table(results: Results) -> str:
    """Format results."""
    lines = [["points", "number", "error at the coarse nodes", "distance from the coarse prediction"]]
    for name, rows in results.methods.items():
        error, drift = (100 * np.mean([row.number(key) for row in rows]) for key in ("error", "drift"))
        shown = "-" if name == SETS[0] else f"{drift:.3f} %"
        lines.append([name, str(rows[0].values["points"]), f"{error:.3f} %", shown])
    header = results.header
    kind = "mass-weighted" if header.settings["mass_weighted"] else "plain"
    return f"{header.case}: {results.num_samples} samples, {kind} attention\n\n{align(lines)}"


def node_sets(grid: Grid) -> dict[str, tuple[Tensor, Tensor]]:
    """Return rows ``(n,)`` of the points of each set and their masses ``(n,)`` by the trapezoidal rule, 1 in all."""
    if any(size % 2 == 0 or size < 5 for size in grid.shape):
        shape = " x ".join(map(str, grid.shape))
        raise ValueError(f"refinement needs a grid of an odd number of points a side, 5 at least, got {shape}")
    middle, last = 2 * (grid.shape[0] // 4), grid.shape[0] - 1
    fine, coarse = _weights(grid, step=1, first=0, end=last), _weights(grid, step=2, first=0, end=last)
    half = _weights(grid, step=1, first=0, end=middle) + _weights(grid, step=2, first=middle, end=last)
    found = {}
    for name, weights in zip(SETS, (coarse, half, fine), strict=True):
        kept = torch.nonzero(weights.flatten() > 0).squeeze(-1)
        found[name] = (grid.order_N[kept], weights.flatten()[kept])
    return found


def _weights(grid: Grid, *, step: int, first: int, end: int) -> Tensor:
    """Return trapezoidal weights of the nodes of every ``step``-th line between two lines of the first axis."""
    total = torch.ones(())
    for axis, size in enumerate(grid.shape):
        low, high = (first, end) if axis == 0 else (0, size - 1)
        line = torch.zeros(size)
        line[low : high + 1 : step] = step / (size - 1)
        line[low] *= 0.5
        line[high] *= 0.5
        total = total.unsqueeze(-1) * line
    return total


def _arguments(batch: Batch, rows: Tensor, mass: Tensor, device: torch.device) -> list[Tensor]:
    arguments = (batch.points_BNd[:, rows], batch.inputs_BNF[:, rows], batch.scalars_BG, mass.unsqueeze(0))
    return [tensor.to(device) for tensor in arguments]


def _at(coarse: Tensor, rows: Tensor, values_1nK: Tensor) -> Tensor:
    """Return the values at the rows ``coarse``, which are some of ``rows``."""
    places = {row: place for place, row in enumerate(rows.tolist())}
    return values_1nK[0, [places[row] for row in coarse.tolist()]]


def _distance(values: Tensor, reference: Tensor) -> float:
    return float((values - reference).norm() / reference.norm())
