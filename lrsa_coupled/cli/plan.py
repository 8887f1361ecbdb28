"""``lrsa-coupled plan``: what a study of a case would cost and save, estimated from a few solves."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence

from lrsa_coupled import mpi
from lrsa_coupled.cli._arguments import add_case, add_preset, add_settings
from lrsa_coupled.cli._startup import check_petsc, start

HELP = "estimate what a study of a case would cost and save, from a few solves"
EXAMPLE = "lrsa-coupled plan my/case.py --solves 1000"


def add_arguments(parser: ArgumentParser) -> None:
    add_case(parser)
    parser.add_argument("--solves", type=int, required=True, metavar="N", help="length of the study")
    parser.add_argument(
        "--trial", type=int, default=6, metavar="N", help="samples solved for the estimate; 6 by default"
    )
    add_settings(parser, "problem.seed", "problem.resolution")
    add_preset(parser)


def run(args: Namespace, petsc: Sequence[str]) -> int:
    """Solve some samples and print the forecast."""
    if args.solves < 1 or args.trial < 3:
        raise ValueError(
            f"plan needs --solves of at least 1 and --trial of at least 3, got {args.solves}, {args.trial}"
        )
    case, config, comm = start(args, petsc)
    from lrsa_coupled.study.forecast import forecast

    found = forecast(case, config, args.solves, comm=comm, trial=args.trial)
    check_petsc(comm, petsc)
    mpi.print_once(str(found))
    return 0
