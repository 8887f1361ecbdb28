"""Speed and memory of operators by number of points: the table of ``bench-operator``."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Sequence
from typing import Any

import torch

from lrsa_coupled.bench.cost import Work, measure
from lrsa_coupled.bench.report import align
from lrsa_coupled.config import OperatorConfig, of_kind
from lrsa_coupled.logs import progress
from lrsa_coupled.operators.precision import choose_device, product_rate

POINTS = (4096, 16384, 65536, 262144, 1048576)
KINDS = ("lrsa", "transolver")
SIZES = {"width": 128, "num_blocks": 8, "num_heads": 8, "num_latents": 64}
"""Sizes of the LRSA paper for its benchmarks."""


def bench_speed(
    operator: OperatorConfig, points: Sequence[int], precisions: Sequence[str], *, device: str, chunk_size: int, kinds: Sequence[str] = KINDS
) -> dict[str, Any]:  # fmt: skip
    """Measure operators of the same sizes, forward and forward with backward, on one sample in two dimensions.

    ``lrsa`` works on ``chunk_size`` points at a time where there are more (0: always on all).

    Returns:
        ``device``, ``threads``, ``product_flops`` by precision (of large matrix products, measured) and ``rows``, one a measurement:
        ``kind``, ``points``, ``precision``, ``backward``, ``chunk_size``, ``seconds``, ``memory`` [bytes], ``flops``, ``share`` (of the
        rate of matrix products) and ``error``.
    """
    place = choose_device(device)
    rates = {precision: product_rate(precision, place) for precision in precisions}
    rows = []
    tasks = [
        (kind, count, precision, backward)
        for count in points
        for precision in precisions
        for backward in (False, True)
        for kind in kinds
    ]
    for kind, count, precision, backward in progress(tasks, description="measuring", unit="row"):
        chunks = chunk_size if kind == "lrsa" and count > chunk_size else 0
        repeats = 3 if count > 100000 and place.type == "cpu" else 5
        work = Work(of_kind(operator, kind), count, precision=precision, device=device, backward=backward,
                    chunk_size=chunks, repeats=repeats)  # fmt: skip
        cost = measure(work)
        share = cost.flops / cost.seconds / rates[precision] if cost.seconds else 0.0
        row = {
            "kind": kind,
            "points": count,
            "precision": precision,
            "backward": backward,
            "chunk_size": chunks,
            "share": share,
        }
        rows.append(row | dataclasses.asdict(cost))
    name = torch.cuda.get_device_name(place) if place.type == "cuda" else platform.processor() or platform.machine()
    sizes = dataclasses.asdict(operator)
    return {"device": name, "threads": torch.get_num_threads(), "operator": sizes, "product_flops": rates, "rows": rows}


def speed_table(result: dict[str, Any]) -> str:
    """Format the rows, and the ratios of time and memory of each other operator to LRSA in the same conditions."""
    rates = ", ".join(f"{name} {rate / 1e12:.3f} TFLOP/s" for name, rate in result["product_flops"].items())
    lines = [
        [
            "points",
            "operator",
            "precision",
            "pass",
            "time [s]",
            "points/s",
            "memory [GiB]",
            "TFLOP/s",
            "of products",
            "time, memory / lrsa",
        ]
    ]
    lrsa: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in result["rows"]:
        key = (row["points"], row["precision"], row["backward"])
        passes = "forward + backward" if row["backward"] else "forward"
        name = f"{row['kind']}, chunks of {row['chunk_size']}" if row["chunk_size"] else row["kind"]
        if row["error"]:
            lines.append([str(row["points"]), name, row["precision"], passes, row["error"], *["-"] * 5])
            continue
        if row["kind"] == "lrsa":
            lrsa[key] = row
        against = lrsa.get(key, row)
        ratio = (
            ""
            if against is row
            else f"{row['seconds'] / against['seconds']:.2f}, {row['memory'] / max(1, against['memory']):.2f}"
        )
        lines.append([
            str(row["points"]), name, row["precision"], passes, f"{row['seconds']:.4g}", f"{row['points'] / row['seconds']:.3g}",
            f"{row['memory'] / 2**30:.3f}", f"{row['flops'] / row['seconds'] / 1e12:.3f}", f"{100 * row['share']:.0f} %", ratio,
        ])  # fmt: skip
    return f"{result['device']}, {result['threads']} threads; matrix products: {rates}\n\n{align(lines)}"
