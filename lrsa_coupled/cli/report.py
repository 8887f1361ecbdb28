"""``lrsa-coupled report``: stored results, side by side when there are several."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from lrsa_coupled.cli._startup import one_process, resolve
from lrsa_coupled.config import Config

HELP = "print stored results, side by side when there are several (one process, no MPI)"


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.add_argument("ledgers", type=Path, nargs="+", metavar="LEDGER.json", help="file that bench --json wrote")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write them as one HTML page")


def run(args: Namespace, petsc: Sequence[str]) -> int:
    """Print stored ledgers, side by side when there are several, and write them as a page; no MPI, PETSc or torch."""
    one_process("report", petsc)
    resolve(args, Config())
    from lrsa_coupled.bench import html, scaling, stored

    ledgers = [stored.read_ledger(path) for path in args.ledgers]
    print(scaling.ledgers_text(ledgers))
    if args.html is not None:
        html.write_html(ledgers, args.html, sources=[path.name for path in args.ledgers])
        print(f"\npage: {args.html}")
    return 0
