"""Speed and memory of operators by number of points, forward and forward with backward, on a sample in two dimensions.

A row is one measurement; ``sample`` counts the points, ``values`` holds ``precision``, ``backward``, ``chunk_size``,
peak ``memory`` [bytes] beyond weights and inputs, ``flops``, their ``share`` of the rate of large matrix products,
and the ``error`` in place of these.
"""

from __future__ import annotations

import dataclasses
import itertools
from argparse import ArgumentParser, Namespace

import msgspec
import torch

from lrsa_coupled.bench.cost import Work, measure
from lrsa_coupled.bench.machine import header_of
from lrsa_coupled.bench.report import align
from lrsa_coupled.bench.rows import Results, Row, Seconds, Values
from lrsa_coupled.config import Config, of_kind
from lrsa_coupled.logs import progress
from lrsa_coupled.operators.precision import choose_device, product_rate

ON_RANKS = False
STUDY = "speed"
POINTS = (4096, 16384, 65536, 262144, 1048576)
SETTINGS = {"operator": {"width": 128, "num_blocks": 8, "num_heads": 8, "num_latents": 64}}
"""Sizes of the LRSA paper for its benchmarks, in place of the defaults."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    devices, precisions, kinds = ("auto", "cpu", "cuda"), ("fp32", "bf16"), ("lrsa", "transolver", "flare", "full")
    parser.add_argument("--device", choices=devices, default="auto", help="auto takes a GPU when there is one")
    points = f"numbers of points; {POINTS[0]} to {POINTS[-1]} by default"
    parser.add_argument("--points", type=int, nargs="+", default=POINTS, metavar="N", help=points)
    parser.add_argument("--precision", choices=precisions, nargs="+", default=precisions, help="one or both")
    only = "operators; LRSA and Transolver by default"
    parser.add_argument("--only", choices=kinds, nargs="+", default=kinds[:2], help=only)
    chunk = "points LRSA works on at a time where there are more; guess.chunk_size by default"
    parser.add_argument("--chunk", type=int, metavar="N", help=chunk)


def run(args: Namespace, config: Config) -> Results:
    """Measure; ``lrsa`` works on ``chunk_size`` points at a time where there are more."""
    if min(args.points) < 1 or (args.chunk or 1) < 1:
        raise ValueError("--points and --chunk must be positive")
    chunk, device = args.chunk or config.guess.chunk_size, choose_device(args.device)
    rates = {precision: product_rate(precision, device) for precision in args.precision}
    rows = []
    conditions = [*itertools.product(args.points, args.precision, (False, True), args.only)]
    for points, precision, backward, kind in progress(conditions, description="measuring", unit="row"):
        operator, repeats = of_kind(config.operator, kind), 3 if points > 100000 and args.device != "cuda" else 5
        work = Work(operator, points, precision=precision, device=args.device, backward=backward, repeats=repeats)
        if kind == "lrsa" and points > chunk:
            work = dataclasses.replace(work, chunk_size=chunk)
        rows.append(_row(work, rates[precision]))
    header = header_of(STUDY, "", {"operator": dataclasses.asdict(config.operator), "product_flops": rates})
    if device.type == "cuda":
        machine = header.machine | {"processor": torch.cuda.get_device_name()}
        header = msgspec.structs.replace(header, machine=machine)
    return Results.of(header, rows)


def table(results: Results) -> str:
    """Format the rows, and the ratios of time and memory of each other operator to LRSA in the same conditions."""
    lines = [["points", "operator", "precision", "pass", "time [s]", "points/s", "memory [GiB]"]]
    lines[0] += ["TFLOP/s", "of products", "time, memory / lrsa"]
    lrsa = {_conditions(row): row for row in results.methods.get("lrsa", []) if not row.values["error"]}
    for row in results.rows:
        values, seconds = row.values, row.seconds.total
        chunks = f", chunks of {values['chunk_size']}" if values["chunk_size"] else ""
        passes = "forward + backward" if values["backward"] else "forward"
        cells = [str(row.sample), row.method + chunks, str(values["precision"]), passes]
        if values["error"]:
            lines.append([*cells, str(values["error"]), *["-"] * 5])
            continue
        base, memory = lrsa.get(_conditions(row), row), row.number("memory")
        ratio = f"{seconds / base.seconds.total:.2f}, {memory / max(1.0, base.number('memory')):.2f}"
        cells += [f"{seconds:.4g}", f"{row.sample / seconds:.3g}", f"{memory / 2**30:.3f}"]
        cells += [f"{row.number('flops') / seconds / 1e12:.3f}", f"{100 * row.number('share'):.0f} %"]
        lines.append([*cells, "" if base is row else ratio])
    header = results.header
    rates = [(name.partition(".")[2], value) for name, value in header.settings.items() if name.startswith("product")]
    text = ", ".join(f"{name} {float(value or 0.0) / 1e12:.3f} TFLOP/s" for name, value in rates)
    threads = header.machine["threads_per_rank"]
    return f"{header.machine['processor']}, {threads} threads; matrix products: {text}\n\n{align(lines)}"


def _row(work: Work, rate: float) -> Row:
    cost = measure(work)
    share = cost.flops / cost.seconds / rate if cost.seconds else 0.0
    values: Values = {"precision": work.precision, "backward": work.backward, "chunk_size": work.chunk_size}
    values |= {"memory": cost.memory, "flops": cost.flops, "share": share, "error": cost.error}
    seconds, solved = Seconds(total=cost.seconds or 1e-9), not cost.error
    return Row(method=work.operator.kind, sample=work.points, seconds=seconds, solved=solved, values=values)


def _conditions(row: Row) -> tuple[object, ...]:
    return (row.sample, row.values["precision"], row.values["backward"])
