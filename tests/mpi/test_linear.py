"""KSP on a Poisson problem, from any start, at any number of ranks."""

from __future__ import annotations

import numpy as np
import pytest
from mpi4py import MPI

pytest.importorskip("dolfinx", reason="the solvers need DOLFINx")

import ufl
from dolfinx import fem
from dolfinx.mesh import create_unit_square, exterior_facet_indices
from lrsa_coupled.coupling.residual import reference_norm, residual_norm
from lrsa_coupled.interfaces import Problem
from solvers.linear import LinearSolver
from solvers.newton import NewtonSolver

COMM = MPI.COMM_WORLD
CG = {"ksp_type": "cg", "pc_type": "jacobi", "ksp_norm_type": "unpreconditioned"}


def poisson(*, linear: bool = True) -> Problem:
    """-div grad u = -4 with the solution 1 + x^2 + y^2, which P2 holds exactly."""
    mesh = create_unit_square(COMM, 8, 8)
    space = fem.functionspace(mesh, ("P", 2))
    u, v = fem.Function(space), ufl.TestFunction(space)
    mesh.topology.create_connectivity(1, 2)
    exact = fem.Function(space)
    exact.interpolate(lambda x: 1 + x[0] ** 2 + x[1] ** 2)
    bc = fem.dirichletbc(exact, fem.locate_dofs_topological(space, 1, exterior_facet_indices(mesh.topology)))
    residual = ufl.inner(ufl.grad(u), ufl.grad(v)) * ufl.dx + 4.0 * v * ufl.dx
    return Problem(mesh=mesh, parameters=exact, solution=u, residual=fem.form(residual), jacobian=fem.form(ufl.derivative(residual, u)),
                   bcs=[bc], node_space=space, is_linear=linear)  # fmt: skip


@pytest.mark.parametrize("options", [None, CG], ids=["mumps", "cg"])
@pytest.mark.parametrize("start", ["zero", "random"])
def test_reaches_the_exact_solution(options: dict[str, str] | None, start: str) -> None:
    problem = poisson()
    atol = 1e-12 * reference_norm(problem)
    if start == "random":
        problem.solution.x.array[:] = np.random.default_rng(COMM.rank).standard_normal(problem.solution.x.array.size)
        problem.solution.x.scatter_forward()
    solver = LinearSolver(problem, atol, options=options)
    result = solver.solve()
    solver.destroy()
    assert result.converged
    assert residual_norm(problem) <= 10 * atol
    assert np.abs(problem.solution.x.array - problem.parameters.x.array).max(initial=0.0) < 1e-9


def test_an_exact_start_needs_no_iteration() -> None:
    problem = poisson()
    atol = 1e-10 * reference_norm(problem)
    problem.solution.x.array[:] = problem.parameters.x.array
    solver = LinearSolver(problem, atol, options=CG)
    assert solver.solve().iterations == 0
    solver.destroy()


def test_a_failed_solve_is_a_value_with_advice() -> None:
    problem = poisson()
    solver = LinearSolver(problem, 1e-12, options=CG, max_iterations=2)
    result = solver.solve()
    solver.destroy()
    assert (result.converged, result.reason) == (False, "DIVERGED_MAX_IT")
    assert result.advice


def test_nonlinear_problems_are_refused() -> None:
    with pytest.raises(ValueError, match="NewtonSolver"):
        LinearSolver(poisson(linear=False), 1e-8)


@pytest.mark.parametrize("make", [NewtonSolver, LinearSolver])
def test_tolerance_must_be_positive(make: type) -> None:
    with pytest.raises(ValueError, match="positive"):
        make(poisson(), 0.0)
