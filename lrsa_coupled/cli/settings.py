"""``lrsa-coupled settings``: every setting with its type, default and meaning."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence

from lrsa_coupled.cli._arguments import add_preset
from lrsa_coupled.cli._startup import case_config, one_process, resolve
from lrsa_coupled.config import Config
from lrsa_coupled.settings import describe

HELP = "print every setting with its type, value and meaning"


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.add_argument("case", nargs="?", metavar="CASE", help="show the values of this case")
    add_preset(parser)


def run(args: Namespace, petsc: Sequence[str]) -> int:
    """Print the settings; no MPI, no PETSc."""
    one_process("settings", petsc)
    if args.case is None and args.preset is not None:
        raise ValueError("--preset is a table of a case: give the case, too")
    config = resolve(args, Config()) if args.case is None else case_config(args)
    for item in describe(config):
        value = "none" if item.value is None else item.value
        print(f"{item.key} = {value}  ({item.type_text})\n    {item.doc}")
    return 0
