"""``lrsa-coupled check``: whether a case is fit for data, training and benchmarks, before any is made."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence

from lrsa_coupled import mpi
from lrsa_coupled.cli._arguments import add_case, add_settings
from lrsa_coupled.cli._startup import check_petsc, start

HELP = "draw a few samples of a case, test its derivatives, solve by every method, estimate time and size"
EXAMPLE = "lrsa-coupled check my/case.py"


def add_arguments(parser: ArgumentParser) -> None:
    add_case(parser)
    add_settings(parser, "problem.seed", "problem.resolution")
    parser.add_argument("--samples", type=int, default=3, metavar="S", help="how many samples, 3 by default")


def run(args: Namespace, petsc: Sequence[str]) -> int:
    """Print the findings; the exit code is 1 when one of them is an error."""
    if args.samples < 1:
        raise ValueError(f"--samples must be at least 1, got {args.samples}")
    case, config, comm = start(args, petsc)
    from lrsa_coupled.generation.check import check_case

    found = []
    for finding in check_case(case, config, comm, samples=args.samples):
        found.append(finding.level)
        mpi.print_once(f"{finding.level:6s} {finding.subject}: {finding.text}")
    check_petsc(comm, petsc)
    errors, advice = found.count("error"), found.count("advice")
    after = "mend the errors first" if errors else f"next: lrsa-coupled generate {args.case} --samples 100 --out data"
    mpi.print_once(f"{args.samples} samples: {errors} errors, {advice} advice; {after}")
    return 1 if errors else 0
