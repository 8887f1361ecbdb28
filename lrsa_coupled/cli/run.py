"""``lrsa-coupled run``: generate, train and bench in one go."""

from __future__ import annotations

import dataclasses
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrsa_coupled import mpi
from lrsa_coupled.cli import bench
from lrsa_coupled.cli._arguments import add_case, add_out, add_preset
from lrsa_coupled.cli._startup import case_config, check_petsc, print_summary, start, writing
from lrsa_coupled.cli.generate import STOPPED, generate_and_report
from lrsa_coupled.cli.train import mpi_group

if TYPE_CHECKING:
    from mpi4py import MPI

    from lrsa_coupled.config import Config

HELP = "generate, train and bench in one go"
EXAMPLE = "lrsa-coupled run cavity --out run"


def add_arguments(parser: ArgumentParser) -> None:
    add_case(parser)
    add_out(parser, "folder of data, model and bench")
    add_preset(parser, "smoke by default")


def run(args: Namespace, petsc: Sequence[str]) -> int:
    """Write ``data``, ``model`` and ``bench`` into a folder; exit code 3 after a signal."""
    case, config, comm = start(args, petsc)
    if config.problem.seed is not None:
        text = "run trains and measures on samples of two seeds: leave problem.seed unset"
        raise ValueError(f"{text}, got {config.problem.seed}")
    data, model, results = args.out / "data", args.out / "model", args.out / "bench"
    with writing(comm, folders=[args.out]):
        code = generate_and_report(case, config, data, comm=comm, petsc=petsc, name=args.case)
        if code == STOPPED:
            return code
        summary = _train(data, model, _trained_with(args, data, config), comm=comm)
        print_summary(summary)
        if "stopped" in summary:
            return STOPPED
        written = {"json": results / "rows.jsonl", "html": results / "report.html", "pictures": results}
        solved = bench.compare_and_report(case, config, comm, bench.Request(args.case, model, data, **written))
        check_petsc(comm, petsc)
    return code or int(not solved)


def _trained_with(args: Namespace, data: Path, config: Config) -> Config:
    """Return the configuration with the settings of the recipe for the data where the case has none of its own."""
    from lrsa_coupled.data.store import DataStore
    from lrsa_coupled.training.recipe import DataFacts, recipe

    base = recipe(DataFacts.of(DataStore(data)), minutes=config.training.minutes)
    settings = case_config(args, base=base)
    return dataclasses.replace(config, operator=settings.operator, training=settings.training)


def _train(data: Path, out: Path, config: Config, *, comm: MPI.Comm) -> Mapping[str, Any]:
    """Train on as many ranks as a batch can be shared out to."""
    from lrsa_coupled.training.loop import train

    trains = comm.rank < config.training.batch_size
    part = comm.Split(0 if trains else 1)
    # An error of one rank alone is left to the command line, which ends the others: they wait in the middle of a step.
    with mpi.StopSignals() as signals:
        summary = train(data, out, config, group=mpi_group(part), stop=lambda: signals.name) if trains else {}
        part.Free()
        return comm.bcast(summary)
