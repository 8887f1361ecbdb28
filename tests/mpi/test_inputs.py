"""Inputs of a script at the nodes: the same on any partition, of any element, expression and mesh."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import basix.ufl
import numpy as np
import pytest
import ufl
from mpi4py import MPI

pytest.importorskip("dolfinx", reason="the inputs need DOLFINx")

from dolfinx import default_scalar_type, fem
from dolfinx.mesh import CellType, Mesh, create_mesh, create_unit_cube, create_unit_square, locate_entities

from lrsa_coupled.coupling.inputs import Input, at_nodes, input_columns
from lrsa_coupled.coupling.script import Script
from lrsa_coupled.mpi import collective_errors
from lrsa_coupled.schema import Field

COMM = MPI.COMM_WORLD
REAL = pytest.mark.skipif(np.issubdtype(default_scalar_type, np.complexfloating), reason="columns of a real build")
MATERIAL = 0.3, 1.7, 10.0
"""Values of a material that are not sums of few powers of two."""


def material(x: np.ndarray) -> np.ndarray:
    return np.choose(((x[0] > 0.51).astype(int) + (x[1] > 0.37)), MATERIAL)


def square(comm: MPI.Comm, cell: CellType = CellType.triangle) -> Mesh:
    return create_unit_square(comm, 6, 5, cell)


def curved(comm: MPI.Comm) -> Mesh:
    """Triangles of degree 2 on a paraboloid in space."""
    flat = create_unit_square(MPI.COMM_SELF, 5, 4)
    nodes = fem.functionspace(flat, ("P", 2))
    x = nodes.tabulate_dof_coordinates()[:, :2]
    x = np.column_stack([x, 0.4 * (x**2).sum(axis=1)])
    cells = nodes.dofmap.list[:, [0, 1, 2, 3, 4, 5]].astype(np.int64) if comm.rank == 0 else np.zeros((0, 6), np.int64)
    element = basix.ufl.element("Lagrange", "triangle", 2, shape=(3,))
    return create_mesh(comm, cells, element, x if comm.rank == 0 else np.zeros((0, 3)))


def values(space: fem.FunctionSpace, source: Input, name: str = "k") -> tuple[np.ndarray, np.ndarray]:
    """The input at all nodes of all ranks, in the order of their coordinates, on every rank."""
    with collective_errors(space.mesh.comm):
        own = at_nodes(name, source, space)()
    assert own.shape == (space.dofmap.index_map.size_local, input_columns(name, source, space.mesh))
    x = space.tabulate_dof_coordinates()[: len(own)]
    parts = space.mesh.comm.allgather((x, own))
    x, every = (np.concatenate(part) for part in zip(*parts, strict=True))
    order = np.lexsort(np.round(x, 6).T)
    return x[order], every[order]


def function(mesh: Mesh, element: Any, of: Callable[[np.ndarray], np.ndarray]) -> fem.Function:
    made = fem.Function(fem.functionspace(mesh, element))
    made.interpolate(of)
    return made


def quadrature(mesh: Mesh, shape: tuple[int, ...] = ()) -> fem.Function:
    element = basix.ufl.quadrature_element(mesh.basix_cell(), shape, degree=3)
    of = (lambda x: np.stack([material(x), np.exp(x[0])])) if shape else (lambda x: material(x) * np.exp(x[1]))
    return function(mesh, element, of)


def taylor_hood(mesh: Mesh) -> fem.Function:
    cell = mesh.basix_cell()
    parts = [basix.ufl.element("P", cell, 2, shape=(2,)), basix.ufl.element("DG", cell, 1)]
    made = fem.Function(fem.functionspace(mesh, basix.ufl.mixed_element(parts)))
    made.sub(0).interpolate(lambda x: np.stack([np.sin(x[0]), x[1]]))
    made.sub(1).interpolate(lambda x: material(x) + x[0])
    return made


def symmetric(mesh: Mesh) -> fem.Function:
    element = basix.ufl.element("P", mesh.basix_cell(), 1, shape=(2, 2), symmetry=True)
    made = fem.Function(fem.functionspace(mesh, element))
    x = made.function_space.tabulate_dof_coordinates()
    made.x.array[:] = np.column_stack([x[:, 0], x[:, 1], x[:, 0] * x[:, 1]]).ravel()
    return made


def vector(x: np.ndarray) -> np.ndarray:
    return np.stack([material(x), x[0] * x[1]])


KINDS: dict[str, tuple[Callable[[Mesh], Input], int]] = {
    "DG0": (lambda m: function(m, ("DG", 0), material), 1),
    "DG2 vector": (lambda m: function(m, ("DG", 2, (2,)), vector), 2),
    "P1": (lambda m: function(m, ("P", 1), material), 1),
    "P1 tensor": (lambda m: function(m, ("P", 1, (2, 2)), lambda x: np.concatenate([vector(x), x[:2]])), 4),
    "symmetric tensor": (symmetric, 4),
    "Nedelec": (lambda m: function(m, ("N1curl", 1), vector), 2),
    "Raviart-Thomas": (lambda m: function(m, ("RT", 2), vector), 2),
    "quadrature": (quadrature, 1),
    "quadrature vector": (lambda m: quadrature(m, (2,)), 2),
    "quadrature expression": (lambda m: ufl.exp(quadrature(m)) * ufl.SpatialCoordinate(m)[0], 1),
    "gradient": (lambda m: ufl.grad(function(m, ("P", 2), lambda x: np.sin(3 * x[0]) * x[1])), 2),
    "conditional": (lambda m: ufl.conditional(ufl.lt(ufl.SpatialCoordinate(m)[0], 0.41), 0.1, 0.7), 1),
    "volume": (lambda m: ufl.CellVolume(m) + function(m, ("DG", 0), material), 1),
    "first of a mixed": (lambda m: taylor_hood(m).sub(0), 2),
    "second of a mixed": (lambda m: ufl.split(taylor_hood(m))[1], 1),
    "component": (lambda m: taylor_hood(m).sub(0).sub(1), 1),
    "whole mixed": (taylor_hood, 3),
    "callable": (lambda m: vector, 2),
}


@REAL
@pytest.mark.parametrize("kind", KINDS)
def test_inputs_do_not_depend_on_the_partition(kind: str) -> None:
    make, size = KINDS[kind]
    (x, found), (x_alone, alone) = (
        values(fem.functionspace(mesh, ("P", 3)), make(mesh)) for mesh in (square(COMM), square(MPI.COMM_SELF))
    )
    assert found.shape == (len(x), size) and np.allclose(x, x_alone)
    assert np.allclose(found, alone, rtol=1e-12, atol=1e-14)
    if kind in ("DG0", "quadrature"):  # in others the coordinates enter, rounded
        assert np.array_equal(found, alone)
    assert np.abs(found).max() > 0.05


def around(mesh: Mesh, of: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Mean of a function at midpoints over the cells around each vertex of a mesh of one rank."""
    corners = mesh.geometry.x[mesh.geometry.dofmaps[0]]
    sums, count = np.zeros(len(mesh.geometry.x)), np.zeros(len(mesh.geometry.x))
    np.add.at(sums, mesh.geometry.dofmaps[0], of(corners.mean(axis=1).T)[:, None])
    np.add.at(count, mesh.geometry.dofmaps[0], 1.0)
    return (sums / count)[np.lexsort(np.round(mesh.geometry.x, 6).T)]


