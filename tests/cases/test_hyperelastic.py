"""Hyperelastic block: order of discretisation, beam theory, energy and its derivatives, how hard the samples are."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from mpi4py import MPI

pytest.importorskip("dolfinx", reason="the case needs DOLFINx")

import ufl
from dolfinx import fem
from dolfinx.fem.petsc import assemble_matrix, assemble_vector
from dolfinx.mesh import create_unit_cube, exterior_facet_indices
from petsc4py import PETSc

from lrsa_coupled.cases.hyperelastic.case import (
    CORNERS,
    LENGTH,
    MODES,
    HyperelasticCase,
    HyperelasticOptions,
    HyperelasticParameters,
    HyperelasticProblem,
    newton,
    stored_energy,
)
from lrsa_coupled.cases.hyperelastic.coarse import CoarseModel
from lrsa_coupled.coupling.residual import reference_norm, residual_norm
from lrsa_coupled.generation.plan import sample_parameters
from lrsa_coupled.interfaces import Problem
from lrsa_coupled.solvers.newton import NewtonSolver

UNIFORM = (0.0,) * int(np.prod(MODES))


def block(
    parameters: HyperelasticParameters | None = None, *, resolution: int = 4, degree: int = 1, index: int = 0
) -> Problem:
    case = HyperelasticCase(HyperelasticOptions(degree=degree))
    parameters = parameters or sample_parameters(case, 0, index)
    return case.problem(case.mesh(MPI.COMM_SELF, parameters, resolution), parameters)


def manufactured_errors(degree: int, resolution: int) -> tuple[float, float]:
    """Return the errors in L2 and the H1 seminorm for a smooth displacement of a cube with a variable stiffness."""
    mesh = create_unit_cube(MPI.COMM_SELF, resolution, resolution, resolution)
    space = fem.functionspace(mesh, ("P", degree, (3,)))
    u, v = fem.Function(space), ufl.TestFunction(space)
    x = ufl.SpatialCoordinate(mesh)
    exact = 0.1 * ufl.as_vector((ufl.sin(2 * x[1]), ufl.sin(2 * x[2]) * x[0], ufl.cos(2 * x[0]) * x[1]))
    modulus = 1.0 + x[0]

    def internal_work(displacement: ufl.core.expr.Expr) -> ufl.Form:
        w = ufl.variable(ufl.grad(displacement))
        gradient = ufl.Identity(3) + w
        ratio = ufl.det(gradient)
        mu, lame = modulus / 2.6, modulus * 0.3 / (1.3 * 0.4)
        stress = mu * (gradient - ufl.inv(gradient).T) + lame * ufl.ln(ratio) * ufl.inv(gradient).T
        return ufl.inner(stress, ufl.grad(v)) * ufl.dx(metadata={"quadrature_degree": 6})

    residual = ufl.derivative(
        stored_energy(u, modulus, 0.3, bound=fem.Constant(mesh, 0.0)) * ufl.dx(metadata={"quadrature_degree": 6}), u, v
    ) - internal_work(exact)
    mesh.topology.create_connectivity(2, 3)
    boundary = fem.Function(space)
    boundary.interpolate(fem.Expression(exact, space.element.interpolation_points))
    bc = fem.dirichletbc(boundary, fem.locate_dofs_topological(space, 2, exterior_facet_indices(mesh.topology)))
    problem = Problem(mesh=mesh, parameters=None, solution=u, residual=fem.form(residual),
                      jacobian=fem.form(ufl.derivative(residual, u)),
                      bcs=[bc], node_space=fem.functionspace(mesh, ("P", degree)))  # fmt: skip
    solver = NewtonSolver(problem, 1e-11)
    assert solver.solve().converged
    solver.destroy()
    error = u - exact
    dx = ufl.dx(metadata={"quadrature_degree": 6})
    return tuple(
        np.sqrt(fem.assemble_scalar(fem.form(form * dx)))
        for form in (error**2, ufl.inner(ufl.grad(error), ufl.grad(error)))
    )


@pytest.mark.parametrize(("degree", "resolutions"), [(1, (6, 12)), (2, (2, 4))])
def test_manufactured_orders(degree: int, resolutions: tuple[int, int]) -> None:
    coarse, fine = (np.array(manufactured_errors(degree, n)) for n in resolutions)
    assert np.log2(coarse / fine) == pytest.approx([degree + 1.0, degree], abs=0.1)


def test_small_loads_bend_and_twist_as_beam_theory_says() -> None:
    bending, torsion = 1e-5, 1e-5
    problem = block(HyperelasticParameters(UNIFORM, (0.0, bending, 0.0), torsion), resolution=3, degree=2)
    solver = newton(problem, 1e-12)
    assert solver.solve().converged
    solver.destroy()
    shear = 1.0 / 2.6
    timoshenko = bending * (
        LENGTH**3 * 12.0 / 3.0 + LENGTH / (5.0 / 6.0 * shear)
    )  # modulus 1, section 1, second moment 1 / 12
    angle = torsion / 6.0 * LENGTH / (0.1406 * shear)  # moment of the torsion: 1 / 6; torsion constant of the square
    points = problem.solution.function_space.tabulate_dof_coordinates()
    moved = problem.solution.x.array.reshape(-1, 3)
    end = np.isclose(points[:, 0], LENGTH)
    assert moved[end, 1].mean() == pytest.approx(timoshenko, rel=0.03)
    above = end & np.isclose(points[:, 1], 0.5) & np.isclose(points[:, 2], 0.0, atol=0.2)
    below = end & np.isclose(points[:, 1], -0.5) & np.isclose(points[:, 2], 0.0, atol=0.2)
    assert moved[above, 2].mean() - moved[below, 2].mean() == pytest.approx(angle, rel=0.06)


def test_residual_and_jacobian_are_the_derivatives_of_the_energy() -> None:
    problem = block(resolution=3)
    rng = np.random.default_rng(0)
    u = problem.solution.x.array
    base, direction = 0.02 * rng.standard_normal(u.size), rng.standard_normal(u.size)
    step = 1e-6
    energies, residuals = [], []
    for sign in (1.0, -1.0):
        u[:] = base + sign * step * direction
        energies.append(fem.assemble_scalar(problem.energy))
        residuals.append(assemble_vector(problem.residual).array.copy())
    u[:] = base
    residual = assemble_vector(problem.residual).array
    assert residual @ direction == pytest.approx((energies[0] - energies[1]) / (2 * step), rel=1e-6)
    matrix = assemble_matrix(problem.jacobian)
    matrix.assemble()
    x, y = matrix.createVecs()
    x.array_w[:] = direction
    matrix.mult(x, y)
    assert y.array_r == pytest.approx(
        (residuals[0] - residuals[1]) / (2 * step), rel=1e-5, abs=1e-5 * np.abs(y.array_r).max()
    )
    assert matrix.isSymmetric(tol=1e-12)


def test_the_energy_is_undefined_where_an_element_is_turned_inside_out() -> None:
    problem = block(resolution=3)
    problem.solution.x.array.reshape(-1, 3)[:, 0] = (
        -2.0 * problem.solution.function_space.tabulate_dof_coordinates()[:, 0]
    )
    assert not np.isfinite(fem.assemble_scalar(problem.energy))


def test_all_methods_solve_all_samples() -> None:
    """Newton's method from zero meets an indefinite tangent in three of the four."""
    case = HyperelasticCase()
    solved = dict.fromkeys(case.methods(), 0)
    for index in (0, 3, 4, 8):
        problem = block(index=index)
        atol = case.rtol * reference_norm(problem)
        fields = []
        for name, make in case.methods().items():
            problem.solution.x.array[:] = 0.0
            solver = make(problem, atol)
            if solver.solve().converged:
                solved[name] += 1
                fields.append(problem.solution.x.array.copy())
                assert residual_norm(problem) <= atol * (1 + 1e-6)
            solver.destroy()
        assert np.abs(fields[0] - fields[-1]).max() < 1e-6 * np.abs(fields[0]).max()
    assert solved == {"load-steps-loose": 4, "load-steps-tight": 4, "zero": 4, "coarse-model": 4}


