"""``lrsa-coupled verify``: every damaged or missing sample of a data set."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import pairwise

from lrsa_coupled.cli._arguments import add_data
from lrsa_coupled.cli._startup import one_process

HELP = "find every damaged or missing sample"
EXAMPLE = "lrsa-coupled verify my/data"


def add_arguments(parser: ArgumentParser) -> None:
    add_data(parser)


def run(args: Namespace, petsc: Sequence[str]) -> int:
    """Read every byte of a data set; the exit code is 1 when a sample is damaged or missing."""
    one_process("verify", petsc)
    from lrsa_coupled.data.store import DataStore, generate_setting
    from lrsa_coupled.reading import Damaged, read_json

    store = DataStore(args.data, tolerant=True)
    damages = store.verify()
    wrong: list[object] = [*damages]
    with suppress(FileNotFoundError):
        try:
            read_json(args.data / "config.json")
        except Damaged as error:
            wrong.append(f"{error}; which samples are missing is not known")
    print(*wrong, sep="\n", end="\n" if wrong else "")
    broken = {damage.path for damage in damages}
    sound = {entry.index for path, header in store.headers.items() if path not in broken for entry in header.entries}
    sound |= {index for damage in damages for index in damage.kept}
    gaps = missing_ranges(sound, generate_setting(args.data, "samples", 0))
    if gaps:
        texts = (str(gap[0]) if len(gap) == 1 else f"{gap[0]} to {gap[-1]}" for gap in gaps)
        print(f"missing: sample {', '.join(texts)}")
    damaged = f"{len(damages)} shards damaged, {sum(map(len, gaps))} samples to make"
    print(f"{args.data}: {len(sound)} samples fit their digests, {damaged}")
    if wrong or gaps:
        print("run the generate command again: it makes just those")
    return 1 if wrong or gaps else 0


def missing_ranges(present: Iterable[int], number: int) -> list[range]:
    """Return the runs of indices below ``number`` that are not present."""
    ends = [-1, *sorted(index for index in present if index < number), number]
    return [range(one + 1, two) for one, two in pairwise(ends) if two > one + 1]
