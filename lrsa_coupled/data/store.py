"""A data set opened for reading; the format is specified in ``data/format.py``."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import final

import h5py
import msgspec

from lrsa_coupled.data import shard
from lrsa_coupled.data.card import read_card
from lrsa_coupled.data.format import SampleArrays, SampleRecord, digest, record_digest
from lrsa_coupled.data.shard import Entry, Geometries, Header
from lrsa_coupled.files import read_json, write_text_atomically

INDEX = "index.json"

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
    """A data set opened for reading, while others write into it too. Collective: no. Memory: some 100 bytes a sample.

    Attributes:
        headers: Headers of the shards by path.
        entries: Header entry of each sample present, by index, in ascending order.
        damaged: Shards whose header is damaged.
        superfluous: Shards all of whose samples stand in larger ones too, left by a killed run.

    Raises:
        ValueError: If the folder is not a data set; if a header is damaged, unless ``tolerant``.
    """

    def __init__(self, folder: Path, *, tolerant: bool = False) -> None:
        self.folder = folder
        self.card = read_card(folder)
        self.damaged: list[Path] = []
        self.headers = self._read_headers(tolerant)
        self._shard: dict[int, Path] = {}
        self.entries: dict[int, Entry] = {}
        self._find()
        self.superfluous = sorted(set(self.headers) - set(self._shard.values()))
        self._whole: set[Path] = set()
        self._file: tuple[Path, int, h5py.File, Geometries] | None = None

    @property
    def solved(self) -> list[int]:
        """Indices of the samples with arrays, ascending."""
        return [entry.index for entry in self.entries.values() if entry.solved]

    def failures(self) -> dict[str, int]:
        """Return how many samples failed for each reason."""
        return Counter(self.read(entry.index).reason for entry in self.entries.values() if not entry.solved)

    def read(self, index: int) -> SampleRecord:
        """Read one sample. The first read of a shard checks all its bytes.

        Raises:
            KeyError: If the data set has no such sample.
            ValueError: If the shard is damaged; the samples lost are named.
        """
        return self._read(index, shard.read_sample)

    def arrays(self, index: int) -> SampleArrays:
        """Read the arrays of one solved sample; as ``read``, in less time. ValueError when it was not solved."""
        arrays = self._read(index, shard.read_arrays)
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
        total = math.fsum(self._read(index, shard.read_seconds, check=False) for index in some)
        return max(1, generate_setting(self.folder, "ranks_per_sample", 1)) * total * len(by_shard) / max(1, len(some))

    def verify(self, part: int = 0, num_parts: int = 1) -> list[Damage]:
        """Read every byte of one of ``num_parts`` equal parts and return the shards that have changed."""
        paths, headers = sorted([*self.headers, *self.damaged])[part::num_parts], self.headers
        changed = [path for path in paths if path not in headers or not shard.is_whole(path, headers[path])]
        return [self._damage(path) for path in changed if path.exists()]  # another job has merged the others

    def stands_elsewhere(self, path: Path) -> bool:
        """Return whether each sample of a superfluous shard stands in another one that is whole."""
        others = {self._shard[entry.index] for entry in self.headers[path].entries}
        return path not in others and all(shard.is_whole(other, self.headers[other]) for other in others)

    def content_hash(self) -> str:
        """Return the hash of the samples: the same for any ranks, order of writing, timings and version of the card."""
        return digest(record_digest(self.read(index), timing=False).encode() for index in self.entries)

    def write_index(self) -> None:
        """Write ``index.json``. Call on one rank."""
        text = msgspec.json.encode({path.name: header for path, header in self.headers.items()})
        write_text_atomically(self.folder / INDEX, f"{digest([text])}\n{text.decode()}\n")

    def _read[T](self, index: int, read: Callable[[h5py.File, int, Geometries], T], *, check: bool = True) -> T:
        path = self._shard[index]
        if (self._file is None or self._file[0] != path) and not path.exists():  # another job has merged it
            self.headers = self._read_headers(tolerant=True)
            self._find()
        path = self._shard[index]
        try:
            if check and path not in self._whole:
                if not shard.is_whole(path, self.headers[path]):
                    raise ValueError(f"{self._damage(path)}; run generate again: it makes just those")
                self._whole.add(path)
            file, geometries = self._open(path)
            return read(file, index, geometries)
        except (OSError, KeyError, TypeError, RuntimeError) as error:
            raise ValueError(f"sample {index} cannot be read from {path} ({error}); run generate again") from error

    def _open(self, path: Path) -> tuple[h5py.File, Geometries]:
        """Open a shard, or return it when it was the last one; a forked process opens its own."""
        if self._file is None or self._file[:2] != (path, os.getpid()):
            self._file = (path, os.getpid(), h5py.File(path, "r", locking=False), {})
        return self._file[2:]

    def _find(self) -> None:
        """Note the shard of each sample: of several the one with most samples, then the last by name."""
        found = dict(self.entries)
        for path, header in sorted(self.headers.items(), key=lambda item: (len(item[1].entries), item[0])):
            for entry in header.entries:
                self._shard[entry.index], found[entry.index] = path, entry
        self.entries = dict(sorted(found.items()))

    def _read_headers(self, tolerant: bool) -> dict[Path, Header]:
        known, gone = _read_index(self.folder), True
        while gone:  # a shard that another job has merged meanwhile: look for the larger one
            headers, gone = {}, False
            self.damaged.clear()
            for path in sorted((self.folder / "shards").glob("*.h5")):
                try:
                    headers[path] = known[path.name] = known.get(path.name) or shard.read_header(path)
                except FileNotFoundError:
                    gone = True
                except (ValueError, OSError):
                    if not tolerant:
                        raise
                    self.damaged.append(path)
        return headers

    def _damage(self, path: Path) -> Damage:
        kept, header = shard.readable(path), self.headers.get(path)
        lost = None if header is None else tuple(e.index for e in header.entries if e.index not in kept)
        return Damage(path, lost, tuple(sorted(kept)))


def generate_setting(folder: Path, name: str, default: int) -> int:
    """Return a setting of the last ``generate``, ``default`` when its configuration is lost."""
    try:
        return int(read_json(folder / "config.json")["generate"][name])
    except (OSError, ValueError, KeyError, TypeError):
        return default


def _read_index(folder: Path) -> dict[str, Header]:
    """Read the headers that the index knows; none when it is missing or damaged."""
    try:
        first, text = (folder / INDEX).read_text(encoding="utf-8").split("\n", 1)
    except (OSError, ValueError):
        return {}
    whole = digest([text.rstrip("\n").encode()]) == first
    return msgspec.json.decode(text, type=dict[str, Header]) if whole else {}
