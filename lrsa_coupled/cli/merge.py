"""``lrsa-coupled merge``: several data sets as one."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from lrsa_coupled.cli._arguments import add_out
from lrsa_coupled.cli._startup import one_process, writing

HELP = "make one data set of several"
EXAMPLE = "lrsa-coupled merge my/data more/data --out all/data"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("data", type=Path, nargs="+", metavar="DATA", help="folders of the data sets, at least two")
    add_out(parser, "folder of the new data set; it must not exist or be empty")


def run(args: Namespace, petsc: Sequence[str]) -> int:
    """Copy the samples into a new data set and print where they came from."""
    one_process("merge", petsc)
    from lrsa_coupled.data.merge import merge
    from lrsa_coupled.data.store import DataStore

    with writing(None, files=[args.out]):  # a folder that appears at the end, as a file does
        summary = merge(args.data, args.out)
    store = DataStore(args.out)
    parts = ", ".join(f"{count} of {folder}" for folder, count in zip(args.data, summary.given, strict=True))
    print(f"{args.out}: {len(store.entries)} samples, {len(store.solved)} solved: {parts}")
    print(f"{summary.renumbered} have another index, {summary.repeated} were there already")
    return 0
