"""LRSA against its rivals, and against itself with a part taken out: trained alike on the same data, tested on unseen samples.

A ledger is a dictionary for JSON: ``case``, ``data`` and ``test`` (folders, numbers of samples, seeds), ``training`` (settings common to all),
``machine``, and ``operators``, one a variant: ``name``, ``operator`` (its settings), ``parameters``, ``l2`` and ``h1`` of the first output (each
``mean``, ``median``, ``p95``, ``worst``), ``best_epoch``, ``seconds`` (of its training), ``step`` (time and memory of an optimiser step,
measured anew for all variants one right after the other).
"""

from __future__ import annotations

import dataclasses
import logging
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from lrsa_coupled.bench.cost import Work, measure
from lrsa_coupled.bench.report import align
from lrsa_coupled.config import AttentionConfig, Config, OperatorConfig, of_kind
from lrsa_coupled.data.dataset import PointDataset
from lrsa_coupled.data.store import DataStore
from lrsa_coupled.operators.grid import find_grid
from lrsa_coupled.schema import Schema
from lrsa_coupled.settings import nearest
from lrsa_coupled.training.checkpoint import parameter_count
from lrsa_coupled.training.evaluate import evaluate
from lrsa_coupled.training.loop import train

LOGGER = logging.getLogger(__name__)
RIVALS = ("lrsa", "flare", "transolver", "full", "fno")
LATENTS = (16, 32, 64, 128, 256)


def variants(what: str, operator: OperatorConfig, schema: Schema) -> dict[str, OperatorConfig]:
    """Return the operators to compare by name, ``operator`` first.

    ``operators``: the rivals, with the width at which they have as many parameters as ``operator``, to within a head. ``ablations``:
    the same with a part taken out or another number of latent tokens, everything else as it is.
    """
    lrsa = of_kind(operator, "lrsa")
    if what == "operators":
        count = parameter_count(lrsa, schema)
        plain = dataclasses.replace(lrsa, qk_norm=True)
        return {kind: lrsa if kind == "lrsa" else of_size(of_kind(plain, kind), count, schema) for kind in RIVALS}
    changes: dict[str, Mapping[str, Any]] = {
        "lrsa": {}, "tied": {"tied": True}, "no latent attention": {"latent_attention": False}, "no QK norm": {"qk_norm": False},
        "mass-weighted" if not lrsa.mass_weighted else "not mass-weighted": {"mass_weighted": not lrsa.mass_weighted},
    }  # fmt: skip
    changes |= {f"{latents} tokens": {"num_latents": latents} for latents in LATENTS if latents != lrsa.num_latents}
    return {name: dataclasses.replace(lrsa, **change) for name, change in changes.items()}


def of_size(operator: OperatorConfig, count: int, schema: Schema) -> OperatorConfig:
    """Return the operator with the width, a multiple of its heads, whose number of parameters is nearest to ``count``."""
    heads = operator.num_heads if isinstance(operator, AttentionConfig) else 1
    sizes = [dataclasses.replace(operator, width=heads)]
    while parameter_count(sizes[-1], schema) < count:
        sizes.append(dataclasses.replace(sizes[-1], width=sizes[-1].width + heads))
    return min(sizes[-2:], key=lambda size: abs(parameter_count(size, schema) - count))


def bench_operators(
    config: Config, data: Path, test: Path, out: Path, *, what: str = "operators", only: Sequence[str] = ()
) -> dict[str, Any]:  # fmt: skip
    """Train each variant with the same settings and samples into a folder of ``out`` and test it; a second run goes on where one stopped.

    Args:
        config: ``operator`` is the LRSA to compare with, ``training`` holds for all.
        data: Training data set.
        test: Data set of the same case that nothing was chosen on, of another seed.
        out: Folder of the models.
        what: ``operators`` or ``ablations``.
        only: Names of the variants to take, all when empty.

    Returns:
        A ledger as described above.

    Raises:
        ValueError: For an unknown name, test samples that are training samples, or what ``train`` and ``evaluate`` refuse.
    """
    stores = {"data": DataStore(data), "test": DataStore(test)}
    about, unseen = (store.card for store in stores.values())
    if (about.schema.name, about.seed) == (unseen.schema.name, unseen.seed):
        raise ValueError(
            f"{data} and {test} are both samples of seed {about.seed}: generate test samples of another seed"
        )
    chosen = variants(what, config.operator, about.schema)
    for name in only:
        if name not in chosen:
            raise ValueError(f"--only: no variant '{name}'{nearest(name, list(chosen))}")
    chosen = {name: operator for name, operator in chosen.items() if not only or name in only}
    if "fno" in chosen and not only and not _on_a_grid(stores["test"], config):
        LOGGER.warning("fno is left out: the samples do not lie on one uniform grid")
        del chosen["fno"]
    rows = [
        _trained(name, dataclasses.replace(config, operator=operator), data, test=test, out=out)
        for name, operator in chosen.items()
    ]
    points = config.training.num_points or max(entry.num_nodes for entry in stores["data"].entries.values())
    for row, operator in zip(rows, chosen.values(), strict=True):
        row["step"] = dataclasses.asdict(measure(_step(config, operator, about.schema, points)))
    sets = {
        name: {"folder": str(store.folder), "samples": len(store.solved), "seed": store.card.seed}
        for name, store in stores.items()
    }
    return {
        "case": about.schema.name,
        **sets,
        "training": dataclasses.asdict(config.training),
        "machine": this_machine(),
        "operators": rows,
    }


