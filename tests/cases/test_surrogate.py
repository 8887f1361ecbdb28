"""Answers with a certificate from the command line, and the experiment on them, at smoke size."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mpi4py import MPI

pytest.importorskip("dolfinx", reason="cases need DOLFINx")

from petsc4py import PETSc

from lrsa_coupled import cli
from lrsa_coupled.bench.experiments.certificates import BASELINE, GOOD, SURROGATE, TARGETS
from lrsa_coupled.bench.rows import read_rows

SMALL = ("--resolution", "12", "--quiet")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A poor operator for darcy."""
    folder = tmp_path_factory.mktemp("darcy")
    assert cli.main(["generate", "darcy", "--samples", "6", "--out", str(folder / "data"), *SMALL]) == 0
    tiny = (
        "training.epochs=2",
        "operator.width=16",
        "operator.num_blocks=1",
        "operator.num_latents=8",
        "training.valid_fraction=0.2",
    )
    assert (
        cli.main(
            [
                "train",
                str(folder / "data"),
                "--out",
                str(folder / "model"),
                "--quiet",
                *(a for s in tiny for a in ("--set", s)),
            ]
        )
        == 0
    )
    return folder / "model"


@pytest.mark.parametrize("accept", [None, 1e-5])
def test_solve(model: Path, accept: float | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [] if accept is None else ["--accept", str(accept)]
    assert (
        cli.main(
            ["solve", "darcy", "--mode", "surrogate", *flags, "--model", str(model), "--out", str(tmp_path), *SMALL]
        )
        == 0
    )
    result = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert (
        result["certified"]
        and result["accept"] == (accept or 1e-2)
        and result["error"] < result["accept"] < result["prediction"]
    )
    text = capsys.readouterr().out
    assert "certified: relative error" in text and "in the energy norm" in text and "corrected with 1 Jacobian" in text


def test_exit_code_is_1_when_nothing_is_delivered(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    neither = ["--set", "guess.max_ratio=0", "--", "-linear_ksp_max_it", "1"]
    try:
        assert (
            cli.main(
                [
                    "solve",
                    "darcy",
                    "--mode",
                    "surrogate",
                    "--model",
                    str(model),
                    "--out",
                    str(tmp_path),
                    *SMALL,
                    *neither,
                ]
            )
            == 1
        )
    finally:
        PETSc.Options().delValue("linear_ksp_max_it")
    text = capsys.readouterr().out
    assert "NOT CERTIFIED: the prediction reaches" in text and "FAILED (DIVERGED_MAX_IT)" in text
    assert json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))["fallback"]["converged"] is False


@pytest.mark.parametrize("case", ["darcy", "cavity"])
def test_certificates(case: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--json", str(tmp_path / "rows.jsonl"), "--pictures", str(tmp_path)]
    flags = ["--model", str(model), *SMALL] if case == "darcy" else SMALL
    assert cli.main(["experiment", "certificates", case, "--samples", "1", *flags, *where]) == 0
    text = capsys.readouterr().out
    assert "true error above" in text and (tmp_path / "effectivity.png").is_file()
    methods = read_rows(tmp_path / "rows.jsonl").methods
    assert [row.number("accept") for row in methods[SURROGATE]] == list(TARGETS)
    for row in methods[SURROGATE]:
        assert row.solved and row.number("error") <= row.number("accept")
        assert GOOD[0] <= row.number("estimate") / row.number("error") <= GOOD[1]
        assert GOOD[0] <= row.number("prediction_estimate") / row.number("prediction") <= GOOD[1]
    assert all(row.number("error") <= row.number("accept") for row in methods[BASELINE])
    assert len(methods[BASELINE]) == len(TARGETS)
