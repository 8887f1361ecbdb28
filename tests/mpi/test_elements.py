"""Unknowns of any element: values at the nodes and back, on any cells, partition and scalar type."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI

pytest.importorskip("dolfinx", reason="transfer needs DOLFINx")

import basix
import basix.ufl
from dolfinx import default_scalar_type, fem
from dolfinx.mesh import (
    CellType,
    Mesh,
    create_submesh,
    create_unit_cube,
    create_unit_interval,
    create_unit_square,
    exterior_facet_indices,
    locate_entities,
)

from lrsa_coupled.coupling.compat import cell_nodes
from lrsa_coupled.coupling.residual import set_dirichlet
from lrsa_coupled.coupling.script import unknown
from lrsa_coupled.coupling.transfer import NodeSet
from lrsa_coupled.interfaces import Unknown
from lrsa_coupled.schema import Field

pytestmark = pytest.mark.two_ranks

COMM = MPI.COMM_WORLD
element, mixed = basix.ufl.element, basix.ufl.mixed_element
LEGENDRE, EQUAL = basix.LagrangeVariant.legendre, basix.LagrangeVariant.equispaced


def mini(cell: str, dim: int) -> Any:
    bubble = element("Bubble", cell, dim + 1 if cell in ("triangle", "tetrahedron") else 2)
    return basix.ufl.blocked_element(basix.ufl.enriched_element([element("P", cell, 1), bubble]), shape=(dim,))


ANY: dict[str, Callable[[str, int], Any]] = {
    "DG0": lambda cell, dim: element("DG", cell, 0),
    "DG2 vector": lambda cell, dim: element("DG", cell, 2, shape=(dim,)),
    "P3 equispaced": lambda cell, dim: element("P", cell, 3, lagrange_variant=EQUAL),
    "DG2 of moments": lambda cell, dim: element("P", cell, 2, lagrange_variant=LEGENDRE, discontinuous=True),
    "symmetric P2": lambda cell, dim: element("P", cell, 2, shape=(dim, dim), symmetry=True),
    "symmetric DG0": lambda cell, dim: element("DG", cell, 0, shape=(dim, dim), symmetry=True),
    "P3 x P2": lambda cell, dim: mixed([element("P", cell, 3, shape=(dim,)), element("P", cell, 2)]),
    "P2 x DG0": lambda cell, dim: mixed([element("P", cell, 2, shape=(dim,)), element("DG", cell, 0)]),
    "MINI": lambda cell, dim: mixed([mini(cell, dim), element("P", cell, 1)]),
}
PLANE: dict[str, Callable[[str, int], Any]] = ANY | {
    "N1curl2": lambda cell, dim: element("N1curl", cell, 2),
    "N2curl1": lambda cell, dim: element("N2curl", cell, 1),
    "RT1 x DG0": lambda cell, dim: mixed([element("RT", cell, 1), element("DG", cell, 0)]),
    "BDM2": lambda cell, dim: element("BDM", cell, 2),
}
SIMPLEX = PLANE | {
    "CR": lambda cell, dim: element("CR", cell, 1),
    "Regge": lambda cell, dim: element("Regge", cell, 1),
    "all at once": lambda cell, dim: mixed([mixed([element("N1curl", cell, 1), element("P", cell, 3)]), mini(cell, dim),
                                            element("P", cell, 1, shape=(dim, dim), symmetry=True)]),
}  # fmt: skip
SPACES = [(cell, name) for cell, names in (("interval", ANY), ("triangle", SIMPLEX), ("quadrilateral", PLANE),
          ("tetrahedron", SIMPLEX), ("hexahedron", PLANE)) for name in names]  # fmt: skip


@lru_cache
def make_mesh(cell: str) -> Mesh:
    kind = CellType[cell]
    if cell == "interval":
        return create_unit_interval(COMM, 5)
    if cell in ("triangle", "quadrilateral"):
        return create_unit_square(COMM, 4, 3, kind)
    return create_unit_cube(COMM, 2, 2, 1, kind)


def random(space: fem.FunctionSpace, dtype: type = default_scalar_type) -> fem.Function:
    u = fem.Function(space, name="u", dtype=dtype)
    owned, rng = u.x.index_map.size_local * u.x.block_size, np.random.default_rng(COMM.rank)
    u.x.array[:owned] = rng.standard_normal(owned)
    if np.iscomplexobj(u.x.array):
        u.x.array[:owned] += 1j * rng.standard_normal(owned)
    u.x.scatter_forward()
    return u


def whole(u: fem.Function) -> Field:
    return Field("u", int(np.prod(u.function_space.value_shape)) * (2 if np.iscomplexobj(u.x.array) else 1))


def nodes_of(u: fem.Function, *bcs: fem.DirichletBC) -> tuple[Unknown, NodeSet]:
    what = unknown(u, bcs, [whole(u)])
    return what, NodeSet(what, [whole(u)])


@pytest.mark.parametrize(("cell", "name"), SPACES)
def test_round_trip(cell: str, name: str) -> None:
    mesh = make_mesh(cell)
    space = fem.functionspace(mesh, SIMPLEX[name](cell, mesh.topology.dim))
    for dtype in (np.float64, np.complex128):
        u, copy = random(space, dtype), fem.Function(space, dtype=dtype)
        _, nodes = nodes_of(u)
        values = nodes.gather(u)
        assert values.dtype == np.float64 and values.shape == (nodes.num_owned, whole(u).components)
        nodes.scatter(values, copy)
        assert np.abs(copy.x.array - u.x.array).max(initial=0.0) < 1e-12


@pytest.mark.parametrize(
    ("cell", "name"),
    [("triangle", "N1curl2"), ("tetrahedron", "N2curl1"), ("quadrilateral", "BDM2"), ("hexahedron", "DG2 vector"),
     ("triangle", "Regge"), ("tetrahedron", "MINI")],
)  # fmt: skip
def test_values_are_those_at_the_points(cell: str, name: str) -> None:
    mesh = make_mesh(cell)
    dim = mesh.topology.dim
    u = fem.Function(fem.functionspace(mesh, SIMPLEX[name](cell, dim)), name="u")
    part = u.sub(0) if name == "MINI" else u
    rows = np.add.outer(np.arange(1.0, dim + 1), np.arange(0.0, dim))
    if name == "Regge":
        part.interpolate(lambda x: np.tile(rows.reshape(-1, 1), x.shape[1]))
        rows = rows * 0.5 + rows.T * 0.5
    else:
        part.interpolate(lambda x: rows @ x[:dim] + 1.0)
    u.x.scatter_forward()
    _, nodes = nodes_of(u)
    values = nodes.gather(u)
    expected = np.tile(rows.ravel(), (len(values), 1)) if name == "Regge" else nodes.points @ rows.T + 1.0
    assert values[:, : expected.shape[1]] == pytest.approx(expected, abs=1e-12)


def test_cells_share_nodes_only_for_continuous_lagrange() -> None:
    mesh = make_mesh("triangle")
    u = random(fem.functionspace(mesh, PLANE["P2 x DG0"]("triangle", 2)))
    parts = 2 if np.iscomplexobj(u.x.array) else 1
    velocity, pressure = Field("v", 2 * parts, subspace=(0,)), Field("p", parts, subspace=(1,))
    for outputs, shared in (((velocity,), True), ((velocity, pressure), False), ((pressure,), False)):
        nodes = NodeSet(unknown(u, [], outputs), outputs)
        degree = nodes.element.degree
        assert nodes.is_continuous is shared and nodes.can_prolong is shared
        assert degree == (1 if outputs == (pressure,) else 2)
        copy = fem.Function(u.function_space)
        nodes.scatter(nodes.gather(u), copy)
        touched = np.concatenate([np.ravel(u.function_space.sub(field.subspace[0]).collapse()[1]) for field in outputs])
        assert np.allclose(copy.x.array[touched], u.x.array[touched], atol=1e-13)
        copy.x.array[touched] = 0.0
        assert not copy.x.array.any()


def on_the_boundary(points: np.ndarray) -> np.ndarray:
    return np.any((np.abs(points) < 1e-12) | (np.abs(points - 1) < 1e-12), axis=1)


@pytest.mark.parametrize("cell", ["triangle", "quadrilateral", "tetrahedron"])
@pytest.mark.parametrize("degree", [1, 3])
def test_discontinuous_nodes_have_mass_and_boundary(cell: str, degree: int) -> None:
    mesh = make_mesh(cell)
    u = fem.Function(fem.functionspace(mesh, ("DG", degree)), name="u")
    _, nodes = nodes_of(u)
    assert np.array_equal(nodes.boundary == 1, on_the_boundary(nodes.points))
    assert nodes.mass.min(initial=1.0) > 0 and COMM.allreduce(nodes.mass.sum()) == pytest.approx(1.0)
    corners = nodes.coordinates[nodes.cells[:, : nodes.num_vertices]]
    assert np.allclose(corners, mesh.geometry.x[cell_nodes(mesh)][..., : corners.shape[2]], atol=1e-14)
    centres = np.repeat(corners[: nodes.num_cells].mean(axis=1), nodes.cells.shape[1], axis=0)
    assert np.allclose(nodes.midpoints[nodes.cells[: nodes.num_cells].ravel()], centres, atol=1e-14)


@pytest.mark.parametrize("name", ["N1curl2", "RT1 x DG0", "BDM2", "CR", "MINI", "DG2 vector"])
def test_exact_dirichlet_values(name: str) -> None:
    mesh = make_mesh("triangle")
    space = fem.functionspace(mesh, SIMPLEX[name]("triangle", 2))
    exact, u = random(space), fem.Function(space, name="u")
    bcs = [wall(exact, (0,) if "x" in name or name == "MINI" else (), discontinuous=name.startswith("DG"))]
    what, nodes = nodes_of(u, *bcs)
    fixed, wanted = nodes.constrained, nodes.gather(exact)
    assert nodes.dirichlet_values()[fixed] == pytest.approx(wanted[fixed], abs=1e-11)
    assert COMM.allreduce(int(fixed.sum())) < COMM.allreduce(fixed.size)
    assert COMM.allreduce(int(fixed.sum())) > 0 or name == "CR"  # there every value depends on the inside
    nodes.scatter(np.where(fixed, nodes.dirichlet_values(), wanted + 1.0), u)
    set_dirichlet(what)
    dofs = bcs[0].dof_indices()[0]
    assert np.array_equal(u.x.array[dofs], exact.x.array[dofs]) and COMM.allreduce(len(dofs)) > 0


def wall(values: fem.Function, path: tuple[int, ...], *, discontinuous: bool) -> fem.DirichletBC:
    """The values of a function on the boundary as a condition, for a part of it."""
    space = values.function_space
    mesh = space.mesh
    mesh.topology.create_connectivity(1, 2)
    facets = exterior_facet_indices(mesh.topology)
    if path:
        collapsed, dofs = space.sub(path[0]).collapse()
        part = fem.Function(collapsed)
        part.x.array[:] = values.x.array[np.ravel(dofs)]
        places = fem.locate_dofs_topological((space.sub(path[0]), collapsed), 1, facets)
        return fem.dirichletbc(part, places, space.sub(path[0]))
    if discontinuous:
        return fem.dirichletbc(values, fem.locate_dofs_geometrical(space, lambda x: on_the_boundary(x[:2].T)))
    return fem.dirichletbc(values, fem.locate_dofs_topological(space, 1, facets))


def test_a_shared_degree_of_freedom_has_the_mean_over_its_cells() -> None:
    mesh = make_mesh("triangle")
    space = fem.functionspace(mesh, mixed([element("P", "triangle", 1), element("DG", "triangle", 0)]))
    parts = 2 if np.issubdtype(default_scalar_type, np.complexfloating) else 1
    outputs = Field("a", parts, subspace=(0,)), Field("b", parts, subspace=(1,))
    u = fem.Function(space)
    nodes = NodeSet(unknown(u, [], outputs), outputs)
    nodes.scatter(np.repeat(nodes.midpoints[:, :1], 2 * parts, axis=1), u)
    assert nodes.gather(u)[:, parts] == pytest.approx(nodes.midpoints[:, 0], abs=1e-14)
    shared = NodeSet(unknown(u, [], outputs[:1]), outputs[:1])
    assert shared.gather(u)[:, 0] == pytest.approx(shared.midpoints[:, 0], abs=1e-14)


@pytest.mark.parametrize("degrees", [("P", 1), ("P", 2)])
def test_functions_of_a_list(degrees: tuple[str, int]) -> None:
    mesh = make_mesh("triangle")
    spaces = [fem.functionspace(mesh, degrees), fem.functionspace(mesh, PLANE["RT1 x DG0"]("triangle", 2))]
    solution = tuple(random(space) for space in spaces)
    parts = 2 if np.iscomplexobj(solution[0].x.array) else 1
    outputs = Field("first", parts, subspace=(0,)), Field("flux", 2 * parts, subspace=(1, 0))
    for fields, shared in ((outputs, False), (outputs[:1], True)):
        nodes = NodeSet(unknown(solution, [], fields), fields)
        copy = tuple(fem.Function(space) for space in spaces)
        assert nodes.is_continuous is shared
        nodes.scatter(nodes.gather(solution), copy)
        assert np.allclose(copy[0].x.array, solution[0].x.array, atol=1e-13)
        rest = np.ravel(spaces[1].sub(1).collapse()[1])
        assert not copy[1].x.array[rest].any() and copy[1].x.array.any() == (not shared and copy[1].x.array.size > 0)


def test_ranks_without_cells_and_curved_cells() -> None:
    whole_mesh = create_unit_square(COMM, 12, 12)
    strip = create_submesh(whole_mesh, 2, locate_entities(whole_mesh, 2, lambda x: x[0] <= 1 / 6 + 1e-9))[0]
    curved = create_unit_square(COMM, 4, 3, CellType.quadrilateral)
    curved.geometry.x[:, 0] += 0.2 * curved.geometry.x[:, 0] * curved.geometry.x[:, 1]
    for mesh, cell, names in ((strip, "triangle", ("N1curl2", "MINI", "P2 x DG0")), (curved, "quadrilateral", ANY)):
        for name in names:
            u = random(fem.functionspace(mesh, SIMPLEX[name](cell, 2)))
            _, nodes = nodes_of(u)
            copy = fem.Function(u.function_space)
            nodes.scatter(nodes.gather(u), copy)
            assert np.abs(copy.x.array - u.x.array).max(initial=0.0) < 1e-12
            assert nodes.boundary.shape == nodes.mass.shape == (nodes.num_owned,)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: basix.ufl.quadrature_element("triangle", degree=2), "a quadrature element is not supported"),
        (lambda: basix.ufl.quadrature_element("triangle", value_shape=(2,), degree=2), "a quadrature element"),
        (lambda: basix.ufl.real_element("triangle", ()), "a Real element"),
        (lambda: element("iso", "triangle", 2), "a macro element is not supported"),
    ],
)
def test_what_is_not_supported_is_named(make: Callable[[], Any], message: str) -> None:
    u = fem.Function(fem.functionspace(make_mesh("triangle"), make()), name="u")
    with pytest.raises(ValueError, match=f"field 'u': .*{message}"):
        unknown(u, [], [whole(u)])


def test_cells_and_meshes_that_are_not_supported_are_named() -> None:
    prisms = fem.functionspace(create_unit_cube(COMM, 2, 2, 2, CellType.prism), ("P", 1))
    with pytest.raises(ValueError, match="field 'u': cells of type prism are not supported"):
        unknown(fem.Function(prisms), [], [Field("u")])
    one, two = (fem.Function(fem.functionspace(create_unit_square(COMM, 3, 3), ("P", 1))) for _ in range(2))
    parts = 2 if np.iscomplexobj(one.x.array) else 1
    with pytest.raises(ValueError, match="expected fields on one mesh, got 'a', 'b' on several"):
        unknown((one, two), [], [Field("a", parts, subspace=(0,)), Field("b", parts, subspace=(1,))])
    with pytest.raises(ValueError, match="expected a path that begins with the number"):
        unknown((one, two), [], [Field("a", parts)])


def test_continuous_nodes_do_not_hold_other_elements() -> None:
    mesh = make_mesh("triangle")
    shared = fem.functionspace(mesh, ("P", 2))
    for name in ("DG2 vector", "N1curl2", "P3 equispaced"):
        u = fem.Function(fem.functionspace(mesh, SIMPLEX[name]("triangle", 2)), name="u")
        with pytest.raises(ValueError, match="must be continuous Lagrange of degree <= 2"):
            NodeSet(Unknown(mesh=mesh, solution=u, bcs=[], node_space=shared), [whole(u)])


def test_a_symmetric_tensor_has_a_column_for_each_component_or_each_that_differs() -> None:
    u = random(fem.functionspace(make_mesh("tetrahedron"), ANY["symmetric DG0"]("tetrahedron", 3)))
    parts, values = 2 if np.iscomplexobj(u.x.array) else 1, []
    for components in (9, 6):
        field = Field("u", components * parts)
        nodes, copy = NodeSet(unknown(u, [], [field]), [field]), fem.Function(u.function_space)
        values.append(nodes.gather(u)[:, :components])
        nodes.scatter(nodes.gather(u), copy)
        assert np.allclose(copy.x.array, u.x.array, atol=1e-14)
    assert np.array_equal(values[0], values[1][:, [0, 1, 3, 1, 2, 4, 3, 4, 5]])
    with pytest.raises(ValueError, match="'u' has 7 components, its space has"):
        NodeSet(unknown(u, [], [Field("u", 7)]), [Field("u", 7)])