def this_machine() -> str:
    """Name processor, threads and torch, for ledgers."""
    return f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def _on_a_grid(store: DataStore, config: Config) -> bool:
    """Tell whether the samples have one number of nodes, and the first and the last lie on the same uniform grid."""
    if len({store.entries[index].num_nodes for index in store.solved}) > 1:
        return False
    dataset = PointDataset(store, [store.solved[0], store.solved[-1]], memory_gib=config.data.memory_gib)
    try:
        find_grid(torch.cat([dataset.whole(sample).points_BNd for sample in range(2)]))
    except ValueError:
        return False
    return True


def operators_table(ledger: Mapping[str, Any]) -> str:
    """Format a ledger for the terminal; errors in per cent of the norm of the solution."""
    lines = [
        [
            "operator",
            "parameters",
            "L2 [%]",
            "median",
            "95th",
            "worst",
            "H1 [%]",
            "times lrsa's",
            "step [ms]",
            "memory [MiB]",
            "training [s]",
        ]
    ]
    rows = ledger["operators"]
    base = next((row["l2"]["mean"] for row in rows if row["name"] == "lrsa"), rows[0]["l2"]["mean"])
    for row in rows:
        errors = [f"{100 * row['l2'][key]:.3f}" for key in ("mean", "median", "p95", "worst")]
        gradient = f"{100 * row['h1']['mean']:.2f}" if row["h1"] else "-"
        step = row["step"]
        cost = (
            ["-", step["error"]]
            if step["error"]
            else [f"{1000 * step['seconds']:.0f}", f"{step['memory'] / 2**20:.0f}"]
        )
        lines.append(
            [
                row["name"],
                str(row["parameters"]),
                *errors,
                gradient,
                f"{row['l2']['mean'] / base:.2f}",
                *cost,
                f"{row['seconds']:.0f}",
            ]
        )
    counts = f"{ledger['data']['samples']} samples to train, {ledger['test']['samples']} to test"
    return f"{ledger['case']}: {counts}, {ledger['training']['epochs']} epochs, {ledger['machine']}\n\n{align(lines)}"


def _trained(name: str, config: Config, data: Path, *, test: Path, out: Path) -> dict[str, Any]:
    folder = out / name.replace(" ", "-")
    summary = train(data, folder, config)
    tested, _ = evaluate(
        folder,
        test,
        dataclasses.replace(config, guess=dataclasses.replace(config.guess, precision=config.training.precision)),
    )
    norms = next(iter(tested["fields"].values()))
    taken = ("parameters", "best_epoch", "seconds")
    row = {"name": name, "operator": dataclasses.asdict(config.operator), **{key: summary[key] for key in taken}}
    return row | {"l2": norms["l2"], "h1": norms.get("h1")}


def _step(config: Config, operator: OperatorConfig, schema: Schema, points: int) -> Work:
    """Return the forward and backward pass of a batch; operators of a grid on the smallest square one with that many points."""
    training, side = config.training, 0
    if operator.needs_grid:
        side = next(side for side in range(1, points + 1) if side**schema.dim >= points)
    sizes = (schema.dim, schema.num_inputs, len(schema.scalars), schema.num_outputs)
    return Work(
        operator,
        points,
        training.batch_size,
        sizes,
        side,
        training.precision,
        training.device,
        backward=True,
        compile=training.compile,
    )
