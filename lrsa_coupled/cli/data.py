"""The verbs of the command line that look at a data set; h5py is all they need."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from lrsa_coupled import mpi


def info(args: Namespace, petsc: Sequence[str]) -> int:
    """Print what a data set holds, with the statistics of its fields on request, or the hash of its contents."""
    _refuse("info", petsc)
    from lrsa_coupled.data.store import DataStore

    store = DataStore(args.data)
    if args.hash:
        print(store.content_hash())
        return 0
    entries, card = list(store.entries.values()), store.card
    size = sum(path.stat().st_size for path in store.headers)
    nodes = [entry.num_nodes for entry in entries if entry.solved]
    print(f"{args.data}: case {card.schema.name}, seed {card.seed}, resolution {card.resolution}")
    print(f"{len(entries)} samples, {len(nodes)} solved, {len(store.headers)} shards, {size / 2**20:.1f} MiB")
    if nodes:
        print(f"{min(nodes)} to {max(nodes)} nodes a sample, {sum(nodes)} in all")
    for what, fields in (("inputs", card.schema.inputs), ("outputs", card.schema.outputs)):
        print(f"{what}: " + ", ".join(f"{field.name}[{field.components}] ({field.unit})" for field in fields))
    print(f"scalars: {', '.join(card.schema.scalars) or 'none'}")
    print("parameters: " + ", ".join(f"{name} ({unit})" for name, unit in card.parameters.items()))
    for reason, count in sorted(store.failures().items()):
        print(f"{count} failed: {reason}")
    if args.statistics:
        from lrsa_coupled.data.statistics import field_statistics

        for field in field_statistics(store):
            print(f"{field.name}: mean {field.mean:.6g} +- {field.standard_error:.2g}, variance {field.variance:.6g}")
    return 0


def verify(args: Namespace, petsc: Sequence[str]) -> int:
    """Read every byte of a data set; the exit code is 1 when a sample is damaged or missing."""
    _refuse("verify", petsc)
    from lrsa_coupled.data.store import DataStore

    store = DataStore(args.data, tolerant=True)
    damages = store.verify()
    for damage in damages:
        print(damage)
    broken = {damage.path for damage in damages}
    sound = {entry.index for path, header in store.headers.items() if path not in broken for entry in header.entries}
    kept = {index for damage in damages for index in damage.kept}
    missing = sorted(set(range(_asked_for(args.data))) - sound - kept)
    if missing:
        print(f"missing: sample {', '.join(map(str, missing))}")
    print(
        f"{args.data}: {len(sound | kept)} samples fit their digests, {len(damages)} shards damaged, {len(missing)} samples to make"
    )
    if damages or missing:
        print("run the generate command again: it makes just those")
    return 1 if damages or missing else 0


def export(args: Namespace, petsc: Sequence[str]) -> int:
    """Write samples as VTKHDF files for ParaView."""
    _refuse("export", petsc)
    from lrsa_coupled.data.export import write_vtkhdf
    from lrsa_coupled.data.store import DataStore

    store = DataStore(args.data)
    unsolved = sorted(set(args.index) - set(store.solved))
    if unsolved:
        raise ValueError(
            f"{args.data} has no solved sample {', '.join(map(str, unsolved))}; 'lrsa-coupled info' tells what it has"
        )
    args.out.mkdir(parents=True, exist_ok=True)
    for index in args.index:
        path = args.out / f"{store.card.schema.name}-{index:08d}.vtkhdf"
        write_vtkhdf(path, store.arrays(index), store.card.schema)
        print(path)
    return 0


def _asked_for(folder: Path) -> int:
    """Return the number of samples that the last generate was asked for, 0 when its configuration is lost."""
    try:
        return int(json.loads((folder / "config.json").read_text(encoding="utf-8"))["generate"]["samples"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _refuse(verb: str, petsc: Sequence[str]) -> None:
    if mpi.size() > 1:
        raise ValueError(f"'{verb}' runs in one process, got {mpi.size()} ranks")
    if petsc:
        raise ValueError(f"'{verb}' does not use PETSc: unknown option {petsc[0]}")
