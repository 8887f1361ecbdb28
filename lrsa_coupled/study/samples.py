"""The data set of a study: each solve a sample, written when that costs little of the time of the solves."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import final

from lrsa_coupled.data.card import DataCard, create
from lrsa_coupled.data.claims import Indices
from lrsa_coupled.data.format import SampleRecord
from lrsa_coupled.data.store import DataStore
from lrsa_coupled.data.writer import ShardWriter, tidy

SAMPLES_PER_SHARD = 16


class Samples(ABC):
    """The samples of a study, on rank 0. Collective: no.

    Attributes:
        earlier: Solved samples that the data set had at the beginning.
        present: All samples that it had then.
        count: Solved samples since.
    """

    def __init__(self, folder: Path) -> None:
        store = DataStore(folder, tolerant=True)
        self.earlier, self.present, self.count = store.solved, frozenset(store.entries), 0

    def __len__(self) -> int:
        return len(self.earlier) + self.count

    @abstractmethod
    def take_index(self) -> int:
        """Return the index of the next sample, -1 where others give it. OSError when the folder cannot be written."""

    @abstractmethod
    def add(self, record: SampleRecord) -> None:
        """Add a sample. OSError when it is to be written and cannot be."""

    def note_solved(self) -> None:
        """Count a solved sample that somebody else writes."""

    def flush(self) -> None:
        """Write what waits. OSError when it cannot be written."""

    def close(self) -> None:
        """Write what waits and put the data set in order. OSError when it cannot be written."""


@final
class WrittenElsewhere(Samples):
    """Samples that somebody else writes, each at once.

    Args:
        folder: The data set.
        groups: Groups that make samples; each is taken to be as fast as this one.
    """

    def __init__(self, folder: Path, groups: int) -> None:
        super().__init__(folder)
        self.groups = groups

    def take_index(self) -> int:
        return -1

    def add(self, record: SampleRecord) -> None:
        pass

    def note_solved(self) -> None:
        self.count += self.groups


@final
class SampleLog(Samples):
    """Writes the samples of a study, on rank 0. Collective: no.

    A sample waits in memory while writing would take more than a share of the time of the solves since the last write;
    so a kill loses the samples of a short time only, or none where solves are long.

    Args:
        folder: The data set, which is made if it does not exist.
        card: What its samples are.
        share: Of the time of the solves that writing may take.

    Raises:
        ValueError: If the folder holds another data set.
        OSError: If it cannot be written.
    """

    def __init__(self, folder: Path, card: DataCard, share: float) -> None:
        self.folder, self.share = folder, share
        create(folder, card)
        super().__init__(folder)
        self._first = 1 + max(self.present, default=-1)
        self._indices: Indices | None = None
        self._writer = ShardWriter(folder, SAMPLES_PER_SHARD)
        self._waiting: list[SampleRecord] = []
        self._solving, self._cost = 0.0, 0.0

    def take_index(self) -> int:
        if self._indices is None:
            self._indices = Indices(self.folder, self._first)
        return self._indices.take()

    def add(self, record: SampleRecord) -> None:
        self._waiting.append(record)
        self.count += record.arrays is not None
        self._solving += record.seconds
        if self._cost <= self.share * self._solving or len(self._waiting) >= SAMPLES_PER_SHARD:
            self.flush()

    def flush(self) -> None:
        if not self._waiting:
            return
        started = time.perf_counter()
        self._writer.add(*self._waiting)
        self._waiting = []
        self._solving, self._cost = 0.0, time.perf_counter() - started

    def close(self) -> None:
        self.flush()
        self._writer.close()
        if self._indices is not None:
            self._indices.close()
        leave = [] if self._indices is None else self._indices.of_others()
        tidy(self.folder, SAMPLES_PER_SHARD, leave=leave)
