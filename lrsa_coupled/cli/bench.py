"""The verbs that measure: bench, bench-operator, report. Each imports what it needs, as those of ``lrsa_coupled/cli/verbs.py`` do."""

from __future__ import annotations

import dataclasses
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrsa_coupled import catalog, mpi
from lrsa_coupled import config as configuration
from lrsa_coupled.config import Config
from lrsa_coupled.cli.startup import case_config, check_petsc, no_petsc, one_process, prepare, resolve, start

if TYPE_CHECKING:
    from mpi4py import MPI

    from lrsa_coupled.interfaces import Case

BENCH_FLAGS = {
    **dict.fromkeys(("samples", "seed", "resolution"), ("starts", "generate", "gate", "surrogate", "transient", "preconditioners", "modes")),
    "model": ("starts", "generate", "refinement", "gate", "surrogate", "transient", "modes"),
    "data": ("starts", "operators", "ablations", "refinement", "steps"), "html": ("starts",),
    "pictures": ("starts", "surrogate"),
    **dict.fromkeys(("test", "out"), ("operators", "ablations")), "only": ("starts", "operators", "ablations", "preconditioners"), "models": ("preconditioners", "gate"),
}  # fmt: skip
"""Flags of ``bench``, and the values of ``--what`` that read them."""


def bench(args: Namespace, petsc: Sequence[str]) -> int:
    """Measure start strategies, data generation, or operators; the last without MPI and PETSc."""
    given = [name for name in BENCH_FLAGS if vars(args)[name] not in (None, []) and args.what not in BENCH_FLAGS[name]]
    if given:
        raise ValueError(
            f"bench --what {args.what} does not read --{given[0]}; it is for --what {' or '.join(BENCH_FLAGS[given[0]])}"
        )
    if args.what in ("operators", "ablations", "refinement", "steps"):
        return _bench_operators(args, petsc)
    case, config, comm = start(args, petsc, section="bench", flags=("samples", "seed", "resolution"))
    if any(field.span for field in case.schema.outputs) and args.what not in ("modes", "generate"):
        raise ValueError(
            f"bench --what {args.what} is for problems with a right side; '{case.name}' with options.modes has eigenvalues: --what modes"
        )
    for folder in (args.json and args.json.parent, args.html and args.html.parent, args.pictures):
        prepare(comm, folder)
    shipped = catalog.shipped_operators(catalog.case_folder(args.case))
    model = args.model or (
        next(iter(shipped), None) if args.what == "modes" else catalog.shipped_model(catalog.case_folder(args.case))
    )
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


def bench_operator(args: Namespace, petsc: Sequence[str]) -> int:
    """Measure the speed and memory of operators; no MPI, no PETSc."""
    no_petsc("bench-operator", petsc)
    one_process("bench-operator")
    from lrsa_coupled.bench import report, speed

    base = configuration.update(Config(), {"operator": speed.SIZES}, where="bench-operator")
    config = resolve(args, base, {} if args.chunk is None else {"guess": {"chunk_size": args.chunk}})
    points = args.points or list(speed.POINTS)
    if min(points) < 1:
        raise ValueError(f"--points must be positive, got {min(points)}")
    kinds, chunk_size = args.only or speed.KINDS, config.guess.chunk_size
    result = speed.bench_speed(
        config.operator, points, args.precision, device=args.device, chunk_size=chunk_size, kinds=kinds
    )
    mpi.say(speed.speed_table(result))
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
    mpi.say(scaling.ledgers_text(ledgers))
    if args.html is not None:
        html.write_html(ledgers, args.html, sources=[path.name for path in args.ledgers])
        mpi.say(f"\npage: {args.html}")
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
    no_petsc(f"bench --what {args.what}", petsc)
    one_process(f"bench --what {args.what}")
    needed = {"refinement": ("model", "data"), "steps": ("data",)}.get(args.what, ("data", "test", "out"))
    missing = [f"--{name}" for name in needed if vars(args)[name] is None]
    if missing:
        raise ValueError(f"bench --what {args.what} needs {' and '.join(missing)}")
    from lrsa_coupled.bench import operators, refinement, report, training_steps

    config = case_config(args, Config(), catalog.case_folder(args.case), {})
    config = dataclasses.replace(config, case=args.case if args.case in catalog.case_names() else "")
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