@REAL
@pytest.mark.parametrize("cell", [CellType.triangle, CellType.quadrilateral])
def test_a_node_has_the_mean_of_its_cells(cell: CellType) -> None:
    mesh, alone = square(COMM, cell), square(MPI.COMM_SELF, cell)
    space = fem.functionspace(mesh, ("P", 1))
    cells = function(mesh, ("DG", 0), material)
    expected = around(alone, material)
    assert np.allclose(values(space, cells)[1][:, 0], expected)
    assert np.allclose(values(space, 2 * cells + 1)[1][:, 0], 2 * expected + 1)
    points = function(mesh, basix.ufl.quadrature_element(mesh.basix_cell(), degree=4), lambda x: x[0] + 2 * x[1])
    assert np.allclose(values(space, points)[1][:, 0], around(alone, lambda x: x[0] + 2 * x[1]))


@REAL
def test_hexahedra_and_a_curved_surface() -> None:
    for make in (lambda comm: create_unit_cube(comm, 3, 2, 2, CellType.hexahedron), curved):
        mesh, alone = make(COMM), make(MPI.COMM_SELF)
        for source in (
            lambda m: function(m, ("DG", 0), material),
            lambda m: ufl.grad(function(m, ("P", 2), lambda x: x[0] * x[2]))[2],
        ):
            results = [values(fem.functionspace(m, ("P", 2)), source(m)) for m in (mesh, alone)]
            assert np.allclose(results[0][0], results[1][0]) and np.allclose(results[0][1], results[1][1], atol=1e-13)
    x, found = values(fem.functionspace(mesh, ("P", 2)), ufl.CellNormal(mesh)[2] ** 2)
    assert np.allclose(found[:, 0], 1.0 / (1.0 + 0.64 * (x[:, 0] ** 2 + x[:, 1] ** 2)))


