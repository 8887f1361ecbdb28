"""``lrsa-coupled estimate``: statistics of quantities over the random parameters of a case."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from lrsa_coupled import catalog, mpi
from lrsa_coupled.cli._arguments import add_case, add_out, add_preset, add_settings
from lrsa_coupled.cli._startup import check_petsc, start, writing

HELP = "estimate means, deviations and probabilities of quantities, with confidence intervals"
EXAMPLE = "lrsa-coupled estimate cavity --quantity dissipation --error 1e-3 --out estimate"
FAILED, STOPPED = 1, 3
"""Exit codes: solves failed or the error is not reached; a signal ended the run early."""


def add_arguments(parser: ArgumentParser) -> None:
    add_case(parser)
    text = "quantities of the case, all by default; the error is that of the first"
    parser.add_argument("--quantity", nargs="+", action="extend", default=[], metavar="Q", help=text)
    goal = parser.add_mutually_exclusive_group(required=True)
    text = "half-width of the 95 %% interval of the mean to reach, in units of the quantity"
    goal.add_argument("--error", type=float, metavar="E", help=text)
    goal.add_argument("--budget", type=float, metavar="SECONDS", help="expected wall time instead, the pilot at least")
    text = "auto (the cheapest by the pilot), mc, mlmc, mfmc (coarser meshes), gp (a Gaussian process), operator"
    parser.add_argument("--method", default="auto", metavar="M", help=text)
    text = "thresholds of the first quantity: the probability to be above"
    parser.add_argument("--above", type=float, nargs="+", action="extend", default=[], metavar="T", help=text)
    text = "shares whose quantiles are estimated, such as 0.05 0.95"
    parser.add_argument("--quantile", type=float, nargs="+", action="extend", default=[], metavar="SHARE", help=text)
    text = "samples of Sobol indices, each a solve for every field of the parameters and two more"
    parser.add_argument("--sobol", type=int, metavar="N", help=text)
    text = "folder of an operator; the shipped one by default where the method may be operator"
    parser.add_argument("--model", type=Path, metavar="DIR", help=text)
    text = "solves, on a mesh half as fine, on which --method operator trains an operator, instead of a model"
    parser.add_argument("--train", type=int, metavar="N", help=text)
    text = "samples of the pilot, at least 10; 32 by default"
    parser.add_argument("--pilot", type=int, default=32, metavar="N", help=text)
    add_settings(parser, "problem.seed", "problem.resolution", "generate.ranks_per_sample")
    add_out(parser, "folder of solves and results; what is there is used, for another error, too")
    add_preset(parser)


def run(args: Namespace, petsc: Sequence[str]) -> int:
    """Estimate; the exit code is 1 when solves failed or the error is not reached, 3 when a signal ended the run."""
    case, config, comm = start(args, petsc)
    from lrsa_coupled.study.estimate import TAKE_MODEL, Request, estimate
    from lrsa_coupled.study.result import table
    from lrsa_coupled.study.solves import StoppedError

    model = args.model
    if model is None and args.train is None and args.method in TAKE_MODEL and case.points is not None:
        model = catalog.shipped_guess(args.case)
    request = Request(
        tuple(args.quantity), args.error, args.budget, args.method, tuple(args.above), tuple(args.quantile), args.pilot,
        model=None if model is None else str(model), train=args.train, sobol=args.sobol,
    )  # fmt: skip
    try:
        with writing(comm, folders=[args.out]):
            result = estimate(case, config, request, args.out, comm)
    except StoppedError as stop:
        mpi.print_once(f"{stop}: stopped after the solves in progress; the same command continues from here")
        return STOPPED
    mpi.print_once(table(result))
    check_petsc(comm, petsc)
    done = f"{args.out / 'result.json'} has all numbers; a smaller error goes on from there"
    mpi.print_once("next: " + (done if result.reached else "the error is not reached, the same command goes on"))
    return FAILED if result.failed or not result.reached else 0
