"""The data set of a study: each solve a sample, written when that costs little of the time of the solves."""

from __future__ import annotations

import time
from pathlib import Path
from typing import final

from lrsa_coupled.data.card import DataCard, create
from lrsa_coupled.data.claims import Indices
from lrsa_coupled.data.format import SampleRecord
from lrsa_coupled.data.store import DataStore
from lrsa_coupled.data.writer import ShardWriter, tidy

SAMPLES_PER_SHARD = 16


@final
class SampleLog:
    """Writes the samples of a study, on rank 0. Collective: no.

    A sample waits in memory while writing would take more than a share of the time of the solves since the last write;
    so a kill loses the samples of a short time only, or none where solves are long.

    Args:
        folder: The data set, which is made if it does not exist.
        card: What its samples are.
        share: Of the time of the solves that writing may take.

    Attributes:
        earlier: Solved samples that the data set had at the beginning.
        present: All samples that it had then.

    Raises:
        ValueError: If the folder holds another data set.
        OSError: If it cannot be written.
    """

    def __init__(self, folder: Path, card: DataCard, share: float) -> None:
        self.folder, self.share = folder, share
        create(folder, card)
        store = DataStore(folder, tolerant=True)
        self.earlier = store.solved
        self.present = frozenset(store.entries)
        self.count = 0
        self._first = 1 + max(store.entries, default=-1)
        self._indices: Indices | None = None
        self._writer = ShardWriter(folder, SAMPLES_PER_SHARD)
        self._waiting: list[SampleRecord] = []
        self._solving, self._cost = 0.0, 0.0

    def __len__(self) -> int:
        return len(self.earlier) + self.count

    def take_index(self) -> int:
        """Return the index of the next sample. OSError when the folder cannot be written."""
        if self._indices is None:
            self._indices = Indices(self.folder, self._first)
        return self._indices.take()

    def add(self, record: SampleRecord) -> None:
        """Add a sample. OSError when it is to be written and cannot be; what waits is kept."""
        self._waiting.append(record)
        self.count += record.arrays is not None
        self._solving += record.seconds
        if self._cost <= self.share * self._solving or len(self._waiting) >= SAMPLES_PER_SHARD:
            self.flush()

    def flush(self) -> None:
        """Write what waits. OSError when it cannot be written."""
        if not self._waiting:
            return
        started = time.perf_counter()
        self._writer.add(*self._waiting)
        self._waiting = []
        self._solving, self._cost = 0.0, time.perf_counter() - started

    def close(self) -> None:
        """Write what waits and put the data set in order. OSError when it cannot be written."""
        self.flush()
        self._writer.close()
        if self._indices is not None:
            self._indices.close()
        leave = [] if self._indices is None else self._indices.of_others()
        tidy(self.folder, SAMPLES_PER_SHARD, leave=leave)
