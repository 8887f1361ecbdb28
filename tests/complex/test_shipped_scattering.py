"""The shipped operator of scattering predicts what it did when its card was written."""

from __future__ import annotations

from pathlib import Path

import pytest

from lrsa_coupled import cli
from lrsa_coupled.config import Config, GuessConfig
from lrsa_coupled.mpi import size
from lrsa_coupled.training.evaluate import evaluate

MODEL = Path(__file__).resolve().parents[2] / "cases" / "scattering"


@pytest.mark.skipif(size() > 1, reason="evaluates on one rank")
def test_error_on_samples_of_the_test_seed(tmp_path: Path) -> None:
    arguments = ["--seed", "3", "--samples", "2", "--out", str(tmp_path), "--quiet"]
    assert cli.main(["generate", "scattering", *arguments]) == 0
    summary, _ = evaluate(MODEL, tmp_path, Config(guess=GuessConfig(precision="fp32")))
    (field,) = summary["fields"].values()
    assert field["l2"]["mean"] == pytest.approx(0.0829401, rel=1e-3)
