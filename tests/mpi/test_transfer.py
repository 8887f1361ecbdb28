"""Transfer between function spaces and nodes: exact at any number of ranks."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from mpi4py import MPI

pytest.importorskip("dolfinx", reason="transfer needs DOLFINx")

import basix.ufl
import ufl
from dolfinx import fem, la
from dolfinx.mesh import create_unit_cube, create_unit_square, exterior_facet_indices

from lrsa_coupled.coupling.prolong import VertexProlongation
from lrsa_coupled.coupling.transfer import NodeSet
from lrsa_coupled.interfaces import Problem
from lrsa_coupled.schema import Field
from lrsa_coupled.solvers.interpolation import interpolation_matrix

COMM = MPI.COMM_WORLD


def make_problem(dim: int, element: str, degree: int) -> tuple[Problem, tuple[Field, ...]]:
    mesh = create_unit_square(COMM, 7, 5) if dim == 2 else create_unit_cube(COMM, 3, 2, 3)
    cell = mesh.basix_cell()
    lagrange, vector = basix.ufl.element("P", cell, degree), basix.ufl.element("P", cell, degree, shape=(dim,))
    if element == "mixed":
        space = fem.functionspace(mesh, basix.ufl.mixed_element([vector, basix.ufl.element("P", cell, degree - 1)]))
        fields: tuple[Field, ...] = (Field("velocity", dim, subspace=(0,)), Field("pressure", 1, subspace=(1,)))
    else:
        space = fem.functionspace(mesh, lagrange if element == "scalar" else vector)
        fields = (Field("u", 1 if element == "scalar" else dim),)
    mesh.topology.create_connectivity(dim - 1, dim)
    facets = exterior_facet_indices(mesh.topology)
    solution = fem.Function(space)
    if element == "mixed":
        collapsed = space.sub(0).collapse()[0]
        wall = fem.Function(collapsed)
        wall.interpolate(lambda x: x[:dim] + 1.0)
        bcs = [
            fem.dirichletbc(wall, fem.locate_dofs_topological((space.sub(0), collapsed), dim - 1, facets), space.sub(0))
        ]
    else:
        wall = fem.Function(space)
        wall.x.array[:] = 2.0
        bcs = [fem.dirichletbc(wall, fem.locate_dofs_topological(space, dim - 1, facets))]
    test = ufl.TestFunction(space)
    residual = ufl.inner(solution, test) * ufl.dx
    problem = Problem(mesh=mesh, parameters=None, solution=solution, residual=fem.form(residual),
                      jacobian=fem.form(ufl.derivative(residual, solution)), bcs=bcs,
                      node_space=fem.functionspace(mesh, ("P", degree)))  # fmt: skip
    return problem, fields


SPACES = [
    (2, "scalar", 1),
    (2, "scalar", 2),
    (2, "scalar", 3),
    (2, "vector", 2),
    (2, "mixed", 2),
    (3, "vector", 1),
    (3, "mixed", 2),
]


@pytest.mark.parametrize(("dim", "element", "degree"), SPACES)
def test_round_trip_is_exact(dim: int, element: str, degree: int) -> None:
    problem, fields = make_problem(dim, element, degree)
    nodes = NodeSet(problem, fields)
    u = problem.solution
    num_owned = u.x.index_map.size_local * u.x.block_size
    u.x.array[:num_owned] = np.random.default_rng(COMM.rank).standard_normal(num_owned)
    u.x.scatter_forward()
    copy = fem.Function(u.function_space)
    nodes.scatter(nodes.gather(u), copy)
    assert np.array_equal(copy.x.array, u.x.array)
    assert COMM.allreduce(nodes.num_owned) == problem.node_space.dofmap.index_map.size_global


@pytest.mark.parametrize(("dim", "element", "degree"), SPACES)
def test_values_sit_at_their_points(dim: int, element: str, degree: int) -> None:
    problem, fields = make_problem(dim, element, degree)
    nodes = NodeSet(problem, fields)
    x = nodes.points
    if element == "mixed":
        problem.solution.sub(0).interpolate(lambda p: p[:dim] ** degree)
        problem.solution.sub(1).interpolate(lambda p: p[0] - 2 * p[1])
        expected = np.column_stack([x**degree, x[:, 0] - 2 * x[:, 1]])
    else:
        components = fields[0].components
        problem.solution.interpolate(lambda p: p[:components] ** degree if components > 1 else p[0] ** degree)
        expected = x[:, :components] ** degree
    problem.solution.x.scatter_forward()
    assert nodes.gather(problem.solution) == pytest.approx(expected, abs=100 * np.finfo(np.float64).eps)


@pytest.mark.parametrize(("dim", "element", "degree"), [(2, "scalar", 2), (2, "mixed", 2), (3, "vector", 1)])
def test_mass_and_constraints(dim: int, element: str, degree: int) -> None:
    problem, fields = make_problem(dim, element, degree)
    nodes = NodeSet(problem, fields)
    assert np.all(nodes.mass > 0) or nodes.num_owned == 0
    assert COMM.allreduce(nodes.mass.sum()) == pytest.approx(1.0, rel=1e-12)
    on_boundary = np.any((nodes.points < 1e-12) | (nodes.points > 1 - 1e-12), axis=1)
    columns = dim if element != "scalar" else 1
    assert np.array_equal(nodes.constrained[:, :columns], np.repeat(on_boundary[:, None], columns, axis=1))
    values = nodes.dirichlet_values()
    expected = nodes.points[on_boundary] + 1.0 if element == "mixed" else np.full((on_boundary.sum(), columns), 2.0)
    assert values[on_boundary, :columns] == pytest.approx(expected, abs=1e-14)


def test_scatter_refuses_another_shape() -> None:
    problem, fields = make_problem(2, "mixed", 2)
    nodes = NodeSet(problem, fields)
    with pytest.raises(ValueError, match="expected values of shape"):
        nodes.scatter(np.zeros((nodes.num_owned, 2)), problem.solution)


def test_node_space_and_fields_are_checked() -> None:
    problem, _ = make_problem(2, "scalar", 1)
    with pytest.raises(ValueError, match="components"):
        NodeSet(problem, (Field("u", 2),))


@pytest.mark.parametrize("dim", [2, 3])
def test_prolongation_from_vertices(dim: int) -> None:
    problem, fields = make_problem(dim, "vector", 2)
    nodes = NodeSet(problem, fields)
    prolong = VertexProlongation(nodes)
    linear = nodes.points @ np.arange(1.0, dim * dim + 1).reshape(dim, dim)
    only_vertices = np.full_like(linear, np.nan)
    only_vertices[prolong.vertices] = linear[prolong.vertices]
    assert prolong(only_vertices)[0] == pytest.approx(linear, abs=1e-12)


def test_prolongation_is_exact_for_quadratics_where_gradients_are() -> None:
    mesh = create_unit_square(COMM, 12, 12)
    space = fem.functionspace(mesh, ("P", 2))
    solution = fem.Function(space)
    residual = fem.form(solution * ufl.TestFunction(space) * ufl.dx)
    problem = Problem(
        mesh=mesh, parameters=None, solution=solution, residual=residual, jacobian=residual, bcs=[], node_space=space
    )
    nodes = NodeSet(problem, (Field("u"),))
    prolong = VertexProlongation(nodes)
    x, y = nodes.points.T
    quadratic = (x**2 - 3 * x * y + y**2)[:, None]
    inside = np.all(
        (nodes.points > 0.2) & (nodes.points < 0.8), axis=1
    )  # recovered gradients are exact on a uniform mesh
    assert prolong(quadratic)[0][inside] == pytest.approx(quadratic[inside], abs=1e-12)


def test_ghosts_follow(tolerance: float = 0.0) -> None:
    problem, fields = make_problem(2, "vector", 2)
    nodes = NodeSet(problem, fields)
    nodes.scatter(np.repeat(nodes.points[:, :1], 2, axis=1), problem.solution)
    before = problem.solution.x.array.copy()
    problem.solution.x.scatter_forward()
    assert np.abs(before - problem.solution.x.array).max(initial=0.0) <= tolerance
    assert isinstance(problem.solution.x, la.Vector)


def on_coarser_nodes() -> Problem:
    """A scalar P1 problem whose nodes are those of a mesh of half the resolution, with the value 2 on the boundary."""
    problem, _ = make_problem(2, "scalar", 1)
    coarse = fem.functionspace(create_unit_square(COMM, 7, 5), ("P", 1))
    fine = fem.functionspace(create_unit_square(COMM, 14, 10), ("P", 1))
    fine.mesh.topology.create_connectivity(1, 2)
    wall = fem.Function(fine)
    wall.x.array[:] = 2.0
    bc = fem.dirichletbc(wall, fem.locate_dofs_topological(fine, 1, exterior_facet_indices(fine.mesh.topology)))
    return dataclasses.replace(
        problem,
        mesh=fine.mesh,
        solution=fem.Function(fine),
        bcs=[bc],
        node_space=coarse,
        to_nodes=interpolation_matrix(fine, coarse),
        from_nodes=interpolation_matrix(coarse, fine),
    )


def test_nodes_on_a_coarser_mesh() -> None:
    problem, fields = on_coarser_nodes(), (Field("u"),)
    nodes = NodeSet(problem, fields)
    values = np.random.default_rng(COMM.rank).standard_normal((nodes.num_owned, 1))
    nodes.scatter(values, problem.solution)
    assert np.array_equal(nodes.gather(problem.solution), values)
    ghosts = problem.solution.x.array.copy()
    problem.solution.x.scatter_forward()
    assert np.array_equal(ghosts, problem.solution.x.array)
    problem.solution.interpolate(lambda x: 1 + 2 * x[0] - x[1])
    assert np.allclose(nodes.gather(problem.solution)[:, 0], 1 + nodes.points @ [2, -1], atol=1e-14)
    on_boundary = (np.isclose(nodes.points, 0) | np.isclose(nodes.points, 1)).any(axis=1)
    assert np.array_equal(nodes.constrained[:, 0], on_boundary) and np.array_equal(nodes.boundary == 1, on_boundary)
    assert np.array_equal(nodes.dirichlet_values()[on_boundary, 0], np.full(on_boundary.sum(), 2.0))
    assert COMM.allreduce(nodes.mass.sum()) == pytest.approx(1.0)


def test_nodes_on_another_mesh_need_their_matrices() -> None:
    problem = on_coarser_nodes()
    with pytest.raises(ValueError, match="needs the matrices to_nodes and from_nodes"):
        NodeSet(dataclasses.replace(problem, to_nodes=None), (Field("u"),))
    with pytest.raises(ValueError, match="must have local sizes"):
        NodeSet(dataclasses.replace(problem, to_nodes=problem.from_nodes), (Field("u"),))
    with pytest.raises(ValueError, match="scalar solution that is the only output"):
        NodeSet(problem, (Field("u"), Field("v")))
