"""The chapters of the tutorial run, and what they print is as good as they say."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from tests.helpers import ROOT, needs_dolfinx

pytestmark = needs_dolfinx


def test_gradients(capsys: pytest.CaptureFixture[str]) -> None:
    """The identified conductivity explains the measurements to their noise; the prior alone has an error of 100 %."""
    runpy.run_path(str(ROOT / "cases/tutorial/gradients.py"), run_name="__main__")
    numbers = [float(each) for each in re.findall(r"\d+\.?\d*", capsys.readouterr().out)]
    solves, _, by_differences, misfit, error = numbers
    assert solves <= 90 and by_differences == 26 * solves
    assert 0.5 < misfit < 1.0 and error < 20.0


def chapter(name: str, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a chapter in a folder, look for its picture, return what it prints."""
    monkeypatch.chdir(folder)
    runpy.run_path(str(ROOT / "cases" / "tutorial" / f"{name}.py"), run_name="__main__")
    assert (folder / f"{name}.png").stat().st_size > 5000
    return capsys.readouterr().out


def test_study(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    text = chapter("study", tmp_path, capsys, monkeypatch)
    assert re.search(r"(nearest|regression): chosen \d+ times", text) and " in the last ten" in text
    assert "study: 40 solves" in text and "models: none trained" in text


def test_own_case(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    text = chapter("own_case", tmp_path, capsys, monkeypatch)
    assert "zero: DIVERGED" in text and "continuation: CONVERGED" in text
    assert "1 input and 1 scalar; 0 errors" in text


def test_estimates(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    text = chapter("estimates", tmp_path, capsys, monkeypatch)
    low, high = map(float, re.findall(r"mean_pressure, mean: \S+ \[(\S+), (\S+)\]", text)[0])
    assert low < 0.046 < high and high - low <= 16e-3


def test_benchmark(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    text = chapter("benchmark", tmp_path, capsys, monkeypatch)
    assert "continuation: 4 of 4 solved" in text and "nearest sample: 4 of 4 solved" in text
    assert re.search(r"against (?!learned).*, the best of the others: (paid back after \d+ solves|never)", text)


def test_preconditioners(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    text = chapter("preconditioners", tmp_path, capsys, monkeypatch)
    plain, coarse = ([*map(int, re.findall(r"\d+", line))] for line in text.splitlines() if "iterations" in line)
    assert all(2 * own < other for own, other in zip(coarse[:2], plain[:2], strict=True))


def test_cluster(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert "24 samples of 1 groups of 1 rank" in chapter("cluster", tmp_path, capsys, monkeypatch)
