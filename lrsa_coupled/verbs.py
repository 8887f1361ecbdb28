"""The verbs of the command line. Each imports what it needs: training no PETSc, and no MPI on one rank; the rest MPI before PETSc."""

from __future__ import annotations

import dataclasses
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrsa_coupled import catalog, mpi
from lrsa_coupled import config as configuration
from lrsa_coupled.config import Config
from lrsa_coupled.data import verbs as on_data
from lrsa_coupled.startup import case_config, check_petsc, no_petsc, one_process, prepare, resolve, start, start_petsc, stored_config

if TYPE_CHECKING:
    from mpi4py import MPI

    from lrsa_coupled.coupling.generate import GenerateSummary
    from lrsa_coupled.interfaces import Case, Field, SolveResult
    from lrsa_coupled.training.team import Team


BENCH_FLAGS = {
    **dict.fromkeys(("samples", "seed", "resolution"), ("starts", "generate")),
    "model": ("starts", "generate", "refinement"), "data": ("starts", "operators", "ablations", "refinement"), **dict.fromkeys(("html", "pictures"), ("starts",)),
    **dict.fromkeys(("test", "out", "only"), ("operators", "ablations")),
}  # fmt: skip
"""Flags of ``bench``, and the values of ``--what`` that read them."""

STOPPED = 3
"""Exit code of a run that a signal ended early."""


def list_cases(args: Namespace, petsc: Sequence[str]) -> int:
    """Print every case with its first line of documentation, inputs and outputs."""
    resolve(args, Config(), {})
    comm = start_petsc(petsc)
    for name in catalog.case_names():
        case = catalog.load_case(name)
        _print(f"{name:12s} {(type(case).__doc__ or '').strip().splitlines()[0]}")
        _print(f"{'':12s} in: {_fields(case.inputs)}; scalars: {', '.join(case.scalars) or 'none'}; out: {_fields(case.outputs)}")
        if dataclasses.fields(case.options):
            _print(f"{'':12s} options: {', '.join(f'{name} = {value}' for name, value in vars(case.options).items())}")
    check_petsc(comm, petsc)
    return 0


def generate(args: Namespace, petsc: Sequence[str]) -> int:
    """Make a data set."""
    case, config, comm = start(args, petsc, section="generate", flags=("samples", "seed", "resolution", "ranks_per_sample"))
    prepare(comm, args.out)
    return _generate(case, config, args.out, comm=comm, petsc=petsc)


def train(args: Namespace, petsc: Sequence[str]) -> int:
    """Train an operator on one or several ranks, or test learning rates on one; no PETSc, and no MPI on one rank."""
    no_petsc("train", petsc)
    if args.lr_range:
        one_process("train --lr-range")
        from lrsa_coupled.training.range_test import range_test

        _print_summary(range_test(args.data, args.out, stored_config(args, args.data)))
        return 0
    from lrsa_coupled.training.loop import train as train_operator
    from lrsa_coupled.training.team import Team, torchrun_team

    team = torchrun_team() or (_team(mpi.world()) if mpi.size() > 1 else Team())
    summary = train_operator(args.data, args.out, stored_config(args, args.data), resume=not args.no_resume, team=team)
    if team.rank == 0:
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

        _print("pictures: " + ", ".join(str(path) for path in worst_pictures(worst, args.pictures)))
    return 0


def solve(args: Namespace, petsc: Sequence[str]) -> int:
    """Solve one problem and write it; the exit code is 1 when the solve fails."""
    case, config, comm = start(args, petsc, section="bench", flags=("seed", "resolution"))
    from lrsa_coupled.coupling.plan import sample_parameters
    from lrsa_coupled.coupling.solve import solve as solve_problem

    if args.index < 0:
        raise ValueError(f"--index counts from 0, got {args.index}")
    if args.strategy and args.model:
        raise ValueError("--strategy names a classical start and --model a learned one; give one of them")
    parameters = sample_parameters(case, config.bench.seed, args.index)
    if args.parameters is not None:
        parameters = mpi.share(comm, lambda: configuration.read_parameters(parameters, args.parameters))
    model = args.model if args.strategy or args.model else catalog.shipped_model(catalog.case_folder(args.case))
    prepare(comm, args.out)
    result = solve_problem(case, config, comm, parameters=parameters, model=model, strategy=args.strategy, folder=args.out)
    _print(_describe(result))
    check_petsc(comm, petsc)
    return 0 if result.converged else 1


