"""Solvers on problems with a complex unknown."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import pytest
import ufl
from mpi4py import MPI
from dolfinx import fem
from dolfinx.fem.petsc import assemble_matrix
from dolfinx.mesh import create_unit_square
from petsc4py import PETSc

from lrsa_coupled.coupling.options import MUMPS
from lrsa_coupled.coupling.residual import energy, reference_norm, residual_norm
from lrsa_coupled.solvers.eigen import KRYLOV_SCHUR, LOBPCG, lowest_modes
from lrsa_coupled.solvers.interpolation import boundary_dofs, constrain, interpolation_matrix, set_two_grid
from lrsa_coupled.solvers.linear import LinearSolver
from lrsa_coupled.solvers.newton import NewtonSolver
from lrsa_coupled.solvers.petsc import recycling
from lrsa_coupled.solvers.transient import Evolution, TimeStepper, theta_scheme
from tests.complex.problems import COMM, cubic, helmholtz, magnetic, plane_wave

GMRES = {"ksp_type": "gmres", "ksp_pc_side": "right", "ksp_gmres_restart": "300", "pc_type": "jacobi"}


def error_of(problem_solution: fem.Function, exact) -> float:
    """Relative L2 error."""
    space = problem_solution.function_space
    finer = fem.Function(fem.functionspace(space.mesh, ("P", 4)))
    finer.interpolate(exact)
    error, size = problem_solution - finer, finer
    squares = [fem.assemble_scalar(fem.form(ufl.inner(w, w) * ufl.dx)) for w in (error, size)]
    first, second = (space.mesh.comm.allreduce(value).real for value in squares)
    return float(np.sqrt(first / second))


@pytest.mark.parametrize("options", [MUMPS, GMRES, {**GMRES, **recycling(8)}], ids=["mumps", "gmres", "gcrodr"])
def test_linear_reaches_the_plane_wave(options: Mapping[str, str]) -> None:
    errors = []
    for cells in (12, 24):
        problem = helmholtz(cells=cells)
        atol = 1e-9 * reference_norm(problem)
        result = LinearSolver(problem, atol, options=options).solve_once()
        assert result.converged
        assert residual_norm(problem) <= 1.001 * atol
        errors.append(error_of(problem.solution, plane_wave))
    assert np.log2(errors[0] / errors[1]) == pytest.approx(3.0, abs=0.15)


def test_recycling_spares_iterations_of_a_complex_sequence() -> None:
    problem = helmholtz()
    atol = 1e-9 * reference_norm(problem)
    solver = LinearSolver(problem, atol, options={**GMRES, **recycling(40)})
    counts = []
    for _ in range(3):
        problem.solution.x.array[:] = 0.0
        solver.update(problem, atol)
        counts.append(solver.solve().iterations)
    solver.destroy()
    assert max(counts[1:]) < 0.6 * counts[0]


def test_newton_converges_quadratically_for_a_holomorphic_problem() -> None:
    problem = cubic()
    norms: list[float] = []
    solver = NewtonSolver(problem, 1e-11 * reference_norm(problem))
    solver.monitor(lambda iteration, norm: bool(norms.append(norm)))
    assert solver.solve_once().converged
    assert norms[-1] < 1e-4 * norms[-2] < 1e-6 * norms[-3]
    at_boundary = boundary_dofs(problem.node_space)
    x = problem.node_space.tabulate_dof_coordinates()[at_boundary]
    assert np.allclose(problem.solution.x.array[at_boundary], x[:, 0] + 1j * x[:, 1], rtol=0, atol=1e-13)


def test_newton_refuses_an_energy() -> None:
    problem = magnetic()
    with pytest.raises(ValueError, match="minimises over real unknowns"):
        NewtonSolver(problem, 1.0)
    assert NewtonSolver(dataclasses.replace(problem, energy=None), 1e-10).solve_once().converged


def test_the_energy_is_real_and_least_at_the_solution() -> None:
    problem = magnetic()
    assert LinearSolver(problem, 1e-12 * reference_norm(problem)).solve_once().converged
    least, solution = energy(problem), problem.solution.x.array.copy()
    assert isinstance(least, float) and least < 0.0
    for factor in (1.01, 0.99, 1.0 + 0.01j):
        problem.solution.x.array[:] = factor * solution
        assert energy(problem) - least == pytest.approx(-1e-4 * least, rel=1e-6)


@pytest.mark.parametrize("options", [KRYLOV_SCHUR, LOBPCG], ids=["krylov-schur", "lobpcg"])
def test_modes_of_a_hermitian_pencil(options: Mapping[str, str]) -> None:
    """A constant vector potential turns the phase of the modes and leaves the eigenvalues."""
    problem = magnetic(cells=24)
    space = problem.node_space
    u, v = ufl.TrialFunction(space), ufl.TestFunction(space)
    stiffness = assemble_matrix(problem.jacobian, bcs=list(problem.bcs))
    mass = assemble_matrix(fem.form(ufl.inner(u, v) * ufl.dx), bcs=list(problem.bcs), diag=1e-8)
    stiffness.assemble()
    mass.assemble()
    modes = lowest_modes(stiffness, mass, 4, options=options, initial=None)
    assert modes.converged and modes.vectors.dtype == PETSc.ScalarType
    exact = np.pi**2 * np.array([2.0, 5.0, 5.0, 8.0])
    assert modes.values == pytest.approx(exact, rel=0.03)
    assert modes.values.dtype == np.float64
    again = lowest_modes(stiffness, mass, 4, options=LOBPCG, initial=modes.vectors)
    assert again.values == pytest.approx(modes.values, rel=1e-6) and again.iterations <= 2


def test_two_grids() -> None:
    problem = magnetic(cells=32)
    fine, coarse = problem.node_space, fem.functionspace(create_unit_square(COMM, 16, 16), ("P", 1))
    prolongation = constrain(interpolation_matrix(coarse, fine), boundary_dofs(coarse), boundary_dofs(fine))
    solver = LinearSolver(problem, 1e-10 * reference_norm(problem), options={"ksp_type": "cg"})
    set_two_grid(solver.ksp.getPC(), prolongation)
    result = solver.solve()
    solver.destroy()
    assert result.converged and result.iterations < 15


def test_time_steps_of_the_schroedinger_equation_keep_the_mass() -> None:
    """Crank-Nicolson for i du/dt = -Laplace u with an eigenfunction: only its phase turns."""
    space = fem.functionspace(create_unit_square(COMM, 12, 12), ("P", 1))
    bcs = [fem.dirichletbc(PETSc.ScalarType(0.0), boundary_dofs(space), space)]
    evolution = Evolution(space, lambda w, v: ufl.inner(w, v) * ufl.dx,
                          lambda u, v, t: 1j * ufl.inner(ufl.grad(u), ufl.grad(v)) * ufl.dx, bcs)  # fmt: skip
    stepper = TimeStepper(evolution, theta_scheme(0.5), corrections=True, is_linear=True)
    initial = fem.Function(space)
    initial.interpolate(lambda x: np.sin(np.pi * x[0]) * np.sin(np.pi * x[1]) * (1 + 0j))
    mass = fem.form(ufl.inner(stepper.history[0], stepper.history[0]) * ufl.dx)
    stepper.begin(initial.x.array, 0.01)
    before = COMM.allreduce(fem.assemble_scalar(mass), op=MPI.SUM)
    for _ in range(4):
        assert LinearSolver(stepper.problem, 1e-13).solve_once().converged
        stepper.advance()
    after = COMM.allreduce(fem.assemble_scalar(mass), op=MPI.SUM)
    assert after.real == pytest.approx(before.real, rel=1e-9)
    phase = stepper.history[0].x.array @ initial.x.array.conj()
    assert np.angle(COMM.allreduce(phase)) == pytest.approx(-2 * np.pi**2 * 0.04, abs=0.03)
