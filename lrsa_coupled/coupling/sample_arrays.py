"""The arrays of a solved problem, gathered from the ranks that share its mesh."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from mpi4py import MPI
from dolfinx.fem import locate_dofs_topological
from dolfinx.mesh import exterior_facet_indices

from lrsa_coupled.coupling.transfer import NodeSet
from lrsa_coupled.data.format import SampleArrays
from lrsa_coupled.interfaces import Case, Problem

DIGITS = 10
"""Decimal places, in units of the mesh's extent, at which coordinates of nodes are compared."""


def gather_arrays(case: Case, problem: Problem) -> SampleArrays | None:
    """Gather nodes, cells, features and solution to rank 0. Collective.

    On one rank the nodes keep the order of the degrees of freedom; on several they are sorted by coordinates, so that the order does not
    depend on the partition.

    Returns:
        The arrays, None above rank 0.
    """
    comm = problem.mesh.comm
    nodes, features = NodeSet(problem, case.outputs), case.features(problem)
    index_map = nodes.space.dofmap.index_map
    corners = nodes.cells[: _num_cells(problem), : nodes.num_vertices]
    cells = index_map.local_to_global(np.ascontiguousarray(corners).ravel()).reshape(corners.shape)
    rows = (nodes.points, nodes.mass, _boundary(problem, nodes.num_owned), nodes.constrained.astype(np.uint8),
            features.nodal.astype(np.float32), nodes.gather(problem.solution), cells)  # fmt: skip
    parts = comm.gather(rows)
    if parts is None:
        return None
    points, mass, boundary, constrained, inputs, outputs, cells = (np.concatenate(part) for part in zip(*parts, strict=True))
    order = np.arange(len(points)) if comm.size == 1 else _sorted_by_coordinates(points)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    cells = place[cells]
    if comm.size > 1:
        cells = cells[np.lexsort(np.sort(cells, axis=1).T[::-1])]
    return SampleArrays(points[order], mass[order], boundary[order], constrained[order], cells.astype(np.int32), inputs[order],
                        outputs[order], features.scalars)  # fmt: skip


def _num_cells(problem: Problem) -> int:
    return problem.mesh.topology.index_map(problem.mesh.topology.dim).size_local


def _boundary(problem: Problem, num_owned: int) -> npt.NDArray[np.uint8]:
    """Mark the owned nodes on the boundary of the domain. Collective."""
    mesh, dim = problem.mesh, problem.mesh.topology.dim
    mesh.topology.create_connectivity(dim - 1, dim)
    dofs = locate_dofs_topological(problem.node_space, dim - 1, exterior_facet_indices(mesh.topology))
    marked = np.zeros(num_owned, dtype=np.uint8)
    marked[dofs[dofs < num_owned]] = 1
    return marked


def _sorted_by_coordinates(points: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
    extent = np.ptp(points, axis=0).max()
    return np.lexsort(np.round(points / extent, DIGITS).T[::-1])
