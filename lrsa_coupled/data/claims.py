"""Which samples are whose, among jobs on any number of machines that write into one data set; without locks.

All rests on one thing that file systems, NFS too, do for one of several processes only: to create a file. A job that is
killed leaves files behind that nobody has to remove.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, final

import msgspec

from lrsa_coupled.files import create_text, matching, may_be_running, process_name, read_created
from lrsa_coupled.reading import converted, read_json

SMALLEST, LARGEST = 16, 1024
"""Samples of the first block of a job, and of the largest; each is twice as large as the one before."""


Index = Annotated[int, msgspec.Meta(ge=-1, lt=1 << 31)]


class Block(msgspec.Struct, frozen=True):
    """Indices ``first`` to ``first + count - 1`` and the job that has taken them; ``closed``: the job has ended."""

    first: Index
    count: Index
    job: str
    closed: bool = False


@final
class Indices:
    """Indices of the samples of one job: no other job gets them, on this machine or another. Collective: no.

    Blocks follow one another in the files ``claims/00000000.json``, ``claims/00000001.json`` and so on. Only one
    process can create the next one, and none is ever removed.

    Args:
        folder: The data set.
        first: The first index that no sample has.
    """

    def __init__(self, folder: Path, first: int) -> None:
        self._folder, self._first = folder / "claims", first
        self._last, self._size = -1, SMALLEST
        self._block = self._new_job()

    def take(self) -> int:
        """Return an index. OSError when the folder cannot be written."""
        if not self._block.count:
            self._block = self._append(self._size)
            self._size = min(2 * self._size, LARGEST)
        taken = self._block.first
        self._block = msgspec.structs.replace(self._block, first=taken + 1, count=self._block.count - 1)
        return taken

    def close(self) -> None:
        """Give back what is left, if no other job has taken a block since; the samples taken are on disk."""
        if self._block.first >= 0:
            self._append(0, closed=True)
        self._block, self._size = self._new_job(), SMALLEST

    def of_others(self) -> list[range]:
        """Return the blocks of other jobs that may be at work."""
        blocks = [_read(path) for path in matching(self._folder, "*.json") if path.stem.isdecimal()]
        ended = {block.job for block in blocks if block.closed} | {self._block.job}
        running = {job: may_be_running(job.partition("~")[2]) for job in {block.job for block in blocks} - ended}
        return [range(block.first, block.first + block.count) for block in blocks if running.get(block.job)]

    def _new_job(self) -> Block:
        return Block(-1, 0, f"{secrets.token_hex(4)}~{process_name()}")

    def _append(self, count: int, *, closed: bool = False) -> Block:
        """Add a block to those of all jobs."""
        numbers = (path.stem for path in matching(self._folder, "*.json"))
        listed = max((int(number) for number in numbers if number.isdecimal()), default=-1)
        self._last = max(self._last, listed)  # a list over the network may be a minute old: a try below is not
        while True:
            first = self._first
            if self._last >= 0:
                before = _read(self._folder / f"{self._last:08d}.json")
                mine = before.job == self._block.job
                first = max(first, self._block.first if mine else before.first + before.count)
            block = Block(first, count, self._block.job, closed)
            self._last += 1
            if create_text(self._folder / f"{self._last:08d}.json", f"{msgspec.json.encode(block).decode()}\n"):
                return block


def jobs_of(folder: Path, indices: Iterable[int]) -> dict[int, str]:
    """Return the job that has made each sample of a data set, of those that are known. Collective: no."""
    paths = [path for path in matching(folder / "claims", "*.json") if path.stem.isdecimal()]
    blocks = [_read(path) for path in sorted(paths, reverse=True)]  # a later one may begin with what was given back
    found = {}
    for index in indices:
        job = next((each.job for each in blocks if each.first <= index < each.first + each.count), None)
        if job is not None:
            found[index] = job
    return found


def _read(path: Path) -> Block:
    read_created(path)
    return converted(read_json(path), Block, where=str(path))


@final
class Shares:
    """Marks of the work that jobs of one ``generate`` have begun: another takes what has no mark, then what is missing.

    A mark is a hint. It may be missing or of a job that was killed: then work is done twice, or done later.

    Args:
        folder: The data set.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "begun"

    def take(self, index: int) -> bool:
        """Return whether no job has begun with this sample, and mark it. Collective: no."""
        try:
            self._folder.mkdir(exist_ok=True)
            os.close(os.open(self._path(index), os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            return False
        except OSError:  # the sample itself says better why
            return True
        return True

    def remove(self, indices: Iterable[int]) -> None:
        """Remove the marks of samples. Call on one rank."""
        marked = {int(path.name) for path in matching(self._folder, "*") if path.name.isdecimal()}
        for index in marked.intersection(indices):
            self._path(index).unlink(missing_ok=True)
        with suppress(OSError):  # there is none, or another job has marks in it
            self._folder.rmdir()

    def _path(self, index: int) -> Path:
        return self._folder / f"{index:08d}"
