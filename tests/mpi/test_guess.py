"""The learned guess: exact Dirichlet values, the same on any partition, and a fall-back when it is bad."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from mpi4py import MPI

pytest.importorskip("dolfinx", reason="the guess needs DOLFINx")


from lrsa_coupled.cases.cavity.case import CavityCase
from lrsa_coupled.config import GuessConfig, LrsaConfig, TrainingConfig, of_kind
from lrsa_coupled.coupling.predictor import Predictor
from lrsa_coupled.coupling.residual import reference_norm, residual_norm
from lrsa_coupled.coupling.transfer import NodeSet
from lrsa_coupled.guess.guarded import GuardedSolver
from lrsa_coupled.guess.learned import LearnedGuess
from lrsa_coupled.guess.policy import Always
from lrsa_coupled.guess.target import CaseTarget
from lrsa_coupled.interfaces import Problem, SolveResult
from lrsa_coupled.training import checkpoint

COMM = MPI.COMM_WORLD
CASE = CavityCase()
PARAMETERS = CASE.sample(np.random.default_rng([7, 7]))


def make_problem(comm: MPI.Comm = COMM) -> Problem:
    return CASE.problem(CASE.mesh(comm, PARAMETERS, 8), PARAMETERS)


def make_predictor(
    settings: GuessConfig | None = None, *, mass_weighted: bool = False, kind: str = "lrsa"
) -> Predictor:
    """An untrained operator whose outputs are of the size of the lid's speed."""
    torch.manual_seed(0)
    lrsa = LrsaConfig(width=16, num_blocks=2, num_heads=2, num_latents=8, mass_weighted=mass_weighted)
    operator = of_kind(lrsa, kind)
    card = checkpoint.ModelCard(CASE.schema, 8, operator, TrainingConfig(), checkpoint.DataInfo(10, 0), {})
    model = checkpoint.make_model(operator, card.schema)
    points = torch.rand(100, 2)
    scalars = torch.rand(10, len(CASE.schema.scalars))
    model.normaliser.fit(
        points, torch.rand(100, CASE.schema.num_inputs), scalars_SG=scalars, outputs_TK=torch.rand(100, 2) - 0.5
    )
    return Predictor(model.eval(), card, settings or GuessConfig(max_ratio=1e3))


def sorted_by_position(points: np.ndarray, values: np.ndarray, comm: MPI.Comm) -> np.ndarray:
    rows = np.vstack(comm.allgather(np.column_stack([points.round(10), values])))
    return rows[np.lexsort(rows[:, :2].T)]


def test_an_operator_that_needs_all_points_is_evaluated_on_one_rank() -> None:
    tables = []
    for comm in (COMM, MPI.COMM_SELF):
        predictor, problem = make_predictor(GuessConfig(max_ratio=1e3, chunk_size=5), kind="flare"), make_problem(comm)
        nodes = NodeSet(problem, CASE.schema.outputs)
        prediction = predictor.predict(CASE, problem, nodes)
        assert not prediction.reason
        tables.append(sorted_by_position(nodes.points, prediction.values, comm))
    assert np.abs(tables[0] - tables[1]).max() < 100 * np.finfo(np.float32).eps
    with pytest.raises(ValueError, match="no uniform grid"):  # on all ranks
        make_predictor(kind="fno").predict(CASE, problem := make_problem(), NodeSet(problem, CASE.schema.outputs))


@pytest.mark.parametrize("evaluate_at", ["vertices", "nodes"])
@pytest.mark.parametrize("mass_weighted", [False, True])
def test_prediction_depends_neither_on_the_partition_nor_on_chunks(evaluate_at: str, mass_weighted: bool) -> None:
    tables = []
    for comm, chunk_size in ((COMM, 65536), (COMM, 5), (MPI.COMM_SELF, 65536)):
        predictor = make_predictor(
            GuessConfig(evaluate_at=evaluate_at, max_ratio=1e3, chunk_size=chunk_size), mass_weighted=mass_weighted
        )
        problem = make_problem(comm)
        nodes = NodeSet(problem, CASE.schema.outputs)
        prediction = predictor.predict(CASE, problem, nodes)
        assert not prediction.reason
        tables.append(sorted_by_position(nodes.points, prediction.values, comm))
    for table in tables[:2]:
        assert table.shape == tables[2].shape
        assert np.abs(table - tables[2]).max() < 100 * np.finfo(np.float32).eps


