"""The unknown of a script: one function or a list of them, and where the Dirichlet conditions are found."""

from __future__ import annotations

import numpy as np
import pytest
import ufl
from mpi4py import MPI

pytest.importorskip("dolfinx", reason="needs DOLFINx")

import basix.ufl
from dolfinx import fem
from dolfinx.fem.petsc import LinearProblem, NonlinearProblem, assemble_jacobian, assemble_residual
from dolfinx.mesh import create_unit_square, exterior_facet_indices
from petsc4py import PETSc

from lrsa_coupled.coupling.residual import set_dirichlet
from lrsa_coupled.coupling.script import unknown_of
from lrsa_coupled.interfaces import Unknown

pytestmark = pytest.mark.two_ranks

COMM = MPI.COMM_WORLD


def nonlinear(u: fem.Function | None = None, bcs: list[fem.DirichletBC] | None = None) -> NonlinearProblem:
    u = u or fem.Function(fem.functionspace(create_unit_square(COMM, 4, 4), ("P", 1)))
    v = ufl.TestFunction(u.function_space)
    residual = ufl.inner((1 + u**2) * ufl.grad(u), ufl.grad(v)) * ufl.dx + ufl.inner(u - 1, v) * ufl.dx
    return NonlinearProblem(residual, u, bcs=bcs, petsc_options_prefix="unknown_")


def wall(space: fem.FunctionSpace, value: float) -> fem.DirichletBC:
    space.mesh.topology.create_connectivity(1, 2)
    facets = exterior_facet_indices(space.mesh.topology)
    values = fem.Function(space)
    values.x.array[:] = value
    return fem.dirichletbc(values, fem.locate_dofs_topological(space, 1, facets))


def replace_function(problem: NonlinearProblem) -> None:
    def residual(snes: PETSc.SNES, x: PETSc.Vec, b: PETSc.Vec) -> None:
        assemble_residual(snes, x, b, problem.u, problem.F, problem.J, [])

    problem.solver.setFunction(residual, problem.b)


def replace_both(problem: NonlinearProblem) -> None:
    replace_function(problem)

    def jacobian(snes: PETSc.SNES, x: PETSc.Vec, matrix: PETSc.Mat, preconditioner: PETSc.Mat) -> None:
        assemble_jacobian(snes, x, matrix, preconditioner, problem.u, problem.J, None, [])

    problem.solver.setJacobian(jacobian, problem.A)


def test_conditions_of_a_problem_are_found_where_they_are() -> None:
    space = fem.functionspace(create_unit_square(COMM, 4, 4), ("P", 1))
    bcs = [wall(space, 1.0)]
    problem = nonlinear(fem.Function(space), bcs)
    assert unknown_of(problem, None, None) == (problem.u, bcs)
    replace_function(problem)
    assert unknown_of(problem, None, None) == (problem.u, bcs)
    assert unknown_of(problem, None, []) == (problem.u, [])


def test_replaced_callbacks_need_the_conditions() -> None:
    problem = nonlinear()
    replace_both(problem)
    with pytest.raises(ValueError, match=r"give bcs=\[...\]"):
        unknown_of(problem, None, None)
    assert unknown_of(problem, None, []) == (problem.u, [])


@pytest.mark.parametrize("kind", ["mpi", "nest"])
def test_a_list_of_functions_is_one_unknown(kind: str) -> None:
    mesh = create_unit_square(COMM, 4, 4)
    spaces = [fem.functionspace(mesh, ("P", 2)), fem.functionspace(mesh, ("P", 1))]
    functions = [fem.Function(space) for space in spaces]
    trials, tests = ([make(space) for space in spaces] for make in (ufl.TrialFunction, ufl.TestFunction))
    a = [[ufl.inner(u, v) * ufl.dx if u.ufl_function_space() is v.ufl_function_space() else None for u in trials]
         for v in tests]  # fmt: skip
    rhs = [ufl.inner(fem.Constant(mesh, PETSc.ScalarType(1.0)), v) * ufl.dx for v in tests]
    bcs = [wall(spaces[1], 3.0)]
    problem = LinearProblem(a, rhs, bcs=bcs, u=functions, kind=kind, petsc_options_prefix="blocks_")
    assert unknown_of(problem, None, None) == (tuple(functions), bcs)
    assert unknown_of(problem.solver, functions, None) == (tuple(functions), [])


def test_dirichlet_values_go_to_their_own_function() -> None:
    mesh = create_unit_square(COMM, 4, 4)
    element = basix.ufl.element("P", "triangle", 1)
    mixed = fem.functionspace(mesh, basix.ufl.mixed_element([element, element]))
    functions = tuple(fem.Function(space) for space in (fem.functionspace(mesh, ("P", 2)), mixed))
    part = mixed.sub(1)
    mesh.topology.create_connectivity(1, 2)
    facets = exterior_facet_indices(mesh.topology)
    bcs = [wall(functions[0].function_space, 2.0),
           fem.dirichletbc(PETSc.ScalarType(5.0), fem.locate_dofs_topological(part, 1, facets), part)]  # fmt: skip
    problem = Unknown(mesh=mesh, solution=functions, bcs=bcs, node_space=functions[0].function_space)
    set_dirichlet(problem)
    first, second = functions
    assert set(COMM.allreduce(set(first.x.array.real), lambda a, b: a | b)) == {0.0, 2.0}
    others, dofs = (np.ravel(mixed.sub(number).collapse()[1]) for number in range(2))
    assert set(COMM.allreduce(set(second.x.array[dofs].real), lambda a, b: a | b)) == {0.0, 5.0}
    assert not second.x.array[others].any()


def test_what_is_no_unknown_is_named() -> None:
    ksp = PETSc.KSP().create(COMM)
    with pytest.raises(ValueError, match="got NoneType"):
        unknown_of(ksp, None, None)
    with pytest.raises(ValueError, match="got str"):
        unknown_of(ksp, [nonlinear().u, "u"], None)
