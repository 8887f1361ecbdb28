"""Nested iteration: the solution as from zero in fewer iterations, on any number of ranks; else the default solve."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from mpi4py import MPI

pytest.importorskip("dolfinx", reason="the solvers need DOLFINx")

from lrsa_coupled.catalog import load_case
from lrsa_coupled.coupling.residual import reference_norm, residual_norm
from lrsa_coupled.generation.plan import sample_parameters
from lrsa_coupled.guess.coarse_mesh import CoarseMeshGuess, interpolate
from lrsa_coupled.guess.guarded import GuardedSolver
from lrsa_coupled.guess.policy import Always
from lrsa_coupled.guess.target import CaseTarget, solve_from_zero
from lrsa_coupled.interfaces import Case, Problem, SolveResult

pytestmark = pytest.mark.two_ranks

COMM = MPI.COMM_WORLD
FINE = {"cavity": 12, "hyperelastic": 4}
COLD = {"cavity": 0, "hyperelastic": 1}
"""Number of a method that begins at zero."""


def solved(case: Case, index: int = 0) -> tuple[Problem, float, int]:
    """A problem solved by default, its tolerance, the iterations."""
    parameters = sample_parameters(case, 3, index)
    problem = case.problem(case.mesh(COMM, parameters, FINE[case.name]), parameters)
    atol = case.rtol * reference_norm(problem)
    solver = list(case.methods().values())[COLD[case.name]](problem, atol)
    result = solver.solve()
    solver.destroy()
    assert result.converged
    return problem, atol, result.iterations


def test_coarser_meshes_are_solved_to_the_tolerance_of_the_case() -> None:
    errors = []
    for rtol in (1e-8, 1e-5):  # 1e3 times looser on the coarser mesh
        case = load_case("cavity", rtol=rtol)
        parameters = sample_parameters(case, 3, 0)
        problem = case.problem(case.mesh(COMM, parameters, 12), parameters)
        guess = CoarseMeshGuess(case, [6])
        assert guess.put(problem).accepted
        errors.append(problem.solution.x.array.copy())
    assert np.abs(errors[0] - errors[1]).max(initial=0.0) > 1e-6


@pytest.mark.parametrize("name", FINE)
def test_the_solution_of_a_coarser_mesh_is_a_good_guess(name: str) -> None:
    case = load_case(name)
    problem, atol, default = solved(case)
    truth = problem.solution.x.array.copy()
    problem.solution.x.array[:] = 0.0
    guess = CoarseMeshGuess(case, [FINE[name] // 2])
    solver = GuardedSolver([guess], CaseTarget(case, problem, atol), Always())
    result = solver.solve()
    solver.destroy()
    assert result.converged and not result.used_fallback
    assert result.iterations < default
    assert residual_norm(problem) <= atol * (1.0 + 1e-6)
    scale = COMM.allreduce(np.abs(truth).max(initial=0.0), op=MPI.MAX)
    assert np.abs(problem.solution.x.array - truth).max(initial=0.0) < 1e-5 * scale
    assert set(result.seconds) == {"transfer", "inference", "solve"} and result.seconds["transfer"] > 0.0


def test_meshes_that_two_guesses_need_are_made_once() -> None:
    case = load_case("cavity")
    parameters = sample_parameters(case, 3, 0)
    problem = case.problem(case.mesh(COMM, parameters, 24), parameters)
    one = CoarseMeshGuess(case, [12])
    two = CoarseMeshGuess(case, [6, 12], finer=one)
    coarsest, shared = two.coarser(problem)
    assert one.coarser(problem) == [shared] and two.coarser(problem) == [coarsest, shared]
    sizes = [each.mesh.topology.index_map(2).size_global for each in (coarsest, shared, problem)]
    assert sizes == sorted(set(sizes))
    assert one.put(problem).accepted and two.put(problem).accepted


def test_a_solution_goes_to_a_coarser_mesh_and_back_with_its_boundary_values() -> None:
    case = load_case("cavity")
    problem, _, _ = solved(case)
    coarse = case.problem(case.mesh(COMM, problem.parameters, 6), problem.parameters)
    interpolate(case, problem, coarse)
    truth = problem.solution.x.array.copy()
    interpolate(case, coarse, problem)
    fixed = np.zeros_like(truth)
    for bc in problem.bcs:
        bc.set(fixed)
    for bc in problem.bcs:
        dofs = bc.dof_indices()[0]
        np.testing.assert_array_equal(problem.solution.x.array[dofs], fixed[dofs])
    error, size = (COMM.allreduce(float(np.sum(array**2))) for array in (problem.solution.x.array - truth, truth))
    assert 0.0 < error < 0.05 * size


def test_every_node_is_found_in_tetrahedra_on_whichever_rank() -> None:
    """DOLFINx takes the cell on either side of a face that a node is near to; on two ranks one is on the wrong side."""
    case = load_case("hyperelastic")
    parameters = sample_parameters(case, 0, 2)
    coarse, fine = (case.problem(case.mesh(COMM, parameters, n), parameters) for n in (3, 8))
    coarse.solution.interpolate(lambda x: np.stack([x[1], x[2], x[0]]))
    interpolate(case, coarse, fine)
    expected = fine.node_space.tabulate_dof_coordinates()[:, [1, 2, 0]]
    inner = expected[:, 2] > 1e-9  # the rest is clamped
    np.testing.assert_allclose(fine.solution.x.array.reshape(-1, 3)[inner], expected[inner], atol=1e-12)


def test_where_the_guess_fails_the_default_solve_takes_over() -> None:
    case = load_case("cavity")
    problem, atol, default = solved(case)
    result = GuardedSolver([CoarseMeshGuess(case, [6])], CaseTarget(case, problem, atol), Always(1)).solve()
    assert result.converged and result.used_fallback
    assert result.iterations == default + 1
    assert residual_norm(problem) <= atol * (1.0 + 1e-6)


@pytest.mark.parametrize("unsolved", [(), (6,), (8,), (6, 8)])
def test_a_mesh_that_is_not_solved_from_the_one_before_is_solved_by_default_or_left_out(
    unsolved: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = load_case("cavity")
    problem, _, _ = solved(case)
    guess = CoarseMeshGuess(case, [6, 8], max_iterations=1)  # too few on the second mesh
    sizes = [each.mesh.topology.index_map(2).size_global for each in guess.coarser(problem)]
    failing = {size for size, resolution in zip(sizes, (6, 8), strict=True) if resolution in unsolved}

    def by_default(case: Case, coarse: Problem, atol: float) -> SolveResult:
        result = solve_from_zero(case, coarse, atol)
        failed = coarse.mesh.topology.index_map(2).size_global in failing
        return dataclasses.replace(result, converged=False, reason="told so") if failed else result

    monkeypatch.setattr("lrsa_coupled.guess.coarse_mesh.solve_from_zero", by_default)
    put = guess.put(problem)
    assert put.accepted == (8 not in unsolved)
    assert put.accepted or (put.reason == "a coarser mesh is not solved: told so" and put.iterations > 2)


def test_a_coarser_mesh_and_an_interpolation_are_needed() -> None:
    with pytest.raises(ValueError, match="at least one coarser mesh"):
        CoarseMeshGuess(load_case("cavity"), [])
    with pytest.raises(ValueError, match="the case 'convection' has none"):
        CoarseMeshGuess(load_case("convection"), [6])