@REAL
def test_nodes_of_a_discontinuous_space_have_their_own_cell() -> None:
    mesh = square(COMM)
    space = fem.functionspace(mesh, ("DG", 2))
    num_cells = mesh.topology.index_map(2).size_local
    cells, smooth = function(mesh, ("DG", 0), material), function(mesh, ("P", 2), lambda x: x[0] * x[1])
    expected = cells.x.array[:num_cells].repeat(6)
    with collective_errors(COMM):
        assert np.array_equal(at_nodes("k", cells, space)()[:, 0], expected)
        assert np.allclose(at_nodes("k", cells + 1, space)()[:, 0], expected + 1)
        x = space.tabulate_dof_coordinates()[: 6 * num_cells]
        assert np.allclose(at_nodes("k", smooth, space)()[:, 0], x[:, 0] * x[:, 1])


@REAL
def test_constants() -> None:
    mesh = square(COMM)
    space = fem.functionspace(mesh, ("P", 2))
    flow = fem.Constant(mesh, np.array([0.1, 0.7]))
    sources = {flow: [0.1, 0.7], 2 * flow[1]: [1.4], 0.1: [0.1], 3: [3.0], ufl.as_ufl(0.0): [0.0]}
    for source, expected in [*sources.items(), (ufl.as_vector([1.0, 0.0]), [1.0, 0.0])]:
        assert np.allclose(values(space, source)[1], expected, rtol=1e-15)
    evaluate = at_nodes("k", flow, space)
    flow.value[:] = [2.0, 3.0]
    assert np.allclose(evaluate(), [2.0, 3.0])


def test_ranks_without_cells() -> None:
    mesh = create_unit_square(COMM, 1, 1)
    space = fem.functionspace(mesh, ("P", 1))
    found = values(space, fem.Function(fem.functionspace(mesh, ("DG", 0))) + 1.0)[1]
    assert np.allclose(found[:, 0], 1.0)
    other = function(create_unit_square(COMM, 2, 2), ("DG", 1), lambda x: x[0])
    x, found = values(space, other)
    assert np.allclose(found[:, 0], x[:, 0])


COMPLEX: dict[str, tuple[Callable[[Mesh], Input], int]] = {
    "P1": (lambda m: wave(m, ("P", 1)), 2),
    "DG1": (lambda m: wave(m, ("DG", 1)), 2),
    "expression": (lambda m: 2 * wave(m, ("P", 1)) + fem.Constant(m, 0j), 2),
    "coordinates": (lambda m: ufl.SpatialCoordinate(m)[0], 1),
    "real part": (lambda m: 3 * ufl.real(wave(m, ("P", 1))), 1),
    "modulus": (lambda m: abs(wave(m, ("DG", 0))), 1),
    "constant": (lambda m: fem.Constant(m, np.array([1.0 + 2j, 3.0])), 4),
    "number": (lambda m: 1.0 + 2.0j, 2),
    "callable": (lambda m: lambda x: np.exp(1j * x[:2]), 4),
    "other mesh": (lambda m: wave(create_unit_square(m.comm, 3, 3), ("DG", 1)), 2),
}


def wave(mesh: Mesh, element: Any) -> fem.Function:
    made = fem.Function(fem.functionspace(mesh, element), dtype=np.complex128)
    made.interpolate(lambda x: x[0] + 2j * x[1])
    return made


@pytest.mark.parametrize("kind", COMPLEX)
def test_complex_inputs_have_real_columns_then_imaginary_ones(kind: str) -> None:
    make, size = COMPLEX[kind]
    mesh = square(COMM)
    x, found = values(fem.functionspace(mesh, ("P", 2)), make(mesh))
    assert found.shape == (len(x), size)
    factor = 2.0 if kind == "expression" else 1.0
    if kind in ("P1", "DG1", "expression", "other mesh"):
        assert np.allclose(found, factor * x[:, :2] * [1.0, 2.0])
    if kind in ("real part", "coordinates"):
        assert np.allclose(found[:, 0], (3.0 if kind == "real part" else 1.0) * x[:, 0])
    if kind == "constant":
        assert np.allclose(found, [1.0, 3.0, 2.0, 0.0])
    if kind == "callable":
        assert np.allclose(found, np.column_stack([np.cos(x[:, :2]), np.sin(x[:, :2])]))


