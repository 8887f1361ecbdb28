"""``lrsa-coupled bench-operator``: speed and memory of operators on this machine."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from lrsa_coupled.cli._startup import one_process, resolve
from lrsa_coupled.config import Config
from lrsa_coupled.settings import update

HELP = "speed and memory of LRSA and Transolver on this machine (one process, no MPI)"


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto takes a GPU when there is one"
    )
    parser.add_argument(
        "--points", type=int, nargs="+", metavar="N", help="numbers of points; 4096 to 1048576 by default"
    )
    parser.add_argument(
        "--precision", choices=("fp32", "bf16"), nargs="+", default=["fp32", "bf16"], help="one or both"
    )
    parser.add_argument(
        "--only",
        choices=("lrsa", "transolver", "flare", "full"),
        nargs="+",
        help="operators; LRSA and Transolver by default",
    )
    parser.add_argument(
        "--chunk",
        dest="guess.chunk_size",
        type=int,
        metavar="N",
        help="points LRSA works on at a time where there are more; guess.chunk_size by default",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table")


def run(args: Namespace, petsc: Sequence[str]) -> int:
    """Measure the speed and memory of operators; no MPI, no PETSc."""
    one_process("bench-operator", petsc)
    from lrsa_coupled.bench import report, speed

    base = update(Config(), {"operator": speed.SIZES}, where="bench-operator")
    config = resolve(args, base)
    points = args.points or list(speed.POINTS)
    if min(points) < 1:
        raise ValueError(f"--points must be positive, got {min(points)}")
    kinds, chunk_size = args.only or speed.KINDS, config.guess.chunk_size
    result = speed.bench_speed(
        config.operator, points, args.precision, device=args.device, chunk_size=chunk_size, kinds=kinds
    )
    print(speed.speed_table(result))
    if args.json is not None:
        report.write_json(result, args.json)
    return 0
