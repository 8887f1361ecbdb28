"""One shard of a data set, written whole and never changed; see ``data/format.py``."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import msgspec
import numpy as np
import numpy.typing as npt

from lrsa_coupled.data.format import (
    ARRAYS,
    ATTRIBUTES,
    GEOMETRY,
    VALUES,
    SampleArrays,
    SampleRecord,
    array_digest,
    digest,
    record_digest,
)
from lrsa_coupled.files import write_atomically

SIGNATURE = b"\x89HDF\r\n\x1a\n"
SMALLEST = 512
"""Bytes of the shortest user block of an HDF5 file."""


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """A sample in the header; ``solved`` is 0 or 1."""

    index: int
    solved: int
    num_nodes: int
    num_cells: int

    @classmethod
    def of(cls, record: SampleRecord) -> Entry:
        """Return the entry of a sample."""
        arrays = record.arrays
        sizes = (0, 0, 0) if arrays is None else (1, len(arrays.points), len(arrays.cells))
        return cls(record.index, *sizes)


class Header(msgspec.Struct, frozen=True, array_like=True):
    """Header of a shard: digest of the bytes after its first ``size``, and its samples."""

    digest: str
    size: int
    entries: tuple[Entry, ...]


def write_shard(folder: Path, records: Sequence[SampleRecord]) -> Path:
    """Write samples as a new shard of the data set ``folder``, by atomic rename, and return its path.

    Collective: no; any number of processes may write, each its own samples. OSError when the folder cannot be written.
    Memory: a copy.
    """
    records = sorted(records, key=lambda record: record.index)
    entries = [Entry.of(record) for record in records]
    size = SMALLEST
    while size < len(_header_bytes("0" * 32, entries, 0)):
        size *= 2
    stem = f"{records[0].index:08d}-{len(records)}"
    content = io.BytesIO()  # a disk that fills up while HDF5 writes would end the process
    with h5py.File(content, "w", userblock_size=size) as file:
        for record in records:
            _write(file, record)
    body = digest([content.getbuffer()[size:]])
    content.seek(0)
    content.write(_header_bytes(body, entries, size))
    path = folder / "shards" / f"{stem}-{body[:8]}.h5"
    write_atomically({path: content.getbuffer()})
    return path


def read_header(path: Path) -> Header:
    """Read the header of a shard; ValueError when it is damaged or the file is no shard."""
    with open(path, "rb") as stream:
        raw = stream.read(SMALLEST)
        while (signature := stream.read(len(SIGNATURE))) != SIGNATURE:
            rest = stream.read(len(raw) - len(signature))
            if len(raw) > 1 << 26 or len(rest) < len(raw) - len(signature):
                raise ValueError(f"shard {path} is damaged: the header has no end")
            raw += signature + rest
    if digest([raw[33:]]).encode() != raw[:32]:
        raise ValueError(f"shard {path} is damaged: the header does not fit its digest")
    values = msgspec.json.decode(raw[33:])
    return msgspec.convert((values["digest"], len(raw), values["samples"]), Header)


def is_whole(path: Path, header: Header) -> bool:
    """Return whether no byte has changed since ``header`` was written."""
    try:
        return read_header(path) == header and _body_digest(path, header.size) == header.digest
    except (OSError, ValueError):
        return False


Geometries = dict[str, dict[str, npt.NDArray[Any]]]
"""Arrays of the geometries of a shard that have been read, by name of their group."""


def read_arrays(file: h5py.File, index: int, geometries: Geometries) -> SampleArrays | None:
    """Read the arrays of one sample of an open shard, None when it was not solved; a geometry is read once and shared.

    KeyError, TypeError, OSError, RuntimeError or ValueError when it is not there or damaged.
    """
    group = file[f"samples/{index:08d}"]
    name = str(group.attrs["geometry"])
    if not name:
        return None
    if name not in geometries:
        geometries[name] = {array: file[f"geometry/{name}/{array}"][()] for array in GEOMETRY}
        for values in geometries[name].values():
            values.flags.writeable = False
    arrays = geometries[name] | {array: group[array][()] for array in VALUES}
    for array, dtype in ARRAYS.items():
        if arrays[array].dtype != dtype:
            raise TypeError(f"'{array}' of sample {index} has type {arrays[array].dtype}")
    return SampleArrays(**arrays)


def read_sample(file: h5py.File, index: int, geometries: Geometries) -> SampleRecord:
    """Read one sample of an open shard and check its digest; errors as ``read_arrays``."""
    attributes = file[f"samples/{index:08d}"].attrs
    values: dict[str, Any] = {name: kind(attributes[name]) for name, kind in ATTRIBUTES.items()}
    record = SampleRecord(index=index, **values, arrays=read_arrays(file, index, geometries))
    if record_digest(record, timing=True) != attributes["digest"]:
        raise ValueError(f"sample {index} does not fit its digest")
    return record


def read_seconds(file: h5py.File, index: int, geometries: Geometries) -> float:
    """Read the wall time of one sample of an open shard and nothing else; errors as ``read_arrays``."""
    return float(file[f"samples/{index:08d}"].attrs["seconds"])


def readable(path: Path) -> dict[int, SampleRecord]:
    """Return the samples of a shard that fit their digests, whatever the state of the file."""
    found: dict[int, SampleRecord] = {}
    try:
        with h5py.File(path, "r", locking=False) as file:
            for name in file["samples"]:
                try:
                    found[int(name)] = read_sample(file, int(name), {})
                except (OSError, KeyError, TypeError, ValueError, RuntimeError, AttributeError):
                    continue
    except (OSError, KeyError, RuntimeError, ValueError):
        pass
    return found


def _write(file: h5py.File, record: SampleRecord) -> None:
    group, arrays = file.create_group(f"samples/{record.index:08d}"), record.arrays
    for name in ATTRIBUTES:
        group.attrs[name] = getattr(record, name)
    group.attrs["digest"] = record_digest(record, timing=True)
    group.attrs["geometry"] = geometry = "" if arrays is None else array_digest(arrays, values=False)
    if arrays is None:
        return
    if f"geometry/{geometry}" not in file:
        _write_arrays(file.create_group(f"geometry/{geometry}"), arrays, GEOMETRY)
    _write_arrays(group, arrays, VALUES)


def _write_arrays(group: h5py.Group, arrays: SampleArrays, types: Mapping[str, Any]) -> None:
    for name, dtype in types.items():
        group.create_dataset(name, data=np.asarray(getattr(arrays, name), dtype=dtype))


def _header_bytes(body: str, entries: Sequence[Entry], size: int) -> bytes:
    rest = (msgspec.json.encode({"digest": body, "samples": entries}) + b"\n").ljust(size - 33)
    return digest([rest]).encode() + b"\n" + rest


def _body_digest(path: Path, start: int) -> str:
    with open(path, "rb") as stream:
        stream.seek(start)
        return digest(iter(lambda: stream.read(1 << 22), b""))
