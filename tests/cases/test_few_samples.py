"""The experiment on few samples, on a template: each size has its data, its model and its rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from lrsa_coupled import cli
from lrsa_coupled.bench.compare import LEARNED, NEAREST, POD
from lrsa_coupled.bench.rows import read_rows
from lrsa_coupled.data.store import DataStore
from tests.helpers import needs_dolfinx

pytestmark = needs_dolfinx


def test_what_few_samples_are_worth(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from lrsa_coupled.catalog import templates

    case, data, flags = str(templates()["linear"]), str(tmp_path / "data"), ["--resolution", "6", "--samples"]
    assert cli.main(["generate", case, *flags, "12", "--out", data]) == 0
    words = [
        "experiment",
        "few-samples",
        case,
        *flags,
        "2",
        "--data",
        data,
        "--out",
        str(tmp_path),
        "--minutes",
        "0.01",
    ]
    capsys.readouterr()
    assert cli.main([*words, "--sizes", "5", "10"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if "2/2" in line]
    assert [(line[0], line[1]) for line in lines] == [
        (size, name) for size in ("5", "10") for name in ("multigrid", "nearest", "modes,", "learned")
    ]
    for sizes in (["13"], ["0", "5"], ["2"]):
        assert cli.main([*words, "--sizes", *sizes]) == 2
        assert "12 solved samples" in capsys.readouterr().err


def test_what_samples_are_worth_beside_those_without_solutions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No solution, or some: each has its operator, whose price holds all samples it has seen."""
    data, unsolved, rows = tmp_path / "data", tmp_path / "unsolved", tmp_path / "rows.jsonl"
    sizes = ["darcy", "--resolution", "8", "--samples"]
    assert cli.main(["generate", *sizes, "12", "--out", str(data)]) == 0
    assert cli.main(["generate", *sizes, "12", "--out", str(unsolved), "--unsolved"]) == 0
    words = ["experiment", "few-samples", *sizes, "2", "--data", str(data), "--out", str(tmp_path), "--minutes", "0.01"]
    words += ["--sizes", "0", "6", "--unsolved", str(unsolved), "--loss", "energy", "--json", str(rows)]
    assert cli.main(words) == 0
    found = read_rows(rows).methods
    alone, beside = "learned guess, energy", "learned guess, samples and energy"
    assert {alone, beside, LEARNED, NEAREST, POD} < set(found)
    unsolved_seconds, known = DataStore(unsolved).seconds(), DataStore(tmp_path / "6-samples").seconds()
    assert found[alone][0].number("cost") > unsolved_seconds
    assert found[beside][0].number("cost") > unsolved_seconds + known
    assert all(found[name][0].number("steps") >= 1.0 for name in (alone, beside, LEARNED))