def test_bf16_is_near_fp32() -> None:
    values = []
    for precision in ("fp32", "bf16"):
        problem = make_problem()
        predictor = make_predictor(GuessConfig(precision=precision, max_ratio=1e3))
        values.append(predictor.predict(CASE, problem, NodeSet(problem, CASE.schema.outputs)).values)
    difference = COMM.allreduce(np.square(values[0] - values[1]).sum())
    assert 0.0 < np.sqrt(difference / COMM.allreduce(np.square(values[0]).sum())) < 0.03


def solve(predictor: Predictor, problem: Problem) -> tuple[SolveResult, Always]:
    policy, atol = Always(predictor.settings.max_iterations), CASE.rtol * reference_norm(problem)
    solver = GuardedSolver([LearnedGuess(predictor, CASE)], CaseTarget(CASE, problem, atol), policy)
    result = solver.solve()
    solver.destroy()
    assert result.converged and set(result.seconds) == {"transfer", "inference", "solve"}
    assert residual_norm(problem) <= atol * (1 + 1e-6)
    return result, policy


def test_dirichlet_values_are_exact() -> None:
    problem = make_problem()
    assert LearnedGuess(make_predictor(), CASE).put(problem).accepted
    array = problem.solution.x.array.copy()
    for bc in problem.bcs:
        bc.set(array)
    assert np.array_equal(array, problem.solution.x.array)
    assert COMM.allreduce(np.abs(array).sum()) > 0


def test_a_poor_guess_still_ends_at_the_tolerance(caplog: pytest.LogCaptureFixture) -> None:
    """Where there is no choice, what is chosen is for ``--verbose`` alone."""
    caplog.set_level(logging.DEBUG, logger="lrsa_coupled")
    solve(make_predictor(), make_problem())
    assert {record.levelname for record in caplog.records if record.message.startswith("solve 1:")} == {"DEBUG"}


def test_a_budget_of_iterations_then_the_default_solve(caplog: pytest.LogCaptureFixture) -> None:
    result, policy = solve(make_predictor(GuessConfig(max_iterations=1, max_ratio=1e3)), make_problem())
    assert result.used_fallback and policy.decisions[0].outcome.startswith("failed")
    assert "default solver takes over" in caplog.text


@pytest.mark.parametrize("spoil", ["nan", "inf", "huge"])
def test_spoilt_predictions_never_reach_petsc(spoil: str, caplog: pytest.LogCaptureFixture) -> None:
    predictor = make_predictor(GuessConfig())
    with torch.no_grad():
        predictor.model.head.bias.fill_({"nan": float("nan"), "inf": float("inf"), "huge": 1e6}[spoil])
    result, policy = solve(predictor, make_problem())
    assert result.used_fallback and policy.decisions[0].outcome.startswith("rejected: the prediction")
    assert "rejected" in caplog.text


def test_a_problem_far_from_the_training_is_not_predicted() -> None:
    guess = LearnedGuess(make_predictor(), CASE, max_distance=1e-3).put(make_problem())
    assert "standard deviations" in guess.reason and guess.seconds["inference"] == 0.0


def test_model_of_another_case_is_refused() -> None:
    predictor, problem = make_predictor(), make_problem()
    with pytest.raises(ValueError, match="call bind"):
        LearnedGuess(predictor).put(problem)
    predictor.card = dataclasses.replace(predictor.card, schema=dataclasses.replace(CASE.schema, name="darcy"))
    for use in (lambda: LearnedGuess(predictor, CASE).put(problem), lambda: LearnedGuess(predictor).bind(CASE)):
        with pytest.raises(ValueError, match="darcy"):
            use()


def test_missing_model(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="model.json"):
        LearnedGuess.load(tmp_path)
