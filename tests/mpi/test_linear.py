"""KSP on a Poisson problem, from any start, at any number of ranks."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from mpi4py import MPI

pytest.importorskip("dolfinx", reason="the solvers need DOLFINx")

import ufl
from dolfinx import fem
from dolfinx.mesh import create_unit_square, exterior_facet_indices

from lrsa_coupled.coupling.options import MUMPS
from lrsa_coupled.coupling.residual import reference_norm, residual_norm
from lrsa_coupled.interfaces import Problem
from lrsa_coupled.solvers.linear import LinearSolver
from lrsa_coupled.solvers.newton import NewtonSolver

pytestmark = pytest.mark.two_ranks

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
    return Problem(mesh=mesh, parameters=exact, solution=u, residual=fem.form(residual),
                   jacobian=fem.form(ufl.derivative(residual, u)),
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


def test_an_exact_guess_needs_no_iteration() -> None:
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


def iterations_at(phases: list[float]) -> list[int]:
    """Iterations of a sequence of problems with coefficients that waves of these phases make, from 0.01 to 100."""
    problem = poisson()
    coefficient = fem.Function(fem.functionspace(problem.mesh, ("DG", 0)))
    test = ufl.TestFunction(problem.solution.function_space)
    residual = coefficient * ufl.inner(ufl.grad(problem.solution), ufl.grad(test)) * ufl.dx - test * ufl.dx
    problem = dataclasses.replace(
        problem, residual=fem.form(residual), jacobian=fem.form(ufl.derivative(residual, problem.solution))
    )
    options = MUMPS | {"ksp_type": "cg", "ksp_norm_type": "unpreconditioned"}
    solver, iterations = None, []
    for phase in phases:
        coefficient.interpolate(lambda x: 100.0 ** (np.sin(30 * x[0] + phase) * np.cos(20 * x[1] + phase)))
        atol = 1e-10 * reference_norm(problem)
        if solver is None:
            solver = LinearSolver(problem, atol, options=options, setup_cost=6.0)
        else:
            solver.update(problem, atol)
        result = solver.solve()
        assert result.converged
        assert residual_norm(problem) <= 1.01 * atol
        assert result.residual == pytest.approx(residual_norm(problem), abs=1e-3 * atol)
        iterations.append(result.iterations)
    solver.destroy()
    return iterations


def test_a_preconditioner_is_reused_while_it_pays() -> None:
    new, *kept = iterations_at([0.0, 0.003, 0.006, 0.009])
    assert new == 1 and all(1 < n <= 7 for n in kept)


def test_one_that_does_not_pay_is_given_up_and_tried_more_rarely() -> None:
    iterations = iterations_at([1.7 * i for i in range(16)])
    dear = [place for place, n in enumerate(iterations) if n > 1]
    assert dear == [1, 3, 7, 15]  # new ones in between: 1, 3, 7
    assert all(iterations[place] == 15 for place in dear)  # twice the cost of a new one at most, then the new one


def test_a_sequence_has_one_space() -> None:
    problem = poisson()
    solver = LinearSolver(problem, 1e-8)
    with pytest.raises(ValueError, match="one function space"):
        solver.update(poisson(), 1e-8)
    solver.destroy()


def test_nonlinear_problems_are_refused() -> None:
    with pytest.raises(ValueError, match="NewtonSolver"):
        LinearSolver(poisson(linear=False), 1e-8)


@pytest.mark.parametrize("make", [NewtonSolver, LinearSolver])
def test_tolerance_must_be_positive(make: type) -> None:
    with pytest.raises(ValueError, match="positive"):
        make(poisson(), 0.0)
