"""Newton's method with a Jacobian and a preconditioner that are reused near the solution."""

from __future__ import annotations

import numpy as np
import pytest
from mpi4py import MPI

pytest.importorskip("dolfinx", reason="the solvers need DOLFINx")

import ufl
from dolfinx import fem
from dolfinx.mesh import create_unit_square, exterior_facet_indices
from petsc4py import PETSc

from lrsa_coupled.coupling.residual import reference_norm, residual_norm
from lrsa_coupled.interfaces import Problem, SolveResult
from lrsa_coupled.solvers.newton import NewtonSolver

pytestmark = pytest.mark.two_ranks

COMM = MPI.COMM_WORLD


def nonlinear() -> Problem:
    mesh = create_unit_square(COMM, 8, 8)
    space = fem.functionspace(mesh, ("P", 1))
    u, v = fem.Function(space), ufl.TestFunction(space)
    mesh.topology.create_connectivity(1, 2)
    bc = fem.dirichletbc(0.0, fem.locate_dofs_topological(space, 1, exterior_facet_indices(mesh.topology)), space)
    residual = ((1.0 + u**2) * ufl.inner(ufl.grad(u), ufl.grad(v)) - 50.0 * v) * ufl.dx
    return Problem(mesh=mesh, parameters=None, solution=u, residual=fem.form(residual),
                   jacobian=fem.form(ufl.derivative(residual, u)), bcs=[bc], node_space=space)  # fmt: skip


class Counted:
    """Jacobi for PETSc's ``pc_type python`` that counts how often it is set up."""

    setups = 0

    def setUp(self, pc: PETSc.PC) -> None:
        type(self).setups += 1
        self.diagonal = pc.getOperators()[1].getDiagonal()

    def apply(self, pc: PETSc.PC, x: PETSc.Vec, y: PETSc.Vec) -> None:
        y.pointwiseDivide(x, self.diagonal)


OPTIONS = {"ksp_type": "gmres", "ksp_rtol": "1e-10", "pc_type": "python", "pc_python_type": f"{__name__}.Counted"}


def solve(problem: Problem, atol: float, *, reuse_below: float | None) -> tuple[SolveResult, int]:
    """Return the result and how often there was a new Jacobian."""
    Counted.setups = 0
    solver = NewtonSolver(problem, atol, options=OPTIONS, reuse_below=reuse_below)
    result = solver.solve()
    solver.destroy()
    return result, Counted.setups


def test_a_reused_jacobian_leads_to_the_same_solution() -> None:
    problem = nonlinear()
    atol = 1e-10 * reference_norm(problem)
    plain, _ = solve(problem, atol, reuse_below=None)
    truth = problem.solution.x.array.copy()
    for start, fewer in ((0.0, 1), (0.999, plain.iterations // 2)):
        problem.solution.x.array[:] = start * truth
        kept, assembled = solve(problem, atol, reuse_below=0.1)
        assert plain.converged and kept.converged
        assert residual_norm(problem) <= atol * (1 + 1e-6)
        assert np.abs(problem.solution.x.array - truth).max(initial=0.0) < 1e-8
        assert 1 <= assembled <= kept.iterations - 1
        assert assembled <= plain.iterations - fewer


def test_the_first_iteration_of_a_solve_makes_a_new_jacobian() -> None:
    problem = nonlinear()
    atol = 1e-10 * reference_norm(problem)
    assert solve(problem, atol, reuse_below=0.1)[0].converged
    problem.solution.x.array[:] *= 0.5
    result, assembled = solve(problem, atol, reuse_below=1e-30)
    assert result.converged and assembled == result.iterations


@pytest.mark.parametrize("most", [None, 2, 10**6])
def test_the_preconditioner_is_reused_while_linear_solves_are_short(most: int | None) -> None:
    problem = nonlinear()
    atol = 1e-10 * reference_norm(problem)
    Counted.setups = 0
    solver = NewtonSolver(problem, atol, options=OPTIONS | {"ksp_rtol": "1e-3"}, reuse_up_to=most)
    result = solver.solve()
    solver.destroy()
    assert result.converged and result.iterations > 3
    assert residual_norm(problem) <= atol * (1 + 1e-6)
    assert Counted.setups == (1 if (most or 0) > 2 else result.iterations)  # Jacobi needs more than two iterations here
