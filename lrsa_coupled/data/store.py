"""A data set opened for reading; the format is specified in ``data/format.py``."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from operator import methodcaller
from pathlib import Path
from typing import final

import msgspec

from lrsa_coupled.data import shard
from lrsa_coupled.data.card import read_card
from lrsa_coupled.data.format import SampleArrays, SampleRecord, digest, record_digest
from lrsa_coupled.data.shard import Entry, Header, ShardReader
from lrsa_coupled.files import matching, write_text_atomically
from lrsa_coupled.reading import Damaged, open_regular, read_json

INDEX = "index.json"

REMEDY = "run generate again: it makes just those"

MOST_INDEX = 1 << 28
"""Bytes of the index that are read; a longer one is of no use."""

MOST_TIMES = 1000
"""Samples whose times are read to know the cost of a data set; more take long before a training."""


@dataclass(frozen=True)
class Damage:
    """A shard that is not as it was written; ``lost`` is None when it is not known which samples it had."""

    path: Path
    lost: tuple[int, ...] | None
    kept: tuple[int, ...]

    def __str__(self) -> str:
        known = f"sample {', '.join(map(str, self.lost))}" if self.lost else "no sample"
        lost = "samples of unknown number" if self.lost is None else known
        return f"shard {self.path} is damaged: {lost} lost, {len(self.kept)} still readable"


@final
class DataStore:
    """A data set opened for reading, while others write into it too. Collective: no. Memory: some 200 bytes a sample.

    Attributes:
        headers: Headers of the shards by path.
        entries: Header entry of each sample present, by index, in ascending order.
        damaged: Shards whose header is damaged.
        superfluous: Shards all of whose samples stand in larger ones too, left by a killed run.

    Args:
        folder: The data set.
        tolerant: Go on when headers are damaged, and read those of all shards, not ``index.json``.

    Raises:
        Damaged: If the folder is not a data set; if a header is damaged, unless ``tolerant``.
        OSError: If a file cannot be read, here and in all methods.
    """

    def __init__(self, folder: Path, *, tolerant: bool = False) -> None:
        self.folder = folder
        self.card = read_card(folder)
        self.damaged: list[Path] = []
        self.headers = self._read_headers({} if tolerant else _read_index(folder), tolerant=tolerant)
        self._shard: dict[int, Path] = {}
        self.entries: dict[int, Entry] = {}
        self._find()
        self.superfluous = sorted(set(self.headers) - set(self._shard.values()))
        self._whole: set[Path] = set()
        self._checked: set[int] = set()
        self._file: tuple[Path, int, ShardReader] | None = None

    @property
    def solved(self) -> list[int]:
        """Indices of the samples with arrays, ascending."""
        return [entry.index for entry in self.entries.values() if entry.solved]

    def failures(self) -> dict[str, list[int]]:
        """Return the samples that failed for each reason."""
        found: dict[str, list[int]] = {}
        for entry in self.entries.values():
            if not entry.solved:
                found.setdefault(self.read(entry.index).reason, []).append(entry.index)
        return found

    def read(self, index: int) -> SampleRecord:
        """Read one sample and check its digest. The first read of a shard checks all its bytes.

        Raises:
            KeyError: If the data set has no such sample.
            Damaged: If the shard is; the samples lost are named.
        """
        record = self._read(index, methodcaller("sample", index))
        if Entry.of(record) != self.entries[index]:
            raise Damaged(f"shard {self._shard[index]}, sample {index}: the header has other sizes; {REMEDY}")
        self._checked.add(index)
        return record

    def arrays(self, index: int) -> SampleArrays:
        """Read the arrays of one solved sample; from the second time on without its digest. As ``read``.

        ValueError when it was not solved.
        """
        known = index in self._checked
        arrays = self._read(index, methodcaller("arrays", index)) if known else self.read(index).arrays
        if arrays is None:
            raise ValueError(f"sample {index} of {self.folder} was not solved: it has no arrays")
        return arrays

    def seconds(self) -> float:
        """Return the cost of all samples, failed ones too: the sum of wall time x ranks of the last ``generate`` [s].

        Only attributes are read, the bytes of the shards are not checked. Of more than ``MOST_TIMES`` samples evenly
        spaced ones stand for all. ValueError when a shard cannot be read.
        """
        by_shard = sorted(self.entries, key=lambda index: (self._shard[index], index))  # each file is opened once
        some = by_shard[:: max(1, math.ceil(len(by_shard) / MOST_TIMES))]
        total = math.fsum(self._read(index, methodcaller("seconds", index), check=False) for index in some)
        return max(1, generate_setting(self.folder, "ranks_per_sample", 1)) * total * len(by_shard) / max(1, len(some))

    def verify(self, part: int = 0, num_parts: int = 1) -> list[Damage]:
        """Read all of one of ``num_parts`` equal parts, every byte and every sample; return the shards with damage."""
        paths = sorted([*self.headers, *self.damaged])[part::num_parts]
        return [damage for path in paths if (damage := self._examine(path)) is not None]

    def stands_elsewhere(self, path: Path) -> bool:
        """Return whether a superfluous shard is whole, and each of its samples stands in another one that is."""
        others = {self._shard[entry.index] for entry in self.headers[path].entries}
        return path not in others and all(shard.is_whole(each, self.headers[each]) for each in (path, *others))

    def content_hash(self) -> str:
        """Return the hash of the samples: the same for any ranks, order of writing, timings and version of the card."""
        return digest(record_digest(self.read(index), timing=False).encode() for index in self.entries)

    def write_index(self) -> None:
        """Write ``index.json``. Call on one rank."""
        text = msgspec.json.encode({path.name: header for path, header in self.headers.items()})
        write_text_atomically(self.folder / INDEX, f"{digest([text])}\n{text.decode()}\n")

    def _read[T](self, index: int, read: Callable[[ShardReader], T], *, check: bool = True) -> T:
        path = self._shard[index]
        if (self._file is None or self._file[0] != path) and not os.path.lexists(path):  # another job has merged it
            self.headers = self._read_headers(_read_index(self.folder), tolerant=True)
            self._find()
        path = self._shard[index]
        if check and path not in self._whole:
            self._check(path)
            self._whole.add(path)
        try:
            return read(self._open(path))
        except Damaged as error:
            raise Damaged(f"{error}; {REMEDY}") from error

    def _open(self, path: Path) -> ShardReader:
        """Open a shard, or return it when it was the last one; a forked process opens its own."""
        if self._file is None or self._file[:2] != (path, os.getpid()):
            self._file = (path, os.getpid(), ShardReader(path, self.card.schema))
        return self._file[2]

    def _check(self, path: Path) -> None:
        """Raise ``Damaged`` when a byte of a shard has changed, or the index has another header of it."""
        try:
            header = shard.checked_header(path)
        except Damaged:
            raise Damaged(f"{self._damage(path)}; {REMEDY}") from None
        if header != self.headers.get(path):
            raise Damaged(f"{self.folder / INDEX} does not fit the header of {path}: remove it, it is made again")

    def _examine(self, path: Path) -> Damage | None:
        """Return what is damaged of a shard, None when it is whole or another job has merged it meanwhile."""
        header = self.headers.get(path)
        try:
            found = {Entry.of(record) for record in shard.whole_samples(path, self.card.schema)}
            whole = header is not None and shard.is_whole(path, header) and found == set(header.entries)
            return None if whole else self._damage(path)
        except OSError:
            if os.path.lexists(path):
                raise
            return None

    def _find(self) -> None:
        """Note the shard of each sample: of several the one with most samples, then the last by name."""
        found = dict(self.entries)
        for path, header in sorted(self.headers.items(), key=lambda item: (len(item[1].entries), item[0])):
            for entry in header.entries:
                self._shard[entry.index], found[entry.index] = path, entry
        self.entries = dict(sorted(found.items()))

    def _read_headers(self, known: dict[str, Header], *, tolerant: bool) -> dict[Path, Header]:
        gone = True
        while gone:  # a shard that another job has merged meanwhile: look for the larger one
            headers, gone = {}, False
            self.damaged.clear()
            for path in matching(self.folder / "shards", "*.h5"):
                try:
                    headers[path] = known[path.name] = known.get(path.name) or shard.read_header(path)
                except FileNotFoundError:
                    gone = True
                except Damaged:
                    if not tolerant:
                        raise
                    self.damaged.append(path)
        return headers

    def _damage(self, path: Path) -> Damage:
        kept = {record.index for record in shard.whole_samples(path, self.card.schema)}
        header = self.headers.get(path)
        lost = None if header is None else tuple(e.index for e in header.entries if e.index not in kept)
        return Damage(path, lost, tuple(sorted(kept)))


def generate_setting(folder: Path, name: str, default: int) -> int:
    """Return a setting of the last ``generate``, ``default`` when its configuration is lost."""
    try:
        found = read_json(folder / "config.json")["generate"][name]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return default
    return found if isinstance(found, int) and 0 <= found < 1 << 31 else default


def _read_index(folder: Path) -> dict[str, Header]:
    """Read the headers that the index knows; none when it is of no use: the shards have all."""
    try:
        with open_regular(folder / INDEX) as stream:
            first, text = stream.read(MOST_INDEX).split(b"\n", 1)
        whole = digest([text.rstrip(b"\n")]).encode() == first
        return msgspec.json.decode(text, type=dict[str, Header]) if whole else {}
    except (OSError, ValueError, RecursionError):
        return {}
