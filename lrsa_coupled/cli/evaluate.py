"""``lrsa-coupled evaluate``: errors of a model on a data set."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from lrsa_coupled.cli._arguments import add_data, listed
from lrsa_coupled.cli._startup import data_config, one_process, print_summary, writing

HELP = "errors of a model on a data set (one process, no MPI)"
EXAMPLE = "lrsa-coupled evaluate my/model my/test --pictures my/pictures"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("model", type=Path, metavar="MODEL", help="folder of the model")
    add_data(parser)
    text = "write PNG pictures of the worst sample of each field"
    parser.add_argument("--pictures", type=Path, metavar="DIR", help=text)


def run(args: Namespace, petsc: Sequence[str]) -> int:
    """Print the errors; no MPI, no PETSc."""
    one_process("evaluate", petsc)
    from lrsa_coupled.data.store import DataStore
    from lrsa_coupled.training.checkpoint import load_card
    from lrsa_coupled.training.evaluate import evaluate

    with writing(None, folders=[args.pictures]):
        summary, worst = evaluate(args.model, args.data, data_config(args, args.data))
        print_summary(summary)
        part = load_card(args.model).data
        if args.pictures is not None:
            from lrsa_coupled.bench.pictures import worst_pictures

            print("pictures: " + ", ".join(map(str, worst_pictures(worst, args.pictures))))
    known = {part.seed, *part.seeds} & DataStore(args.data).card.seeds
    if known:
        print(f"next: generate samples of another seed, the training has seen those of seed {listed(sorted(known))}")
    return 0
