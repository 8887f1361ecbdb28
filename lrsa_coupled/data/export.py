"""Samples as VTKHDF files, which ParaView 5.10 and later read.

Source: the VTKHDF file format, VTK documentation, type UnstructuredGrid, version 1.0.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from lrsa_coupled.data.format import SampleArrays
from lrsa_coupled.data.vtk_cells import cells_of
from lrsa_coupled.files import write_atomically
from lrsa_coupled.schema import Field, Schema

PREDICTED, DIFFERENCE = "initial guess", "difference"
INPUT, PARAMETER = "input", "parameter"  # added where the name alone is another's


@dataclass(frozen=True)
class Exported:
    """What is written of a sample.

    Args:
        arrays: Nodes, cells, inputs and outputs.
        schema: Their names and units.
        guess: Outputs as an operator predicts them, None without one; their difference to ``arrays`` is written, too.
        about: Numbers, lists of them and texts that belong to the whole sample: index, seed, parameters.
    """

    arrays: SampleArrays
    schema: Schema
    guess: npt.NDArray[np.floating] | None = None
    about: Mapping[str, Any] = field(default_factory=dict)


def write_vtkhdf(path: Path, sample: Exported) -> int:
    """Write a sample; return how many nodes are left out, as no cell is known to have them. Collective: no.

    ValueError for cells that are not simplices, quadrilaterals or hexahedra.
    """
    arrays = sample.arrays
    kind, cells = cells_of(arrays.points, arrays.cells)
    nodes, connectivity = np.unique(cells, return_inverse=True)
    num_cells, width = cells.shape
    points = np.zeros((len(nodes), 3))
    points[:, : arrays.points.shape[1]] = arrays.points[nodes]
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
        columns = {_plain(name): values for name, values in _columns(sample).items()}
        for name, values in columns.items():
            root[f"PointData/{name}"] = _padded(values[nodes])
        for given, value in sample.about.items():
            name = _plain(given)
            name = f"{name}, {PARAMETER}" if name in columns else name  # VTK looks for both by the name
            text = h5py.string_dtype("ascii") if isinstance(value, str) else None  # VTK reads no other strings
            values = np.atleast_1d(value.encode("ascii", "replace") if isinstance(value, str) else value)
            root.create_dataset(f"FieldData/{name}", data=values, dtype=text)
    write_atomically({path: content.getvalue()})
    return len(arrays.points) - len(nodes)


def differences(sample: Exported) -> dict[str, float]:
    """Return by output how far the guess is from the solution, in the norm of its nodal values, relative to that."""
    if sample.guess is None:
        return {}
    outputs = sample.schema.outputs
    wrong = _split(outputs, sample.guess - sample.arrays.outputs, "")
    right = _split(outputs, sample.arrays.outputs, "")
    norms = [(float(np.linalg.norm(wrong[name])), float(np.linalg.norm(right[name]))) for name in right]
    return {item.name: one / other for item, (one, other) in zip(outputs, norms, strict=True) if other > 0.0}


def _columns(sample: Exported) -> dict[str, npt.NDArray[np.floating]]:
    """Return the values of each field by the name and unit under which they are written."""
    schema, arrays = sample.schema, sample.arrays
    found = _split(schema.outputs, arrays.outputs, "")
    given = _split(schema.inputs, arrays.inputs, "")
    found = {f"{name}, {INPUT}" if name in found else name: values for name, values in given.items()} | found
    if sample.guess is not None:
        found |= _split(schema.outputs, sample.guess, f", {PREDICTED}")
        found |= _split(schema.outputs, sample.guess - arrays.outputs, f", {DIFFERENCE}")
    return found


def _split(fields: Sequence[Field], values: npt.NDArray[Any], what: str) -> dict[str, npt.NDArray[np.floating]]:
    ends = itertools.accumulate((item.components for item in fields), initial=0)
    names = [f"{item.name}{what}" + (f" [{item.unit}]" if item.unit != "1" else "") for item in fields]
    return {name: values[:, first:end] for name, (first, end) in zip(names, itertools.pairwise(ends), strict=True)}


def _plain(name: str) -> str:
    """Return a name without the sign that separates groups in HDF5."""
    return name.replace(" / ", " per ").replace("/", " per ")


def _padded(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Give two components a third of zero, as ParaView's glyphs want; one component becomes a plain array."""
    if values.shape[1] == 2:
        return np.column_stack([values, np.zeros(len(values))])
    return values[:, 0] if values.shape[1] == 1 else values
