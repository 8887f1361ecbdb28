"""``lrsa-coupled bench``: comparison of initial guesses on unseen samples."""

from __future__ import annotations

import dataclasses
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrsa_coupled import catalog, mpi
from lrsa_coupled.cli._arguments import add_case, add_preset, add_settings
from lrsa_coupled.cli._startup import case_config, check_petsc, one_process, prepare, start
from lrsa_coupled.config import Config

if TYPE_CHECKING:
    from mpi4py import MPI

    from lrsa_coupled.interfaces import Case

BENCH_FLAGS = {
    **dict.fromkeys(("bench.samples", "problem.seed", "problem.resolution"), ("starts", "generate", "gate", "surrogate", "transient", "preconditioners", "modes")),
    "model": ("starts", "generate", "refinement", "gate", "surrogate", "transient", "modes"),
    "data": ("starts", "operators", "ablations", "refinement", "steps"), "html": ("starts",),
    "pictures": ("starts", "surrogate"),
    **dict.fromkeys(("test", "out"), ("operators", "ablations")), "only": ("starts", "operators", "ablations", "preconditioners"), "models": ("preconditioners", "gate"),
}  # fmt: skip
"""Flags of ``bench``, and the values of ``--what`` that read them."""


HELP = "compare initial guesses on unseen samples"


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the verb."""
    add_case(parser)
    kinds = (
        "starts",
        "gate",
        "surrogate",
        "transient",
        "generate",
        "preconditioners",
        "modes",
        "operators",
        "ablations",
        "refinement",
        "steps",
    )
    parser.add_argument("--what", choices=kinds, default="starts", help="what to compare")
    add_settings(parser, "bench.samples", "problem.seed", "problem.resolution")
    parser.add_argument("--model", type=Path, metavar="DIR", help="folder of the model; the shipped one by default")
    text = "training data: for operators, or to add the nearest training sample"
    parser.add_argument("--data", type=Path, metavar="DIR", help=text)
    parser.add_argument("--test", type=Path, metavar="DIR", help="test data, for operators and ablations")
    text = "folder of the trained models, for operators and ablations"
    parser.add_argument("--out", type=Path, metavar="DIR", help=text)
    add_preset(parser)
    text = "some of the methods, operators, ablations or preconditioners"
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help=text)
    text = "models that predict a basis or a correction, for preconditioners; models trained on another distribution, for gate"
    parser.add_argument("--models", type=Path, nargs="+", default=[], metavar="DIR", help=text)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the results as a self-contained HTML page")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="write PNG pictures")


def run(args: Namespace, petsc: Sequence[str]) -> int:
    """Measure start strategies, data generation, or operators; the last without MPI and PETSc."""
    given = [name for name in BENCH_FLAGS if vars(args)[name] not in (None, []) and args.what not in BENCH_FLAGS[name]]
    if given:
        raise ValueError(
            f"bench --what {args.what} does not read --{given[0].rpartition('.')[2]}; it is for --what {' or '.join(BENCH_FLAGS[given[0]])}"
        )
    if args.what in ("operators", "ablations", "refinement", "steps"):
        return _bench_operators(args, petsc)
    case, config, comm = start(args, petsc)
    if any(field.span for field in case.schema.outputs) and args.what not in ("modes", "generate"):
        raise ValueError(
            f"bench --what {args.what} is for problems with a right side; '{case.name}' has eigenvalues: --what modes"
        )
    for folder in (args.json and args.json.parent, args.html and args.html.parent, args.pictures):
        prepare(comm, folder)
    shipped = catalog.shipped_operators(args.case)
    model = args.model or catalog.shipped_model(args.case)
    if model is None and args.what not in ("generate", "transient", "preconditioners"):
        raise ValueError(f"the case '{case.name}' ships no model; name one with --model")
    if args.what == "starts":
        args.model = model
        bench_starts(case, config, comm, args=args)
    elif args.what == "surrogate":
        _bench_surrogate(case, config, model, comm=comm, args=args)
    else:
        args.models = args.models or (shipped if args.what == "preconditioners" else [])
        ledger, table = _ledger_and_table(case, config, model, comm=comm, args=args)
        mpi.say(table)
        if args.json is not None:
            _write_json(comm, ledger, args.json)
    check_petsc(comm, petsc)
    return 0


def bench_starts(case: Case, config: Config, comm: MPI.Comm, *, args: Namespace) -> None:
    from lrsa_coupled.bench import html, ledger, report

    outcome = ledger.bench(case, config, comm, model=args.model, data=args.data, only=args.only)

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


def _ledger_and_table(
    case: Case, config: Config, model: Path | None, *, comm: MPI.Comm, args: Namespace
) -> tuple[dict[str, Any], str]:
    if args.what == "generate":
        from lrsa_coupled.bench import generation

        ledger = generation.bench_generation(case, config, comm, model=model)
        return ledger, generation.generation_table(ledger)
    if args.what == "transient":
        from lrsa_coupled.bench import transient

        ledger = transient.bench_transient(case, config, comm, model=model)
        return ledger, transient.transient_table(ledger)
    if args.what == "preconditioners":
        from lrsa_coupled.bench import preconditioners

        ledger = preconditioners.bench_preconditioners(case, config, comm, models=args.models, only=args.only)
        return ledger, preconditioners.preconditioners_table(ledger)
    if args.what == "modes":
        from lrsa_coupled.bench import modes

        ledger = modes.bench_modes(case, config, comm, model=model)
        return ledger, modes.modes_table(ledger)
    from lrsa_coupled.bench import poison

    ledger = poison.bench_gate(case, config, comm, model=model, others=args.models)
    return ledger, poison.gate_table(ledger)


def _write_json(comm: MPI.Comm, ledger: dict[str, Any], path: Path) -> None:
    from lrsa_coupled.bench import report

    mpi.share(comm, lambda: report.write_json(ledger, path))


def _bench_surrogate(case: Case, config: Config, model: Path, *, comm: MPI.Comm, args: Namespace) -> None:
    from lrsa_coupled.bench import effectivity, report, surrogate

    ledger = surrogate.bench_surrogate(case, config, comm, model=model)

    def write() -> None:
        print(effectivity.surrogate_table(ledger))
        if args.json is not None:
            report.write_json(ledger, args.json)
        if args.pictures is not None:
            print(f"picture: {effectivity.effectivity_picture(ledger, args.pictures)}")

    mpi.share(comm, write)


def _bench_operators(args: Namespace, petsc: Sequence[str]) -> int:
    one_process(f"bench --what {args.what}", petsc)
    needed = {"refinement": ("model", "data"), "steps": ("data",)}.get(args.what, ("data", "test", "out"))
    missing = [f"--{name}" for name in needed if vars(args)[name] is None]
    if missing:
        raise ValueError(f"bench --what {args.what} needs {' and '.join(missing)}")
    from lrsa_coupled.bench import operators, refinement, report, training_steps

    config = case_config(args)
    config = dataclasses.replace(config, case=args.case if catalog.is_shipped(args.case) else None)
    if args.what == "refinement":
        ledger = refinement.bench_refinement(args.model, args.data, config)
        mpi.say(refinement.refinement_table(ledger))
    elif args.what == "steps":
        ledger = training_steps.bench_steps(config, args.data)
        mpi.say(training_steps.steps_table(ledger))
    else:
        ledger = operators.bench_operators(config, args.data, args.test, args.out, what=args.what, only=args.only)
        mpi.say(operators.operators_table(ledger))
    if args.json is not None:
        report.write_json(ledger, args.json)
    return 0
