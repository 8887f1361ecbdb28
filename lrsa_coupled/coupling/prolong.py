"""From values at the mesh vertices to the whole node set, exact for quadratics wherever the recovered gradients are."""

from __future__ import annotations

from typing import final

import basix
import numpy as np
import numpy.typing as npt
from dolfinx import la

from lrsa_coupled.coupling.compat import coordinate_degree
from lrsa_coupled.coupling.transfer import NodeSet
from lrsa_coupled.mpi import agree


@final
class VertexProlongation:
    """Evaluation at the vertices, then Hermite interpolation with recovered gradients, on simplices.

    With barycentric coordinates l_a and vertex gradients g_a a point of a cell gets
    ``sum_a l_a u_a + 1/2 sum_{a<b} l_a l_b (g_a - g_b) . (x_b - x_a)``, which is exact for quadratic u. A vertex
    gradient is the mean of the constant gradients of the cells around it, weighted by the inverse of their volume.

    On a surface or curve in space those are tangential, and their weighted mean is that of the projections to the cells
    applied to the vertex gradient, which is solved for, in least squares of least norm: linear fields stay exact where
    cells meet at an angle. Nodes of curved cells get the gradient times their distance from the flat cell besides.

    Attributes:
        vertices: Owned nodes that are vertices, ``(num_owned_vertices,)``, ascending.

    Source: Zienkiewicz & Zhu (1987) for the recovered gradient.
    """

    def __init__(self, nodes: NodeSet) -> None:
        self.nodes = nodes
        self._corners = nodes.cells[:, : nodes.num_vertices]
        is_vertex = np.zeros(nodes.num_owned, dtype=np.bool_)
        is_vertex[self._corners[self._corners < nodes.num_owned]] = True
        self.vertices = np.flatnonzero(is_vertex)
        first, second = np.triu_indices(nodes.num_vertices, 1)
        self._first, self._second = self._corners[:, first], self._corners[:, second]
        linear = basix.create_element(basix.ElementFamily.P, nodes.space.mesh.basix_cell(), 1)
        barycentric = basix.compute_interpolation_operator(linear, nodes.element)
        self._linear = barycentric[nodes.num_vertices :]
        self._quadratic = self._linear[:, first] * self._linear[:, second] / 2.0
        self._inner = nodes.cells[:, nodes.num_vertices :].T
        self._offsets: npt.NDArray[np.float64] | None = None
        if coordinate_degree(nodes.space.mesh) > 1:
            flat = np.tensordot(self._linear, nodes.coordinates.take(self._corners, axis=0), (1, 1))
            self._offsets = nodes.coordinates[self._inner] - flat

    def __call__(self, values: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Fill the rows of the other nodes of values ``(num_owned, K)`` from those of the vertices. Collective.

        Returns:
            Values at all owned nodes ``(num_owned, K)``, and the size ``(num_owned,)`` of their quadratic part, an
            indicator of the error.
        """
        nodes, num_values = self.nodes, values.shape[1]
        local = self._vector(num_values)
        local.array[: values.size] = values.ravel()
        agree(nodes.space.mesh.comm)
        local.scatter_forward()
        result = local.array.reshape(-1, num_values)
        size = np.zeros(len(result))
        if len(self._linear):
            corners = result.take(self._corners, axis=0)
            gradients = self._gradients(corners)
            jumps = gradients.take(self._first, axis=0) - gradients.take(self._second, axis=0)
            edges = nodes.coordinates.take(self._second, axis=0) - nodes.coordinates.take(self._first, axis=0)
            quadratic = np.tensordot(self._quadratic, np.einsum("cpdk,cpd->cpk", jumps, edges), (1, 1))
            result[self._inner] = np.tensordot(self._linear, corners, (1, 1)) + quadratic
            if self._offsets is not None:
                slopes = np.tensordot(self._linear, gradients.take(self._corners, axis=0), (1, 1))
                result[self._inner] += np.einsum("qcdk,qcd->qck", slopes, self._offsets)
            size[self._inner] = np.sqrt(np.einsum("qck,qck->qc", quadratic, quadratic))
        return result[: nodes.num_owned].copy(), size[: nodes.num_owned]

    def _gradients(self, corners: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Recover gradients ``(num_local, d, K)`` at the vertices from the values at the corners of the cells."""
        num_cells = self.nodes.num_cells
        steps = corners[:num_cells, 1:] - corners[:num_cells, :1]
        positions = self.nodes.coordinates.take(self._corners[:num_cells], axis=0)
        edges = positions[:, 1:] - positions[:, :1]
        is_flat = edges.shape[1] == edges.shape[2]
        adjugate, determinant = _adjugate(edges) if is_flat else _adjugate(edges @ edges.swapaxes(1, 2))
        adjugate = adjugate if is_flat else edges.swapaxes(1, 2) @ adjugate
        weights = 1.0 / np.abs(determinant) if is_flat else 1.0 / np.sqrt(determinant)
        scale, size = (weights / determinant)[:, None], edges.shape[2] * corners.shape[2]
        constant = (adjugate @ steps).reshape(num_cells, size) * scale
        rest = weights[:, None] if is_flat else (adjugate @ edges).reshape(num_cells, edges.shape[2] ** 2) * scale
        sums = self._sums(np.concatenate([constant, rest], axis=1))
        if is_flat:
            gradients = sums[:, :-1] / np.maximum(sums[:, -1:], np.finfo(np.float64).tiny)
            return gradients.reshape(len(sums), edges.shape[2], corners.shape[2])
        return _solved(sums, edges.shape[2])

    def _sums(self, at_cells: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Add up columns ``(num_cells, m)`` at the vertices of the cells ``(num_local, m)``."""
        corners = self._corners[: len(at_cells)].ravel()
        local = self._vector(at_cells.shape[1])
        sums = local.array.reshape(-1, at_cells.shape[1])
        for column, target in zip(at_cells.T, sums.T, strict=True):
            target[:] = np.bincount(corners, np.repeat(column, self.nodes.num_vertices), minlength=len(target))
        agree(self.nodes.space.mesh.comm)
        local.scatter_reverse(la.InsertMode.add)
        local.scatter_forward()
        return sums

    def _vector(self, block_size: int) -> la.Vector:
        agree(self.nodes.space.mesh.comm)
        return la.vector(self.nodes.space.dofmap.index_map, bs=block_size)


def _solved(sums: npt.NDArray[np.float64], dim: int) -> npt.NDArray[np.float64]:
    """Solve ``P g = s`` for vertex gradients ``(num_local, d, K)``; the rows hold s ``(d, K)``, then P ``(d, d)``."""
    start = sums.shape[1] - dim**2
    tangential = sums[:, :start].reshape(len(sums), dim, start // dim)
    projections = sums[:, start:].reshape(len(sums), dim, dim)
    gradients, at = np.zeros_like(tangential), np.flatnonzero(np.trace(projections, axis1=1, axis2=2))
    gradients[at] = np.linalg.pinv(projections[at], rcond=1e-14, hermitian=True) @ tangential[at]
    return gradients


def _adjugate(matrices: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return adjugates and determinants of matrices ``(n, d, d)``, d = 1, 2, 3: their quotient is the inverse."""
    dim = matrices.shape[1]
    if dim == 3:
        rows = matrices.swapaxes(0, 1)
        adjugate = np.stack([np.cross(rows[(i + 1) % 3], rows[(i + 2) % 3]) for i in range(3)], axis=2)
    elif dim == 2:
        (a, b), (c, d) = matrices.transpose(1, 2, 0)
        adjugate = np.stack([d, -b, -c, a], axis=1).reshape(-1, 2, 2)
    else:
        adjugate = np.ones_like(matrices)
    return adjugate, np.einsum("cj,cj->c", matrices[:, 0], adjugate[:, :, 0])
