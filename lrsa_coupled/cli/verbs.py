"""The verbs of the command line. Each imports what it needs: training no PETSc, and no MPI on one rank; the rest MPI before PETSc."""

from __future__ import annotations

import dataclasses
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrsa_coupled import catalog, mpi
from lrsa_coupled.cli import solve as solving
from lrsa_coupled.cli import bench as bench_verbs
from lrsa_coupled.config import Config
from lrsa_coupled.cli import data as on_data
from lrsa_coupled.cli.startup import (
    check_petsc,
    no_petsc,
    one_process,
    prepare,
    resolve,
    start,
    start_petsc,
    stored_config,
)

if TYPE_CHECKING:
    from mpi4py import MPI

    from lrsa_coupled.generation.generate import GenerateSummary
    from lrsa_coupled.interfaces import Case
    from lrsa_coupled.schema import Field
    from lrsa_coupled.training.group import ProcessGroup


STOPPED = 3
"""Exit code of a run that a signal ended early."""


def list_cases(args: Namespace, petsc: Sequence[str]) -> int:
    """Print every case with its first line of documentation, inputs and outputs."""
    resolve(args, Config(), {})
    comm = start_petsc(petsc)
    for name in catalog.case_names():
        case = catalog.load_case(name)
        mpi.say(f"{name:12s} {(type(case).__doc__ or '').strip().splitlines()[0]}")
        mpi.say(
            f"{'':12s} in: {_fields(case.schema.inputs)}; scalars: {', '.join(case.schema.scalars) or 'none'}; "
            f"out: {_fields(case.schema.outputs)}"
        )
        if dataclasses.fields(case.options):
            mpi.say(f"{'':12s} options: {', '.join(f'{name} = {value}' for name, value in vars(case.options).items())}")
    check_petsc(comm, petsc)
    return 0


def generate(args: Namespace, petsc: Sequence[str]) -> int:
    """Make a data set."""
    case, config, comm = start(
        args, petsc, section="generate", flags=("samples", "seed", "resolution", "ranks_per_sample")
    )
    prepare(comm, args.out)
    return _generate(case, config, args.out, comm=comm, petsc=petsc)


def train(args: Namespace, petsc: Sequence[str]) -> int:
    """Train an operator on one or several ranks; no PETSc, and no MPI on one rank."""
    no_petsc("train", petsc)
    from lrsa_coupled.training.group import ProcessGroup, torchrun_group
    from lrsa_coupled.training.loop import train as train_operator

    group = torchrun_group() or (_group(mpi.world()) if mpi.size() > 1 else ProcessGroup())
    summary = train_operator(
        args.data, args.out, stored_config(args, args.data), resume=not args.no_resume, group=group
    )
    if group.rank == 0:
        _print_summary(summary)
    return 0


def evaluate(args: Namespace, petsc: Sequence[str]) -> int:
    """Print the errors of a model on a data set; no MPI, no PETSc."""
    no_petsc("evaluate", petsc)
    one_process("evaluate")
    from lrsa_coupled.training.evaluate import evaluate as evaluate_operator

    summary, worst = evaluate_operator(args.model, args.data, stored_config(args, args.data))
    _print_summary(summary)
    if args.pictures is not None:
        from lrsa_coupled.bench.pictures import worst_pictures

        mpi.say("pictures: " + ", ".join(str(path) for path in worst_pictures(worst, args.pictures)))
    return 0


def run(args: Namespace, petsc: Sequence[str]) -> int:
    """Generate, train and bench, into ``data``, ``model`` and ``bench`` of the output folder."""
    case, config, comm = start(args, petsc, section="generate", flags=())
    if config.problem.seed is not None:
        raise ValueError(
            f"run measures at samples of another seed than it trains on: leave problem.seed unset, got {config.problem.seed}"
        )
    prepare(comm, args.out)
    data, model, results = args.out / "data", args.out / "model", args.out / "bench"
    code = _generate(case, config, data, comm=comm, petsc=petsc)
    if code:
        return code
    _print_summary(_train_together(data, model, config, comm=comm))
    bench_verbs.bench_starts(
        case,
        config,
        comm,
        args=Namespace(
            model=model,
            data=data,
            only=[],
            json=results / "ledger.json",
            html=results / "report.html",
            pictures=results,
        ),
    )
    check_petsc(comm, petsc)
    return 0


VERBS: Mapping[str, Callable[[Namespace, Sequence[str]], int]] = {
    "list": list_cases, "generate": generate, "train": train, "evaluate": evaluate, "solve": solving.solve, "bench": bench_verbs.bench,
    "bench-operator": bench_verbs.bench_operator, "report": bench_verbs.report, "run": run,
    "info": on_data.info, "verify": on_data.verify, "export": on_data.export,
}  # fmt: skip


def _group(comm: MPI.Comm) -> ProcessGroup:
    from lrsa_coupled.coupling.reducer import MPIReducer
    from lrsa_coupled.training.group import ProcessGroup

    return ProcessGroup(comm.rank, comm.size, MPIReducer(comm)) if comm.size > 1 else ProcessGroup()


def _generate(case: Case, config: Config, folder: Path, *, comm: MPI.Comm, petsc: Sequence[str]) -> int:
    from lrsa_coupled.generation.generate import generate as generate_data

    summary: GenerateSummary = generate_data(case, config, folder, comm)
    mpi.say(f"{folder}: {summary.samples} samples, {summary.solved} solved; {summary.made} made in {summary.seconds:.1f} s, "
           f"ranks idle {summary.idle:.1%}, farm overhead {summary.overhead:.1%}")  # fmt: skip
    for reason, count in sorted(summary.failed.items()):
        mpi.say(f"  {count} failed: {reason}")
    if summary.made:  # no solver has run otherwise, and none has used an option
        check_petsc(comm, petsc)
    if summary.stopped:
        mpi.say(f"{summary.stopped}: stopped after the samples in progress; the same command goes on from here")
        return STOPPED
    return 0


def _train_together(data: Path, out: Path, config: Config, *, comm: MPI.Comm) -> Mapping[str, Any]:
    """Train on as many ranks as a batch can be shared out to."""
    from lrsa_coupled.training.loop import train as train_operator

    trains = comm.rank < config.training.batch_size
    part = comm.Split(0 if trains else 1)
    # An error of one rank alone is left to the command line, which ends the others: they wait for it in the middle of a step.
    summary = train_operator(data, out, config, group=_group(part)) if trains else {}
    part.Free()
    return comm.bcast(summary)


def _print_summary(summary: Mapping[str, Any], indent: str = "") -> None:
    for name, value in summary.items():
        if isinstance(value, Mapping):
            mpi.say(f"{indent}{name}:")
            _print_summary(value, indent + "  ")
        else:
            mpi.say(f"{indent}{name}: {value:.4g}" if isinstance(value, float) else f"{indent}{name}: {value}")


def _fields(fields: Sequence[Field]) -> str:
    return ", ".join(f"{f.name}[{f.components}]" if f.components > 1 else f.name for f in fields) or "none"