def test_multigrid_and_the_direct_solver_find_the_same_shape() -> None:
    problem = block(index=1, resolution=5)
    atol = 1e-8 * reference_norm(problem)
    fields = []
    for limit in (0, 10**9):
        problem.solution.x.array[:] = 0.0
        problem.continuation.set_value(0.2)
        solver = newton(problem, atol, direct_below=limit)
        assert solver.solve().converged
        assert solver.snes.getKSP().getType() == (PETSc.KSP.Type.PREONLY if limit else PETSc.KSP.Type.CG)
        fields.append(problem.solution.x.array.copy())
        solver.destroy()
    assert np.abs(fields[0] - fields[1]).max() < 1e-6 * np.abs(fields[0]).max()


def test_the_coarse_model_is_near_the_solution() -> None:
    """Degree two, as linear tetrahedra of this size are much too stiff."""
    for index in (0, 3):
        problem = block(index=index, degree=2, resolution=3)
        coarse = HyperelasticCase().coarse_displacement(problem)
        solver = HyperelasticCase().methods()["load-steps-loose"](problem, 1e-6 * reference_norm(problem))
        assert solver.solve().converged
        solver.destroy()
        exact = problem.solution.x.array.reshape(-1, 3)
        assert 1e-3 < np.linalg.norm(coarse - exact) / np.linalg.norm(exact) < 0.05
        clamped = np.isclose(problem.node_space.tabulate_dof_coordinates()[:, 0], 0.0)
        assert np.abs(coarse[clamped]).max() < 1e-12