def test_complex_scalars_are_two() -> None:
    mesh = square(COMM)
    scalars = {"k": fem.Constant(mesh, np.array([1.0 + 2j, 3.0])), "a": 2.0, "z": lambda: 5j}
    script = Script("s", {}, scalars, outputs=(Field("u"),), node_space=fem.functionspace(mesh, ("P", 1)))
    assert script.schema.scalars == ("k_0_re", "k_0_im", "k_1_re", "k_1_im", "a", "z_re", "z_im")
    assert script.features(None).scalars.tolist() == [1.0, 2.0, 3.0, 0.0, 2.0, 0.0, 5.0]


def test_what_cannot_be_a_scalar_is_refused_by_name() -> None:
    space = fem.functionspace(square(COMM), ("P", 1))
    constant = fem.Constant(space.mesh, 1.0)
    for wrong, message in (
        (2.0 * constant, "'k' is a UFL expression: give a function, such as lambda"),
        (fem.Function(space), "'k' is a Function, which has values at nodes"),
        (lambda x: x[0], "'k' must be a function that takes no argument: missing"),
        ("one", "'k' must be a number, a Constant or a function"),
    ):
        with pytest.raises(ValueError, match=message):
            Script("s", {}, {"k": wrong}, outputs=(Field("u"),), node_space=space)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m: ufl.TestFunction(fem.functionspace(m, ("P", 1))), "must not contain test or trial functions"),
        (ufl.FacetNormal, "'k' cannot be evaluated in cells"),
        (lambda m: ufl.SpatialCoordinate(m)[ufl.i], "free indices"),
        (lambda m: "two", "must be a Function, a UFL expression, a number or a function of points, got str"),
        (lambda m: function(m, ("P", 1), material) * ufl.dx, "a number or a function of points, got Form"),
        (lambda m: lambda: 1.0, r"that takes the points, an array \(3, num_points\): too many"),
        (lambda m: lambda x: 1.0, r"must return numbers of shape \(components, 2\), .* got shape \(\)"),
        (lambda m: lambda x: x.T, r"got shape \(2, 3\)"),
        (lambda m: lambda x: ["a", "b"], "got <U1 of shape"),
        (lambda m: quadrature(m) + function(m, ("DG", 0), material) * other_rule(m), "of one rule, got several"),
        (lambda m: wave(m, ("P", 1)) * fem.Constant(m, 1.0), "of one type, got complex128, float64"),
        (lambda m: ufl.conditional(ufl.lt(wave(m, ("P", 1)), 1.0), 1.0, 2.0), "compare ufl.real"),
        (lambda m: function(m, ("P", 1), material) + function(square(COMM), ("P", 1), material), "on one mesh only"),
        (lambda m: function(create_unit_cube(COMM, 2, 2, 2), ("P", 1), material), "in 2 dimensions of space, got 3"),
    ],
)
def test_what_cannot_be_an_input_is_refused_by_name(make: Callable[[Mesh], Input], message: str) -> None:
    mesh = square(COMM)
    with pytest.raises(ValueError, match=message):
        source = make(mesh)
        input_columns("k", source, mesh)
        at_nodes("k", source, fem.functionspace(mesh, ("P", 1)))()


def other_rule(mesh: Mesh) -> fem.Function:
    return fem.Function(fem.functionspace(mesh, basix.ufl.quadrature_element(mesh.basix_cell(), degree=1)))


