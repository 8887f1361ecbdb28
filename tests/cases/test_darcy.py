"""Darcy: order of the discretisation, statistics of media and solutions under refinement, variants."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from mpi4py import MPI

pytest.importorskip("dolfinx", reason="the case needs DOLFINx")

import ufl
from dolfinx import fem

from lrsa_coupled.cases.darcy.case import (
    ALL_MODES,
    DEVIATIONS,
    LOW_MODES,
    SCALE,
    DarcyCase,
    DarcyOptions,
    DarcyParameters,
    darcy,
    gaussian_field,
)
from lrsa_coupled.coupling.residual import reference_norm
from lrsa_coupled.coupling.transfer import NodeSet
from lrsa_coupled.generation.plan import sample_parameters


def solved(case: DarcyCase, parameters: DarcyParameters, resolution: int) -> tuple[NodeSet, np.ndarray, np.ndarray]:
    """Return the node set, coefficient and solution at the nodes in order of their coordinates."""
    problem = case.problem(case.mesh(MPI.COMM_SELF, parameters, resolution), parameters)
    solver = case.solver(problem, case.rtol * reference_norm(problem))
    assert solver.solve().converged
    solver.destroy()
    nodes = NodeSet(problem, case.schema.outputs)
    order = np.lexsort(np.round(nodes.points, 9).T)
    return nodes, np.exp(case.features(problem).nodal[order, 0]), nodes.gather(problem.solution)[order, 0]


def manufactured_errors(resolution: int) -> tuple[float, float]:
    """Return the errors in L2 and the H1 seminorm for a constant coefficient and the solution sin(pi x) sin(2 pi y)."""
    case = DarcyCase()
    parameters = dataclasses.replace(sample_parameters(case, 0, 0), low=2.5, high=2.5)
    problem = case.problem(case.mesh(MPI.COMM_SELF, parameters, resolution), parameters)
    x = ufl.SpatialCoordinate(problem.mesh)
    exact = ufl.sin(ufl.pi * x[0]) * ufl.sin(2 * ufl.pi * x[1])
    residual = darcy(problem.solution, problem.coefficient, 2.5 * 5 * ufl.pi**2 * exact)
    problem = dataclasses.replace(problem, residual=fem.form(residual))
    solver = case.solver(problem, 1e-12)
    assert solver.solve().converged
    solver.destroy()
    error = problem.solution - exact
    return tuple(
        np.sqrt(fem.assemble_scalar(fem.form(form * ufl.dx)))
        for form in (error**2, ufl.inner(ufl.grad(error), ufl.grad(error)))
    )


def test_manufactured_orders() -> None:
    coarse, fine = (np.array(manufactured_errors(n)) for n in (40, 80))
    assert np.log2(coarse / fine) == pytest.approx([2.0, 1.0], abs=0.1)


@pytest.mark.parametrize("which", range(len(DarcyCase.schema.symmetries)))
def test_symmetries_take_solutions_to_solutions(which: int) -> None:
    case = DarcyCase()
    matrix, centre = np.array(case.schema.symmetries[which].points), np.array(case.schema.symmetries[which].centre)
    parameters = sample_parameters(case, 0, 0)
    solutions = []
    for turn in (np.eye(2), matrix):
        problem = case.problem(case.mesh(MPI.COMM_SELF, parameters, 20), parameters)
        problem.coefficient.interpolate(
            lambda x, turn=turn: np.exp(np.array([1.0, 2.0]) @ turn.T @ (x[:2] - centre[:, None]))
        )
        solver = case.solver(problem, 1e-12)
        assert solver.solve().converged
        solver.destroy()
        places = np.round(
            problem.solution.function_space.tabulate_dof_coordinates()[:, :2] @ turn + centre - centre @ turn, 9
        )
        solutions.append(problem.solution.x.array[np.lexsort(places.T)])
    assert np.allclose(solutions[0], solutions[1], rtol=1e-9, atol=0.0) and np.ptp(solutions[0]) > 1e-2


def test_the_residual_is_the_derivative_of_the_energy() -> None:
    case = DarcyCase(DarcyOptions(model_cells=6))
    parameters = sample_parameters(case, 0, 0)
    problem = case.problem(case.mesh(MPI.COMM_SELF, parameters, 6), parameters)
    rng = np.random.default_rng(0)
    u = problem.solution.x.array
    base, direction = rng.standard_normal((2, u.size))
    energies = []
    for sign in (1.0, -1.0):
        u[:] = base + sign * direction
        energies.append(fem.assemble_scalar(problem.energy))
    u[:] = base
    slope = fem.assemble_vector(problem.residual).array @ direction
    assert slope == pytest.approx(0.5 * (energies[0] - energies[1]), rel=1e-10)  # exact for a quadratic


def test_the_field_has_the_covariance_it_should() -> None:
    """Variance at a corner, centre of an edge and middle of 400 draws against the series."""
    case, places = DarcyCase(), [(0, 0), (0, 2), (2, 2), (1, 3)]
    draws = np.array([[gaussian_field(sample_parameters(case, 1, i), 4)[p] for p in places] for i in range(400)])
    j = np.arange(ALL_MODES)
    for column, (a, b) in enumerate(places):
        waves = np.outer(np.cos(np.pi * j * a / 4) ** 2, np.cos(np.pi * j * b / 4) ** 2)
        assert draws[:, column].var() == pytest.approx((DEVIATIONS**2 * waves).sum(), rel=0.25)
    squared = np.cos(np.pi * np.outer((np.arange(512) + 0.5) / 512, j)) ** 2  # midpoint rule
    assert pytest.approx((squared @ DEVIATIONS**2 @ squared.T).mean(), rel=1e-3) == SCALE**2


def test_a_field_does_not_depend_on_the_grid() -> None:
    parameters = sample_parameters(DarcyCase(), 2, 0)
    assert np.allclose(gaussian_field(parameters, 40)[::4, ::4], gaussian_field(parameters, 10), atol=1e-12)


@pytest.mark.parametrize("medium", ["binary", "log-normal", "high-contrast"])
def test_statistics_are_stable_under_refinement(medium: str) -> None:
    """Mean and variance of solutions at the same nodes on two meshes; the ``1000 samples`` are in the card."""
    case = DarcyCase(DarcyOptions(medium=medium, model_cells=21))
    coarse, fine = ([solved(case, sample_parameters(case, 5, i), n) for i in range(12)] for n in (84, 168))
    assert all(np.array_equal(a[1], b[1]) for a, b in zip(coarse, fine, strict=True))
    moments = [(np.mean([s[2] for s in found]), np.var([s[2] for s in found])) for found in (coarse, fine)]
    assert moments[0] == pytest.approx(moments[1], rel=0.03)
    errors = [np.linalg.norm(a[2] - b[2]) / np.linalg.norm(b[2]) for a, b in zip(coarse, fine, strict=True)]
    assert np.median(errors) < 0.02


def test_variants() -> None:
    binary, contrast = DarcyCase(), DarcyCase(DarcyOptions(medium="high-contrast"))
    first = sample_parameters(binary, 0, 0)
    assert (first.low, first.high, len(first.modes)) == (3.0, 12.0, LOW_MODES**2)
    ratios = np.array(
        [sample_parameters(contrast, 0, i).high / sample_parameters(contrast, 0, i).low for i in range(200)]
    )
    assert ratios.min() < 20 and ratios.max() > 5e3 and ratios.max() <= 1e4


def test_features_are_the_coefficient_of_the_cells_around() -> None:
    case = DarcyCase(DarcyOptions(model_cells=10))
    parameters = sample_parameters(case, 7, 0)
    nodes, coefficient, _ = solved(case, parameters, 40)
    assert set(np.round(coefficient, 9)) == {3.0, 12.0}
    assert nodes.num_owned == 121 and np.array_equal(nodes.boundary == 1, nodes.constrained[:, 0])
    expected = np.where(gaussian_field(parameters, 10) >= 0, 12.0, 3.0)
    assert np.allclose(coefficient.reshape(11, 11).T, expected)


def test_an_operator_is_evaluated_on_its_grid_without_a_mesh() -> None:
    """Features and masses are those of a mesh of its resolution; the diagonals give the corners other masses."""
    case = DarcyCase(DarcyOptions(model_cells=10))
    parameters = sample_parameters(case, 0, 1)
    problem = case.problem(case.mesh(MPI.COMM_SELF, parameters, 10), parameters)
    assert case.points is not None and case.points.mass is not None
    points = case.points.points(parameters, 512)
    nodes = NodeSet(problem, case.schema.outputs)
    order, other = (np.lexsort(np.round(each[:, :2].T, 9)) for each in (points, nodes.points))
    assert points[order] == pytest.approx(nodes.points[other], abs=1e-12)
    found = case.points.features(parameters, points).nodal[order]
    assert np.array_equal(found, case.features(problem).nodal[other])
    mass, exact = case.points.mass(points)[order], 100.0 * nodes.mass[other]
    corners = np.isclose(mass, 0.25)
    assert corners.sum() == 4 and mass.sum() == pytest.approx(100.0)
    assert mass[~corners] == pytest.approx(exact[~corners])


def test_bad_options_are_refused() -> None:
    with pytest.raises(ValueError, match="model_cells must be at least 2"):
        DarcyCase(DarcyOptions(model_cells=1))
    case = DarcyCase()
    with pytest.raises(ValueError, match="256 amplitudes"):
        case.problem(
            case.mesh(MPI.COMM_SELF, None, 4), dataclasses.replace(sample_parameters(case, 0, 0), modes=(1.0, 2.0))
        )
