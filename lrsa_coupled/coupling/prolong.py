"""From values at the mesh vertices to the whole node set, exact for quadratics wherever the recovered gradients are."""

from __future__ import annotations

from typing import final

import basix
import numpy as np
import numpy.typing as npt
from dolfinx import la

from lrsa_coupled.coupling.transfer import NodeSet


@final
class VertexProlongation:
    """Evaluation at the vertices, then Hermite interpolation with recovered gradients; simplices with straight edges.

    With barycentric coordinates l_a and vertex gradients g_a a point of a cell gets
    ``sum_a l_a u_a + 1/2 sum_{a<b} l_a l_b (g_a - g_b) . (x_b - x_a)``, which is exact for quadratic u. A vertex gradient is the mean of
    the constant gradients of the cells around it, weighted by the inverse of their volume.

    Attributes:
        vertices: Owned nodes that are vertices, ``(num_owned_vertices,)``, ascending.

    Source: Zienkiewicz & Zhu (1987) for the recovered gradient.
    """

    def __init__(self, nodes: NodeSet) -> None:
        self.nodes = nodes
        self._corners = nodes.cells[:, : nodes.num_vertices]
        self.vertices = np.unique(self._corners[self._corners < nodes.num_owned])
        self._edges = nodes.coordinates[self._corners] - nodes.coordinates[self._corners[:, :1]]
        inner = _barycentric(nodes)[nodes.num_vertices :]
        self._linear = inner
        self._quadratic = (inner[:, :, None] * inner[:, None, :] - inner[:, :, None] * np.eye(nodes.num_vertices)) / 2.0

    def __call__(self, values: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Fill the rows of the other nodes from those of the vertices. Collective.

        Args:
            values: ``(num_owned, K)``; only the rows ``vertices`` are read.

        Returns:
            Values at all owned nodes ``(num_owned, K)``, and the size ``(num_owned,)`` of their quadratic part, an indicator of the error.
        """
        nodes, num_values = self.nodes, values.shape[1]
        local = self._vector(num_values)
        local.array[: values.size] = values.ravel()
        local.scatter_forward()
        result = local.array.reshape(-1, num_values)
        size = np.zeros(len(result))
        if len(self._linear):
            corners = result[self._corners]
            gradients = self._gradients(corners)[self._corners]
            slopes = sum(gradients[..., None, d] * self._edges[:, None, None, :, d] for d in range(self._edges.shape[2]))
            quadratic = np.tensordot(self._quadratic, slopes, ([1, 2], [1, 3]))
            inner = nodes.cells[:, nodes.num_vertices :].T
            result[inner] = np.tensordot(self._linear, corners, (1, 1)) + quadratic
            size[inner] = np.sqrt((quadratic**2).sum(axis=2))
        return result[: nodes.num_owned].copy(), size[: nodes.num_owned]

    def _gradients(self, corners: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Recover gradients ``(num_local, K, d)`` at the vertices from values at the corners of the cells ``(num_cells, d + 1, K)``."""
        num_cells = self.nodes.space.mesh.topology.index_map(self.nodes.space.mesh.topology.dim).size_local
        edges = self._edges[:num_cells, 1:]
        steps = corners[:num_cells, 1:] - corners[:num_cells, :1]
        weights = 1.0 / np.abs(np.linalg.det(edges))
        constant = np.linalg.solve(edges, steps).swapaxes(1, 2).reshape(num_cells, -1)
        columns = np.column_stack([constant * weights[:, None], weights])
        local = self._vector(columns.shape[1])
        sums = local.array.reshape(-1, columns.shape[1])
        for column, target in zip(columns.T, sums.T, strict=True):
            repeated = np.repeat(column, self.nodes.num_vertices)
            target[:] = np.bincount(self._corners[:num_cells].ravel(), repeated, minlength=len(target))
        local.scatter_reverse(la.InsertMode.add)
        local.scatter_forward()
        gradients = sums[:, :-1] / np.maximum(sums[:, -1:], np.finfo(np.float64).tiny)
        return gradients.reshape(len(sums), corners.shape[2], -1)

    def _vector(self, block_size: int) -> la.Vector:
        return la.vector(self.nodes.space.dofmap.index_map, bs=block_size)


def _barycentric(nodes: NodeSet) -> npt.NDArray[np.float64]:
    """Return the barycentric coordinates of the nodes of a cell, ``(num_cell_nodes, d + 1)``."""
    cell = nodes.space.mesh.basix_cell()
    linear = basix.create_element(basix.ElementFamily.P, cell, 1)
    return basix.compute_interpolation_operator(linear, nodes.element)
