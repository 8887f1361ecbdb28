"""``lrsa-coupled export``: samples of a data set for ParaView."""

from __future__ import annotations

import re
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence

from lrsa_coupled.cli._arguments import add_data, add_out
from lrsa_coupled.cli._startup import one_process, writing

HELP = "write samples for ParaView"
EXAMPLE = "lrsa-coupled export my/data --index 0 1 --out my/fields"


def add_arguments(parser: ArgumentParser) -> None:
    add_data(parser)
    parser.add_argument("--index", type=int, nargs="+", default=[0], metavar="I", help="indices of the samples")
    add_out(parser, "folder of the VTKHDF files")


def run(args: Namespace, petsc: Sequence[str]) -> int:
    """Write samples as VTKHDF files."""
    one_process("export", petsc)
    from lrsa_coupled.data.export import write_vtkhdf
    from lrsa_coupled.data.store import DataStore

    store = DataStore(args.data)
    unsolved = sorted({*args.index} - {*store.solved})
    if unsolved:
        missing = ", ".join(map(str, unsolved))
        raise ValueError(f"{args.data} has no solved sample {missing}; 'lrsa-coupled info' prints what it has")
    with writing(None, folders=[args.out]):
        for index in args.index:
            path = args.out / f"{re.sub(r'[^\w.-]', '-', store.card.schema.name)}-{index:08d}.vtkhdf"
            write_vtkhdf(path, store.arrays(index), store.card.schema)
            print(path)
    return 0
