"""The shipped operators predict what they did when their cards were written."""

from __future__ import annotations

from pathlib import Path

import pytest
from mpi4py import MPI

pytest.importorskip("dolfinx", reason="the samples are solved with DOLFINx")

from lrsa_coupled import cli
from lrsa_coupled.config import Config, GuessConfig
from lrsa_coupled.training.evaluate import evaluate

CASES = Path(__file__).resolve().parents[2] / "cases"


@pytest.mark.parametrize(
    ("model", "case", "flags", "expected"),
    [
        ("cavity", "cavity", ["--samples", "3"], 0.0037643),
        ("cavity/high", "cavity", ["--samples", "2", "--preset", "high"], 0.0030159),
        ("darcy", "darcy", ["--samples", "2"], 0.0114669),
        ("hyperelastic", "hyperelastic", ["--samples", "2"], 0.0051344),
        ("helmholtz/basis", "helmholtz:modes", ["--samples", "1"], 0.0674912),
    ],
)
def test_error_on_samples_of_the_test_seed(
    model: str, case: str, flags: list[str], expected: float, tmp_path: Path
) -> None:
    """The mean relative L2 error of a few samples in float32; the cards have that of many."""
    assert cli.main(["generate", case, "--seed", "3", *flags, "--out", str(tmp_path), "--quiet"]) == 0
    summary, _ = evaluate(CASES / model, tmp_path, Config(guess=GuessConfig(precision="fp32")))
    (field,) = summary["fields"].values()
    assert field["l2"]["mean"] == pytest.approx(expected, rel=1e-3)
