"""Surfaces and curves in space: prolongation from the vertices, and ranks without cells."""

from __future__ import annotations

import numpy as np
import pytest
from mpi4py import MPI

pytest.importorskip("dolfinx", reason="transfer needs DOLFINx")

import basix.ufl
from dolfinx import default_scalar_type, fem
from dolfinx.mesh import Mesh, create_mesh, create_submesh, create_unit_cube, create_unit_square, locate_entities

from lrsa_coupled.coupling.prolong import VertexProlongation
from lrsa_coupled.coupling.script import unknown
from lrsa_coupled.coupling.transfer import NodeSet
from lrsa_coupled.schema import Field

COMM = MPI.COMM_WORLD
PARTS = 2 if np.issubdtype(default_scalar_type, np.complexfloating) else 1


def surface(number: int = 6) -> Mesh:
    """Triangles of a square, to be bent."""
    rows = np.arange((number + 1) ** 2).reshape(number + 1, -1)
    a, b, c, d = (rows[i : i + number, j : j + number].ravel() for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)))
    cells = np.concatenate([np.stack([a, b, d], axis=1), np.stack([a, c, d], axis=1)])
    x, y = np.meshgrid(*2 * (np.linspace(0, 1, number + 1),))
    points = np.stack([x.ravel(), y.ravel(), np.zeros(x.size)], axis=1)
    return made(cells, points, "triangle")


def curve(dim: int, number: int = 9) -> Mesh:
    t = np.linspace(0.0, 1.0, number + 1)
    cells = np.stack([np.arange(number), np.arange(number) + 1], axis=1)
    return made(cells, np.stack([t, 0 * t, 0 * t][:dim], axis=1), "interval")


def made(cells: np.ndarray, points: np.ndarray, cell: str) -> Mesh:
    element = basix.ufl.element("Lagrange", cell, 1, shape=(points.shape[1],))
    if COMM.rank:
        cells, points = cells[:0], points[:0]
    return create_mesh(COMM, cells.astype(np.int64), element, points)


def tilt(x: np.ndarray) -> None:
    x[:, 2] = 0.3 * x[:, 0] - 0.2 * x[:, 1]


def roll(x: np.ndarray) -> None:
    angle = 2.5 * x[:, 0]
    x[:, 0], x[:, 2] = np.sin(angle), np.cos(angle) + 0.1 * x[:, 1]


def wind(x: np.ndarray) -> None:
    x[:, 1] = np.sin(3 * x[:, 0])


def wind_in_space(x: np.ndarray) -> None:
    angle = 4 * x[:, 0]
    x[:, 1], x[:, 2] = np.sin(angle), np.cos(angle)


MANIFOLDS = {"tilted": (surface, tilt), "rolled": (surface, roll), "planar curve": (lambda: curve(2), wind),
             "curve": (lambda: curve(3), wind_in_space)}  # fmt: skip


def node_set(mesh: Mesh, degree: int) -> tuple[NodeSet, fem.Function]:
    u, fields = fem.Function(fem.functionspace(mesh, ("P", degree)), name="u"), [Field("u", PARTS)]
    return NodeSet(unknown(u, [], fields), fields), u


@pytest.mark.parametrize("degree", [1, 2, 3])
@pytest.mark.parametrize("name", MANIFOLDS)
def test_linear_fields_are_exact_on_manifolds(name: str, degree: int) -> None:
    make, bend = MANIFOLDS[name]
    mesh = make()
    bend(mesh.geometry.x)
    nodes, _ = node_set(mesh, degree)
    prolong = VertexProlongation(nodes)
    linear = nodes.points @ np.array([[1.0, 0.5], [-2.0, 1.0], [1.5, 3.0]])[: nodes.points.shape[1]] + 1.0
    values = np.full_like(linear, np.nan)
    values[prolong.vertices] = linear[prolong.vertices]
    found, doubt = prolong(values)
    assert found == pytest.approx(linear, abs=1e-11) and np.abs(doubt).max(initial=0.0) < 1e-11


