"""``lrsa-coupled train``: an operator trained on a data set, on one or several ranks."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lrsa_coupled import mpi
from lrsa_coupled.cli._arguments import add_data, add_out, add_preset
from lrsa_coupled.cli._startup import data_config, no_petsc, print_summary

if TYPE_CHECKING:
    from mpi4py import MPI

    from lrsa_coupled.training.group import ProcessGroup

HELP = "train an operator on a data set, on one rank or under mpirun or torchrun"


def add_arguments(parser: ArgumentParser) -> None:
    add_data(parser)
    add_out(parser, "folder of the model; a run that exists is resumed")
    parser.add_argument("--no-resume", action="store_true", help="start again from the beginning")
    add_preset(parser)


def run(args: Namespace, petsc: Sequence[str]) -> int:
    """Train; no PETSc, and no MPI on one rank."""
    no_petsc("train", petsc)
    from lrsa_coupled.training.group import ProcessGroup, torchrun_group
    from lrsa_coupled.training.loop import train

    group = torchrun_group() or (mpi_group(mpi.world()) if mpi.size() > 1 else ProcessGroup())
    summary = train(args.data, args.out, data_config(args, args.data), resume=not args.no_resume, group=group)
    if group.rank == 0:
        print_summary(summary)
    return 0


def mpi_group(comm: MPI.Comm) -> ProcessGroup:
    """Return the process group of a communicator."""
    from lrsa_coupled.coupling.reducer import MPIReducer
    from lrsa_coupled.training.group import ProcessGroup

    return ProcessGroup(comm.rank, comm.size, MPIReducer(comm)) if comm.size > 1 else ProcessGroup()
