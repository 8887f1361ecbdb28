"""``lrsa-coupled settings``: every setting with its type, value and meaning."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import Any

from lrsa_coupled import mpi
from lrsa_coupled.cli._arguments import add_preset
from lrsa_coupled.cli._startup import load, no_petsc, resolve
from lrsa_coupled.config import Config
from lrsa_coupled.settings import describe

HELP = "print every setting with its type, value and meaning"
EXAMPLE = "lrsa-coupled settings cavity"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("case", nargs="?", metavar="CASE", help="show the values of this case, and its options")
    add_preset(parser)


def run(args: Namespace, petsc: Sequence[str]) -> int:
    """Print the settings; MPI and PETSc only for the options of a case."""
    no_petsc("settings", petsc)
    if args.case is not None:
        case, config, _ = load(args, petsc)
        _print(config)
        _print(case.options, "options.")
    elif args.preset is not None:
        raise ValueError("--preset is a table of a case: give the case, too")
    else:
        _print(resolve(args, Config()))
    return 0


def _print(config: Any, prefix: str = "") -> None:
    for key, value, kind, doc in describe(config, prefix):
        text = "none" if value is None else str(value).lower() if isinstance(value, bool) else value
        if key not in ("case", "options"):  # CASE, and printed by themselves
            mpi.print_once(f"{key} = {text}  ({kind})" + (f"\n    {doc}" if doc else ""))
