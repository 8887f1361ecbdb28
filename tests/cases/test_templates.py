"""What ``lrsa-coupled new`` writes works as it is, from the check to the benchmark, on one rank and on two."""

from __future__ import annotations

import runpy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("mpi4py.MPI", reason="needs MPI")
pytest.importorskip("dolfinx", reason="needs DOLFINx")

from lrsa_coupled import catalog, cli

if TYPE_CHECKING:
    from mpi4py import MPI

pytestmark = pytest.mark.two_ranks

CASES = sorted(set(catalog.templates()) - {"script"})

type Run = Callable[..., str]


@pytest.fixture
def run(comm: MPI.Intracomm, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command, return what it prints, on all ranks. Collective."""

    def call(*words: str) -> str:
        assert cli.main([*words]) == 0
        return comm.bcast(capsys.readouterr().out)

    return call


def new(path: Path, template: str, comm: MPI.Intracomm) -> None:
    """Make a case or script by the command, which runs in one process; as it does on several ranks. Collective."""
    if comm.size == 1:
        assert cli.main(["new", str(path), "--template", template]) == 0
    elif comm.rank == 0:
        path = path / "case.py" if not path.suffix else path
        path.parent.mkdir(exist_ok=True)
        shutil.copy(catalog.templates()[template], path)
    comm.Barrier()


@pytest.mark.parametrize("template", CASES)
def test_a_case_of_each_template_works(template: str, shared_path: Path, run: Run, comm: MPI.Intracomm) -> None:
    case, data, model, out = (str(shared_path / name) for name in ("own/case.py", "data", "model", "estimate"))
    coarse = ["--resolution", "6", "--quiet"]
    new(shared_path / "own", template, comm)
    text = run("check", case, "--resolution", "6")
    assert ("advice" in text.replace("0 advice", "")) == (template == "nonlinear")
    text = run("generate", case, "--samples", "6", "--out", data, *coarse)
    assert text.endswith(f"next: lrsa-coupled train {data} --out MODEL --minutes 4\n")
    text = run("train", data, "--out", model, "--set", "training.epochs=2", "--quiet")
    assert text.endswith(f"next: lrsa-coupled bench CASE --model {model} --data {data}\n")
    if comm.size == 1:  # as evaluate is
        assert run("evaluate", model, data, "--quiet").endswith("the training has seen those of seed 0\n")
    text = run("bench", case, "--model", model, "--samples", "2", *coarse)
    assert text.splitlines()[-1].startswith("next: ")
    text = run("estimate", case, "--error", "9", "--pilot", "10", "--out", out, *coarse)
    assert "at resolution 3" in text and "at resolution 1" not in text


def test_the_script_learns(shared_path: Path, monkeypatch: pytest.MonkeyPatch, comm: MPI.Intracomm,
                           capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    new(shared_path / "study.py", "script", comm)
    monkeypatch.chdir(shared_path)
    if comm.rank == 0:
        text = Path("study.py").read_text().replace("NUM_SOLVES, CELLS = 60, 64", "NUM_SOLVES, CELLS = 4, 6")
        Path("study.py").write_text(text)
    comm.Barrier()
    names = runpy.run_path("study.py")
    names["attached"].learner.study.close()
    assert names["number"] == 3
    assert "study: 4 solves" in comm.bcast(capsys.readouterr().out)


def test_what_exists_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str], comm: MPI.Intracomm) -> None:
    if comm.size > 1:
        pytest.skip("'new' runs in one process")
    assert cli.main(["new", str(tmp_path / "own")]) == 0
    assert capsys.readouterr().out.endswith(f"next: lrsa-coupled check {tmp_path}/own/case.py\n")
    (tmp_path / "case.py").write_text("mine")
    assert cli.main(["new", str(tmp_path)]) == 2
    assert capsys.readouterr().err.endswith("case.py exists and is left as it is; choose another PATH\n")
    assert (tmp_path / "case.py").read_text() == "mine"
