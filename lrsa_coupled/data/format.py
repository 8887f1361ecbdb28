"""The on-disk format of a data set: this docstring is its specification (version 3).

A data set is a folder::

    dataset.json   what was asked for, written first
    config.json    resolved configuration of the last generate
    shards/*.h5    HDF5 files, each complete: they appear by atomic rename and never change
    index.json     headers of the shards by file name; made again when it is missing, damaged or out of date
    claims/*.json  blocks of indices that collectors have taken; never removed
    begun/*        marks of the samples that jobs of one generate have begun with; hints, they may be removed
    models/*       models trained while it grew, by number of samples in six digits; each appears by atomic rename
    damaged/*      shards that were damaged, kept as they were when they were repaired; they may be removed

A shard is written by one rank and named ``<first index>-<number of samples>-<first 8 digits of its digest>.h5``. A run
that was killed, or jobs that merge shards at the same time, may leave a sample in two of them, with the same contents:
the shard with most samples counts, the last by name of several. Only a shard that does not count for any sample may be
removed, after those that do are on disk. No file is locked. Names that begin with a dot are of files that are being
written.

**Claims.** The files are numbered from ``00000000.json`` without gaps. The next one is made by a call that fails where
it exists (``link``, or ``open`` with ``O_EXCL``). Each is an object with ``first`` and ``count``, the indices of the
block, ``job``, a name, and ``closed``, true when the job has ended. A block begins where the one before ends. A job
that ends gives back the rest of its last block if that is still the last of all. Indices need not be consecutive.

**dataset.json.** An object with ``format`` (3), ``schema`` (see ``schema.py``), ``seed``, ``resolution``,
``parameters`` (unit by name), ``versions`` (of packages) and ``settings``: what else the samples depend on, as far as
it is not the default (``rtol``, ``guess``, ``method``, ``options``, ``chains``, and ``unsolved``, true where outputs
are rough solutions of use for their size alone); and ``source``, the digest of the files of the case without comments
and layout, absent where it is not known. A data set merged from several that differ has in ``merged`` a list of their
``seed``, ``resolution``, ``settings`` and number of ``samples``, and beside it seed and resolution of the first and the
settings that all have. ``digest`` is that of all other entries as JSON with sorted keys and without spaces; before
version 0.4 there was none. Version 2, which is read too, has the entries of ``schema`` and ``settings`` beside the
others, ``case`` for ``name``, ``start`` for ``guess`` and ``strategy`` for ``method``. Shards are the same in both.

**Header.** The user block of the HDF5 file (a power of two of at least 512 bytes) holds a line with the digest of the
rest of the header, a line of JSON, and spaces to its end. The JSON has ``digest``, that of all bytes after the header,
and ``samples``, a list of ``[index, solved (0 or 1), nodes, cells]``. Every digest is BLAKE2b of 16 bytes in
hexadecimal, so a change of any byte shows.

**Reading.** Digests that fit say nothing about who has made a file. So a reader refuses numbers beyond their limits,
links out of a file, arrays that are larger than it, in several pieces or with filters, and arrays that do not fit the
schema and each other. A shard that is damaged is not one that cannot be read: only the former is repaired, from what
is whole of it; it is kept in ``damaged``.

**Geometry.** A group ``geometry/<digest>`` for each set of nodes, shared by the samples of the shard that have it, with
N nodes, E cells, V vertices a cell, d dimensions, K output values a node::

    points        (N, d)   float64   coordinates of the node set, see below for the order
    mass          (N,)     float64   positive lumped mass (diagonal of the mass matrix scaled to the cell volumes)
    boundary      (N,)     uint8     1 on the boundary of the domain
    constrained   (N, K)   uint8     1 where a Dirichlet condition fixes the output
    cells         (E, V)   int32     node numbers of the cells' vertices

**Samples.** A group ``samples/<index in eight digits>`` each, with F values of the inputs a node and G scalars::

    inputs        (N, F)   float32   inputs of the schema side by side
    outputs       (N, K)   float64   solution: outputs of the schema side by side
    scalars       (G,)     float64   scalars of the schema

and the attributes ``geometry`` (name of its group), ``status`` (``"ok"`` or ``"failed"``), ``reason`` (of PETSc, or the
text of the error), ``parameters`` (JSON), ``iterations``, ``residual``, ``seconds`` (wall time, the only value that
differs between runs), and ``digest``, that of all these and of the arrays. A failed sample has no arrays and an empty
``geometry``. ``quantities``, absent without any, is a JSON object of numbers asked of the solution by name; it follows
from the rest and is not in the digest.

A complex field of c components has 2c columns, its c real parts before its c imaginary parts, and counts as 2c
components of the schema; a complex scalar ``k`` is two, ``k_re`` and ``k_im``. All numbers on disk are real.

The arrays depend on ``dataset.json`` and the index, not on the number of ranks: the nodes are sorted by coordinates,
those that repeat (each cell of a discontinuous space has nodes of its own) by the midpoints of their cells, and the
fields agree with those of one rank to the tolerance of the solver. Before version 0.3 one rank wrote its nodes in the
order of the degrees of freedom. Cells of a surface or curve in space are simplices: quadrilaterals are cut.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lrsa_coupled.schema import Schema

GEOMETRY: dict[str, type] = {
    "points": np.float64,
    "mass": np.float64,
    "boundary": np.uint8,
    "constrained": np.uint8,
    "cells": np.int32,
}
VALUES: dict[str, type] = {"inputs": np.float32, "outputs": np.float64, "scalars": np.float64}
ARRAYS = GEOMETRY | VALUES
ATTRIBUTES = {"status": str, "reason": str, "parameters": str, "iterations": int, "residual": float, "seconds": float}


@dataclass(frozen=True)
class SampleArrays:
    """Arrays of a solved sample, shapes and types as in the specification above."""

    points: npt.NDArray[np.float64]
    mass: npt.NDArray[np.float64]
    boundary: npt.NDArray[np.uint8]
    constrained: npt.NDArray[np.uint8]
    cells: npt.NDArray[np.int32]
    inputs: npt.NDArray[np.float32]
    outputs: npt.NDArray[np.float64]
    scalars: npt.NDArray[np.float64]


@dataclass(frozen=True)
class SampleRecord:
    """One sample of a data set; ``arrays`` is None when the solve failed, ``quantities`` a JSON object of numbers."""

    index: int
    status: str
    reason: str
    parameters: str
    iterations: int
    residual: float
    seconds: float
    arrays: SampleArrays | None
    quantities: str = "{}"


def check_arrays(arrays: SampleArrays, schema: Schema) -> None:
    """Raise ValueError unless shapes fit a schema and each other, values are finite, and cells name nodes there are."""
    num_points = len(arrays.points)
    shapes = {
        "points": (num_points, schema.dim),
        "mass": (num_points,),
        "boundary": (num_points,),
        "inputs": (num_points, schema.num_inputs),
        "outputs": (num_points, schema.num_outputs),
        "constrained": (num_points, schema.num_outputs),
        "scalars": (len(schema.scalars),),
    }
    for name, shape in shapes.items():
        values = getattr(arrays, name)
        if values.shape != shape:
            raise ValueError(f"'{name}' has shape {values.shape}, expected {shape}")
        if not (np.abs(values) <= np.finfo(np.float32).max).all():
            raise ValueError(f"'{name}' holds values that are not finite in float32")
    if num_points == 0 or arrays.mass.min() <= 0.0:
        raise ValueError("it has no points or a mass that is not positive")
    cells = arrays.cells
    if cells.ndim != 2 or not 2 <= cells.shape[1] <= 8:
        raise ValueError(f"'cells' has shape {cells.shape}, expected 2 to 8 vertices a cell")
    if cells.size > 0 and not 0 <= cells.min() <= cells.max() < num_points:
        raise ValueError(f"'cells' names nodes beyond the {num_points} it has")


def digest(parts: Iterable[bytes | memoryview]) -> str:
    """Return the digest of bytes."""
    state = hashlib.blake2b(digest_size=16)
    for part in parts:
        state.update(part)
    return state.hexdigest()


def array_digest(arrays: SampleArrays, *, values: bool) -> str:
    """Return the digest of the geometry of a sample, or of all its arrays, with their names, types and shapes."""
    state = _hash_geometry(arrays)
    if values:
        _hash_into(state, arrays, VALUES)
    return state.hexdigest()


_last_geometry: list[tuple[list[npt.NDArray[Any]], hashlib.blake2b]] = []
"""Read-only arrays hashed last and the state of the hash after them: samples that share a mesh hash it once."""


def _hash_geometry(arrays: SampleArrays) -> hashlib.blake2b:
    found = [getattr(arrays, name) for name in GEOMETRY]
    for known, state in _last_geometry:
        if all(one is two for one, two in zip(known, found, strict=True)):
            return state.copy()
    state = hashlib.blake2b(digest_size=16)
    _hash_into(state, arrays, GEOMETRY)
    if not any(values.flags.writeable for values in found):
        _last_geometry[:] = [(found, state.copy())]
    return state


def _hash_into(state: hashlib.blake2b, arrays: SampleArrays, types: Mapping[str, type]) -> None:
    for name, dtype in types.items():
        values: npt.NDArray[Any] = np.ascontiguousarray(getattr(arrays, name), dtype=dtype)
        state.update(f"{name} {values.dtype.str} {values.shape}".encode())
        state.update(values.reshape(-1).view(np.uint8).data)


def record_digest(record: SampleRecord, *, timing: bool) -> str:
    """Return the digest of a sample, with or without the wall time."""
    attributes = [kind(getattr(record, name)) for name, kind in ATTRIBUTES.items() if timing or name != "seconds"]
    arrays = None if record.arrays is None else array_digest(record.arrays, values=True)
    return digest([repr([record.index, *attributes, arrays]).encode()])
