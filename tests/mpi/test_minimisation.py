"""Newton's method on an energy, with the rigid body modes of a deformed body, at any number of ranks."""

from __future__ import annotations

import numpy as np
import pytest
from mpi4py import MPI

pytest.importorskip("dolfinx", reason="the solvers need DOLFINx")

from dolfinx import fem

from lrsa_coupled.cases.hyperelastic.case import LENGTH, HyperelasticCase, newton
from lrsa_coupled.coupling.residual import reference_norm, residual_norm
from lrsa_coupled.generation.plan import sample_parameters
from lrsa_coupled.guess.acceptance import accept
from lrsa_coupled.interfaces import Problem
from lrsa_coupled.solvers.petsc import rigid_body_modes
from lrsa_coupled.solvers.relaxed import RelaxedSolver

pytestmark = pytest.mark.two_ranks

COMM = MPI.COMM_WORLD


def block(comm: MPI.Comm) -> Problem:
    case = HyperelasticCase()
    parameters = sample_parameters(case, 0, 2)
    return case.problem(case.mesh(comm, parameters, 4), parameters)


def energy(problem: Problem) -> float:
    return problem.mesh.comm.allreduce(fem.assemble_scalar(problem.energy))


@pytest.mark.parametrize("direct_below", [0, 10**9], ids=["multigrid", "direct"])
def test_the_minimum_does_not_depend_on_the_ranks(direct_below: int) -> None:
    energies, iterations = [], []
    for comm in (COMM, MPI.COMM_SELF):
        problem = block(comm)
        atol = 1e-8 * reference_norm(problem)
        solver = newton(problem, atol, direct_below=direct_below)
        result = solver.solve()
        solver.destroy()
        assert result.converged
        assert residual_norm(problem) <= atol * (1 + 1e-6)
        energies.append(energy(problem))
        iterations.append(result.iterations)
    assert energies[0] == pytest.approx(energies[1], rel=1e-10)
    assert direct_below == 0 or iterations[0] == iterations[1]


def test_each_rank_has_the_coarse_model_to_itself() -> None:
    case, energies, iterations = HyperelasticCase(), [], []
    for comm in (COMM, MPI.COMM_SELF):
        problem = block(comm)
        solver = case.methods()["coarse-model"](problem, 1e-8 * reference_norm(problem))
        result = solver.solve()
        solver.destroy()
        assert result.converged and not result.used_fallback
        energies.append(energy(problem))
        iterations.append(result.iterations)
    assert energies[0] == pytest.approx(energies[1], rel=1e-10)
    assert iterations[0] == iterations[1] <= 6


def folded(problem: Problem) -> None:
    """Put the solution, with a corner of the loaded end pushed through its elements, into the problem."""
    solver = HyperelasticCase().methods()["load-steps-loose"](problem, 1e-8 * reference_norm(problem))
    assert solver.solve().converged
    solver.destroy()
    points = problem.node_space.tabulate_dof_coordinates()
    corner = np.isclose(points, [LENGTH, 0.5, 0.5]).all(axis=1)
    problem.solution.x.array.reshape(-1, 3)[corner] -= [0.28, 0.12, 0.12]


def test_a_guess_with_elements_inside_out_is_rescued() -> None:
    case, problem = HyperelasticCase(), block(COMM)
    atol = 1e-8 * reference_norm(problem)
    folded(problem)
    start = problem.solution.x.array.copy()
    assert not np.isfinite(energy(problem))
    plain = newton(problem, atol)
    assert not plain.solve().converged
    plain.destroy()
    problem.solution.x.array[:] = start
    assert accept(problem).accepted
    problem.solution.x.array[:] = start
    solver = case.solver(problem, atol)
    result = solver.solve()
    assert result.converged and result.iterations < 40
    assert residual_norm(problem) <= atol * (1 + 1e-6)
    found = problem.solution.x.array.copy()
    again = solver.solve()  # from the solution: nothing to do, no stage
    solver.destroy()
    assert again.converged and again.iterations == 0 and np.array_equal(problem.solution.x.array, found)


def test_a_solution_with_compressed_elements_is_left_where_it_is() -> None:
    """Its volume ratios are in the range that the relaxation changes."""
    case = HyperelasticCase()
    parameters = sample_parameters(case, 3, 7)
    problem = case.problem(case.mesh(COMM, parameters, 6), parameters)
    atol = 1e-8 * reference_norm(problem)
    solver = case.methods()["load-steps-loose"](problem, atol)
    assert solver.solve().converged
    solver.destroy()
    own = energy(problem)
    problem.relaxation.set_value(problem.relaxation.start)
    assert energy(problem) != own
    problem.relaxation.set_value(problem.relaxation.target)
    found = problem.solution.x.array.copy()
    for factor in (1.0, 1e-2):
        solver = case.solver(problem, factor * atol)
        result = solver.solve()
        solver.destroy()
        assert result.converged and result.iterations <= 2
        assert np.abs(problem.solution.x.array - found).max() < 1e-4


def test_a_monitor_ends_the_stages_of_a_relaxed_solve() -> None:
    problem = block(COMM)
    solver = HyperelasticCase().solver(problem, 1e-8 * reference_norm(problem))
    folded(problem)
    solver.monitor(lambda iteration, norm: iteration == 1)
    result = solver.solve()
    solver.destroy()
    assert not result.converged and result.iterations == 1
    problem.solution.x.array[:] = 0.0
    assert np.isfinite(energy(problem))
    with pytest.raises(ValueError, match="at least one stage"):
        RelaxedSolver(newton(problem, 1.0), [])


def test_rigid_body_modes_strain_nothing() -> None:
    problem = block(COMM)
    rng = np.random.default_rng(0)
    shift, spin = rng.standard_normal(3), rng.standard_normal((3, 3))
    problem.solution.interpolate(lambda x: shift[:, None] + (spin @ x))
    modes = rigid_body_modes(problem.solution)
    vectors = modes.getVecs()
    assert len(vectors) == 6
    gram = np.array([[a.dot(b) for b in vectors] for a in vectors])
    assert gram == pytest.approx(np.eye(6), abs=1e-12)
    owned = problem.node_space.dofmap.index_map.size_local
    placed = (problem.node_space.tabulate_dof_coordinates() + problem.solution.x.array.reshape(-1, 3))[:owned]
    for vector in vectors:  # velocities v of a rigid motion: (v_i - v_j) . (x_i - x_j) = 0 for all pairs
        velocity, points = (np.concatenate(COMM.allgather(part)) for part in (vector.array_r.reshape(-1, 3), placed))
        first, second = np.triu_indices(40, 1)
        stretch = np.sum((velocity[first] - velocity[second]) * (points[first] - points[second]), axis=1)
        assert np.abs(stretch).max() < 1e-12
    modes.destroy()


def test_rigid_body_modes_refuse_a_scalar() -> None:
    with pytest.raises(ValueError, match="need a displacement"):
        rigid_body_modes(fem.Function(block(COMM).node_space))