@pytest.mark.parametrize("dim", [2, 3])
def test_linear_fields_are_exact_on_curved_cells(dim: int) -> None:
    flat = create_unit_square(COMM, 5, 5)
    element = basix.ufl.element("P", "triangle", 2, shape=(dim,))
    places = fem.functionspace(flat, ("P", 2))
    points = np.zeros((places.dofmap.index_map.size_local, 3))
    points[:] = places.tabulate_dof_coordinates()[: len(points)]
    x, y = points[:, 0].copy(), points[:, 1].copy()
    points[:, 0], points[:, 2] = x + 0.2 * np.sin(3 * y) * x, np.cos(2 * x) + y**2
    owned = flat.topology.index_map(2).size_local
    cells = places.dofmap.index_map.local_to_global(places.dofmap.list[:owned].ravel()).reshape(owned, -1)
    mesh = create_mesh(COMM, cells, element, points[:, :dim])
    nodes, _ = node_set(mesh, 2)
    linear = nodes.points @ np.array([[1.0], [2.0], [-1.0]])[:dim]
    found, doubt = VertexProlongation(nodes)(linear)
    inside = nodes.boundary == 0  # a corner of the surface with one cell does not show the slope across it
    assert found[inside] == pytest.approx(linear[inside], abs=1e-10)
    assert np.abs(doubt).max(initial=0.0) < 1e-10


def test_quadratic_fields_are_exact_in_a_tilted_plane_where_gradients_are() -> None:
    mesh = surface(12)
    flat, _ = node_set(mesh, 2)
    x, y = flat.points[:, :2].T
    quadratic, inside = (x**2 - 3 * x * y + y**2)[:, None], (np.minimum(x, y) > 0.2) & (np.maximum(x, y) < 0.8)
    tilt(mesh.geometry.x)
    nodes, _ = node_set(mesh, 2)
    found, doubt = VertexProlongation(nodes)(quadratic)
    assert found[inside] == pytest.approx(quadratic[inside], abs=1e-12)
    assert COMM.allreduce(doubt.max(initial=0.0), MPI.MAX) > 1e-3


@pytest.mark.parametrize("dim", [2, 3])
def test_ranks_without_cells_prolong(dim: int) -> None:
    whole = create_unit_square(COMM, 12, 12) if dim == 2 else create_unit_cube(COMM, 6, 2, 2)
    mesh = create_submesh(whole, dim, locate_entities(whole, dim, lambda x: x[0] <= 1 / 6 + 1e-9))[0]
    nodes, _ = node_set(mesh, 2)
    linear = nodes.points @ np.arange(1.0, 1.0 + dim)[:, None]
    assert VertexProlongation(nodes)(linear)[0] == pytest.approx(linear, abs=1e-12)


def test_the_boundary_of_the_domain_is_a_manifold() -> None:
    box = create_unit_cube(COMM, 3, 3, 3)
    box.topology.create_connectivity(2, 3)
    skin = create_submesh(box, 2, locate_entities(box, 2, lambda x: np.isclose(x[0], 0) | np.isclose(x[2], 1)))[0]
    nodes, u = node_set(skin, 2)
    linear = nodes.points @ np.array([[1.0], [2.0], [-1.0]])
    assert VertexProlongation(nodes)(linear)[0] == pytest.approx(linear, abs=1e-11)
    nodes.scatter(np.repeat(linear, PARTS, axis=1), u)
    assert nodes.gather(u) == pytest.approx(np.repeat(linear, PARTS, axis=1))


@pytest.mark.parametrize("family", ["RT", "N1curl"])
def test_mapped_elements_on_surfaces_are_refused(family: str) -> None:
    u = fem.Function(fem.functionspace(surface(2), basix.ufl.element(family, "triangle", 1)))
    with pytest.raises(ValueError, match="field 'q': a mapped element .* on a surface or curve"):
        unknown(u, [], [Field("q", 3 * PARTS)])
