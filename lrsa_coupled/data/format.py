"""The on-disk format of a data set: this docstring is its specification (version 1).

A data set is a folder::

    dataset.json         what was asked for: format version, case, seed, resolution, fields, versions; written first
    config.json          resolved configuration of the last generate
    shards/*.h5          HDF5 files, each complete: they appear by atomic rename

A shard is named ``<first index>-<number of samples>.h5`` and is written by one rank. Every sample index stands in exactly one shard. A
shard holds one group a sample, named by the index in eight digits, with N nodes, E cells, V vertices a cell, d dimensions::

    points        (N, d)   float64   coordinates of the node set, in the order of the serial mesh's degrees of freedom
    mass          (N,)     float64   positive lumped mass (diagonal of the mass matrix scaled to the volume of each cell)
    inputs        (N, F)   float32   nodal features, the case's ``inputs`` side by side
    outputs       (N, K)   float64   solution, the case's ``outputs`` side by side
    constrained   (N, K)   uint8     1 where a Dirichlet condition fixes the output
    cells         (E, V)   int32     node numbers of the cells' vertices
    scalars       (G,)     float64   the case's ``scalars``

and the attributes ``status`` (``"ok"`` or ``"failed"``), ``reason`` (of PETSc, or the text of the error), ``parameters`` (JSON),
``iterations``, ``residual``, ``seconds`` (wall time, the only value that differs between runs). A failed sample holds its attributes and
no arrays. The arrays depend on (case, seed, index, resolution) and the versions in ``dataset.json``, not on the number of ranks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

VERSION = 1

ARRAYS = {"points": np.float64, "mass": np.float64, "inputs": np.float32, "outputs": np.float64,
          "constrained": np.uint8, "cells": np.int32, "scalars": np.float64}  # fmt: skip


@dataclass(frozen=True)
class SampleArrays:
    """Arrays of a solved sample, shapes and types as in the specification above."""

    points: npt.NDArray[np.float64]
    mass: npt.NDArray[np.float64]
    inputs: npt.NDArray[np.float32]
    outputs: npt.NDArray[np.float64]
    constrained: npt.NDArray[np.uint8]
    cells: npt.NDArray[np.int32]
    scalars: npt.NDArray[np.float64]


@dataclass(frozen=True)
class SampleRecord:
    """One sample of a data set; ``arrays`` is None when the solve failed."""

    index: int
    status: str
    reason: str
    parameters: str
    iterations: int
    residual: float
    seconds: float
    arrays: SampleArrays | None
