"""``lrsa-coupled study``: samples of a case solved one after the other, by a study that learns as it goes."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence

from lrsa_coupled import mpi
from lrsa_coupled.cli._arguments import add_case, add_out, add_preset, add_settings
from lrsa_coupled.cli._startup import check_petsc, prepared, start

HELP = "solve samples of a case one after another, each from what the ones before have taught"
EXAMPLE = "lrsa-coupled study my/case.py --samples 200 --out my/study"
FAILED, STOPPED = 1, 3
"""Exit codes: samples failed; a signal ended the run early."""


def add_arguments(parser: ArgumentParser) -> None:
    add_case(parser)
    add_settings(parser, "generate.samples", "problem.seed", "problem.resolution")
    add_out(parser, "folder of the data set and the models; one that exists is continued")
    text = "when models are trained: on a free core beside the solves, when they have ended, or not at all"
    parser.add_argument("--when", choices=("beside", "at_end", "never"), default="beside", help=text)
    add_preset(parser)


def run(args: Namespace, petsc: Sequence[str]) -> int:
    """Solve, print what was chosen and gained; the exit code is 1 where samples failed, 3 after a signal."""
    case, config, comm = start(args, petsc)
    from lrsa_coupled.study.cases import CaseStudy
    from lrsa_coupled.study.study import Learning

    if config.generate.quantities:
        raise ValueError(
            "study keeps no quantities: generate --set generate.quantities=true --set generate.guess=learning does"
        )
    if comm.size > 1:
        mpi.print_once(f"each sample on {comm.size} ranks; generate --set generate.guess=learning has one on each")
    with prepared(comm, args.out):
        learning = Learning(str(args.out), solves=config.generate.samples, when=args.when)
        study = CaseStudy(case, config, learning, comm)
        stopped = study.run()
    if study.study.solves:
        check_petsc(comm, petsc)
    mpi.print_once(study.learner.policy.summary())
    mpi.print_once(study.study.summary())
    if stopped:
        mpi.print_once(f"{stopped}: stopped after the sample in progress; the same command continues from here")
        return STOPPED
    return FAILED if study.failed else 0
