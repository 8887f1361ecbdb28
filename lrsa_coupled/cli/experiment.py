"""``lrsa-coupled experiment NAME``: answer a question by measurement; the experiments are in ``bench/experiments``."""

from __future__ import annotations

import dataclasses
from argparse import REMAINDER, ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from types import ModuleType

from lrsa_coupled import catalog, config, logs, mpi
from lrsa_coupled.bench import experiments
from lrsa_coupled.bench.rows import Results, write_rows
from lrsa_coupled.cli._arguments import Parser, add_case, add_preset, add_settings, common_arguments
from lrsa_coupled.cli._startup import case_config, check_petsc, one_process, resolve, start, start_petsc, writing
from lrsa_coupled.settings import update

HELP = "answer one question by measurement, such as which preconditioner is fastest"
EXAMPLE = "lrsa-coupled experiment preconditioners helmholtz --samples 2"


def add_arguments(parser: ArgumentParser) -> None:
    """Add the name; the arguments after it are those of the experiment."""
    lines = [f"{item.name:20s} {item.question}" for item in experiments.all_experiments().values()]
    lines = [fill(line, 100, initial_indent="  ", subsequent_indent=" " * 23) for line in lines]
    parser.epilog = "\n".join(["experiments:", *lines, "", parser.epilog or ""])
    parser.add_argument("name", metavar="NAME", help="name of the experiment")
    text = "arguments of the experiment; 'experiment NAME --help' prints them"
    parser.add_argument("arguments", nargs=REMAINDER, metavar="...", help=text)


def run(args: Namespace, petsc: Sequence[str]) -> int:
    """Measure, print a table, write the rows if asked for."""
    experiment = experiments.find(args.name)
    if experiment.on_ranks:
        start_petsc(petsc)
    else:
        one_process(f"experiment {args.name}", petsc)
    own = parse(args)
    logs.setup(-1 if own.quiet else own.verbose)
    (_on_ranks if experiment.on_ranks else _in_one_process)(experiment.load(), own, petsc)
    return 0


def parse(args: Namespace) -> Namespace:
    """Add the arguments of the experiment to those of the verb; imports the experiment."""
    experiment = experiments.find(args.name)
    text = f"{experiment.question} What follows -- goes to PETSc." if experiment.on_ranks else experiment.question
    parser = Parser(prog=f"lrsa-coupled experiment {args.name}", description=text, parents=[common_arguments()])
    module = experiment.load()
    if "SETTINGS" not in vars(module):
        add_case(parser)
        add_preset(parser)
    if experiment.on_ranks:
        add_settings(parser, "bench.samples", "problem.seed", "problem.resolution")
    module.add_arguments(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows as JSON Lines")
    return parser.parse_args(args.arguments, args)


def _on_ranks(module: ModuleType, args: Namespace, petsc: Sequence[str]) -> None:
    from lrsa_coupled.bench.samples import Samples

    case, settings, comm = start(args, petsc)
    model = vars(args).get("model") or catalog.shipped_model(args.case)
    operators = tuple(catalog.shipped_operators(args.case))
    with writing(comm, folders=[vars(args).get("pictures")], files=[args.json]):
        results = module.run(args, Samples(case, settings, comm, model, operators))
        mpi.share(comm, lambda: _report(module, results, args.json))
    check_petsc(comm, petsc)


def _in_one_process(module: ModuleType, args: Namespace, petsc: Sequence[str]) -> None:
    if "case" in vars(args):
        settings = dataclasses.replace(case_config(args), case=args.case if catalog.is_shipped(args.case) else None)
    else:
        settings = resolve(args, update(config.Config(), module.SETTINGS, where=args.name))
    with writing(None, files=[args.json]):
        _report(module, module.run(args, settings), args.json)


def _report(module: ModuleType, results: Results, path: Path | None) -> None:
    print(module.table(results))
    if path is not None:
        write_rows(results, path)
        print(f"\nrows: {path}")
