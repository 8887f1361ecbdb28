"""Samples as VTKHDF files, which ParaView 5.10 and later read.

Source: the VTKHDF file format, VTK documentation, type UnstructuredGrid, version 1.0.
"""

from __future__ import annotations

import io
from pathlib import Path

import h5py
import numpy as np

from lrsa_coupled.data.format import SampleArrays
from lrsa_coupled.files import write_atomically
from lrsa_coupled.schema import Schema

_CELL_TYPES = {(1, 2): 3, (2, 2): 3, (3, 2): 3, (2, 3): 5, (3, 3): 5, (2, 4): 8, (3, 4): 10, (3, 8): 11}
"""VTK's cell types by (dimension, vertices), ordered as DOLFINx does: line, triangle, pixel, tetrahedron, voxel."""


def write_vtkhdf(path: Path, arrays: SampleArrays, schema: Schema) -> None:
    """Write the cells of a sample, its inputs and outputs at their vertices; other nodes are left out. Collective: no.

    ValueError for cells that are not simplices, quadrilaterals or hexahedra.
    """
    kind = _CELL_TYPES.get((arrays.points.shape[1], arrays.cells.shape[1]))
    if kind is None:
        found = f"{arrays.cells.shape[1]} vertices in {arrays.points.shape[1]} dimensions"
        raise ValueError(f"expected simplices, quadrilaterals or hexahedra, got cells of {found}")
    vertices, connectivity = np.unique(arrays.cells, return_inverse=True)
    num_cells, width = arrays.cells.shape
    points = np.zeros((len(vertices), 3))
    points[:, : arrays.points.shape[1]] = arrays.points[vertices]
    content = io.BytesIO()  # a disk that fills up while HDF5 writes would end the process
    with h5py.File(content, "w") as file:
        root = file.create_group("VTKHDF")
        root.attrs["Version"] = np.array([1, 0])
        root.attrs.create("Type", np.bytes_("UnstructuredGrid"))
        root["NumberOfPoints"], root["NumberOfCells"] = np.array([len(points)]), np.array([num_cells])
        root["NumberOfConnectivityIds"] = np.array([connectivity.size])
        root["Points"], root["Connectivity"] = points, connectivity.ravel().astype(np.int64)
        root["Offsets"] = width * np.arange(num_cells + 1, dtype=np.int64)
        root["Types"] = np.full(num_cells, kind, dtype=np.uint8)
        for fields, values in ((schema.inputs, arrays.inputs), (schema.outputs, arrays.outputs)):
            column = 0
            for item in fields:
                root[f"PointData/{item.name}"] = _padded(values[vertices, column : column + item.components])
                column += item.components
    write_atomically({path: content.getvalue()})


def _padded(values: np.ndarray) -> np.ndarray:
    """Give two components a third of zero, as ParaView's glyphs want; one component becomes a plain array."""
    if values.shape[1] == 2:
        return np.column_stack([values, np.zeros(len(values))])
    return values[:, 0] if values.shape[1] == 1 else values