def test_a_coarse_model_that_cannot_be_solved_says_nothing() -> None:
    parameters, points = sample_parameters(HyperelasticCase(), 0, 0), np.array([[3.0, 0.5, 0.5]])
    moved = []
    for limit in (1, 50):
        model = CoarseModel(
            CORNERS,
            HyperelasticCase(HyperelasticOptions(degree=2)).problem,
            HyperelasticProblem.updated,
            lambda coarse, limit=limit: newton(coarse, 1e-10, max_iterations=limit),
        )
        moved.append(model.displacement(parameters, points))
    assert np.all(moved[0] == 0.0) and np.abs(moved[1]).max() > 0.1


def test_impossible_options_and_resolutions_are_named() -> None:
    with pytest.raises(ValueError, match="degree 1 or 2"):
        HyperelasticCase(HyperelasticOptions(degree=3))
    with pytest.raises(ValueError, match="poisson"):
        HyperelasticCase(HyperelasticOptions(poisson=0.5))
    case = HyperelasticCase()
    with pytest.raises(ValueError, match="at least 2 tetrahedra"):
        case.mesh(MPI.COMM_SELF, sample_parameters(case, 0, 0), 1)
    assert dataclasses.asdict(case.options) == {"degree": 1, "poisson": 0.3}


def mapped(p: HyperelasticParameters, which: int) -> HyperelasticParameters:
    """Return the parameters of the mirrored (0) or swapped (1) problem, written out."""
    modes, (x, y, z) = np.reshape(p.stiffness, MODES), p.traction
    if which == 0:
        modes, traction = modes * (-1.0) ** np.arange(MODES[1])[None, :, None], (x, -y, z)
    else:
        modes, traction = modes.transpose(0, 2, 1), (x, z, y)
    return HyperelasticParameters(tuple(modes.ravel().tolist()), traction, -p.torsion)


@pytest.mark.parametrize("which", [0, 1])
def test_symmetries_take_solutions_to_solutions(which: int) -> None:
    case, p = HyperelasticCase(), sample_parameters(HyperelasticCase(), 0, 3)
    symmetry = case.schema.symmetries[which]
    points, scalars = np.array(symmetry.points), np.array(symmetry.scalars)
    solved = []
    for parameters in (p, mapped(p, which)):
        mesh = HyperelasticCase().mesh(MPI.COMM_SELF, parameters, 2)
        if solved:
            mesh.geometry.x[:] = mesh.geometry.x @ points.T
        problem = case.problem(mesh, parameters)
        solver = case.methods()["load-steps-loose"](problem, 1e-10 * reference_norm(problem))
        assert solver.solve().converged
        solver.destroy()
        solved.append((case.features(problem), problem.solution.x.array.reshape(-1, 3)))
    (features, displacement), (image, turned) = solved
    assert np.allclose(image.nodal, features.nodal @ np.array(symmetry.inputs).T, atol=1e-6)
    assert np.allclose(image.scalars, scalars @ features.scalars)
    assert np.allclose(turned, displacement @ np.array(symmetry.outputs).T, atol=1e-6)
    assert np.abs(displacement[:, 1:]).max() > 0.1
