"""The arrays of a solved problem, gathered from the ranks that share its mesh."""

from __future__ import annotations

from typing import Any, final

import numpy as np
import numpy.typing as npt

from lrsa_coupled.coupling.contract import features_of
from lrsa_coupled.coupling.transfer import NodeSet
from lrsa_coupled.data.cells import simplices
from lrsa_coupled.data.format import GEOMETRY, SampleArrays
from lrsa_coupled.interfaces import Described, Unknown
from lrsa_coupled.mpi import collective_errors


def mesh_of(points: Values) -> object:
    """Return what is the same for samples with these points, and different for others."""
    return len(points), float(points.sum()), float(np.sum(points**2))


type Values = npt.NDArray[np.floating]
type Nodal = npt.NDArray[np.float64]


@final
class SampleGatherer:
    """Gathers solved problems on one mesh to rank 0; what depends on the mesh alone is gathered once, and read-only.

    The nodes are sorted by coordinates, those that repeat by the midpoints of their cells, so that the order does not
    depend on the partition. Collective: making, from a problem on the mesh, and calling.
    """

    def __init__(self, case: Described, problem: Unknown) -> None:
        self.case = case
        self.nodes = NodeSet(problem, case.schema.outputs)
        self.comm = problem.mesh.comm
        self._order: npt.NDArray[np.intp] = np.zeros(0, dtype=np.intp)
        self._geometry: dict[str, npt.NDArray[Any]] = {}
        self._counts: list[int] = []
        nodes = self.nodes
        corners = nodes.cells[: nodes.num_cells, : nodes.num_vertices]
        if nodes.space.mesh.topology.dim < nodes.space.mesh.geometry.dim:  # in space they would be taken for simplices
            corners = simplices(corners, nodes.space.mesh.topology.dim)
        cells = nodes.space.dofmap.index_map.local_to_global(corners.ravel()).reshape(corners.shape)
        places = np.column_stack([nodes.points, nodes.midpoints])
        parts = self.comm.gather((places, nodes.mass, nodes.boundary, nodes.constrained.astype(np.uint8), cells))
        if parts is not None:
            self._counts = [len(part[0]) for part in parts]
            self._arrange(*(np.concatenate(part) for part in zip(*parts, strict=True)))

    def __call__(self, problem: Unknown) -> SampleArrays | None:
        """Return the arrays of a problem on the mesh, None above rank 0.

        TypeError or ValueError for features that do not fit the schema, or values that are not finite; on all ranks.
        """
        with collective_errors(self.comm):
            features = features_of(self.case, problem)
            with np.errstate(over="ignore"):
                inputs = features.nodal.astype(np.float32)
            outputs = self.nodes.gather(problem.solution)
            found: dict[str, Values] = {"inputs": inputs, "scalars": features.scalars, "outputs": outputs}
            for what, values in found.items():
                if not np.isfinite(values).all():
                    raise ValueError(f"{what} of '{self.case.schema.name}' must be finite, got values that are not")
        parts = self.comm.gather((inputs, outputs))
        if parts is None:
            return None
        inputs, outputs = (np.concatenate(part)[self._order] for part in zip(*parts, strict=True))
        return SampleArrays(**self._geometry, inputs=inputs, outputs=outputs, scalars=features.scalars)

    def spread(self, arrays: SampleArrays | None) -> tuple[Nodal, Nodal, Nodal] | None:
        """Return inputs and outputs at the owned nodes, and scalars; None if the sample is not of this mesh.

        ``arrays`` count on rank 0.
        """
        parts = None
        if arrays is not None and self._is_here(arrays):
            ends = np.cumsum(self._counts)[:-1]
            both = arrays.inputs, arrays.outputs
            columns = (np.split(values[self.rows].astype(np.float64), ends) for values in both)
            parts = [(*each, arrays.scalars) for each in zip(*columns, strict=True)]
        return self.comm.scatter(parts) if self.comm.bcast(parts is not None) else None

    @property
    def rows(self) -> npt.NDArray[np.intp]:
        """Row in the arrays of a sample of each node, those of one rank after those of another; on rank 0."""
        rows = np.empty_like(self._order)
        rows[self._order] = np.arange(len(rows))
        return rows

    @property
    def mesh(self) -> object:
        """What is the same for samples on one mesh, and different on others, on rank 0; None above."""
        return mesh_of(self._geometry["points"]) if self._geometry else None

    def _is_here(self, arrays: SampleArrays) -> bool:
        points = self._geometry["points"]
        return arrays.points.shape == points.shape and bool(np.allclose(arrays.points, points, rtol=0.0, atol=1e-12))

    def _arrange(self, places: npt.NDArray[np.float64], *rest: npt.NDArray[np.float64]) -> None:
        """Put nodes and cells in their order; on rank 0."""
        *at_nodes, cells = rest
        points = places[:, : places.shape[1] // 2]
        self._order = order = _sorted(places, np.ptp(points, axis=0).max() or 1.0)
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        cells = place[cells]
        cells = cells[np.lexsort(np.sort(cells, axis=1).T[::-1])]
        arrays = (points[order], *(values[order] for values in at_nodes), cells.astype(np.int32))
        for values in arrays:
            values.flags.writeable = False
        self._geometry = dict(zip(GEOMETRY, arrays, strict=True))


def _sorted(places: npt.NDArray[np.float64], extent: float) -> npt.NDArray[np.intp]:
    """Return the order of the rows, the first column first; what is nearer than 1e-10 of the extent is the same.

    The odd shift keeps the edges of what is rounded to the same away from simple fractions.
    """
    return np.lexsort(np.floor(places / (1e-10 * extent) + 1 / np.pi).T[::-1])
