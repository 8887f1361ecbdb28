"""The cavity against published tables and a manufactured solution."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI

pytest.importorskip("dolfinx", reason="the cavity needs DOLFINx")

import basix.ufl
import ufl
from dolfinx import fem, geometry
from dolfinx.mesh import create_unit_square, exterior_facet_indices

from lrsa_coupled.cases.cavity.case import CavityCase, CavityOptions, CavityParameters, features_at, navier_stokes
from lrsa_coupled.coupling.predictor import Predictor
from lrsa_coupled.coupling.quantities import evaluate
from lrsa_coupled.coupling.residual import reference_norm, residual_norm
from lrsa_coupled.generation.plan import sample_parameters
from lrsa_coupled.interfaces import Problem
from lrsa_coupled.solvers.newton import NewtonSolver

CASES = Path(__file__).resolve().parents[2] / "cases"

# Ghia, Ghia & Shin (1982), J. Comput. Phys. 48, tables I (u along x = 0.5) and II (v along y = 0.5), walls left out.
# The v printed for Re 400 at x = 0.9063 is out of line with its neighbours (a known misprint): it is left out.
GHIA_Y = [
    0.9766,
    0.9688,
    0.9609,
    0.9531,
    0.8516,
    0.7344,
    0.6172,
    0.5,
    0.4531,
    0.2813,
    0.1719,
    0.1016,
    0.0703,
    0.0625,
    0.0547,
]
GHIA_X = [
    0.9688,
    0.9609,
    0.9531,
    0.9453,
    0.9063,
    0.8594,
    0.8047,
    0.5,
    0.2344,
    0.2266,
    0.1563,
    0.0938,
    0.0781,
    0.0703,
    0.0625,
]
GHIA_U = {
    100: [0.84123, 0.78871, 0.73722, 0.68717, 0.23151, 0.00332, -0.13641, -0.20581, -0.21090, -0.15662, -0.10150,
          -0.06434, -0.04775, -0.04192, -0.03717],
    400: [0.75837, 0.68439, 0.61756, 0.55892, 0.29093, 0.16256, 0.02135, -0.11477, -0.17119, -0.32726, -0.24299,
          -0.14612, -0.10338, -0.09266, -0.08186],
    1000: [0.65928, 0.57492, 0.51117, 0.46604, 0.33304, 0.18719, 0.05702, -0.06080, -0.10648, -0.27805, -0.38289,
           -0.29730, -0.22220, -0.20196, -0.18109],
}  # fmt: skip
GHIA_V = {
    100: [-0.05906, -0.07391, -0.08864, -0.10313, -0.16914, -0.22445, -0.24533, 0.05454, 0.17527, 0.17507, 0.16077,
          0.12317, 0.10890, 0.10091, 0.09233],
    400: [-0.12146, -0.15663, -0.19254, -0.22847, np.nan, -0.44993, -0.38598, 0.05186, 0.30174, 0.30203, 0.28124,
          0.22965, 0.20920, 0.19713, 0.18360],
    1000: [-0.21388, -0.27669, -0.33714, -0.39188, -0.51550, -0.42665, -0.31966, 0.02526, 0.32235, 0.33075, 0.37095,
           0.32627, 0.30353, 0.29012, 0.27485],
}  # fmt: skip


def values_at(function: fem.Function, points: np.ndarray) -> np.ndarray:
    mesh = function.function_space.mesh
    points = np.column_stack([points, np.zeros(len(points))])
    tree = geometry.bb_tree(mesh, mesh.topology.dim)
    cells = geometry.compute_colliding_cells(mesh, geometry.compute_collisions_points(tree, points), points)
    return function.eval(points, np.array([cells.links(i)[0] for i in range(len(points))]))


@pytest.mark.parametrize("reynolds", [100, 400, 1000])
def test_ghia(reynolds: int) -> None:
    case = CavityCase()
    parameters = CavityParameters(reynolds=float(reynolds), corner_gap=0.4 / 64)  # one cell
    problem = case.problem(case.mesh(MPI.COMM_SELF, parameters, 64), parameters)
    solver = case.default_solver(problem, case.rtol * reference_norm(problem))
    assert solver.solve().converged
    solver.destroy()
    velocity = problem.solution.sub(0).collapse()
    u = values_at(velocity, np.column_stack([np.full(15, 0.5), GHIA_Y]))[:, 0]
    v = values_at(velocity, np.column_stack([GHIA_X, np.full(15, 0.5)]))[:, 1]
    assert np.nanmax(np.abs(u - GHIA_U[reynolds])) < 0.01
    assert np.nanmax(np.abs(v - GHIA_V[reynolds])) < 0.01


def manufactured_errors(num_cells: int) -> tuple[float, float, float]:
    """Return L2 and H1 errors of the velocity and the L2 error of the pressure."""
    mesh = create_unit_square(MPI.COMM_SELF, num_cells, num_cells)
    cell = mesh.basix_cell()
    space = fem.functionspace(
        mesh, basix.ufl.mixed_element([basix.ufl.element("P", cell, 2, shape=(2,)), basix.ufl.element("P", cell, 1)])
    )
    x = ufl.SpatialCoordinate(mesh)
    stream = ufl.sin(2 * x[0]) * ufl.cos(3 * x[1]) / 3
    velocity, pressure = ufl.as_vector([stream.dx(1), -stream.dx(0)]), ufl.sin(x[0]) * x[1]
    viscosity = fem.Constant(mesh, 0.1)
    force = -viscosity * ufl.div(ufl.grad(velocity)) + ufl.dot(ufl.grad(velocity), velocity) + ufl.grad(pressure)
    mesh.topology.create_connectivity(1, 2)
    velocity_space, pressure_space = space.sub(0).collapse()[0], space.sub(1).collapse()[0]
    on_wall, at_corner = fem.Function(velocity_space), fem.Function(pressure_space)
    on_wall.interpolate(fem.Expression(velocity, velocity_space.element.interpolation_points))
    walls = fem.locate_dofs_topological((space.sub(0), velocity_space), 1, exterior_facet_indices(mesh.topology))
    corner = fem.locate_dofs_geometrical(
        (space.sub(1), pressure_space), lambda p: np.isclose(p[0], 0) & np.isclose(p[1], 0)
    )
    bcs = [fem.dirichletbc(on_wall, walls, space.sub(0)), fem.dirichletbc(at_corner, corner, space.sub(1))]
    solution = fem.Function(space)
    residual = navier_stokes(solution, viscosity, force)
    problem = Problem(mesh=mesh, parameters=None, solution=solution, residual=fem.form(residual),
                      jacobian=fem.form(ufl.derivative(residual, solution)), bcs=bcs,
                      node_space=fem.functionspace(mesh, ("P", 2)))  # fmt: skip
    solver = NewtonSolver(problem, 1e-12)
    assert solver.solve().converged
    solver.destroy()
    found_velocity, found_pressure = ufl.split(solution)
    error = found_velocity - velocity
    offset = fem.assemble_scalar(fem.form((found_pressure - pressure) * ufl.dx))
    squares = (
        ufl.inner(error, error),
        ufl.inner(ufl.grad(error), ufl.grad(error)),
        (found_pressure - pressure - offset) ** 2,
    )
    return tuple(float(np.sqrt(fem.assemble_scalar(fem.form(s * ufl.dx)))) for s in squares)


def test_manufactured_orders() -> None:
    coarse, fine = (np.array(manufactured_errors(n)) for n in (16, 32))
    assert np.log2(coarse / fine) == pytest.approx([3.0, 2.0, 2.0], abs=0.1)


def test_methods_reach_the_same_solution() -> None:
    case = CavityCase()
    parameters = case.sample(np.random.default_rng([3, 1]))
    problem = case.problem(case.mesh(MPI.COMM_SELF, parameters, 16), parameters)
    atol = case.rtol * reference_norm(problem)
    solutions = []
    for make in case.methods().values():
        problem.solution.x.array[:] = 0.0
        solver = make(problem, atol)
        result = solver.solve()
        solver.destroy()
        if result.converged:
            assert residual_norm(problem) <= atol * (1 + 1e-6)
            solutions.append(problem.solution.x.array.copy())
        else:
            assert result.advice
    assert len(solutions) >= 2
    assert max(np.abs(s - solutions[0]).max() for s in solutions) < 1e-4


def test_force_from_velocities_near_the_obstacle() -> None:
    """As good as the velocities; the operator is asked for these at points that it does not see the problem at."""
    case = CavityCase()
    parameters = case.sample(np.random.default_rng([3, 1]))
    problem = case.problem(case.mesh(MPI.COMM_SELF, parameters, 24), parameters)
    assert case.default_solver(problem, case.rtol * reference_norm(problem)).solve_once().converged
    assert case.points is not None and case.points.probe is not None
    probe, points = case.points.probe, case.points.probe.points(parameters)
    found = probe.measure(parameters, values_at(problem.solution.sub(0).collapse(), points))
    exact = evaluate(case.quantities, problem)
    exact_force = [exact[name] for name in ("force_x", "force_y", "torque")]
    assert found == pytest.approx(exact_force, rel=0.03)
    predictor = Predictor.load(CASES / "cavity")
    seen = case.points.points(parameters, 256)
    whole = np.concatenate([seen, points, seen[:9]])
    (fields,) = predictor.evaluate_batch([whole], [features_at(parameters, whole)], apart=len(points) + 9)
    assert fields[-9:] == pytest.approx(fields[:9], abs=1e-5)
    assert probe.measure(parameters, fields[256:-9])[:2] == pytest.approx(exact_force[:2], rel=0.1, abs=3e-4)
    round_one = dataclasses.replace(parameters, semi_axes=(0.0, 0.0))
    assert np.all(probe.measure(round_one, fields[256:-9]) == 0.0)


def test_cells_shrink_towards_walls_and_lid_corners() -> None:
    resolution, case = 32, CavityCase()
    mesh = case.mesh(MPI.COMM_SELF, CavityParameters(100.0, semi_axes=(0.1, 0.1)), resolution)
    vertices = fem.functionspace(mesh, ("P", 1))
    corners = vertices.tabulate_dof_coordinates()[vertices.dofmap.list, :2]
    sizes = resolution * np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2).max(axis=1)
    middle = corners.mean(axis=1)
    for point, expected in (((0.0, 1.0), 0.1), ((1.0, 1.0), 0.1), ((0.0, 0.0), 0.4), ((0.5, 1.0), 0.4)):
        nearest = np.argmin(np.linalg.norm(middle - point, axis=1))
        assert expected / 2 < sizes[nearest] < 2 * expected
    assert 0.8 < sizes.max() < 3.2


def test_features_see_the_corner_of_the_lid() -> None:
    case = CavityCase()
    parameters = CavityParameters(400.0, semi_axes=(0.1, 0.05))
    problem = case.problem(case.mesh(MPI.COMM_SELF, parameters, 8), parameters)
    x, y = problem.node_space.tabulate_dof_coordinates()[:, :2].T
    features = case.features(problem)
    assert features.nodal.shape == (len(x), sum(field.components for field in case.schema.inputs))
    assert features.scalars.shape == (len(case.schema.scalars),)
    angle, distance = features.nodal[:, 7:9].T
    beyond = np.hypot(x, 1 - y) > 0
    assert np.allclose((np.exp(distance) - parameters.corner_gap) * np.cos(angle), x)
    assert np.allclose(((np.exp(distance) - parameters.corner_gap) * np.sin(angle))[beyond], 1 - y[beyond])


def test_bad_geometry_is_refused() -> None:
    case = CavityCase()
    with pytest.raises(ValueError, match="inside the unit square"):
        case.mesh(MPI.COMM_SELF, CavityParameters(100.0, centre=(0.05, 0.5), semi_axes=(0.1, 0.1)), 16)
    with pytest.raises(ValueError, match="at least 4"):
        case.mesh(MPI.COMM_SELF, CavityParameters(100.0), 2)


def test_the_range_of_the_reynolds_number_is_an_option() -> None:
    case = CavityCase(CavityOptions(1000.0, 5000.0))
    drawn = [sample_parameters(case, 0, index).reynolds for index in range(200)]
    assert 1000.0 <= min(drawn) < 1050.0 and 4800.0 < max(drawn) <= 5000.0
    for least, largest in ((100.0, 2500.0), (3000.0, 2500.0), (float("nan"), 2500.0)):
        with pytest.raises(ValueError, match="200 <= least_reynolds <= largest_reynolds"):
            CavityCase(CavityOptions(least, largest))
