"""Files as somebody with bad intentions writes them: digests that fit contents that do not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py

from lrsa_coupled.data.format import digest
from lrsa_coupled.data.shard import read_header


def with_header(path: Path, text: bytes, size: int) -> None:
    """Replace the header of a shard by a text, with the digest that the format asks for."""
    rest = (text + b"\n").ljust(size - 33)
    body = path.read_bytes()[size:]
    path.write_bytes(digest([rest]).encode() + b"\n" + rest + body)


def refit(path: Path, size: int, samples: list[Any]) -> None:
    """Make the digests of a shard fit its bytes."""
    body = digest([path.read_bytes()[size:]])
    with_header(path, json.dumps({"digest": body, "samples": samples}, separators=(",", ":")).encode(), size)


def change(path: Path, edit: Callable[[h5py.File], None]) -> None:
    """Edit the HDF5 part of a shard and make its digests fit."""
    header = read_header(path)
    samples = [[entry.index, entry.solved, entry.num_nodes, entry.num_cells] for entry in header.entries]
    with h5py.File(path, "r+") as file:
        edit(file)
    refit(path, header.size, samples)
