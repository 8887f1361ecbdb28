"""LRSA against other operators of the same size, trained alike on the same data and tested on unseen samples.

A row is one variant: seconds are those of its training, ``values`` holds ``parameters``, ``best_epoch``, the relative
errors of the first output on the test samples (``l2`` and ``h1``, each ``_mean``, ``_median``, ``_p95``, ``_worst``),
and time, memory or error of an optimiser step (``step_...``), measured for all variants one right after the other.
"""

from __future__ import annotations

import dataclasses
import logging
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import torch

from lrsa_coupled.bench.cost import Work, measure
from lrsa_coupled.bench.experiments import add_only
from lrsa_coupled.bench.machine import header_of
from lrsa_coupled.bench.report import align
from lrsa_coupled.bench.rows import Results, Row, Seconds, Values
from lrsa_coupled.config import AttentionConfig, Config, OperatorConfig, of_kind
from lrsa_coupled.data.dataset import PointDataset
from lrsa_coupled.data.store import DataStore
from lrsa_coupled.operators.grid import find_grid
from lrsa_coupled.schema import Schema
from lrsa_coupled.settings import nearest, update
from lrsa_coupled.training.checkpoint import parameter_count
from lrsa_coupled.training.evaluate import evaluate
from lrsa_coupled.training.loop import train

logger = logging.getLogger(__name__)

ON_RANKS = False
STUDY = "operators"
KINDS = ("lrsa", "flare", "transolver", "full", "fno")


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    for name, text in (("data", "training data"), ("test", "test data"), ("out", "folder of the trained models")):
        parser.add_argument(f"--{name}", type=Path, required=True, metavar="DIR", help=text)
    add_only(parser, "variants")


def run(args: Namespace, config: Config) -> Results:
    """Train and test, see ``compare_variants``."""
    return compare_variants(STUDY, variants, config, args)


def variants(operator: OperatorConfig, schema: Schema) -> dict[str, OperatorConfig]:
    """Return the operators by kind, with the width at which they have as many parameters as LRSA, to within a head."""
    lrsa = of_kind(operator, "lrsa")
    count = parameter_count(lrsa, schema)
    plain = update(lrsa, {"qk_norm": True}, where=STUDY)
    others = {kind: of_size(of_kind(plain, kind), count, schema) for kind in KINDS[1:]}
    return {"lrsa": lrsa, **others}


def of_size(operator: OperatorConfig, count: int, schema: Schema) -> OperatorConfig:
    """Return the operator with the width, a multiple of its heads, at which the number of parameters is nearest."""
    heads = operator.num_heads if isinstance(operator, AttentionConfig) else 1
    sizes = [dataclasses.replace(operator, width=heads)]
    while parameter_count(sizes[-1], schema) < count:
        sizes.append(dataclasses.replace(sizes[-1], width=sizes[-1].width + heads))
    return min(sizes[-2:], key=lambda size: abs(parameter_count(size, schema) - count))


def table(results: Results) -> str:
    """Format results; errors in per cent of the norm of the solution."""
    lines = [["operator", "parameters", "L2 [%]", "median", "95th", "worst", "H1 [%]", "times lrsa's", "step [ms]"]]
    lines[0] += ["memory [MiB]", "training [s]"]
    base = next((row for row in results.rows if row.method == "lrsa"), results.rows[0]).number("l2_mean")
    lines += [_cells(row, base) for row in results.rows]
    header = results.header
    counts = [header.settings[name] for name in ("train.samples", "test.samples", "training.epochs")]
    head = f"{header.case}: {counts[0]} samples to train, {counts[1]} to test, {counts[2]} epochs"
    return f"{head}, {header.machine['processor']}, {header.machine['threads_per_rank']} threads\n\n{align(lines)}"


def _cells(row: Row, base: float) -> list[str]:
    errors = [f"{100 * row.number(f'l2_{key}'):.3f}" for key in ("mean", "median", "p95", "worst")]
    gradient = f"{100 * row.number('h1_mean'):.2f}" if "h1_mean" in row.values else "-"
    step = [f"{1000 * row.number('step_seconds'):.0f}", f"{row.number('step_memory') / 2**20:.0f}"]
    if row.values["step_error"]:
        step = ["-", str(row.values["step_error"])]
    ratio = f"{row.number('l2_mean') / base:.2f}"
    return [row.method, str(row.values["parameters"]), *errors, gradient, ratio, *step, f"{row.seconds.total:.0f}"]


type Variants = Callable[[OperatorConfig, Schema], Mapping[str, OperatorConfig]]
"""Makes variants by name from an operator."""


def compare_variants(study: str, variants: Variants, config: Config, args: Namespace) -> Results:
    """Train each variant with the same settings and samples and test it; a second run goes on where one stopped."""
    data, test = DataStore(args.data), DataStore(args.test)
    schema = data.card.schema
    if schema.name == test.card.schema.name and (seeds := data.card.seeds & test.card.seeds):
        both = f"{args.data} and {args.test} are both samples of seed {min(seeds)}"
        raise ValueError(f"{both}: generate test samples of another seed")
    chosen = dict(variants(config.operator, schema))
    for name in args.only:
        if name not in chosen:
            raise ValueError(f"--only: no variant '{name}'{nearest(name, list(chosen))}")
    chosen = {name: operator for name, operator in chosen.items() if not args.only or name in args.only}
    if "fno" in chosen and not args.only and not _on_a_grid(test, config):
        logger.warning("fno is left out: the samples do not lie on one uniform grid")
        del chosen["fno"]
    rows = [_trained(name, dataclasses.replace(config, operator=chosen[name]), args) for name in chosen]
    points = config.training.num_points or max(entry.num_nodes for entry in data.entries.values())
    for place, operator in enumerate(chosen.values()):
        cost = measure(_step(config, operator, schema, points))
        step: Values = {f"step_{name}": value for name, value in vars(cost).items()}
        rows[place] = msgspec.structs.replace(rows[place], values=rows[place].values | step)
    counts = {"train.samples": len(data.solved), "test.samples": len(test.solved), "test.seed": test.card.seed}
    header = header_of(study, schema.name, dataclasses.asdict(config) | counts)
    return Results.of(msgspec.structs.replace(header, seed=data.card.seed), rows)


def _trained(name: str, config: Config, args: Namespace) -> Row:
    folder = args.out / name.replace(" ", "-")
    summary = train(args.data, folder, config)
    guess = dataclasses.replace(config.guess, precision=config.training.precision)
    tested, _ = evaluate(folder, args.test, dataclasses.replace(config, guess=guess))
    norms = next(iter(tested["fields"].values()))
    values: Values = {key: summary[key] for key in ("parameters", "best_epoch")}
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
