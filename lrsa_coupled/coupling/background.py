"""A Cartesian grid behind a mesh: an operator is evaluated at its few nodes, and smooth fields are interpolated back.

Shapes: N owned nodes of the mesh on this rank, G nodes of the grid, d dimension of space, F columns.
"""

from __future__ import annotations

from typing import final

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.spatial import cKDTree
from mpi4py import MPI

Values = npt.NDArray[np.float64]

LINEAR, CUBIC = np.arange(2.0), np.arange(4.0)
"""Places of the nodes of an interpolating polynomial."""

CHUNK = 4000
"""Nodes of the mesh worked on at a time: their weights and values stay in the cache. Not a power of two: transposing is
8 times slower then."""

EMPTY = 1e-9
"""Mass of a node of the grid without a node of the mesh near it, relative to the mean: mass weighting ignores it."""


@final
class BackgroundGrid:
    """A grid over the bounding box of the nodes of all ranks; every rank knows all of it.

    Collective: making it, ``restrict``.

    Args:
        points: Owned nodes of the mesh ``(N, d)``.
        mass: Their lumped masses ``(N,)``.
        cells: Number along the longest side of the box.
        comm: Ranks of the mesh.
        fixed: Whether a Dirichlet condition holds at the nodes ``(N,)``; nowhere unless given.

    Attributes:
        nodes: Nodes of the grid ``(G, d)``, the same on all ranks.
        mass: Share of the mass of the mesh of each of them ``(G,)``, positive.
        fixed: Whether a Dirichlet condition holds at the node of the mesh that is nearest to each of them ``(G,)``, of
            those in the box half a step around it if there are any. A field that vanishes at the boundary must do so
            there before it is interpolated: cut off afterwards, at the nodes of the mesh, it has a kink one node wide.

    Raises:
        ValueError: For fewer than 3 cells, or a mesh without extension in a direction.
    """

    def __init__(
        self, points: Values, mass: Values, cells: int, *, comm: MPI.Comm, fixed: npt.NDArray[np.bool_] | None = None
    ) -> None:
        if cells < 3:
            raise ValueError(f"a background grid needs at least 3 cells, got {cells}")
        low = comm.allreduce(points.min(axis=0, initial=np.inf), op=np.minimum)
        sides = comm.allreduce(points.max(axis=0, initial=-np.inf), op=np.maximum) - low
        if sides.min() <= 0.0:
            raise ValueError(f"a background grid needs nodes that extend in each direction, got sides {sides.tolist()}")
        counts = np.maximum(np.rint(cells * sides / sides.max()).astype(int), 3) + 1
        axes = [np.linspace(start, start + side, count) for start, side, count in zip(low, sides, counts, strict=True)]
        self.nodes = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(low))
        self._comm, self._counts = comm, counts
        self._places = (points - low) / sides * (counts - 1)
        self._own_mass = mass
        self._linear = self._interpolation(self._places, LINEAR)
        sums = self._total(self._linear.T @ mass)
        self._filled = np.flatnonzero(sums > EMPTY * sums.mean())
        self._nearest = cKDTree(self.nodes[self._filled]).query(self.nodes)[1]
        self.mass = np.maximum(sums, EMPTY * sums.mean())
        self.fixed = self._nearest_is_fixed(points, np.zeros(len(points), dtype=bool) if fixed is None else fixed)

    def restrict(self, values: Values) -> Values:
        """Return averages ``(G, F)`` at the nodes of the grid of values ``(N, F)`` at those of the mesh.

        Averages are weighted by mass, and corrected by those of what linear interpolation misses; nodes far from the
        mesh have the value of the nearest that is not.
        """
        averaged = self._average(values)
        for _ in range(2):
            averaged = averaged + self._average(values - self._linear @ averaged)
        return averaged

    def interpolate(self, values: npt.NDArray[np.floating], which: slice = slice(None)) -> Values:
        """Return values ``(G, F)`` of the grid at the nodes of the mesh, or at ``which`` of them, ``(N, F)``.

        By cubics along each axis, in Fortran order. Collective: no.
        """
        places = self._places[which]
        found = np.empty((len(places), values.shape[1]), order="F")
        for start in range(0, len(found), CHUNK):
            rows = slice(start, start + CHUNK)
            matrix = self._interpolation(places[rows], CUBIC)
            if values.shape[1] > 4:
                found[rows] = matrix @ values
            else:  # few columns are quicker one by one
                for column, image in zip(values.T, found.T, strict=True):
                    image[rows] = matrix @ column
        return found

    def _nearest_is_fixed(self, points: Values, fixed: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        found = np.zeros(len(self.nodes), dtype=bool)
        if not self._comm.allreduce(bool(fixed.any()), op=MPI.LOR):
            return found
        boxes = np.ravel_multi_index(np.rint(self._places).astype(np.intp).T, self._counts)
        own, least = self._least(boxes, np.square(points - self.nodes[boxes]).sum(axis=1))
        found[boxes[own & fixed]] = True
        lonely = np.flatnonzero(np.isinf(least))
        if len(lonely):
            distances, nearest = np.full(len(lonely), np.inf), np.zeros(len(lonely), dtype=np.intp)
            if len(points):
                distances, nearest = cKDTree(points, balanced_tree=False, compact_nodes=False).query(self.nodes[lonely])
            own, _ = self._least(lonely, distances)
            found[lonely[own & np.isfinite(distances)]] = fixed[nearest[own & np.isfinite(distances)]]
        self._comm.Allreduce(MPI.IN_PLACE, found, op=MPI.LOR)
        return found

    def _least(self, nodes: npt.NDArray[np.intp], distances: Values) -> tuple[npt.NDArray[np.bool_], Values]:
        """Return which distances are the least on all ranks from their node, and the least of each node, else inf."""
        least = np.full(len(self.nodes), np.inf)
        np.minimum.at(least, nodes, distances)
        self._comm.Allreduce(MPI.IN_PLACE, least, op=MPI.MIN)
        return distances == least[nodes], least

    def _average(self, values: Values) -> Values:
        sums = self._total(self._linear.T @ (values * self._own_mass[:, None]))
        return (sums[self._filled] / self.mass[self._filled, None])[self._nearest]

    def _total(self, values: Values) -> Values:
        self._comm.Allreduce(MPI.IN_PLACE, values)
        return values

    def _interpolation(self, places: Values, stencil: Values) -> csr_array:
        """Return the matrix of Lagrange interpolation, in single precision, at places in steps of the grid.

        The points are along the last, contiguous axis; the result is transposed once.
        """
        width, num_points = len(stencil), len(places)
        first = np.clip(np.floor(places).astype(np.int32) - (width // 2 - 1), 0, self._counts - width)
        weights = _lagrange((places - first).T, stencil)
        columns, offsets = np.zeros(num_points, dtype=np.int32), np.zeros(1, dtype=np.int32)
        products = np.ones((1, num_points), dtype=np.float32)
        for axis, count in enumerate(self._counts):
            columns = columns * np.int32(count) + first[:, axis].astype(np.int32)
            offsets = np.add.outer(offsets * np.int32(count), np.arange(width, dtype=np.int32)).ravel()
            products = (products[:, None] * weights[:, axis]).reshape(len(offsets), num_points)
        starts = np.arange(num_points + 1) * len(offsets)
        starts = starts.astype(np.int32 if starts[-1] < np.iinfo(np.int32).max else np.int64)
        entries = products.T.ravel(), np.add.outer(columns, offsets).ravel(), starts
        return csr_array(entries, shape=(num_points, len(self.nodes)))


def _lagrange(places: Values, stencil: Values) -> npt.NDArray[np.float32]:
    """Return the weights ``(width, d, N)`` of interpolation at ``places`` ``(d, N)`` between the stencil's nodes."""
    distances = places - stencil[:, None, None]
    weights = np.empty(distances.shape, dtype=np.float32)
    for own, node in enumerate(stencil):
        others = np.arange(len(stencil)) != own
        weights[own] = np.prod(distances[others], axis=0) / np.prod(node - stencil[others])
    return weights
