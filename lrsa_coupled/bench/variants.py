"""Variants of an operator: trained alike on the same data, tested on samples that nothing was chosen on.

A row is one variant: seconds are those of its training, ``values`` holds ``parameters``, ``best_epoch``, the relative
errors of the first output on the test samples (``l2`` and ``h1``, each ``_mean``, ``_median``, ``_p95``, ``_worst``),
and time, memory or error of an optimiser step (``step_...``), measured for all variants one right after the other.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch

from lrsa_coupled.bench.cost import Work, measure
from lrsa_coupled.bench.machine import header_of
from lrsa_coupled.bench.rows import Results, Row, Scalar, Seconds
from lrsa_coupled.config import Config, OperatorConfig
from lrsa_coupled.data.dataset import PointDataset
from lrsa_coupled.data.store import DataStore
from lrsa_coupled.operators.grid import find_grid
from lrsa_coupled.schema import Schema
from lrsa_coupled.settings import nearest
from lrsa_coupled.training.evaluate import evaluate
from lrsa_coupled.training.loop import train

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sets:
    """Folders of the training data, of the test data of another seed, and of the models."""

    data: Path
    test: Path
    out: Path


def compare_variants(
    study: str,
    variants: Callable[[OperatorConfig, Schema], Mapping[str, OperatorConfig]],
    config: Config,
    sets: Sets,
    only: list[str],
) -> Results:
    """Train each variant with the same settings and samples and test it; a second run goes on where one stopped.

    Args:
        study: Name of the experiment.
        variants: Makes them by name from an operator.
        config: ``training`` holds for all.
        sets: Folders.
        only: Names of the variants to take, all when empty.

    Raises:
        ValueError: For an unknown name, test samples of the training, or what ``train`` and ``evaluate`` refuse.
    """
    data, test = DataStore(sets.data), DataStore(sets.test)
    schema = data.card.schema
    if (schema.name, data.card.seed) == (test.card.schema.name, test.card.seed):
        both = f"{sets.data} and {sets.test} are both samples of seed {data.card.seed}"
        raise ValueError(f"{both}: generate test samples of another seed")
    chosen = dict(variants(config.operator, schema))
    for name in only:
        if name not in chosen:
            raise ValueError(f"--only: no variant '{name}'{nearest(name, list(chosen))}")
    chosen = {name: operator for name, operator in chosen.items() if not only or name in only}
    if "fno" in chosen and not only and not _on_a_grid(test, config):
        logger.warning("fno is left out: the samples do not lie on one uniform grid")
        del chosen["fno"]
    rows = [_trained(name, dataclasses.replace(config, operator=chosen[name]), sets) for name in chosen]
    points = config.training.num_points or max(entry.num_nodes for entry in data.entries.values())
    for place, operator in enumerate(chosen.values()):
        cost = measure(_step(config, operator, schema, points))
        step: dict[str, Scalar] = {f"step_{name}": value for name, value in vars(cost).items()}
        rows[place] = msgspec.structs.replace(rows[place], values=rows[place].values | step)
    counts = {"train.samples": len(data.solved), "test.samples": len(test.solved), "test.seed": test.card.seed}
    header = header_of(study, schema.name, dataclasses.asdict(config) | counts)
    return Results.of(msgspec.structs.replace(header, seed=data.card.seed), rows)


def _trained(name: str, config: Config, sets: Sets) -> Row:
    folder = sets.out / name.replace(" ", "-")
    summary = train(sets.data, folder, config)
    guess = dataclasses.replace(config.guess, precision=config.training.precision)
    tested, _ = evaluate(folder, sets.test, dataclasses.replace(config, guess=guess))
    norms = next(iter(tested["fields"].values()))
    values: dict[str, Scalar] = {key: summary[key] for key in ("parameters", "best_epoch")}
    values |= {f"{norm}_{key}": value for norm, some in norms.items() for key, value in (some or {}).items()}
    seconds, epochs = Seconds(total=summary["seconds"]), summary["best_epoch"]
    return Row(method=name, sample=0, seconds=seconds, solved=True, iterations=epochs, values=values)


def _on_a_grid(store: DataStore, config: Config) -> bool:
    """Return whether the samples have one number of nodes, and the first and the last lie on the same uniform grid."""
    if len({store.entries[index].num_nodes for index in store.solved}) > 1:
        return False
    dataset = PointDataset(store, [store.solved[0], store.solved[-1]], memory_gib=config.data.memory_gib)
    try:
        find_grid(torch.cat([dataset.whole(sample).points_BNd for sample in range(2)]))
    except ValueError:
        return False
    return True


def _step(config: Config, operator: OperatorConfig, schema: Schema, points: int) -> Work:
    """Return the passes of a batch; operators of a grid work on the smallest square one with that many points."""
    training, side = config.training, None
    if operator.needs_grid:
        side = next(side for side in range(1, points + 1) if side**schema.dim >= points)
    return Work(
        operator,
        points,
        batch=training.batch_size,
        sizes=(schema.dim, schema.num_inputs, len(schema.scalars), schema.num_outputs),
        grid=side,
        precision=training.precision,
        device=training.device,
        backward=True,
        compile=training.compile,
    )
