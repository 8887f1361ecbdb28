"""``lrsa-coupled info``: what a data set holds."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lrsa_coupled.cli._arguments import add_data, listed
from lrsa_coupled.cli._startup import one_process

if TYPE_CHECKING:
    from lrsa_coupled.data.store import DataStore

HELP = "describe a data set"
EXAMPLE = "lrsa-coupled info my/data"


def add_arguments(parser: ArgumentParser) -> None:
    add_data(parser)
    text = "print a hash of the samples, the same whatever ranks wrote them in whatever order"
    parser.add_argument("--hash", action="store_true", help=text)
    text = "add mean and variance of every field, and of quantities kept with the samples; reads all of them"
    parser.add_argument("--statistics", action="store_true", help=text)


def run(args: Namespace, petsc: Sequence[str]) -> int:
    """Print what a data set holds, with the statistics of its fields on request, or the hash of its contents."""
    one_process("info", petsc)
    from lrsa_coupled.data.store import DataStore

    store = DataStore(args.data)
    if args.hash:
        print(store.content_hash())
        return 0
    entries, card = [*store.entries.values()], store.card
    size = sum(map(_size, store.headers))
    nodes = [entry.num_nodes for entry in entries if entry.solved]
    made = f"seed {card.seed}, resolution {card.resolution}" if card.resolution else "collected by a script"
    print(f"{args.data}: case {card.schema.name}, {made}")
    for part in card.merged:
        print(f"merged: {part['samples']} samples of seed {part['seed']}, resolution {part['resolution']}")
    solved = "without solutions" if card.is_unsolved else f"{len(nodes)} solved"
    print(f"{len(entries)} samples, {solved}, {len(store.headers)} shards, {size / 2**20:.1f} MiB")
    if nodes:
        print(f"{min(nodes)} to {max(nodes)} nodes a sample, {sum(nodes)} in all")
    for what, fields in (("inputs", card.schema.inputs), ("outputs", card.schema.outputs)):
        print(f"{what}: " + ", ".join(f"{field.name}[{field.components}] ({field.unit})" for field in fields))
    print(f"scalars: {', '.join(card.schema.scalars) or 'none'}")
    if card.parameters:
        print("parameters: " + ", ".join(f"{name} ({unit})" for name, unit in card.parameters.items()))
    for reason, indices in sorted(store.failures().items()):
        print(f"{len(indices)} failed: {reason} (sample {listed(indices)})")
    if args.statistics:
        _print_statistics(store, nodes)
    return 0


def _print_statistics(store: DataStore, nodes: Sequence[int]) -> None:
    from lrsa_coupled.data.statistics import counted, field_statistics, quantity_statistics

    indices = counted(store)
    fields, quantities = field_statistics(store, indices), quantity_statistics(store, indices)
    repeated = len(store.solved) - len(indices)
    left_out = f", {repeated} that a run has repeated are left out" * bool(repeated)
    print(f"statistics of {len(indices)} samples{left_out}")
    for kind, each in [*(("field", each) for each in fields), *(("quantity", each) for each in quantities)]:
        low, high = each.interval
        error = f"standard error {each.standard_error:.3g}, 95 % interval {low:.6g} to {high:.6g}"
        print(f"{kind} {each.name}: mean {each.mean:.6g} ({error}), variance {each.variance:.6g}")
    if store.card.resolution == 0 and max(nodes) > 2 * min(nodes):
        print("of all meshes together: solves on fine and on coarse ones count alike, a folder for each has its own")
    if failed := len(store.entries) - len(store.solved):
        print(f"of the samples that are solved: {failed} failed ones are in no mean")
    if store.card.resolution == 0 and not quantities:
        print("of the samples that are kept: a script that learns keeps more of its first solves than of later ones")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # another job has merged it
        return 0
