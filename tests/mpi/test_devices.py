"""Guesses by an operator on a GPU that is not there: what PETSc gets has come back to the CPU."""

from __future__ import annotations

import numpy as np
import pytest
from mpi4py import MPI

pytest.importorskip("dolfinx", reason="the guess needs DOLFINx")

from lrsa_coupled.config import GuessConfig
from lrsa_coupled.guess.learned import LearnedGuess
from tests.devices import GPU, pretended_gpu
from tests.mpi.test_guess import CASE, COMM, make_predictor, make_problem

PREDICTOR = "coupling.predictor"


@pytest.mark.two_ranks
@pytest.mark.parametrize("comm", [COMM, MPI.COMM_SELF], ids=["all", "self"])
@pytest.mark.parametrize(
    "settings",
    [
        GuessConfig(max_ratio=1e3, evaluate_at="nodes", precision="bf16"),
        GuessConfig(max_ratio=1e3, refine_above=0.0),
        GuessConfig(max_ratio=1e3, chunk_size=50),
    ],
)
@pytest.mark.parametrize("kind", ["lrsa", "flare"])
def test_guesses(comm: MPI.Intracomm, settings: GuessConfig, kind: str) -> None:
    """Whatever evaluates the operator: all ranks, or one for all; in chunks, at vertices, again at doubtful nodes."""
    problem = make_problem(comm)
    with pretended_gpu(PREDICTOR):
        predictor = make_predictor(settings, kind=kind, mass_weighted=kind == "lrsa")
        assert {tensor.device for tensor in predictor.model.state_dict().values()} == {GPU}
        guess = LearnedGuess(predictor).bind(CASE, max_distance=1e9).put(problem)
    assert guess.accepted, guess.reason
    assert np.isfinite(problem.solution.x.array).all() and problem.solution.x.array.any()
