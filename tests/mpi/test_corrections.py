"""Residuals of Krylov runs and their corrections, as training data, on one rank and several."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI

pytest.importorskip("dolfinx", reason="the cases need DOLFINx")

from lrsa_coupled.catalog import case_folder, load_case
from lrsa_coupled.config import Config, GenerateConfig, ProblemConfig
from lrsa_coupled.coupling.norms import jacobian, solution_vector
from lrsa_coupled.coupling.residual import reference_norm
from lrsa_coupled.coupling.transfer import NodeSet
from lrsa_coupled.data.store import DataStore
from lrsa_coupled.generation.corrections import CorrectionParameters
from lrsa_coupled.generation.generate import generate

pytestmark = pytest.mark.two_ranks

COMM = MPI.COMM_WORLD


@pytest.mark.parametrize(("name", "options", "resolution"), [("darcy", {}, 24), ("helmholtz", {"wave_number": 6.0}, 8)])
@pytest.mark.parametrize("iterations", [0, 5])
def test_the_correction_has_the_residual(
    name: str, options: dict[str, float], resolution: int, iterations: int
) -> None:
    case = load_case(f"{name}:correction", options)
    parameters = CorrectionParameters(7, iterations)
    problem = case.problem(case.mesh(COMM, parameters, resolution), parameters)
    solver = case.solver(problem, case.rtol * reference_norm(problem))
    assert solver.solve().converged
    solver.destroy()
    nodes = NodeSet(problem, case.schema.outputs)
    density = case.features(problem).nodal[:, -1]
    assert COMM.allreduce(float(nodes.mass @ density**2)) == pytest.approx(1.0)
    matrix, correction = jacobian(problem.problem), solution_vector(problem)
    residual = (matrix * correction).array
    free = ~nodes.constrained[:, 0]
    error = np.abs(residual - nodes.mass * density)[free].max(initial=0.0)
    assert COMM.allreduce(error, op=MPI.MAX) < 1e-5 * COMM.allreduce(np.abs(residual).max(initial=0.0), op=MPI.MAX)
    assert np.abs(density[~free]).max(initial=0.0) == 0.0


def test_runs_of_several_lengths_are_stored(shared_path: Path) -> None:
    case = load_case("darcy:correction")
    config = Config(case=case.name, problem=ProblemConfig(resolution=12), generate=GenerateConfig(samples=6))
    summary = generate(case, config, shared_path, COMM)
    assert summary.solved == 6
    data = DataStore(shared_path)
    assert [item.name for item in data.card.schema.inputs] == ["log_coefficient", "residual"]
    assert [item.name for item in data.card.schema.outputs] == ["correction"]
    lengths = {json.loads(data.read(index).parameters)["iterations"] for index in data.solved}
    assert len(lengths) > 2


def test_a_case_of_a_file_may_be_wrapped() -> None:
    assert load_case(f"{case_folder('darcy') / 'case.py'}:correction").schema == load_case("darcy:correction").schema


def test_symmetries_of_points_hold_for_residuals_too() -> None:
    symmetries = load_case("darcy").schema.symmetries
    assert symmetries and load_case("darcy:correction").schema.symmetries == symmetries
    assert load_case("hyperelastic").schema.symmetries and not load_case("hyperelastic:correction").schema.symmetries


def test_other_cases_are_refused() -> None:
    for name, options in (("cavity", {}), ("darcy", {"model_cells": 10})):
        case = load_case(f"{name}:correction", options)
        parameters = case.sample(np.random.default_rng(0))
        with pytest.raises(ValueError, match="corrections are of linear problems"):
            case.problem(case.mesh(COMM, parameters, 12), parameters)
