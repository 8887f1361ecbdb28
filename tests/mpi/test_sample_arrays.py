"""The arrays of a sample: the same on any partition, coordinates that repeat included, for surfaces and lists too."""

from __future__ import annotations

import numpy as np
import pytest
from mpi4py import MPI

pytest.importorskip("dolfinx", reason="the gatherer needs DOLFINx")

import basix.ufl
from dolfinx import fem
from dolfinx.mesh import CellType, Mesh, create_mesh, create_unit_cube, create_unit_square

from lrsa_coupled.coupling.elements import num_columns
from lrsa_coupled.coupling.script import unknown
from lrsa_coupled.data.format import GEOMETRY, SampleArrays
from lrsa_coupled.generation.sample_arrays import SampleGatherer
from lrsa_coupled.interfaces import Described, Features, Unknown
from lrsa_coupled.schema import Field, Schema

COMM = MPI.COMM_WORLD


class Points(Described[Unknown]):
    """Sees the coordinates and the midpoints of the cells as inputs."""

    def __init__(self, dim: int, outputs: tuple[Field, ...]) -> None:
        self.schema = Schema("points", dim, (Field("x", dim),), (), outputs)

    def features(self, problem: Unknown) -> Features:
        space = problem.node_space
        points = space.tabulate_dof_coordinates()[: space.dofmap.index_map.size_local, : self.schema.dim]
        return Features(points, np.zeros(0))


def slit(comm: MPI.Comm) -> Mesh:
    """Two squares that touch: what lies on the common side is there twice."""
    a, b = (np.array([[x, y] for y in range(4) for x in range(s, s + 3)], dtype=float) for s in (0, 2))
    one = [[i + 3 * j, i + 3 * j + 1, i + 3 * j + 3] for j in range(3) for i in range(2)]
    two = [[i + 3 * j + 1, i + 3 * j + 3, i + 3 * j + 4] for j in range(3) for i in range(2)]
    cells = np.array(one + two)
    cells, points = np.concatenate([cells, cells + len(a)]), np.concatenate([a, b])
    if comm.rank:
        cells, points = cells[:0], points[:0]
    return create_mesh(comm, cells.astype(np.int64), basix.ufl.element("P", "triangle", 1, shape=(2,)), points)


MAKE = {
    "triangles": lambda comm: create_unit_square(comm, 5, 4),
    "hexahedra": lambda comm: create_unit_cube(comm, 3, 2, 2, CellType.hexahedron),
    "slit": slit,
}


def arrays(comm: MPI.Comm, mesh: str, name: str, degree: int) -> SampleArrays | None:
    """Those of a function whose values jump between cells where its space lets them."""
    domain = MAKE[mesh](comm)
    dim = domain.geometry.dim
    middle = fem.Function(fem.functionspace(domain, ("DG", 0)))
    middle.interpolate(lambda x: x[0] + 10 * x[1] + 100 * x[2])
    rough = fem.Function(fem.functionspace(domain, ("DG", max(degree, 1))))
    rough.interpolate(middle)
    u = fem.Function(fem.functionspace(domain, (name, degree)), name="u")
    if name == "DG":
        u.interpolate(lambda x: x[0] - x[1])
        u.x.array[:] += rough.x.array if degree else middle.x.array
    elif name == "P":
        u.interpolate(lambda x: x[0] - x[1])
    else:
        u.interpolate(lambda x: np.stack([x[1], 2 * x[0], x[2]])[:dim])
    u.x.scatter_forward()
    fields = (Field("u", num_columns(u, "u", ())),)
    what = unknown(u, [], fields)
    return SampleGatherer(Points(dim, fields), what)(what)


@pytest.mark.parametrize(
    ("mesh", "name", "degree"),
    [("triangles", "P", 2), ("triangles", "DG", 0), ("triangles", "DG", 2), ("triangles", "N1curl", 2),
     ("hexahedra", "RT", 1), ("slit", "P", 1), ("slit", "P", 2)],
)  # fmt: skip
def test_arrays_do_not_depend_on_the_partition(mesh: str, name: str, degree: int) -> None:
    found, expected = arrays(COMM, mesh, name, degree), arrays(MPI.COMM_SELF, mesh, name, degree)
    if found is None:
        return
    assert expected is not None and np.isclose(found.mass.sum(), expected.mass.sum())
    for key in (*GEOMETRY, "inputs", "outputs"):
        one, two = getattr(found, key), getattr(expected, key)
        assert one.shape == two.shape and one.dtype == two.dtype
        assert np.allclose(one, two, rtol=1e-6, atol=1e-9), key
    assert np.array_equal(found.cells, expected.cells)
