"""The last features of an operator as a basis: a linear problem with an energy gets the best combination of them."""

from __future__ import annotations

import pytest
import torch
from mpi4py import MPI

pytest.importorskip("dolfinx", reason="problems need DOLFINx")

from lrsa_coupled import catalog, cli
from lrsa_coupled.bench.experiments.last_features import FITTED, PROJECTED, FeatureGuess
from lrsa_coupled.config import GuessConfig, LrsaConfig, TrainingConfig
from lrsa_coupled.coupling.contract import problem_of
from lrsa_coupled.coupling.predictor import Predictor
from lrsa_coupled.coupling.residual import energy
from lrsa_coupled.generation.plan import sample_parameters
from lrsa_coupled.guess.learned import LearnedGuess
from lrsa_coupled.training import checkpoint

pytestmark = pytest.mark.two_ranks

COMM = MPI.COMM_WORLD


def test_the_energy_is_lower() -> None:
    """It lies between those of the prediction and of the solution, from an operator with random weights."""
    case = catalog.load_case("darcy")
    torch.manual_seed(0)
    config = LrsaConfig(width=16, num_blocks=1, num_heads=2, num_latents=8, num_frequencies=2)
    card = checkpoint.ModelCard(case.schema, 32, config, TrainingConfig(), checkpoint.DataInfo(10, 0), {})
    predictor = Predictor(checkpoint.make_model(config, case.schema).eval(), card, GuessConfig(max_ratio=1e9))
    problem = problem_of(case, COMM, sample_parameters(case, 9, 0), 32)
    found, fitted = [], FeatureGuess(predictor, case)
    fitted.fit(problem_of(case, COMM, sample_parameters(case, 8, index), 32) for index in range(3))
    for guess in (LearnedGuess(predictor, case), FeatureGuess(predictor, case), fitted):
        assert guess.put(problem).accepted
        found.append(energy(problem))
    assert case.default_solver(problem, 1e-10).solve_once().converged
    least = energy(problem)
    assert least < found[1] < found[2] < 0.1 * least < found[0]


def test_experiment(capsys: pytest.CaptureFixture[str]) -> None:
    words = "experiment last-features hyperelastic --resolution 3 --samples 2 --fit 2 --quiet"
    assert cli.main(words.split()) == 0
    text = capsys.readouterr().out
    assert (COMM.rank > 0) == (text == "")
    assert COMM.rank > 0 or (PROJECTED in text and FITTED in text and text.count("2/2") == 4)
