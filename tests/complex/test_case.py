"""A complex case from the command line: data, training, solve, surrogate, benchmark; the other PETSc is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI

from lrsa_coupled import catalog, cli
from lrsa_coupled.bench.compare import ADAPTIVE, LEARNED, NEAREST, POD
from lrsa_coupled.bench.rows import read_rows
from lrsa_coupled.data.store import DataStore

COMM = MPI.COMM_WORLD
CASE = Path(__file__).with_name("waves_case.py")
SMALL = ["operator.width=16", "operator.num_blocks=1", "operator.num_heads=2", "operator.num_latents=8"]
TINY = [word for item in [*SMALL, "training.epochs=3", "training.valid_fraction=0.25"] for word in ("--set", item)]


def run(*words: object) -> int:
    return cli.main([str(word) for word in words])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data and a model, the same folder on all ranks."""
    path = COMM.bcast(tmp_path_factory.mktemp("waves"), root=0)
    samples = ["--samples", "8", "--set", f"generate.ranks_per_sample={COMM.size}"]
    assert run("generate", CASE, "--out", path / "data", *samples) == 0
    assert run("train", path / "data", "--out", path / "model", *TINY) == 0
    return path


def test_samples_hold_real_and_imaginary_parts(folder: Path) -> None:
    data = DataStore(folder / "data")
    arrays = data.arrays(data.solved[0])
    assert len(data.solved) == 8
    assert arrays.inputs.shape[1] == 3 and arrays.outputs.shape[1] == 2
    assert np.abs(arrays.outputs).max(axis=0) == pytest.approx(np.abs(arrays.outputs).max(), rel=0.8)
    assert np.linalg.norm(arrays.inputs[:, :2], axis=1) == pytest.approx(1.0, abs=1e-5)


def test_solve_and_surrogate(folder: Path) -> None:
    assert run("solve", CASE, "--out", folder / "solved", "--model", folder / "model") == 0
    result = json.loads((folder / "solved" / "result.json").read_text())
    assert result["converged"]
    out = folder / "answer"
    words = ["--mode", "surrogate", "--accept", "1e-3", "--model", folder / "model"]
    assert run("solve", CASE, "--out", out, *words) == 0
    answer = json.loads((out / "result.json").read_text())
    assert answer["certified"] and answer["error"] < 1e-3 and answer["norm"] == "H1 seminorm"


def test_bench(folder: Path) -> None:
    rows = folder / "rows.jsonl"
    words = ["--samples", "1", "--data", folder / "data", "--model", folder / "model", "--json", rows]
    assert run("bench", CASE, *words) == 0
    methods = read_rows(rows).methods
    assert {"mumps", "gmres", NEAREST, POD, LEARNED, ADAPTIVE} == set(methods)
    assert all(row.solved and (name == ADAPTIVE or not row.used_fallback) for name in methods for row in methods[name])
    assert methods[NEAREST][0].start_error < 1.5


def test_sequences_and_residuals_of_krylov_runs(folder: Path) -> None:
    samples = ["--samples", "2", "--set", f"generate.ranks_per_sample={COMM.size}"]
    reused = ["--set", "generate.reuse=setup", "--set", "generate.method=gmres", *samples]
    assert run("generate", CASE, "--out", folder / "reused", *reused) == 0
    assert run("generate", f"{CASE}:correction", "--out", folder / "corrections", *samples) == 0
    arrays = DataStore(folder / "corrections").arrays(0)
    assert arrays.inputs.shape[1] == 5 and arrays.outputs.shape[1] == 2


def test_real_cases_and_modes_are_refused_by_name(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("generate", "cavity", "--samples", "1", "--out", folder / "real") == 2
    assert run("generate", f"{CASE}:modes", "--samples", "1", "--out", folder / "modes") == 2
    text = capfd.readouterr().err
    if COMM.rank == 0:
        assert "'cavity' needs PETSc with real scalars, this one has complex ones" in text
        assert "modes are of a real pencil, and 'waves' is complex" in text
    assert catalog.load_case("cavity").is_complex is False
