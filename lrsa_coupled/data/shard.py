"""One shard of a data set, written whole and never changed; see ``data/format.py``."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Any, Literal, final

import h5py
import msgspec
import numpy as np
import numpy.typing as npt

from lrsa_coupled.data import hdf5
from lrsa_coupled.data.format import (
    ATTRIBUTES,
    GEOMETRY,
    VALUES,
    SampleArrays,
    SampleRecord,
    array_digest,
    check_arrays,
    digest,
    record_digest,
)
from lrsa_coupled.files import write_atomically
from lrsa_coupled.reading import Damaged, open_regular, parse_json
from lrsa_coupled.schema import Schema

SIGNATURE = b"\x89HDF\r\n\x1a\n"
SMALLEST, LARGEST_HEADER = 512, 1 << 26
"""Bytes of the shortest user block of an HDF5 file, and of the longest that is read."""

Count = Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """A sample in the header; ``solved`` is 0 or 1."""

    index: Count
    solved: Literal[0, 1]
    num_nodes: Count
    num_cells: Count

    @classmethod
    def of(cls, record: SampleRecord) -> Entry:
        """Return the entry of a sample."""
        arrays = record.arrays
        if arrays is None:
            return cls(record.index, 0, 0, 0)
        return cls(record.index, 1, len(arrays.points), len(arrays.cells))


class _HeaderText(msgspec.Struct):
    digest: str
    samples: tuple[Entry, ...]


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
    content.seek(size)
    body = digest(iter(lambda: content.read(1 << 22), b""))
    content.seek(0)
    content.write(_header_bytes(body, entries, size))
    path = folder / "shards" / f"{stem}-{body[:8]}.h5"
    write_atomically({path: content.getvalue()})
    return path


def read_header(path: Path) -> Header:
    """Read the header of a shard. ``Damaged`` when it is not whole or the file is no shard, OSError as ``is_whole``."""
    with open_regular(path) as stream:
        raw = stream.read(SMALLEST)
        while (signature := stream.read(len(SIGNATURE))) != SIGNATURE:
            rest = stream.read(len(raw) - len(signature))
            if not rest or len(raw) > LARGEST_HEADER:
                raise Damaged(f"shard {path} is damaged: the header has no end")
            raw += signature + rest
    if digest([raw[33:]]).encode() != raw[:32]:
        raise Damaged(f"shard {path} is damaged: the header does not fit its digest")
    try:
        found = msgspec.json.decode(raw[33:], type=_HeaderText)
    except (ValueError, RecursionError) as error:
        raise Damaged(f"shard {path} is damaged: the header is of another kind ({error})") from error
    if len({entry.index for entry in found.samples}) < len(found.samples):
        raise Damaged(f"shard {path} is damaged: the header has a sample twice")
    return Header(found.digest, len(raw), found.samples)


def checked_header(path: Path) -> Header:
    """Read every byte of a shard and return its header; ``Damaged`` when one has changed, OSError as ``is_whole``."""
    header = read_header(path)
    if _body_digest(path, header.size) != header.digest:
        raise Damaged(f"shard {path} is damaged: it does not fit its digest")
    return header


def is_whole(path: Path, header: Header) -> bool:
    """Return whether no byte has changed since ``header`` was written; False, too, when the file has gone.

    OSError when it cannot be read: then nobody knows.
    """
    try:
        return checked_header(path) == header
    except (Damaged, FileNotFoundError):
        return False


@final
class ShardReader:
    """An open shard; a geometry is read once and shared. Its methods raise ``Damaged`` for what is not as specified.

    OSError when the file cannot be read.
    """

    def __init__(self, path: Path, schema: Schema) -> None:
        self._path, self._schema = path, schema
        self._file = hdf5.open_file(path)
        self._geometries: dict[str, dict[str, npt.NDArray[Any]]] = {}

    def indices(self) -> list[int]:
        """Return the indices of the samples that are there, whatever their state."""
        with hdf5.structure(f"shard {self._path}"):
            names = [name for name in hdf5.names(self._file, "samples") if name.isdecimal() and len(name) <= 10]
            return sorted({int(name) for name in names})

    def arrays(self, index: int) -> SampleArrays | None:
        """Read the arrays of one sample, None when it was not solved."""
        with self._reading(index):
            return self._arrays(self._group(index))

    def sample(self, index: int) -> SampleRecord:
        """Read one sample and check its digest."""
        with self._reading(index):
            group = self._group(index)
            values = {name: hdf5.read_attribute(group, name, kind) for name, kind in ATTRIBUTES.items()}
            numbers = hdf5.read_attribute(group, "quantities", str) if "quantities" in group.attrs else "{}"
            record = SampleRecord(index=index, **values, arrays=self._arrays(group), quantities=numbers)
            if record_digest(record, timing=True) != hdf5.read_attribute(group, "digest", str):
                raise ValueError("it does not fit its digest")
            if (record.status == "ok") != (record.arrays is not None):
                raise ValueError(f"status '{record.status}' does not fit its arrays")
            parse_json(record.parameters, where="parameters", infinite=True)
            parse_json(record.quantities, where="quantities")
            return record

    def seconds(self, index: int) -> float:
        """Read the wall time of one sample and nothing else."""
        with self._reading(index):
            seconds = hdf5.read_attribute(self._group(index), "seconds", float)
            if not 0.0 <= seconds < math.inf:
                raise ValueError(f"expected a time, got {seconds} s")
            return seconds

    def _reading(self, index: int) -> AbstractContextManager[None]:
        return hdf5.structure(f"shard {self._path}, sample {index}")

    def _group(self, index: int) -> h5py.Group:
        return hdf5.child(self._file, f"samples/{index:08d}")

    def _arrays(self, group: h5py.Group) -> SampleArrays | None:
        name = hdf5.read_attribute(group, "geometry", str)
        if not name:
            return None
        geometry = self._geometries.get(name) or self._geometry(name)
        arrays = SampleArrays(**geometry, **{array: hdf5.read_array(group, array, VALUES[array]) for array in VALUES})
        if name not in self._geometries and array_digest(arrays, values=False) != name:
            raise ValueError("its geometry does not fit its digest")
        self._geometries[name] = geometry
        check_arrays(arrays, self._schema)
        return arrays

    def _geometry(self, name: str) -> dict[str, npt.NDArray[Any]]:
        group = hdf5.child(self._file, f"geometry/{name}")
        found = {array: hdf5.read_array(group, array, kind) for array, kind in GEOMETRY.items()}
        for values in found.values():
            values.flags.writeable = False
        return found


def whole_samples(path: Path, schema: Schema) -> Iterator[SampleRecord]:
    """Yield the samples of a shard that fit their digests, whatever its state; OSError when it cannot be read."""
    try:
        reader = ShardReader(path, schema)
        indices = reader.indices()
    except Damaged:
        return
    for index in indices:
        try:
            record = reader.sample(index)
        except Damaged:
            continue
        yield record


def _write(file: h5py.File, record: SampleRecord) -> None:
    group, arrays = file.create_group(f"samples/{record.index:08d}"), record.arrays
    for name in ATTRIBUTES:
        group.attrs[name] = getattr(record, name)
    if record.quantities != "{}":
        group.attrs["quantities"] = record.quantities
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
    with open_regular(path) as stream:
        stream.seek(start)
        return digest(iter(lambda: stream.read(1 << 22), b""))
