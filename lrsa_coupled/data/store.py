"""Crash-safe store of samples in HDF5 shards; the format is specified in ``data/format.py``."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import h5py
import numpy as np

from lrsa_coupled.data.format import ARRAYS, VERSION, SampleArrays, SampleRecord
from lrsa_coupled.files import atomic_path, write_text_atomically

_ATTRIBUTES = ("status", "reason", "parameters", "iterations", "residual", "seconds")


@final
class DataStore:
    """A data set opened for reading.

    Attributes:
        folder: Folder of the data set.
        meta: Contents of ``dataset.json``.
        status: ``"ok"`` or ``"failed"`` of each sample present, by index, in ascending order.

    Raises:
        ValueError: If the folder is not a data set, or a shard is damaged (the file is named).
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.meta: dict[str, Any] = _read_meta(folder)
        self._shard: dict[int, Path] = {}
        status: dict[int, str] = {}
        for path in sorted((folder / "shards").glob("*.h5")):
            for index, value in _shard_status(path).items():
                self._shard[index], status[index] = path, value
        self.status = dict(sorted(status.items()))

    @property
    def solved(self) -> list[int]:
        """Indices of the samples with arrays, ascending."""
        return [index for index, status in self.status.items() if status == "ok"]

    def failures(self) -> dict[str, int]:
        """Return how many samples failed for each reason."""
        counts: dict[str, int] = {}
        for index, status in self.status.items():
            if status == "failed":
                reason = self.read(index).reason
                counts[reason] = counts.get(reason, 0) + 1
        return counts

    def read(self, index: int) -> SampleRecord:
        """Read one sample.

        Raises:
            KeyError: If the data set has no such sample.
            ValueError: If the shard is damaged.
        """
        path = self._shard[index]
        try:
            with h5py.File(path, "r") as shard:
                return _read_group(shard[f"{index:08d}"], index)
        except (OSError, KeyError, TypeError, UnicodeDecodeError) as error:
            raise ValueError(_damaged(path, error)) from error


def create(folder: Path, meta: dict[str, Any]) -> None:
    """Create a data set or check that an existing one was made with the same ``meta``. Call on one rank.

    Raises:
        ValueError: If the folder holds a data set made otherwise; the first differing entry is named.
        OSError: If the folder cannot be written.
    """
    (folder / "shards").mkdir(parents=True, exist_ok=True)
    meta = json.loads(json.dumps({"format": VERSION, **meta}))
    if (folder / "dataset.json").exists():
        present = _read_meta(folder)
        for key, value in meta.items():
            if key != "versions" and present.get(key) != value:
                raise ValueError(f"{folder} holds a data set with {key} = {present.get(key)}, asked for {value}; choose another --out")
        return
    write_text_atomically(folder / "dataset.json", json.dumps(meta, indent=1) + "\n")


def write_shard(folder: Path, records: Sequence[SampleRecord]) -> Path:
    """Write samples as one new shard by atomic rename. Collective: no; every rank writes its own samples."""
    path = folder / "shards" / f"{records[0].index:08d}-{len(records)}.h5"
    with atomic_path(path) as temporary, h5py.File(temporary, "w", track_order=False) as shard:
        for record in records:
            group = shard.create_group(f"{record.index:08d}")
            for name in _ATTRIBUTES:
                group.attrs[name] = getattr(record, name)
            if record.arrays is not None:
                for name, dtype in ARRAYS.items():
                    group.create_dataset(name, data=np.asarray(getattr(record.arrays, name), dtype=dtype))
    return path


def _read_meta(folder: Path) -> dict[str, Any]:
    path = folder / "dataset.json"
    if not path.exists():
        raise ValueError(f"{folder} is not a data set: it has no dataset.json; make one with 'lrsa-coupled generate'")
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(meta, dict) or meta.get("format") != VERSION:
        raise ValueError(f"{path} is not of format version {VERSION}")
    return meta


def _shard_status(path: Path) -> dict[int, str]:
    try:
        with h5py.File(path, "r") as shard:
            return {int(name): str(group.attrs["status"]) for name, group in shard.items()}
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise ValueError(_damaged(path, error)) from error


def _read_group(group: h5py.Group, index: int) -> SampleRecord:
    attributes = {name: group.attrs[name] for name in _ATTRIBUTES}
    arrays = None
    if attributes["status"] == "ok":
        arrays = SampleArrays(**{name: group[name][()] for name in ARRAYS})
        for field in dataclasses.fields(SampleArrays):
            values = getattr(arrays, field.name)
            if values.dtype != ARRAYS[field.name]:
                raise TypeError(f"'{field.name}' of sample {index} has type {values.dtype}")
    return SampleRecord(index, str(attributes["status"]), str(attributes["reason"]), str(attributes["parameters"]),
                        int(attributes["iterations"]), float(attributes["residual"]), float(attributes["seconds"]), arrays)  # fmt: skip


def _damaged(path: Path, error: Exception) -> str:
    return f"shard {path} is damaged ({error}); delete it and run generate again: only its samples are made anew"
