"""Several data sets of one family of problems as one."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lrsa_coupled.data.card import DataCard, Part, create
from lrsa_coupled.data.format import SampleRecord, record_digest
from lrsa_coupled.data.shard import write_shard
from lrsa_coupled.data.store import DataStore, generate_setting
from lrsa_coupled.files import temporary_folder, write_text_atomically
from lrsa_coupled.reading import read_json

SAMPLES_PER_SHARD, MOST_BYTES = 64, 1 << 28
"""A shard is full at so many samples or bytes."""


@dataclass(frozen=True)
class MergeSummary:
    """Samples that each of the data sets gave, how many of all got another index and how many were there already."""

    given: tuple[int, ...]
    renumbered: int
    repeated: int


def merge(folders: Sequence[Path], out: Path) -> MergeSummary:
    """Copy the samples of data sets, failed ones too, into a new one, which appears whole or not at all.

    Samples keep their indices as far as no other has them; the others follow after the last of all. A sample that
    several hold counts once: the same contents under the same index, or data sets of ``generate`` with the same card,
    where the index determines the sample; one that is solved is preferred. Where the cards differ, that of the result
    has seed and resolution of the first and lists all in ``merged``; its wall times are those of all ranks.

    Collective: no. Memory: a shard.

    Raises:
        ValueError: If there are fewer than two data sets, their schemas differ, a sample is damaged, or ``out`` is one
            of them or not empty.
        OSError: If ``out`` cannot be written.
    """
    stores = [DataStore(folder) for folder in folders]
    _check(stores, out)
    plan = _Plan(stores)
    with temporary_folder(out) as new:
        create(new, merged_card([store.card for store in stores], [len(store.entries) for store in stores]))
        _write(new, plan.records())
        DataStore(new).write_index()
        if (config := folders[0] / "config.json").exists():  # settings of training; what was generated is not one run
            content = {name: value for name, value in read_json(config).items() if name != "generate"}
            write_text_atomically(new / "config.json", json.dumps(content, indent=1) + "\n")
        os.rename(new, out)
    return plan.summary()


def merged_card(cards: Sequence[DataCard], counts: Sequence[int]) -> DataCard:
    """Return the card of data sets with so many samples: their own if it is the same for all."""
    first = cards[0]
    symmetries = tuple(item for item in first.schema.symmetries if all(item in c.schema.symmetries for c in cards))
    card = dataclasses.replace(first, schema=dataclasses.replace(first.schema, symmetries=symmetries))
    if all(first.difference(other, {}) is None for other in cards):
        return card
    parts = [
        part
        for one, count in zip(cards, counts, strict=True)
        for part in one.merged or [Part(seed=one.seed, resolution=one.resolution, settings=one.settings, samples=count)]
    ]
    settings = {k: v for k, v in first.settings.items() if all(other.settings.get(k) == v for other in cards)}
    parameters = {name: unit for one in reversed(cards) for name, unit in one.parameters.items()}
    return dataclasses.replace(card, settings=settings, parameters=parameters, merged=parts, source=None)


class _Plan:
    """Which sample of which data set gets which index; only samples under an index of several are read for it."""

    def __init__(self, stores: Sequence[DataStore]) -> None:
        self._stores = stores
        self._source: dict[int, tuple[int, int]] = {}  # number of the data set and index there, by the new index
        self.renumbered = self.repeated = 0
        held: dict[int, list[int]] = {}  # the new indices of the different samples that have an index somewhere
        after = 1 + max((max(store.entries, default=-1) for store in stores), default=-1)
        for number, store in enumerate(stores):
            for index, entry in store.entries.items():
                same = next((new for new in held.get(index, ()) if self._same(new, number, index)), None)
                if same is not None:
                    self.repeated += 1
                    before, there = self._source[same]
                    if entry.solved > stores[before].entries[there].solved:
                        self._source[same] = number, index
                    continue
                new = index
                if index in held:
                    new, after, self.renumbered = after, after + 1, self.renumbered + 1
                self._source[new] = number, index
                held.setdefault(index, []).append(new)

    def records(self) -> Iterator[SampleRecord]:
        """Yield the samples by their new indices, checked; wall times are those of all ranks of a sample."""
        ranks = [max(1, generate_setting(store.folder, "ranks_per_sample", 1)) for store in self._stores]
        for index, (number, own) in sorted(self._source.items()):
            record = self._stores[number].read(own)
            yield dataclasses.replace(record, index=index, seconds=record.seconds * ranks[number])

    def summary(self) -> MergeSummary:
        """Return what came of it."""
        return MergeSummary(tuple(len(store.entries) for store in self._stores), self.renumbered, self.repeated)

    def _same(self, new: int, number: int, index: int) -> bool:
        """Return whether the sample of a new index is that of a data set under an index, which both have there."""
        one, two = self._stores[self._source[new][0]], self._stores[number]
        if one.card.resolution > 0 and not one.card.merged and one.card.difference(two.card, {}) is None:
            return True  # made by generate: the index says which
        return len({record_digest(store.read(index), timing=False) for store in (one, two)}) == 1


def _check(stores: Sequence[DataStore], out: Path) -> None:
    if len(stores) < 2:
        raise ValueError(f"merge needs at least two data sets, got {len(stores)}")
    places = [store.folder.resolve() for store in stores]
    for place, store in zip(places, stores, strict=True):
        if place == out.resolve():
            raise ValueError(f"--out {out} is one of the data sets to merge; choose another folder")
        if places.count(place) > 1:
            raise ValueError(f"{store.folder} is given twice")
        if (difference := stores[0].card.schema.difference(store.card.schema)) is not None:
            raise ValueError(f"{stores[0].folder} and {store.folder} do not fit each other: {difference}")
    if len({store.card.is_unsolved for store in stores}) > 1:
        raise ValueError("some of the data sets hold samples without solutions, others solved ones: they do not mix")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out {out} exists and is not an empty folder; choose another one")


def _write(folder: Path, records: Iterator[SampleRecord]) -> None:
    batch: list[SampleRecord] = []
    size = 0
    for record in records:
        batch.append(record)
        size += 0 if record.arrays is None else sum(values.nbytes for values in vars(record.arrays).values())
        if len(batch) == SAMPLES_PER_SHARD or size > MOST_BYTES:
            write_shard(folder, batch)
            batch, size = [], 0
    if batch:
        write_shard(folder, batch)
