"""Scattering: the series of a disc, orders of convergence, what the methods find, sequences, symmetries."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import ufl
from scipy.special import h1vp, hankel1, jv, jvp
from mpi4py import MPI
from dolfinx import fem

from lrsa_coupled.cases.scattering.case import ScatteringCase, ScatteringOptions
from lrsa_coupled.cases.scattering.coarse_space import compare
from lrsa_coupled.cases.scattering.medium import RADIUS, ScatteringParameters, contrast_at, plane_wave
from lrsa_coupled.cases.scattering.series import scattered_electric, scattered_sound
from lrsa_coupled.cases.scattering.waves import LAYER
from lrsa_coupled.coupling.quantities import evaluate
from lrsa_coupled.coupling.residual import reference_norm, residual_norm
from lrsa_coupled.coupling.scalars import to_columns
from lrsa_coupled.coupling.transfer import NodeSet
from lrsa_coupled.generation.plan import sample_parameters
from lrsa_coupled.interfaces import Reuse
from lrsa_coupled.solvers.interpolation import boundary_dofs
from lrsa_coupled.solvers.linear import LinearSolver

COMM = MPI.COMM_WORLD
DISC = ScatteringParameters(4.0, 0.3, contrast=0.8)


def norm(expression: ufl.core.expr.Expr, mesh) -> float:
    """Return the norm in L2 of the disc inside the layer."""
    x = ufl.SpatialCoordinate(mesh)
    counted = ufl.conditional(ufl.lt(ufl.real(ufl.dot(x, x)), LAYER**2), 1.0, 0.0)
    square = fem.form(counted * ufl.inner(expression, expression) * ufl.dx(metadata={"quadrature_degree": 6}))
    return np.sqrt(COMM.allreduce(fem.assemble_scalar(square).real))


def solved(case: ScatteringCase, parameters: ScatteringParameters, resolution: int):
    problem = case.problem(case.mesh(COMM, parameters, resolution), parameters)
    assert case.default_solver(problem, case.rtol * reference_norm(problem)).solve_once().converged
    return problem


def series_errors(options: ScatteringOptions, resolution: int) -> tuple[float, float]:
    """Return the relative errors of the scattered wave and of its gradient or curl inside the layer."""
    case = ScatteringCase(options)
    problem = solved(case, DISC, resolution)
    is_sound = options.wave == "sound"
    exact = fem.Function(fem.functionspace(problem.mesh, ("DG", 3) if is_sound else ("DG", 2, (2,))))
    space = exact.function_space
    points, cells = space.tabulate_dof_coordinates()[:, :2].copy(), space.dofmap.list
    points[cells] += 1e-6 * (points[cells].mean(axis=1, keepdims=True) - points[cells])  # off the edge of the scatterer
    exact.x.array[:] = (scattered_sound if is_sound else scattered_electric)(DISC, points).ravel()
    slope = ufl.grad if is_sound else ufl.curl
    return tuple(
        norm(of(problem.solution) - of(exact), problem.mesh) / norm(of(exact), problem.mesh)
        for of in (lambda field: field, slope)
    )


@pytest.mark.parametrize(("options", "resolutions", "orders", "error"), [
    (ScatteringOptions(medium="disc"), (16, 32), (3.3, 2.0), 2e-4),
    (ScatteringOptions(medium="disc", wave="electric", degree=1), (16, 32), (1.0, 1.0), 0.08),
    (ScatteringOptions(medium="disc", wave="electric"), (8, 16), (2.0, 2.0), 1e-2),
])  # fmt: skip
def test_the_series_of_a_disc(options, resolutions, orders, error) -> None:
    """Sound converges to the series from above its order, 3: the layer is coarse on the first mesh."""
    coarse, fine = (np.array(series_errors(options, n)) for n in resolutions)
    assert np.log2(coarse / fine) == pytest.approx(orders, abs=0.15)
    assert fine[0] < error


@pytest.mark.parametrize("degree", [1, 2])
def test_electric_orders(degree: int) -> None:
    """A smooth field in the smooth medium and the layer: orders within 0.1 inside the layer, of field and curl."""
    errors = []
    for resolution in (16, 32):
        case = ScatteringCase(ScatteringOptions(wave="electric", degree=degree))
        parameters = dataclasses.replace(sample_parameters(case, 1, 0), wave_number=4.0)
        problem = case.problem(case.mesh(COMM, parameters, resolution), parameters)
        space, x = problem.solution.function_space, ufl.SpatialCoordinate(problem.mesh)
        exact = ufl.as_vector([ufl.exp(2.0j * x[1]), ufl.sin(2.0 * x[0]) * (1.0 + 1.0j * x[1])])
        form = partial(case.wave.form, test=ufl.TestFunction(space), wave_number=problem.wave_number,
                       squared=problem.wave_number**2 * (1.0 + problem.contrast))  # fmt: skip
        on_boundary = fem.Function(space)
        on_boundary.interpolate(fem.Expression(exact, space.element.interpolation_points))
        problem = dataclasses.replace(problem, residual=fem.form(form(problem.solution) - form(exact)),
                                      bcs=[fem.dirichletbc(on_boundary, boundary_dofs(space))])  # fmt: skip
        assert LinearSolver(problem, 1e-10).solve_once().converged
        error = problem.solution - exact
        errors.append([norm(each, problem.mesh) for each in (error, ufl.curl(error))])
    assert np.log2(np.divide(*errors)) == pytest.approx([degree, degree], abs=0.1)


@pytest.mark.parametrize("wave", ["sound", "electric"])
def test_methods_and_sequences_find_the_same_field(wave: str) -> None:
    case = ScatteringCase(ScatteringOptions(wave=wave))
    parameters = sample_parameters(case, 1, 0)
    problem = case.problem(case.mesh(COMM, parameters, 8), parameters)
    other = case.fixed_mesh.update(case.problem(problem.mesh, parameters), sample_parameters(case, 1, 1))
    fields = []
    for name in case.methods():
        atol = case.rtol * reference_norm(other)
        solver = case.fixed_mesh.sequence(other, atol, method=name, reuse=Reuse())
        assert solver.solve().converged
        again = case.fixed_mesh.update(other, parameters)
        atol = case.rtol * reference_norm(again)
        solver.update(again, atol)
        assert solver.solve().converged and residual_norm(again) <= 1.01 * atol
        fields.append(again.solution.x.array.copy())
        solver.destroy()
        other = case.fixed_mesh.update(again, sample_parameters(case, 1, 1))
    assert max(np.abs(field - fields[0]).max() for field in fields) < 1e-6


@pytest.mark.parametrize("reuse", [Reuse(preconditioner=True), Reuse(recycle=8)])
def test_reuse_reaches_the_tolerance(reuse: Reuse) -> None:
    case, solver = ScatteringCase(), None
    problem = case.problem(case.mesh(COMM, None, 8), sample_parameters(case, 1, 0))
    for index in range(3):
        problem = case.fixed_mesh.update(problem, sample_parameters(case, 1, index))
        atol = case.rtol * reference_norm(problem)
        if solver is None:
            solver = case.fixed_mesh.sequence(problem, atol, method="shifted-laplacian", reuse=reuse)
        else:
            solver.update(problem, atol)
        assert solver.solve().converged and residual_norm(problem) <= 1.01 * atol
    solver.destroy()


@pytest.mark.parametrize("wave", ["sound", "electric"])
def test_inputs_and_outputs_at_the_nodes(wave: str) -> None:
    """The columns are real parts, then imaginary parts; an operator gives back what it is given."""
    case = ScatteringCase(ScatteringOptions(wave=wave))
    problem = solved(case, sample_parameters(case, 2, 0), 8)
    nodes, features = NodeSet(problem, case.schema.outputs), case.features(problem)
    assert features.nodal.shape == (nodes.num_owned, case.schema.num_inputs)
    wave_at = plane_wave(problem.parameters, nodes.points)
    if wave == "sound":
        assert np.allclose(features.nodal[:, 1] + 1j * features.nodal[:, 2], wave_at)
    values, before = nodes.gather(problem.solution), problem.solution.x.array.copy()
    problem.solution.x.array[:] = 0.0
    nodes.scatter(values, problem.solution)
    assert np.allclose(problem.solution.x.array, before, atol=1e-12)


def test_symmetries_take_solutions_to_solutions() -> None:
    """The exact fields of a turned, a reflected and a shifted problem are what the symmetries make of the first."""
    points = np.random.default_rng(0).uniform(-1.4, 1.4, (50, 2))
    for wave, exact in (("sound", scattered_sound), ("electric", scattered_electric)):
        case = ScatteringCase(ScatteringOptions(wave=wave, medium="disc"))
        for symmetry in case.schema.symmetries:
            matrix, outputs = np.array(symmetry.points), np.array(symmetry.outputs)
            direction = matrix @ [np.cos(DISC.direction), np.sin(DISC.direction)]
            image = dataclasses.replace(DISC, direction=float(np.arctan2(direction[1], direction[0])))
            phase = 1j if np.array_equal(matrix, np.eye(2)) else 1.0
            columns = [to_columns(each.reshape(50, -1)) for each in
                       (exact(DISC, points), phase * exact(image, points @ matrix.T))]  # fmt: skip
            assert np.allclose(columns[0] @ outputs.T, columns[1], atol=1e-10)


def test_coarse_spaces_of_fields_save_iterations() -> None:
    """Exact fields of other directions more than predicted ones, which the shipped operator gives."""
    model = Path(__file__).resolve().parents[2] / "cases" / "scattering"
    outcomes = compare(ScatteringCase(), resolution=16, samples=1, num=31, model=model)
    iterations = {name: rows[0].iterations for name, rows in outcomes.items()}
    assert iterations["MUMPS"] == 1
    assert iterations["exact fields"] < 0.5 * iterations["no coarse space"]
    assert iterations["exact fields"] < iterations["predicted fields"] < iterations["no coarse space"]


def test_the_medium() -> None:
    case = ScatteringCase()
    points = np.random.default_rng(0).uniform(-1.0, 1.0, (500, 2))
    inside = np.hypot(*points.T) < RADIUS
    contrasts = np.array([contrast_at(sample_parameters(case, 0, index), points) for index in range(20)])
    assert (contrasts > -1.0).all() and not contrasts[:, ~inside].any() and np.abs(contrasts[:, inside]).max() > 0.3
    with pytest.raises(ValueError, match="multiple of 4"):
        case.mesh(COMM, None, 6)


@pytest.mark.parametrize("wave", ["sound", "electric"])
def test_cross_section_against_the_series(wave: str) -> None:
    """The power that the incident wave loses is that of the scattered one, 4 / k times the sum of the squares."""
    case = ScatteringCase(ScatteringOptions(wave=wave, medium="disc"))
    k, n = DISC.wave_number, 1.0 + DISC.contrast
    inner, weight, m = k * np.sqrt(n), 1.0 if wave == "sound" else n, np.arange(-25, 26)
    (j, h, b), (dj, dh, db) = (
        [f(m, k * RADIUS), g(m, k * RADIUS), f(m, inner * RADIUS)] for f, g in ((jv, hankel1), (jvp, h1vp))
    )
    dj, dh, db = k * dj, k * dh, inner * db / weight
    amplitudes = (b * dj - j * db) / (h * db - b * dh)
    exact = 4.0 / k * np.sum(np.abs(amplitudes) ** 2)
    found = evaluate(case.quantities, solved(case, DISC, 16))
    assert found["cross_section"] == pytest.approx(exact, rel=3e-3)
    assert found["energy_in_body"] > 0.0