def bench(args: Namespace, petsc: Sequence[str]) -> int:
    """Measure start strategies, data generation, or operators; the last without MPI and PETSc."""
    given = [name for name in BENCH_FLAGS if vars(args)[name] not in (None, []) and args.what not in BENCH_FLAGS[name]]
    if given:
        raise ValueError(f"bench --what {args.what} does not read --{given[0]}; it is for --what {' or '.join(BENCH_FLAGS[given[0]])}")
    if args.what in ("operators", "ablations", "refinement"):
        return _bench_operators(args, petsc)
    case, config, comm = start(args, petsc, section="bench", flags=("samples", "seed", "resolution"))
    for folder in (args.json and args.json.parent, args.html and args.html.parent, args.pictures):
        prepare(comm, folder)
    model = args.model or catalog.shipped_model(catalog.case_folder(args.case))
    if args.what == "generate":
        _bench_generation(case, config, model, comm=comm, path=args.json)
        check_petsc(comm, petsc)
        return 0
    if model is None:
        raise ValueError(f"the case '{case.name}' ships no model; name one with --model")
    _bench(case, config, comm, args=Namespace(model=model, data=args.data, json=args.json, html=args.html, pictures=args.pictures))
    check_petsc(comm, petsc)
    return 0


def bench_operator(args: Namespace, petsc: Sequence[str]) -> int:
    """Measure the speed and memory of operators; no MPI, no PETSc."""
    no_petsc("bench-operator", petsc)
    one_process("bench-operator")
    from lrsa_coupled.bench import report, speed

    base = configuration.update(Config(), {"operator": speed.SIZES}, where="bench-operator")
    config = resolve(args, base, {} if args.chunk is None else {"guess": {"chunk_size": args.chunk}})
    points = args.points or list(speed.POINTS)
    if min(points) < 1 or config.guess.chunk_size < 0:
        raise ValueError("--points must be positive and --chunk not negative")
    result = speed.bench_speed(config.operator, points, args.precision, device=args.device, chunk_size=config.guess.chunk_size)
    _print(speed.speed_table(result))
    if args.json is not None:
        report.write_json(result, args.json)
    return 0


def report(args: Namespace, petsc: Sequence[str]) -> int:
    """Print stored ledgers, side by side when there are several, and write them as a page; no MPI, PETSc or torch."""
    no_petsc("report", petsc)
    one_process("report")
    resolve(args, Config(), {})
    from lrsa_coupled.bench import html, scaling, stored

    ledgers = [stored.read_ledger(path) for path in args.ledgers]
    _print(scaling.ledgers_text(ledgers))
    if args.html is not None:
        html.write_html(ledgers, args.html, sources=[path.name for path in args.ledgers])
        _print(f"\npage: {args.html}")
    return 0


def run(args: Namespace, petsc: Sequence[str]) -> int:
    """Generate, train and bench, into ``data``, ``model`` and ``bench`` of the output folder."""
    case, config, comm = start(args, petsc, section="generate", flags=())
    if config.bench.seed == config.generate.seed:
        raise ValueError(f"bench.seed must differ from generate.seed, both are {config.generate.seed}")
    prepare(comm, args.out)
    data, model, results = args.out / "data", args.out / "model", args.out / "bench"
    code = _generate(case, config, data, comm=comm, petsc=petsc)
    if code:
        return code
    _print_summary(_train_together(data, model, config, comm=comm))
    _bench(case, config, comm, args=Namespace(model=model, data=data, json=results / "ledger.json", html=results / "report.html", pictures=results))
    check_petsc(comm, petsc)
    return 0


VERBS: Mapping[str, Callable[[Namespace, Sequence[str]], int]] = {
    "list": list_cases, "generate": generate, "train": train, "evaluate": evaluate, "solve": solve, "bench": bench,
    "bench-operator": bench_operator, "report": report, "run": run,
    "info": on_data.info, "verify": on_data.verify, "export": on_data.export,
}  # fmt: skip


def _team(comm: MPI.Comm) -> Team:
    from lrsa_coupled.coupling.reducer import MPIReducer
    from lrsa_coupled.training.team import Team

    return Team(comm.rank, comm.size, MPIReducer(comm)) if comm.size > 1 else Team()


