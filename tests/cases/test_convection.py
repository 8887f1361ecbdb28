"""Convection: a manufactured solution, its flow, steps that follow one another, results of time stepping."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI

pytest.importorskip("dolfinx", reason="cases need DOLFINx")

import ufl
from dolfinx import fem
from dolfinx.mesh import create_unit_square, exterior_facet_indices

from lrsa_coupled.bench.compare import ADAPTIVE, LEARNED
from lrsa_coupled.bench.experiments import time_steps
from lrsa_coupled.bench.rows import read_rows, write_rows
from lrsa_coupled.bench.samples import Samples
from lrsa_coupled.cases.convection.case import DIFFUSIVITY, GROWTH, ConvectionCase, ConvectionOptions, mass, transport
from lrsa_coupled.cases.convection.stirring import Stirring
from lrsa_coupled.cases.darcy.case import DarcyCase
from lrsa_coupled.config import BenchConfig, Config, GenerateConfig, LrsaConfig, ProblemConfig, TrainingConfig
from lrsa_coupled.coupling.residual import reference_norm, residual_norm
from lrsa_coupled.generation.generate import generate
from lrsa_coupled.generation.plan import sample_parameters
from lrsa_coupled.interfaces import Problem
from lrsa_coupled.solvers.newton import NewtonSolver
from lrsa_coupled.solvers.transient import BDF2, Evolution, TimeStepper
from lrsa_coupled.training.loop import train

COMM = MPI.COMM_SELF
CASE = ConvectionCase(ConvectionOptions(steps=5))


def problem_at(index: int, resolution: int = 6, case: ConvectionCase = CASE) -> Problem:
    parameters = sample_parameters(case, 1, index)
    return case.problem(case.mesh(COMM, parameters, resolution), parameters)


def solve(problem: Problem, case: ConvectionCase = CASE) -> None:
    atol = case.rtol * reference_norm(problem)
    solver = case.solver(problem, atol)
    assert solver.solve().converged
    solver.destroy()


def error(cells: int, steps: int) -> float:
    """L2 error at t = 0.5 of u = (1 + t^2) sin(pi x) sin(pi y) in the flow (y, -x)."""
    mesh = create_unit_square(COMM, cells, cells)
    space = fem.functionspace(mesh, ("P", 2))
    mesh.topology.create_connectivity(1, 2)
    bc = fem.dirichletbc(0.0, fem.locate_dofs_topological(space, 1, exterior_facet_indices(mesh.topology)), space)
    x = ufl.SpatialCoordinate(mesh)
    shape = ufl.sin(ufl.pi * x[0]) * ufl.sin(ufl.pi * x[1])
    velocity = ufl.as_vector((x[1], -x[0]))

    def rate(u: fem.Function, v: fem.Function, t: fem.Constant) -> ufl.Form:
        exact = (1.0 + t**2) * shape
        source = (
            2.0 * t * shape
            + ufl.inner(velocity, ufl.grad(exact))
            - ufl.div(DIFFUSIVITY * (1.0 + GROWTH * exact**2) * ufl.grad(exact))
        )
        return transport(velocity, source, u, v, t)

    stepper = TimeStepper(Evolution(space, mass, rate, [bc]), BDF2, corrections=True)
    start = fem.Function(space)
    start.interpolate(lambda x: np.sin(np.pi * x[0]) * np.sin(np.pi * x[1]))
    stepper.begin(start.x.array, 0.5 / steps)
    solver = NewtonSolver(stepper.problem, 1e-12)
    for _ in range(steps):
        assert solver.solve().converged
        stepper.advance()
    solver.destroy()
    return float(np.sqrt(fem.assemble_scalar(fem.form((stepper.history[0] - 1.25 * shape) ** 2 * ufl.dx))))


def test_orders_in_space_and_time() -> None:
    in_space = [error(cells, 64) for cells in (4, 8)]
    assert np.log2(in_space[0] / in_space[1]) > 2.9
    in_time = [error(12, steps) for steps in (2, 4)]
    assert np.log2(in_time[0] / in_time[1]) > 1.7


def test_flow_is_divergence_free_and_stays_inside() -> None:
    parameters, h = sample_parameters(CASE, 3, 0), 1e-6
    inside = np.random.default_rng(0).uniform(0.1, 0.9, (2, 20))
    shifted = [
        Stirring(inside + h * np.array([[dx], [dy]])).velocity(parameters, 0.7)
        for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1))
    ]
    divergence = (shifted[0] - shifted[1])[:, 0] + (shifted[2] - shifted[3])[:, 1]
    assert np.abs(divergence / (2 * h)).max() < 1e-6
    wall = np.array([[0.0, 1.0, 0.3, 0.6], [0.2, 0.5, 0.0, 1.0]])
    velocity = Stirring(wall).velocity(parameters, 0.7)
    assert np.abs([velocity[0, 0], velocity[1, 0], velocity[2, 1], velocity[3, 1]]).max() < 1e-12


def test_a_step_is_the_same_whether_followed_or_found_from_its_parameters() -> None:
    problem = problem_at(0)
    for index in range(1, 4):
        solve(problem)
        problem = CASE.fixed_mesh.update(problem, sample_parameters(CASE, 1, index))
        alone = problem_at(index)
        ours, theirs = CASE.features(problem), CASE.features(alone)
        assert np.allclose(ours.nodal, theirs.nodal, rtol=1e-5, atol=1e-5)
        assert np.allclose(ours.scalars, theirs.scalars, atol=1e-6)
    problem = CASE.fixed_mesh.update(
        problem, sample_parameters(CASE, 1, 4)
    )  # the solution holds zeros: the step before is not solved
    assert np.allclose(CASE.features(problem).nodal, CASE.features(problem_at(4)).nodal, rtol=1e-5, atol=1e-5)


def test_correction_is_of_order_one_and_like_the_defect() -> None:
    problem = problem_at(3, resolution=10)
    solve(problem)
    correction, defect = problem.solution.x.array, CASE.features(problem).nodal[:, 0]
    assert np.sqrt(np.mean(defect**2)) == pytest.approx(1.0, abs=1e-6)
    assert 0.1 < np.sqrt(np.mean(correction**2)) < 3.0
    assert np.corrcoef(correction, defect)[0, 1] > 0.5


def test_all_methods_find_the_same_state() -> None:
    problem, states = problem_at(3), []
    atol = 1e-9 * reference_norm(problem)
    for make in CASE.methods().values():
        problem.solution.x.array[:] = 1.0  # dropped
        solver = make(problem, atol)
        assert solver.solve().converged
        solver.destroy()
        assert residual_norm(problem) <= atol * (1 + 1e-6)
        states.append(problem.stepper.state())
    assert np.ptp(states, axis=0).max() < 1e-7


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="steps >= 1"):
        ConvectionCase(ConvectionOptions(steps=0))
    with pytest.raises(ValueError, match="at least 2 cells"):
        CASE.mesh(COMM, None, 1)


def test_time_steps_from_every_guess(tmp_path: Path) -> None:
    config = Config(
        case="convection", generate=GenerateConfig(samples=20, reuse="setup"), problem=ProblemConfig(resolution=6),
        bench=BenchConfig(samples=1), operator=LrsaConfig(width=16, num_blocks=1, num_heads=1, num_latents=8),
        training=TrainingConfig(epochs=2, batch_size=4, num_points=64),
    )  # fmt: skip
    assert generate(CASE, config, tmp_path / "data", COMM).solved == 20
    train(tmp_path / "data", tmp_path / "model", config)
    results = time_steps.run(Namespace(), Samples(CASE, config, COMM, tmp_path / "model"))
    assert list(results.methods) == [*CASE.methods(), ADAPTIVE, LEARNED]
    for tolerance in time_steps.TOLERANCES:
        for rows in results.methods.values():
            steps = [row for row in rows if row.values["tolerance"] == tolerance]
            assert len(steps) == 4 and all(row.solved and row.residual <= row.atol * (1 + 1e-6) for row in steps)
    previous = list(results.methods.values())[1]
    assert [row.number("guess") for row in previous] == pytest.approx([1.0] * len(previous))
    write_rows(results, tmp_path / "rows.jsonl")
    table = time_steps.table(read_rows(tmp_path / "rows.jsonl"))
    assert table.count("against") > 1 and table.count(", in steps") == len(time_steps.TOLERANCES)
    assert list(time_steps.run(Namespace(), Samples(CASE, config, COMM)).methods) == list(CASE.methods())


def test_time_steps_need_a_case_of_trajectories() -> None:
    with pytest.raises(ValueError, match="trajectories"):
        time_steps.run(Namespace(), Samples(DarcyCase(), Config(), COMM))
