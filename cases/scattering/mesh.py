"""Triangles in a disc, between concentric circles."""

from __future__ import annotations

import basix.ufl
import numpy as np
import numpy.typing as npt
from mpi4py import MPI
from dolfinx.mesh import Mesh, create_mesh

Points = npt.NDArray[np.float64]
Cells = npt.NDArray[np.int64]


def create_disc(comm: MPI.Comm, radius: float, num_rings: int, *, curved_ring: int | None = None) -> Mesh:
    """Divide a disc into ``6 num_rings^2`` triangles of about equal size. Collective.

    Circle j, of radius ``j radius / num_rings``, has 6 j vertices. Edges are straight; with a ``curved_ring`` the cells
    are quadratic and the edges on that circle lie on it to third order.
    """
    degree = 1 if curved_ring is None else 2
    points, cells = np.empty((0, 2)), np.empty((0, 3 * degree), dtype=np.int64)
    if comm.rank == 0:
        points, cells = _rings(num_rings)
        if curved_ring is not None:
            points, cells = _with_midpoints(points, cells, curved_ring)
        points *= radius / num_rings
    return create_mesh(comm, cells, basix.ufl.element("Lagrange", "triangle", degree, shape=(2,)), points)


def _rings(count: int) -> tuple[Points, Cells]:
    """Return vertices, on circles of the radii 0 to ``count``, and the triangles between them."""
    points, cells, first = [np.zeros((1, 2))], [], 0
    for ring in range(1, count + 1):
        size, inner_size = 6 * ring, max(6 * (ring - 1), 1)
        angles = 2.0 * np.pi * np.arange(size) / size
        points.append(ring * np.column_stack([np.cos(angles), np.sin(angles)]))
        sector, place = np.divmod(np.arange(size), ring)
        inner, outer = sector * (ring - 1) + place, np.arange(size)
        a, b = (first + inner_size + (outer + step) % size for step in (0, 1))
        c, d = (first + (inner + step) % inner_size for step in (0, 1))
        between = place < ring - 1  # a sector has one triangle less that stands on the inner circle
        cells += [np.column_stack([a, b, c]), np.column_stack([c, b, d])[between]]
        first += inner_size
    return np.concatenate(points), np.concatenate(cells)


def _with_midpoints(points: Points, triangles: Cells, curved_ring: int) -> tuple[Points, Cells]:
    """Add nodes in the middle of the edges; as in Basix edge i lies opposite vertex i."""
    edges = np.sort(triangles[:, [[1, 2], [0, 2], [0, 1]]].reshape(-1, 2), axis=1)
    distinct, places = np.unique(edges, axis=0, return_inverse=True)
    middles = points[distinct].mean(axis=1)
    on_ring = np.isclose(np.linalg.norm(points[distinct], axis=2), curved_ring).all(axis=1)
    middles[on_ring] *= curved_ring / np.linalg.norm(middles[on_ring], axis=1, keepdims=True)
    return np.concatenate([points, middles]), np.hstack([triangles, len(points) + places.reshape(-1, 3)])
