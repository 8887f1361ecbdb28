"""Writes samples such that a kill loses none that is finished, and puts a data set in order afterwards.

Any number of jobs may do both at once. Of the shards that hold a sample the one with most samples counts, the last by
name of several; one is removed only when those that count instead are on disk. So at any time the last of them stays.
What is removed has been read in full and stands elsewhere; what is damaged is kept in the folder ``damaged``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import final

from lrsa_coupled.data.card import read_card
from lrsa_coupled.data.format import SampleRecord
from lrsa_coupled.data.shard import whole_samples, write_shard
from lrsa_coupled.data.store import Damage, DataStore
from lrsa_coupled.files import matching, remove_abandoned, set_aside

DAMAGED = "damaged"
"""Folder of the damaged shards as they were."""


@final
class ShardWriter:
    """Writes samples of one rank: each is a shard of its own until there are enough for a larger one in their place."""

    def __init__(self, folder: Path, samples_per_shard: int) -> None:
        self.folder = folder
        self.samples_per_shard = samples_per_shard
        self._records: list[SampleRecord] = []
        self._paths: list[Path] = []

    def add(self, *records: SampleRecord) -> None:
        """Write samples; they are on disk when this returns. Collective: no."""
        self._paths.append(write_shard(self.folder, records))
        self._records += records
        if len(self._records) >= self.samples_per_shard:
            self.close()

    def close(self) -> None:
        """Merge what has been written since the last full shard. Collective: no."""
        if len(self._paths) > 1:
            merged = write_shard(self.folder, self._records)
            for path in self._paths:
                if path != merged:
                    path.unlink(missing_ok=True)
        self._records, self._paths = [], []


def repair(folder: Path, damages: Iterable[Damage]) -> None:
    """Replace damaged shards by what is whole of them, and keep them in ``damaged``. Call on one rank.

    OSError when a shard cannot be read: it stays as it is.
    """
    schema = read_card(folder).schema
    for damage in damages:
        try:
            kept = list(whole_samples(damage.path, schema))
            set_aside(damage.path, folder / DAMAGED)
        except OSError:
            if os.path.lexists(damage.path):
                raise
            continue  # another job has merged or repaired it
        repaired = write_shard(folder, kept) if kept else None
        if repaired != damage.path:  # equal when all samples are readable: the same contents have the same name
            damage.path.unlink(missing_ok=True)


def drop_failed(folder: Path) -> None:
    """Remove the failed samples, so that they count as missing. Call on one rank; a kill leaves some of them."""
    data = DataStore(folder, tolerant=True)
    for path, header in data.headers.items():
        kept = [entry.index for entry in header.entries if entry.solved]
        if len(kept) < len(header.entries):
            if kept:
                write_shard(folder, [data.read(index) for index in kept])
            path.unlink(missing_ok=True)


def tidy(folder: Path, samples_per_shard: int, *, leave: Sequence[range] = ()) -> None:
    """Drop shards without a sample of their own, merge small ones, write the index.

    Call on one rank. A kill at any moment leaves every sample in at least one shard, and so do other jobs at work.
    Samples in ``leave`` stay in their shards: who makes them merges them.
    """
    store = DataStore(folder, tolerant=True)
    superfluous = [path for path in store.superfluous if store.stands_elsewhere(path)]
    for path in (*superfluous, *matching(folder / "shards", "*.part")):
        path.unlink(missing_ok=True)
    remove_abandoned(folder, folder / "claims", folder / "shards")
    for paths in _small(store, samples_per_shard, leave):
        _merge(store, paths)
    DataStore(folder, tolerant=True).write_index()


def _merge(store: DataStore, paths: Sequence[Path]) -> None:
    """Put the samples of some shards into one; nothing when a shard is damaged or has gone in the meantime."""
    schema = store.card.schema
    try:
        records = {record.index: record for path in paths for record in whole_samples(path, schema)}
    except OSError:
        if all(map(os.path.lexists, paths)):
            raise
        return
    if any(entry.index not in records for path in paths for entry in store.headers[path].entries):
        return
    merged = write_shard(store.folder, list(records.values()))
    for path in paths:
        if path != merged:
            path.unlink(missing_ok=True)


def _small(store: DataStore, samples_per_shard: int, leave: Sequence[range]) -> list[list[Path]]:
    """Return groups of at least two shards that fit into one."""
    groups: list[list[Path]] = []
    room = 0
    for path in sorted(set(store.headers) - set(store.superfluous)):
        entries = store.headers[path].entries
        size = len(entries)
        if size >= samples_per_shard or any(entry.index in block for entry in entries for block in leave):
            continue
        if size > room:
            groups.append([])
            room = samples_per_shard
        groups[-1].append(path)
        room -= size
    return [group for group in groups if len(group) > 1]