@pytest.mark.skipif(COMM.size == 1, reason="communicators differ on several ranks")
def test_another_communicator_is_refused() -> None:
    alone = function(square(MPI.COMM_SELF), ("P", 1), material)
    with pytest.raises(ValueError, match="communicator of the unknown's"):
        input_columns("k", alone, square(COMM))


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        (lambda x: 1.0 / 0, ZeroDivisionError, "division"),
        (lambda x: x[:2], ValueError, "'k' has 1 components for the operator, got 2"),
        (lambda x: x[0, :1], ValueError, r"shape \(components, \d+\)"),
        (lambda x: np.full(x.shape[1], np.nan), ValueError, "'k' must be finite"),
    ],
)
def test_a_mistake_on_one_rank_reaches_all(fault: Callable[..., Any], error: type[Exception], message: str) -> None:
    mesh, wrong = square(COMM), [False]
    cells = fem.Function(fem.functionspace(mesh, ("DG", 0)), dtype=np.float64)
    inputs = {Field("k"): lambda x: fault(x) if wrong[0] and COMM.rank == COMM.size - 1 else x[0], Field("c"): cells}
    script = Script("s", inputs, {}, outputs=(Field("u"),), node_space=fem.functionspace(mesh, ("P", 1)))
    for wrong[0] in (False, True, False):
        if wrong[0]:
            with pytest.raises(error, match=message):
                script.features(None)
        else:
            assert script.features(None).nodal.shape[1] == 2


@REAL
@pytest.mark.parametrize("element", [("P", 2), ("DG", 0), ("DG", 2), ("N1curl", 1), "quadrature", "expression"])
def test_functions_on_another_mesh(element: Any) -> None:
    """Half of the unknown's domain, with other cells; the nodes outside have zeros."""
    results = []
    for comm in (COMM, MPI.COMM_SELF):
        mesh = square(comm)
        half = create_unit_square(comm, 7, 9)
        half.geometry.x[:, 0] *= 0.5
        linear = function(half, ("P", 1), lambda x: x[0] + 2 * x[1])
        if element == "expression":
            source = ufl.as_vector([linear, 1.0])
        elif element == "quadrature":
            source = function(half, basix.ufl.quadrature_element("triangle", degree=2), lambda x: 1 + 0 * x[0])
        elif element == ("N1curl", 1):
            source = function(half, element, lambda x: np.stack([0 * x[0] + 1, 0 * x[0] + 2]))
        else:
            source = function(half, element, lambda x: x[0] + 2 * x[1])
        results.append(values(fem.functionspace(mesh, ("P", 2)), source))
    (x, found), (_, alone) = results
    assert np.allclose(found, alone, atol=1e-12)
    inside = x[:, 0] < 0.5 + 1e-9
    assert not found[~inside].any()
    expected = x[inside, 0] + 2 * x[inside, 1]
    if element in ("expression", "quadrature", ("N1curl", 1)):
        assert np.allclose(found[inside, -1], 2.0 if element == ("N1curl", 1) else 1.0)
    assert element == "quadrature" or np.allclose(
        found[inside, 0], 1.0 if element == ("N1curl", 1) else expected, atol=0.4 if element == ("DG", 0) else 1e-9
    )


@REAL
@pytest.mark.parametrize("dim", [2, 1])
@pytest.mark.parametrize("element", [("P", 2), ("DG", 0), ("DG", 1)])
def test_submeshes_and_their_parents(dim: int, element: tuple[str, int]) -> None:
    """Cells, or facets, of the left half: an input of the parent on the submesh and the other way round."""
    from dolfinx.mesh import create_submesh

    mesh = create_unit_square(COMM, 6, 6)
    mesh.topology.create_entities(dim)
    entities = locate_entities(mesh, dim, lambda x: x[0] <= 0.5 + 1e-9 if dim == 2 else np.isclose(x[0], 0.5))
    part = create_submesh(mesh, dim, entities)[0]
    smooth = element[0] == "P" or (element == ("DG", 1) and dim == 2)
    of = (lambda x: 1 + x[0] + x[1]) if element[1] else (lambda x: np.where(x[0] < 0.5, 3.0, 7.0))
    whole, own = function(mesh, element, of), function(part, element, of)
    x, found = values(fem.functionspace(part, ("P", 1)), whole)
    around_line = np.where(x[:, 1] < 1e-9, 17 / 3, np.where(x[:, 1] > 1 - 1e-9, 13 / 3, 5.0))  # three cells at an end
    expected = 1 + x[:, 0] + x[:, 1] if element[1] else 3.0 if dim == 2 else around_line
    assert np.allclose(found[:, 0], expected, atol=1e-9 if smooth or not element[1] else 0.2)
    x, found = values(fem.functionspace(mesh, ("P", 1)), own)
    inside = x[:, 0] < 0.5 + 1e-9 if dim == 2 else np.isclose(x[:, 0], 0.5)
    assert not found[~inside].any() and found[inside].all()
    expected = 1 + x[inside, 0] + x[inside, 1] if element[1] else (3.0 if dim == 2 else 7.0)
    assert np.allclose(found[inside, 0], expected)
