"""The experiment on few samples, on a template: each size has its data, its model and its rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from lrsa_coupled import cli
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
        "0.02",
    ]
    capsys.readouterr()
    assert cli.main([*words, "--minutes", "0.01", "--sizes", "5", "10"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if "2/2" in line]
    assert [(line[0], line[1]) for line in lines] == [
        (size, name) for size in ("5", "10") for name in ("multigrid", "nearest", "modes,", "learned")
    ]
    assert cli.main([*words, "--sizes", "13"]) == 2
    assert "12 solved samples" in capsys.readouterr().err
