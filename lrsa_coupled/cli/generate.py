"""``lrsa-coupled generate``: a data set of a case, made by groups of ranks."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lrsa_coupled import catalog, mpi
from lrsa_coupled.cli._arguments import add_case, add_out, add_preset, add_settings, listed
from lrsa_coupled.cli._startup import check_petsc, prepared, start

if TYPE_CHECKING:
    from mpi4py import MPI

    from lrsa_coupled.config import Config
    from lrsa_coupled.interfaces import Case

HELP = "make a data set"
EXAMPLE = "lrsa-coupled generate my/case.py --samples 500 --out my/data"
FAILED, STOPPED = 1, 3
"""Exit codes: samples failed; a signal ended the run early."""


def add_arguments(parser: ArgumentParser) -> None:
    add_case(parser)
    add_settings(parser, "generate.samples", "generate.ranks_per_sample", "problem.seed", "problem.resolution")
    add_out(parser, "folder of the data set; one that exists is continued")
    text = "solve nothing: samples for training without labels, training.loss=energy or residual"
    parser.add_argument("--unsolved", dest="generate.unsolved", action="store_const", const=True, help=text)
    text = "solve failed samples of the folder again"
    parser.add_argument("--retry-failed", action="store_true", help=text)
    text = "go on in a folder that was made before the source of the case changed; its samples stay"
    parser.add_argument("--accept-changed-case", action="store_true", help=text)
    add_preset(parser)


def run(args: Namespace, petsc: Sequence[str]) -> int:
    """Make the samples; the exit code is 1 when some of them are not solved, 3 when a signal ended the run early."""
    with mpi.StopSignals():  # a signal before the first sample ends the run, too
        case, config, comm = start(args, petsc)
        with prepared(comm, args.out):
            code = generate_and_report(
                case, config, args.out, comm=comm, petsc=petsc, name=args.case,
                retry_failed=args.retry_failed, accept_changed_case=args.accept_changed_case,
            )  # fmt: skip
    if code == 0:
        own = "" if catalog.is_shipped(args.case) else f" --case {args.case}"
        loss = f" --set training.loss=residual{own}" if config.generate.unsolved else ""
        mpi.print_once(f"next: lrsa-coupled train {args.out} --out MODEL --minutes 4{loss}")
    return code


def generate_and_report(
    case: Case, config: Config, folder: Path, *, comm: MPI.Intracomm, petsc: Sequence[str], name: str,
    retry_failed: bool = False, accept_changed_case: bool = False,
) -> int:  # fmt: skip
    """Make the samples of a case, by its name or path, print what came of them, return the exit code. Collective."""
    from lrsa_coupled.generation.generate import generate

    text = ""
    if config.generate.guess == "learning":
        from lrsa_coupled.study.farm import generate_learning

        summary, text = generate_learning(
            case, config, folder, comm, retry_failed=retry_failed, accept_changed_case=accept_changed_case
        )
    else:
        summary = generate(
            case, config, folder, comm, retry_failed=retry_failed, accept_changed_case=accept_changed_case
        )
    done = "none of them solved" if config.generate.unsolved else f"{summary.solved} solved"
    mpi.print_once(
        f"{folder}: {summary.samples} samples, {done}; {summary.made} made in {summary.seconds:.1f} s"
        f", ranks idle {summary.idle:.1%}, drawing and writing took {summary.overhead:.1%} of the time"
    )
    if text:
        mpi.print_once(text)
    _print_failures(case, config, summary.failed, name=name)
    if summary.failed and summary.solved and not config.generate.unsolved:
        mpi.print_once(f"the other {summary.solved} can be used as they are: lrsa-coupled train {folder} --out MODEL")
    if summary.made:  # no solver has run otherwise, and none has used an option
        check_petsc(comm, petsc)
    if not summary.stopped:
        return FAILED if summary.failed or summary.solved < config.generate.samples else 0
    mpi.print_once(f"{summary.stopped}: stopped after the samples in progress; the same command continues from here")
    return STOPPED


def _print_failures(case: Case, config: Config, failed: Mapping[str, Sequence[int]], *, name: str) -> None:
    """Print which samples failed, and what to try."""
    method = config.generate.method or case.default_method
    for reason, indices in sorted(failed.items()):
        mpi.print_once(f"  {len(indices)} failed by {method}: {reason} (sample {listed(indices)})")
    if failed:
        where = f"--seed {config.problem.training_seed} --index {min(map(min, failed.values()))}"
        if config.problem.resolution is not None:
            where += f" --resolution {config.problem.resolution}"
        mpi.print_once(f"to see why: lrsa-coupled solve {name} {where} --method {method} --out DIR")
        others = ", ".join(each for each in case.methods() if each != method)
        also = f"; another generate.method ({others}) takes another --out" if others else ""
        mpi.print_once(f"next: --retry-failed solves them again, with other PETSc options say{also}")