def _generate(case: Case, config: Config, folder: Path, *, comm: MPI.Comm, petsc: Sequence[str]) -> int:
    from lrsa_coupled.coupling.generate import generate as generate_data

    summary: GenerateSummary = generate_data(case, config, folder, comm)
    _print(f"{folder}: {summary.samples} samples, {summary.solved} solved; {summary.made} made in {summary.seconds:.1f} s, "
           f"ranks idle {summary.idle:.1%}, farm overhead {summary.overhead:.1%}")  # fmt: skip
    for reason, count in sorted(summary.failed.items()):
        _print(f"  {count} failed: {reason}")
    if summary.made:  # no solver has run otherwise, and none has used an option
        check_petsc(comm, petsc)
    if summary.stopped:
        _print(f"{summary.stopped}: stopped after the samples in progress; the same command goes on from here")
        return STOPPED
    return 0


def _train_together(data: Path, out: Path, config: Config, *, comm: MPI.Comm) -> Mapping[str, Any]:
    """Train on as many ranks as a batch can be shared out to."""
    from lrsa_coupled.training.loop import train as train_operator

    trains = comm.rank < config.training.batch_size
    part = comm.Split(0 if trains else 1)
    # An error of one rank alone is left to the command line, which ends the others: they wait for it in the middle of a step.
    summary = train_operator(data, out, config, team=_team(part)) if trains else {}
    part.Free()
    return comm.bcast(summary)


def _bench(case: Case, config: Config, comm: MPI.Comm, *, args: Namespace) -> None:
    from lrsa_coupled.bench import html, ledger, report

    outcome = ledger.bench(case, config, comm, model=args.model, data=args.data)

    def write() -> None:
        print(report.table(outcome.ledger))
        if args.json is not None:
            report.write_json(outcome.ledger, args.json)
            print(f"\nledger: {args.json}")
        if args.html is not None:
            html.write_html([outcome.ledger], args.html)
            print(f"page: {args.html}")
        if args.pictures is not None:
            print("pictures: " + ", ".join(str(path) for path in report.pictures(outcome, args.pictures)))

    mpi.share(comm, write)


def _bench_generation(case: Case, config: Config, model: Path | None, *, comm: MPI.Comm, path: Path | None) -> None:
    from lrsa_coupled.bench import generation, report

    ledger = generation.bench_generation(case, config, comm, model=model)
    _print(generation.generation_table(ledger))
    if path is not None:
        mpi.share(comm, lambda: report.write_json(ledger, path))


def _bench_operators(args: Namespace, petsc: Sequence[str]) -> int:
    no_petsc(f"bench --what {args.what}", petsc)
    one_process(f"bench --what {args.what}")
    needed = ("model", "data") if args.what == "refinement" else ("data", "test", "out")
    missing = [f"--{name}" for name in needed if vars(args)[name] is None]
    if missing:
        raise ValueError(f"bench --what {args.what} needs {' and '.join(missing)}")
    from lrsa_coupled.bench import operators, refinement, report

    config = case_config(args, Config(), catalog.case_folder(args.case), {})
    config = dataclasses.replace(config, case=args.case if args.case in catalog.case_names() else "")
    if args.what == "refinement":
        ledger = refinement.bench_refinement(args.model, args.data, config)
        _print(refinement.refinement_table(ledger))
    else:
        ledger = operators.bench_operators(config, args.data, args.test, args.out, what=args.what, only=args.only)
        _print(operators.operators_table(ledger))
    if args.json is not None:
        report.write_json(ledger, args.json)
    return 0


def _describe(result: SolveResult) -> str:
    seconds = ", ".join(f"{stage} {time:.3f} s" for stage, time in result.seconds.items())
    state = "converged" if result.converged else "FAILED"
    lines = [f"{state} ({result.reason}): {result.iterations} iterations, residual {result.residual:.3e}; {seconds}"]
    if result.used_fallback:
        lines.append("the learned guess was given up for the classical strategy")
    return "\n".join([*lines, result.advice] if result.advice else lines)


def _print_summary(summary: Mapping[str, Any], indent: str = "") -> None:
    for name, value in summary.items():
        if isinstance(value, Mapping):
            _print(f"{indent}{name}:")
            _print_summary(value, indent + "  ")
        else:
            _print(f"{indent}{name}: {value:.4g}" if isinstance(value, float) else f"{indent}{name}: {value}")


def _fields(fields: Sequence[Field]) -> str:
    return ", ".join(f"{f.name}[{f.components}]" if f.components > 1 else f.name for f in fields) or "none"


def _print(text: str) -> None:
    if mpi.rank() == 0:
        print(text, flush=True)
