"""What a prediction does when the points are refined, everywhere or in one half: mass-weighted attention against plain one.

Works on samples whose nodes are a uniform grid of an odd number of points a side: every second node is the coarse set, all of them the fine
one, all of them in the first half and every second one in the rest the half-refined set.

Shapes: N points of the fine grid, n points of a set, d dimension of space.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lrsa_coupled.bench.report import align
from lrsa_coupled.config import Config
from lrsa_coupled.data.dataset import Batch, PointDataset
from lrsa_coupled.data.store import DataStore
from lrsa_coupled.logs import progress
from lrsa_coupled.operators.grid import Grid, find_grid
from lrsa_coupled.operators.precision import autocast, choose_device
from lrsa_coupled.training.checkpoint import load
from lrsa_coupled.training.evaluate import check_match

SETS = ("coarse", "half", "fine")


def node_sets(grid: Grid) -> dict[str, tuple[Tensor, Tensor]]:
    """Return rows ``(n,)`` of the points of each set and their masses ``(n,)``, by the trapezoidal rule on its cells, 1 in all.

    Raises:
        ValueError: If a side of the grid has an even number of points or fewer than five.
    """
    if any(size % 2 == 0 or size < 5 for size in grid.shape):
        raise ValueError(
            f"refinement needs a grid of an odd number of points a side, 5 at least, got {' x '.join(map(str, grid.shape))}"
        )
    middle = 2 * (grid.shape[0] // 4)
    last = [size - 1 for size in grid.shape]
    fine, coarse = _weights(grid, step=1, first=0, end=last[0]), _weights(grid, step=2, first=0, end=last[0])
    half = _weights(grid, step=1, first=0, end=middle) + _weights(grid, step=2, first=middle, end=last[0])
    found = {}
    for name, weights in zip(SETS, (coarse, half, fine), strict=True):
        kept = torch.nonzero(weights.flatten() > 0).squeeze(-1)
        found[name] = (grid.order_N[kept], weights.flatten()[kept])
    return found


def bench_refinement(model: Path, data: Path, config: Config) -> dict[str, Any]:
    """Predict every sample of a data set on the three sets and compare at the coarse nodes; constrained values count as exact.

    Returns:
        ``case``, ``samples``, ``mass_weighted``, ``points`` (of each set), ``error`` (mean relative L2 error of the first output at the coarse
        nodes, by set) and ``drift`` (of the half-refined and the fine prediction from the coarse one, relative).

    Raises:
        ValueError: If model and data do not fit or the nodes are no such grid.
    """
    device = choose_device(config.training.device)
    operator, card = load(model)
    operator.to(device)
    dataset = PointDataset(DataStore(data), memory_gib=config.data.memory_gib)
    check_match(card, dataset.schema)
    sets = node_sets(find_grid(dataset.whole(0).points_BNd))
    columns = slice(0, card.schema.outputs[0].components)
    errors, drifts = {name: [] for name in SETS}, {name: [] for name in SETS[1:]}
    for sample in progress(range(len(dataset)), description="refining", delay=2.0):
        batch = dataset.whole(sample)
        fields = {}
        with torch.inference_mode(), autocast(config.guess.precision, device):
            for name, (rows, mass) in sets.items():
                fields[name] = _at_coarse(
                    operator(*_arguments(batch, rows, mass, device)).cpu(), rows, sets["coarse"][0]
                )[:, columns]
        truth, free = (values_BNK[0, sets["coarse"][0], columns] for values_BNK in (batch.outputs_BNK, batch.free_BNK))
        fields = {name: torch.where(free > 0, field, truth) for name, field in fields.items()}
        for name in SETS:
            errors[name].append(_distance(fields[name], truth))
        for name in SETS[1:]:
            drifts[name].append(_distance(fields[name], fields["coarse"]))
    points = {name: len(rows) for name, (rows, _) in sets.items()}
    result = {
        "case": card.schema.name,
        "samples": len(dataset),
        "mass_weighted": card.operator.needs_mass,
        "points": points,
    }
    return result | {"error": {name: _mean(values) for name, values in errors.items()},
                     "drift": {name: _mean(values) for name, values in drifts.items()}}  # fmt: skip


def refinement_table(result: Mapping[str, Any]) -> str:
    """Format what ``bench_refinement`` returns."""
    lines = [["points", "number", "error at the coarse nodes", "distance from the coarse prediction"]]
    for name in SETS:
        drift = f"{100 * result['drift'][name]:.3f} %" if name in result["drift"] else "-"
        lines.append([name, str(result["points"][name]), f"{100 * result['error'][name]:.3f} %", drift])
    kind = "mass-weighted" if result["mass_weighted"] else "plain"
    return f"{result['case']}: {result['samples']} samples, {kind} attention\n\n{align(lines)}"


def _weights(grid: Grid, *, step: int, first: int, end: int) -> Tensor:
    """Return trapezoidal weights of the nodes of every ``step``-th line, between two lines of the first axis, zero elsewhere."""
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


def _at_coarse(values_1nK: Tensor, rows: Tensor, coarse: Tensor) -> Tensor:
    place = torch.empty(int(rows.max()) + 1, dtype=torch.int64)
    place[rows] = torch.arange(len(rows))
    return values_1nK[0, place[coarse]]


def _distance(values: Tensor, reference: Tensor) -> float:
    return float((values - reference).norm() / reference.norm())


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
