"""What ``lrsa-coupled new`` writes works as it is, from the check to the benchmark."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

pytest.importorskip("mpi4py.MPI", reason="needs MPI")
pytest.importorskip("dolfinx", reason="needs DOLFINx")

from lrsa_coupled import catalog, cli

CASES = sorted(set(catalog.templates()) - {"script"})


def new(path: Path, template: str) -> None:
    assert cli.main(["new", str(path), "--template", template]) == 0


@pytest.mark.parametrize("template", CASES)
def test_a_case_of_each_template_works(template: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new(tmp_path / "own", template)
    case, data, model = (str(tmp_path / name) for name in ("own/case.py", "data", "model"))
    assert f"next: lrsa-coupled check {case}\n" in capsys.readouterr().out
    assert cli.main(["check", case, "--resolution", "6"]) == 0
    assert ("advice" in capsys.readouterr().out.replace("0 advice", "")) == (template == "nonlinear")
    assert cli.main(["generate", case, "--samples", "6", "--resolution", "6", "--out", data, "--quiet"]) == 0
    assert capsys.readouterr().out.endswith(f"next: lrsa-coupled train {data} --out MODEL --minutes 4\n")
    assert cli.main(["train", data, "--out", model, "--set", "training.epochs=2", "--quiet"]) == 0
    assert capsys.readouterr().out.endswith(f"next: lrsa-coupled bench CASE --model {model} --data {data}\n")
    assert cli.main(["evaluate", model, data, "--quiet"]) == 0
    assert capsys.readouterr().out.endswith("the training has seen those of seed 0\n")
    assert cli.main(["bench", case, "--model", model, "--samples", "2", "--resolution", "6", "--quiet"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("next: ")


def test_the_script_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    new(Path("study.py"), "script")
    text = Path("study.py").read_text().replace("NUM_SOLVES, CELLS = 60, 64", "NUM_SOLVES, CELLS = 4, 6")
    Path("study.py").write_text(text)
    capsys.readouterr()
    names = runpy.run_path("study.py")
    names["attached"].learner.study.close()
    assert names["number"] == 3
    assert "study: 4 solves" in capsys.readouterr().out


def test_what_exists_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "case.py").write_text("mine")
    assert cli.main(["new", str(tmp_path)]) == 2
    assert capsys.readouterr().err.endswith("case.py exists and is left as it is; choose another PATH\n")
    assert (tmp_path / "case.py").read_text() == "mine"
