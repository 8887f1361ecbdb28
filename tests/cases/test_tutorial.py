"""The chapters of the tutorial run, on one rank and on two, and what they print is as good as they say."""

from __future__ import annotations

import re
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.helpers import ROOT, needs_dolfinx

if TYPE_CHECKING:
    from mpi4py import MPI

pytestmark = [needs_dolfinx, pytest.mark.two_ranks]

type Read = Callable[[str], str]


@pytest.fixture
def read(
    comm: MPI.Intracomm, shared_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Read:
    """Run a chapter, look for its picture, return what it prints, on all ranks. Collective."""

    def run(name: str) -> str:
        comm.Barrier()  # the folder is there
        monkeypatch.chdir(shared_path)
        runpy.run_path(str(ROOT / "cases" / "tutorial" / f"{name}.py"), run_name="__main__")
        comm.Barrier()
        assert (shared_path / f"{name}.png").stat().st_size > 5000
        return comm.bcast(capsys.readouterr().out)

    return run


def test_study(read: Read) -> None:
    text = read("study")
    assert re.search(r"(nearest|regression): chosen \d+ times", text) and " in the last ten" in text
    assert "study: 40 solves" in text and "models: none trained" in text


def test_own_case(read: Read) -> None:
    text = read("own_case")
    assert "zero: DIVERGED" in text and "continuation: CONVERGED" in text
    assert "1 input and 1 scalar; 0 errors" in text


def test_training(read: Read) -> None:
    """Three times as long makes the error smaller."""
    text = read("training")
    short, long = map(float, re.findall(r"training: validation error (\S+) %", text))
    unseen = float(re.findall(r"error on unseen samples (\S+) %", text)[0])
    assert long < short and unseen < 3.0 * long and "limit: " in text


def test_benchmark(read: Read) -> None:
    text = read("benchmark")
    assert "continuation: 4 of 4 solved" in text and "nearest sample: 4 of 4 solved" in text
    assert re.search(r"against (?!learned).*, the best of the others: (paid back after \d+ solves|never)", text)


def test_estimates(read: Read) -> None:
    text = read("estimates")
    low, high = map(float, re.findall(r"mean_pressure, mean: \S+ \[(\S+), (\S+)\]", text)[0])
    assert low < 0.046 < high and high - low <= 16e-3


def test_gradients(read: Read) -> None:
    """The identified conductivity explains the measurements to their noise; the prior alone has an error of 100 %."""
    numbers = [float(each) for each in re.findall(r"\d+\.?\d*", read("gradients"))]
    solves, by_differences, misfit, error = numbers
    assert solves <= 90 and by_differences == 26 * solves
    assert 0.5 < misfit < 1.0 and error < 20.0


def test_identification(read: Read) -> None:
    """The operator saves solves, and the answer stays that of finite elements: the prior's deviation is 1."""
    pattern = r"saved: (\d+) of (\d+), (\d+) to learn; .* differ by (\S+)"
    saved, alone, samples, apart = re.findall(pattern, read("identification"))[0]
    assert int(saved) > 0.2 * int(alone) and samples == "96" and float(apart) < 0.05


def test_preconditioners(read: Read) -> None:
    text = read("preconditioners")
    plain, coarse = ([*map(int, re.findall(r"\d+", line))] for line in text.splitlines() if "iterations" in line)
    assert all(2 * own < other for own, other in zip(coarse[:2], plain[:2], strict=True))


def test_cluster(read: Read, comm: MPI.Intracomm) -> None:
    assert f"24 samples of {comm.size} groups of 1 rank" in read("cluster")
