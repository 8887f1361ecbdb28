"""HDF5 files as strangers may write them: nothing outside of a file is read, and nothing larger than it is allocated.

HDF5 knows links to other files, data sets whose bytes stand in other files, and those of which a file holds a part;
digests that fit say nothing about them. All reading of HDF5 goes through this module.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
import numpy.typing as npt

from lrsa_coupled.reading import Damaged, open_regular

MOST_ATTRIBUTE = 1 << 20
"""Bytes of an attribute; a text of any length is a reference of a few."""

HEAP = b"GCOL\1\0\0\0"
ERRORS = (KeyError, TypeError, ValueError, RuntimeError, AttributeError, IndexError, OverflowError, MemoryError)
"""What h5py raises for a file that is none of HDF5, or that holds something else; an OSError without number, too."""


@contextmanager
def structure(where: str) -> Iterator[None]:
    """Raise ``Damaged``, beginning with ``where``, for errors of structure; OSError where the system has failed."""
    try:
        yield
    except Damaged:
        raise
    except OSError as error:
        if error.errno is not None:
            raise OSError(error.errno, os.strerror(error.errno), where) from error
        raise Damaged(f"{where}: {_one_line(error)}") from error
    except ERRORS as error:
        raise Damaged(f"{where}: {_one_line(error)}") from error


def open_file(path: Path) -> h5py.File:
    """Open a file for reading, without a lock; what it holds is read by the functions below."""
    with open_regular(path) as stream, structure(str(path)):
        _check_heaps(stream)
        return h5py.File(path, "r", locking=False)


_known: set[tuple[int, ...]] = set()
"""Files whose heaps are in order: samples of a shard are read again and again, its bytes once."""


def _check_heaps(stream: BinaryIO) -> None:
    """Raise ValueError for a heap of texts in which an object takes no room: HDF5 would read it for ever.

    Source: HDF5 file format specification 3.0, III.E, global heap.
    """
    found = os.fstat(stream.fileno())
    name = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
    if name in _known:
        return
    with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as raw:
        place = raw.find(HEAP)
        while place >= 0:
            end, at = place + int.from_bytes(raw[place + 8 : place + 16], "little"), place + 16
            while at + 16 <= end:
                index, size = (
                    int.from_bytes(raw[at : at + 2], "little"),
                    int.from_bytes(raw[at + 8 : at + 16], "little"),
                )
                step = 16 + 8 * -(-size // 8) if index else size
                if step < 16 or at + step > min(end, len(raw)):
                    raise ValueError("expected a heap of objects one after the other")
                at += step
            place = raw.find(HEAP, place + 8)
    _known.add(name)


def child(group: h5py.Group, path: str) -> h5py.Group | h5py.Dataset:
    """Return what stands at a path of names in a group itself; ValueError for a link that leads elsewhere."""
    for name in path.split("/"):
        if not isinstance(group, h5py.Group):
            raise TypeError(f"'{path}': expected a group before '{name}'")
        if group.id.links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
            raise ValueError(f"'{path}' is a link")
        group = group[name]
    return group


def names(group: h5py.Group, path: str) -> list[str]:
    """Return the names in a group."""
    found = child(group, path)
    if not isinstance(found, h5py.Group):
        raise TypeError(f"'{path}': expected a group")
    return list(found)


def read_array(group: h5py.Group, path: str, kind: type) -> npt.NDArray[Any]:
    """Read an array of numbers of a type, in one piece in the file.

    Raises:
        TypeError: If there is something else.
        ValueError: If its bytes stand elsewhere, or the file is too short for it.
    """
    data = child(group, path)
    if not isinstance(data, h5py.Dataset) or data.dtype != kind or not data.shape:
        raise TypeError(f"'{path}': expected an array of {np.dtype(kind).name}")
    made = data.id.get_create_plist()
    in_one_piece = made.get_layout() == h5py.h5d.CONTIGUOUS and made.get_external_count() == 0
    if not (in_one_piece or made.get_layout() == h5py.h5d.COMPACT) or made.get_nfilters():
        raise ValueError(f"'{path}': expected an array in one piece in the file, without filters")
    held = min(data.id.get_storage_size(), _size(data))
    if data.nbytes > held:
        raise ValueError(f"'{path}': expected {data.nbytes} bytes, the file holds {held}")
    return data[()]


def read_attribute(group: h5py.Group, name: str, kind: type) -> Any:
    """Read an attribute, one text or number; TypeError when it is something else."""
    attribute = group.attrs.get_id(name)
    if attribute.shape != () or attribute.get_storage_size() > MOST_ATTRIBUTE:
        raise TypeError(f"attribute '{name}': expected one value")
    value = group.attrs[name]
    if kind is str:
        if not isinstance(value, str):
            raise TypeError(f"attribute '{name}': expected a text, got {type(value).__name__}")
        value.encode()  # an error for bytes that are no UTF-8
    return kind(value)


def _size(data: h5py.Dataset) -> int:
    """Return the bytes of the open file, which may have been removed."""
    return os.fstat(h5py.h5i.get_file_id(data.id).get_vfd_handle()).st_size


def _one_line(error: Exception) -> str:
    return " ".join((str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)).split())
