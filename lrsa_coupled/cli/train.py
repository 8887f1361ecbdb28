"""``lrsa-coupled train``: an operator trained on a data set, on one or several ranks, or beside one that grows."""

from __future__ import annotations

import dataclasses
import os
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lrsa_coupled import catalog, mpi
from lrsa_coupled.cli._arguments import add_data, add_preset, add_settings
from lrsa_coupled.cli._startup import data_config, no_petsc, one_process, print_summary

if TYPE_CHECKING:
    from mpi4py import MPI

    from lrsa_coupled.config import Config
    from lrsa_coupled.data.card import DataCard
    from lrsa_coupled.data.store import DataStore
    from lrsa_coupled.training.group import ProcessGroup
    from lrsa_coupled.training.physics import Physics

RESIDUALS = {"best_error": "best_residual", "errors": "residuals"}
"""What the numbers are of a training without solutions."""
STOPPED = 3
"""Exit code: a signal ended the run early; the same command goes on."""
LEAST_MINUTES = 0.25
"""Time of the shortest training beside a data set that grows [min]."""
HELP = "train an operator on a data set, on one rank or under mpirun or torchrun"
EXAMPLE = "lrsa-coupled train my/data --out my/model --minutes 4"


def add_arguments(parser: ArgumentParser) -> None:
    add_data(parser)
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the model; a run that exists is resumed")
    text = "train beside a data set that grows, whenever its samples have doubled, into DATA/models, until the process"
    parser.add_argument("--follow", action="store_true", help=f"{text} that started this one ends, or SIGTERM")
    add_settings(parser, "training.minutes")
    text = "case of the data set, for training.loss=energy or residual; one of your own by its path"
    parser.add_argument("--case", metavar="CASE", help=text)
    parser.add_argument("--no-resume", action="store_true", help="start again from the beginning")
    add_preset(parser)


def run(args: Namespace, petsc: Sequence[str]) -> int:
    """Train; no PETSc, and no MPI on one rank. The exit code is 3 when a signal ended the run early."""
    no_petsc("train", petsc)
    if args.follow != (args.out is None):
        raise ValueError("train needs --out DIR, or --follow, which writes to DATA/models")
    if args.follow:
        if args.case is not None:
            raise ValueError("--case is for training.loss=energy or residual, which do not go with --follow")
        if args.no_resume:
            raise ValueError("--no-resume has no effect with --follow: remove DATA/models to begin again")
        one_process("train --follow", petsc)
        return _follow(args)
    from lrsa_coupled.data.store import DataStore
    from lrsa_coupled.training.group import ProcessGroup, torchrun_group
    from lrsa_coupled.training.loop import train

    group = torchrun_group() or (mpi_group(mpi.world()) if mpi.size() > 1 else ProcessGroup())
    config = train_config(args, store := DataStore(args.data))
    physics = _physics(args, config, store)
    with mpi.StopSignals() as signals:
        resume = not args.no_resume
        summary = train(
            args.data, args.out, config, resume=resume, group=group, stop=lambda: signals.name, physics=physics
        )
    if group.rank == 0:
        print_summary({RESIDUALS.get(name, name) if physics else name: value for name, value in summary.items()})
        print(_next(args, DataStore(args.data).card) if "stopped" not in summary else "next: the same command goes on")
    return STOPPED if "stopped" in summary else 0


def _next(args: Namespace, card: DataCard) -> str:
    """Say what to do with a model; samples of a script have no parameters."""
    if not card.parameters:
        return f"next: attach(problem, LearnedGuess.load('{args.out}'), inputs=..., scalars=...) in the script"
    case = card.schema.name if catalog.is_shipped(card.schema.name) else "CASE"
    data = "" if card.is_unsolved else f" --data {args.data}"
    return f"next: lrsa-coupled bench {case} --model {args.out}{data}"


def train_config(
    args: Namespace, store: DataStore, *, initial: Path | None = None, minutes: float | None = None
) -> Config:
    """Resolve the configuration of a training, over that of the recipe for a data set.

    Model to begin with and time are those of the settings, if any, else those given here.
    """
    from lrsa_coupled.config import LrsaConfig
    from lrsa_coupled.training.checkpoint import load_card
    from lrsa_coupled.training.recipe import DataFacts, recipe

    given = data_config(args, store.folder).training
    minutes = minutes if given.minutes is None else given.minutes
    first = given.initial if given.initial is not None or initial is None else str(initial)
    operator = None if first is None else load_card(Path(first)).operator
    same = operator if isinstance(operator, LrsaConfig) else None
    config = data_config(args, store.folder, base=recipe(DataFacts.of(store), minutes=minutes, operator=same))
    training = dataclasses.replace(config.training, initial=first, minutes=minutes)
    return dataclasses.replace(config, training=training)


def _physics(args: Namespace, config: Config, store: DataStore) -> Physics | None:
    """Return the losses that need no labels, on this process; None where they are not asked for."""
    if config.training.loss == "data":
        for name, given in (("--case", args.case), ("training.labels", config.training.labels)):
            if given is not None:
                raise ValueError(f"{name} has no effect with training.loss=data")
        return None
    from lrsa_coupled.cli._startup import start_petsc

    start_petsc([])
    from lrsa_coupled import catalog
    from lrsa_coupled.data.store import DataStore
    from lrsa_coupled.generation.unsolved import SamplePhysics

    name = store.card.schema.name
    if args.case is None and not catalog.is_shipped(name):
        raise ValueError(f"training.loss={config.training.loss} needs the case of the data, '{name}': --case PATH")
    case = catalog.load_case(args.case or name, store.card.settings.get("options"))
    labels = None if config.training.labels is None else DataStore(Path(config.training.labels))
    return SamplePhysics(case, store.card, by_energy=config.training.loss == "energy", labels=labels)


def mpi_group(comm: MPI.Comm) -> ProcessGroup:
    """Return the process group of a communicator."""
    from lrsa_coupled.coupling.reducer import MPIReducer
    from lrsa_coupled.training.group import ProcessGroup

    return ProcessGroup(comm.rank, comm.size, MPIReducer(comm)) if comm.size > 1 else ProcessGroup()


def _follow(args: Namespace) -> int:
    """Train until the parent process ends or a signal comes, which is what was asked for."""
    from lrsa_coupled.data.models import MODELS
    from lrsa_coupled.training.follow import follow

    def configure(store: DataStore, newest: Path | None) -> Config:
        minutes = max(LEAST_MINUTES, store.seconds() / 120.0)  # half of what the samples took
        return train_config(args, store, initial=newest, minutes=minutes)

    with mpi.StopSignals() as signals:
        stop = _ended(signals)
        mpi.print_once(f"following {args.data}: a model at each doubling of its samples, into {args.data / MODELS}")
        for path, summary in follow(args.data, configure, stop=stop):
            mpi.print_once(f"{path}: validation error {summary['best_error']:.4g}, {summary['seconds']:.0f} s")
    return 0


def _ended(signals: mpi.StopSignals) -> Callable[[], str]:
    parent = os.getppid()
    return lambda: signals.name or ("the end of the parent process" if os.getppid() != parent else "")
