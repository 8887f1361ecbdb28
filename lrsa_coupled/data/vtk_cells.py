"""VTK's cells between all nodes of a sample: a data set holds the vertices of its cells and the places of its nodes.

Nodes lie where Lagrange elements of Basix, of degree 2 or 3 (2 for quadrilaterals and hexahedra), have them in straight
cells. VTK takes its own nodes of degree 3 for evenly spaced: between the nodes what it draws is slightly off.
Source: VTK, vtkHigherOrderTetra, vtkBiQuadraticQuad, vtkTriQuadraticHexahedron (order of the nodes).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

Weights = npt.NDArray[np.float64]
Cells = npt.NDArray[np.int32]

LINEAR = {(1, 2): 3, (2, 2): 3, (3, 2): 3, (2, 3): 5, (3, 3): 5, (2, 4): 8, (3, 4): 10, (3, 8): 11}
"""VTK's cell types by (dimension, vertices), ordered as DOLFINx does: line, triangle, pixel, tetrahedron, voxel."""

NEAR = 1e-6
"""Distance, relative to the extent of the points, within which a node is at its place."""

EDGES = {2: ((0, 1),), 3: ((0, 1), (1, 2), (2, 0)), 4: ((0, 1), (1, 2), (2, 0), (0, 3), (1, 3), (2, 3))}
FACES = {2: (), 3: (), 4: ((0, 1, 3), (1, 2, 3), (2, 0, 3), (0, 2, 1))}


def cells_of(points: Weights, cells: Cells) -> tuple[int, Cells]:
    """Return VTK's type of the cells and their nodes: all nodes where they are found, else the vertices.

    ValueError for cells that are not simplices, quadrilaterals or hexahedra.
    """
    linear = LINEAR.get((points.shape[1], cells.shape[1]))
    if linear is None:
        found = f"{cells.shape[1]} vertices in {points.shape[1]} dimensions"
        raise ValueError(f"expected simplices, quadrilaterals or hexahedra, got cells of {found}")
    for kind, weights in _higher(linear).items():
        found_nodes = _nodes(points, cells, weights)
        if found_nodes is not None:
            return kind, found_nodes
    return linear, cells


def _nodes(points: Weights, cells: Cells, weights: Weights) -> Cells | None:
    """Return the nodes ``(E, n)`` at the places that ``weights`` ``(n, V)`` give; None unless these are all nodes."""
    places = np.einsum("nv,evd->end", weights, points[cells])
    extent = np.ptp(points, axis=0).max() or 1.0
    distances, found = cKDTree(points).query(places.reshape(-1, places.shape[2]))
    if distances.max(initial=0.0) > NEAR * extent:
        return None
    nodes = found.reshape(places.shape[:2]).astype(np.int32)
    if len(points) == nodes.size and len(np.unique(nodes)) < nodes.size:  # of a discontinuous space
        middles = np.repeat(points[cells].mean(axis=1), len(weights), axis=0)
        columns = np.column_stack([nodes.ravel(), np.floor(middles / (1e-10 * extent) + 1 / np.pi)])
        nodes = np.empty(nodes.size, dtype=np.int32)
        nodes[np.lexsort(columns.T[::-1])] = np.arange(len(points))
        nodes = nodes.reshape(places.shape[:2])
        return nodes if np.allclose(points[nodes], places, atol=NEAR * extent) else None
    return nodes if len(np.unique(nodes)) == len(points) else None


def _higher(linear: int) -> Mapping[int, Weights]:
    """Return the types of higher degree of a linear cell, and the weights of its vertices at their nodes."""
    simplices = {3: (2, 21, 68), 5: (3, 22, 69), 10: (4, 24, 71)}
    if linear in simplices:
        vertices, quadratic, lagrange = simplices[linear]
        return {quadratic: _simplex(vertices, 2), lagrange: _simplex(vertices, 3)}
    return {28: _box(QUADRATIC)} if linear == 8 else {29: _box(TRIQUADRATIC)}


def _simplex(vertices: int, degree: int) -> Weights:
    unit = np.eye(vertices)
    inner = [0.5] if degree == 2 else [0.5 - math.sqrt(0.05), 0.5 + math.sqrt(0.05)]
    rows = [*unit, *((1 - t) * unit[a] + t * unit[b] for a, b in EDGES[vertices] for t in inner)]
    if degree == 3:
        rows += [unit[list(face)].mean(axis=0) for face in (((0, 1, 2),) if vertices == 3 else FACES[vertices])]
    return np.array(rows)


CORNERS = [(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (1, 1, 1), (0, 1, 1)]
QUADRATIC = [(0, 0), (1, 0), (1, 1), (0, 1), (0.5, 0), (1, 0.5), (0.5, 1), (0, 0.5), (0.5, 0.5)]
TRIQUADRATIC = [
    *CORNERS,
    *(tuple(np.add(CORNERS[a], CORNERS[b]) / 2) for a, b in itertools.pairwise([0, 1, 2, 3, 0])),
    *(tuple(np.add(CORNERS[a], CORNERS[b]) / 2) for a, b in itertools.pairwise([4, 5, 6, 7, 4])),
    *((x, y, 0.5) for x, y, _ in CORNERS[:4]),
    (0, 0.5, 0.5), (1, 0.5, 0.5), (0.5, 0, 0.5), (0.5, 1, 0.5), (0.5, 0.5, 0), (0.5, 0.5, 1), (0.5, 0.5, 0.5),
]  # fmt: skip


def _box(places: list) -> Weights:
    """Return the weights of the corners of a square or cube, the first axis fastest."""
    axes = range(len(places[0]))
    corners = [corner[::-1] for corner in itertools.product((0, 1), repeat=len(axes))]
    return np.array([[np.prod([p[i] if c[i] else 1 - p[i] for i in axes]) for c in corners] for p in places])
