"""``lrsa-coupled export``: samples of a data set for ParaView."""

from __future__ import annotations

import itertools
import json
import re
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lrsa_coupled.cli._arguments import add_data, add_out
from lrsa_coupled.cli._startup import data_config, one_process, writing
from lrsa_coupled.data.parameters import parameter_values

HELP = "write samples for ParaView"
EXAMPLE = "lrsa-coupled export my/data --index 0 1 --out my/fields"


def add_arguments(parser: ArgumentParser) -> None:
    add_data(parser)
    parser.add_argument("--index", type=int, nargs="+", default=[0], metavar="I", help="indices of the samples")
    parser.add_argument(
        "--model", type=Path, metavar="DIR", help="model whose prediction and its error are written too"
    )
    add_out(parser, "folder of the VTKHDF files")


def run(args: Namespace, petsc: Sequence[str]) -> int:
    """Write samples as VTKHDF files."""
    one_process("export", petsc)
    from lrsa_coupled.data.export import Exported, write_vtkhdf
    from lrsa_coupled.data.store import DataStore

    store = DataStore(args.data)
    unsolved = sorted({*args.index} - {*store.solved})
    if unsolved:
        missing = ", ".join(map(str, unsolved))
        raise ValueError(f"{args.data} has no solved sample {missing}; 'lrsa-coupled info' prints what it has")
    guesses: Iterable[Any] = itertools.repeat(None)
    if args.model is not None:
        from lrsa_coupled.training.evaluate import predictions

        guesses = predictions(args.model, args.data, data_config(args, args.data), args.index)
    schema, units = store.card.schema, store.card.parameters
    with writing(None, folders=[args.out]):
        for index, guess in zip(args.index, guesses, strict=False):
            path = args.out / f"{re.sub(r'[^\w.-]', '-', schema.name)}-{index:08d}.vtkhdf"
            record = store.read(index)
            about = {"case": schema.name, "seed": store.card.seed, "index": index, "iterations": record.iterations}
            about |= parameter_values(json.loads(record.parameters), units)
            left = write_vtkhdf(path, Exported(store.arrays(index), schema, guess, about))
            print(path)
            if left:
                print(f"  {left} nodes are left out: VTK cells of degree 1 to 3 have none there")
    return 0
