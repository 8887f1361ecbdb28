"""LRSA against other operators of the same size, trained alike on the same data and tested on unseen samples."""

from __future__ import annotations

import dataclasses
from argparse import ArgumentParser, Namespace
from pathlib import Path

from lrsa_coupled.bench.experiments import add_case, add_only
from lrsa_coupled.bench.report import align
from lrsa_coupled.bench.rows import Results, Row
from lrsa_coupled.bench.variants import Sets, compare_variants
from lrsa_coupled.config import AttentionConfig, Config, OperatorConfig, of_kind
from lrsa_coupled.schema import Schema
from lrsa_coupled.settings import update
from lrsa_coupled.training.checkpoint import parameter_count

ON_RANKS = False
STUDY = "operators"
KINDS = ("lrsa", "flare", "transolver", "full", "fno")


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    add_case(parser)
    for name, text in (("data", "training data"), ("test", "test data"), ("out", "folder of the trained models")):
        parser.add_argument(f"--{name}", type=Path, required=True, metavar="DIR", help=text)
    add_only(parser, "variants")


def run(args: Namespace, config: Config) -> Results:
    """Train and test, see ``compare_variants``."""
    return compare_variants(STUDY, variants, config, Sets(args.data, args.test, args.out), args.only)


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
