"""A Cartesian grid behind a mesh: an operator is evaluated at its few nodes, and what varies smoothly is interpolated to those of the mesh.

Shapes: N owned nodes of the mesh on this rank, G nodes of the grid, d dimension of space, F columns.
"""

from __future__ import annotations

from typing import final

import numpy as np
import numpy.typing as npt
from mpi4py import MPI
from scipy.sparse import csr_array
from scipy.spatial import cKDTree

Values = npt.NDArray[np.float64]

CUBIC = np.arange(4.0)
"""Places of the nodes of an interpolating cubic."""

REFINEMENTS = 2
"""Corrections of averaged values by the averages of what linear interpolation makes of them."""

CHUNK = 4000
"""Nodes of the mesh worked on at a time: their weights and values stay in the cache; not a power of two, at which turning them round is 8 times slower."""

FEW = 4
"""Columns up to which a sparse matrix is quicker column by column."""

EMPTY = 1e-9
"""Mass of a node of the grid without a node of the mesh near it, relative to the mean: an operator that weighs by mass does not see it."""


@final
class BackgroundGrid:
    """A grid over the bounding box of the nodes of all ranks; every rank knows all of it. Collective: making it, ``restrict``.

    Args:
        points: Owned nodes of the mesh ``(N, d)``, on this rank.
        mass: Their lumped masses ``(N,)``.
        cells: Of the grid, along the longest side of the box.
        comm: Ranks of the mesh.
        fixed: Whether a Dirichlet condition holds at them ``(N,)``; nowhere unless given.

    Attributes:
        nodes: Nodes of the grid ``(G, d)``, the same on all ranks.
        mass: What of the mass of the mesh belongs to each of them ``(G,)``, positive.
        fixed: Whether a Dirichlet condition holds at the node of the mesh that is nearest to each of them ``(G,)``, of those in the box half a step around
            it if there are any. A field that is to vanish at the boundary must do so there before it is interpolated: cut off afterwards, at the nodes of
            the mesh, it has a kink one node wide.

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
            raise ValueError(
                f"a background grid needs nodes that extend in each direction, the sides of their box are {sides.tolist()}"
            )
        counts = np.maximum(np.rint(cells * sides / sides.max()).astype(int), 3) + 1
        axes = [np.linspace(start, start + side, count) for start, side, count in zip(low, sides, counts, strict=True)]
        self.nodes = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(low))
        self._comm, self._counts = comm, counts
        self._places = (points - low) / sides * (counts - 1)
        self._own_mass = mass
        self._linear = self._interpolation(self._places, CUBIC[:2])
        sums = self._total(self._linear.T @ mass)
        self._filled = np.flatnonzero(sums > EMPTY * sums.mean())
        self._nearest = cKDTree(self.nodes[self._filled]).query(self.nodes)[1]
        self.mass = np.maximum(sums, EMPTY * sums.mean())
        self.fixed = self._nearest_is_fixed(points, np.zeros(len(points), dtype=bool) if fixed is None else fixed)

    def restrict(self, values: Values) -> Values:
        """Return averages at the nodes of the grid ``(G, F)`` of values at those of the mesh ``(N, F)``, from which interpolation gives them back.

        Averages are weighted by mass; nodes far from the mesh have the value of the nearest that is not.
        """
        averaged = self._average(values)
        for _ in range(REFINEMENTS):
            averaged = averaged + self._average(values - self._linear @ averaged)
        return averaged

    def interpolate(self, values: npt.NDArray[np.floating], which: slice = slice(None)) -> Values:
        """Return values ``(G, F)`` at the nodes of the mesh, or at ``which`` of them, ``(N, F)``, by cubics along each axis, in Fortran order. Collective: no."""
        places = self._places[which]
        found = np.empty((len(places), values.shape[1]), order="F")
        for start in range(0, len(found), CHUNK):
            rows = slice(start, start + CHUNK)
            matrix = self._interpolation(places[rows], CUBIC)
            if values.shape[1] > FEW:
                found[rows] = matrix @ values
            else:
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
        """Return which distances are the least from their node of the grid on all ranks, and the least of each node, infinite without any."""
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
        """Return the matrix, in single precision, of Lagrange interpolation between as many nodes of each axis; ``places`` count their steps.

        All is worked out with the points along the last axis, where it is contiguous, and turned round once.
        """
        width, num_points = len(stencil), len(places)
        first = np.clip(np.floor(places).astype(np.int32) - (width // 2 - 1), 0, self._counts - width)
        weights = _lagrange((places - first).T, stencil)
        columns, offsets, products = (
            np.zeros(num_points, dtype=np.int32),
            np.zeros(1, dtype=np.int32),
            np.ones((1, num_points), dtype=np.float32),
        )
        for axis, count in enumerate(self._counts):
            columns = columns * np.int32(count) + first[:, axis].astype(np.int32)
            offsets = np.add.outer(offsets * np.int32(count), np.arange(width, dtype=np.int32)).ravel()
            products = (products[:, None] * weights[:, axis]).reshape(len(offsets), num_points)
        starts = np.arange(num_points + 1) * len(offsets)
        starts = starts.astype(np.int32 if starts[-1] < np.iinfo(np.int32).max else np.int64)
        return csr_array(
            (products.T.ravel(), np.add.outer(columns, offsets).ravel(), starts), shape=(num_points, len(self.nodes))
        )


def _lagrange(places: Values, stencil: Values) -> npt.NDArray[np.float32]:
    """Return the weights of interpolation at ``places`` ``(d, N)`` between the nodes of the stencil, ``(width, d, N)``."""
    distances = places - stencil[:, None, None]
    weights = np.empty(distances.shape, dtype=np.float32)
    for own, node in enumerate(stencil):
        others = np.arange(len(stencil)) != own
        weights[own] = np.prod(distances[others], axis=0) / np.prod(node - stencil[others])
    return weights
