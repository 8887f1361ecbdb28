"""Every verb holds the lock of what it writes, and a folder holds results of one kind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lrsa_coupled import cli
from lrsa_coupled.bench.rows import write_rows
from lrsa_coupled.files import locked
from tests.helpers import needs_dolfinx
from tests.results import method, results
from tests.unit.test_training import write

WRITES = [
    (("train", "{data}", "--out", "{out}"), False),
    (("export", "{data}", "--out", "{out}"), False),
    (("merge", "{data}", "{data}", "--out", "{out}"), True),
    (("evaluate", "{tmp}/model", "{data}", "--pictures", "{out}"), False),
    (("report", "{tmp}/rows.jsonl", "--html", "{out}"), True),
    pytest.param(("solve", "cavity", "--resolution", "4", "--out", "{out}"), False, marks=needs_dolfinx),
    pytest.param(("run", "cavity", "--out", "{out}"), False, marks=needs_dolfinx),
    pytest.param(("bench", "cavity", "--samples", "1", "--json", "{out}"), True, marks=needs_dolfinx),
    pytest.param(("bench", "cavity", "--samples", "1", "--html", "{out}"), True, marks=needs_dolfinx),
    pytest.param(("bench", "cavity", "--samples", "1", "--pictures", "{out}"), False, marks=needs_dolfinx),
    pytest.param(("experiment", "preconditioners", "darcy", "--json", "{out}"), True, marks=needs_dolfinx),
    (("experiment", "precision", "darcy", "--data", "{data}", "--json", "{out}"), True),
]
KINDS = [
    (("train", "{data}", "--out", "{data}"), "{data} holds a data set, expected a model or a new folder"),
    (("train", "{data}", "--out", "{tmp}/solution"), "holds a solution, expected a model"),
    pytest.param(
        ("solve", "cavity", "--resolution", "4", "--out", "{data}"),
        "holds a data set, expected a solution",
        marks=needs_dolfinx,
    ),
    pytest.param(
        ("generate", "cavity", "--samples", "1", "--out", "{tmp}/model"),
        "holds a model, expected a data set",
        marks=needs_dolfinx,
    ),
    pytest.param(
        ("generate", "cavity", "--samples", "1", "--out", "{tmp}/notes"),
        "holds notes.md, expected a data set or a new folder",
        marks=needs_dolfinx,
    ),
    (("train", "{data}", "--out", "{tmp}/case"), "holds Python files, expected a model or a new folder"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tmp = tmp_path_factory.mktemp("outputs")
    write(tmp / "data", 8)
    write_rows(results(method("zero", [1.0])), tmp / "rows.jsonl")
    for name, mark in (
        ("model", "model.json"),
        ("solution", "result.json"),
        ("case", "case.py"),
        ("notes", "notes.md"),
    ):
        (tmp / name).mkdir()
        (tmp / name / mark).write_text("{}")
    return tmp


def refuse(arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str], **places: Path) -> None:
    assert cli.main([argument.format(**places) for argument in arguments]) == 2
    text = capsys.readouterr().err
    assert text.startswith(f"lrsa-coupled: error: {message.format(**places)}") and text.count("\n") == 1, text


@pytest.mark.parametrize(("arguments", "is_file"), WRITES)
def test_the_writer_is_named(
    arguments: tuple[str, ...], is_file: bool, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with locked(out, is_file=is_file):
        before = [*tmp_path.rglob("*")]
        message = f"{out} is being written by process {os.getpid()} on {os.uname().nodename}; "
        refuse(arguments, message, capsys, tmp=folder, data=folder / "data", out=out)
        assert [*tmp_path.rglob("*")] == before


def test_a_second_follower_names_the_first(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with locked(folder / "data" / "models"):
        message = f"{{data}}/models is being written by process {os.getpid()} on "
        refuse(("train", "{data}", "--follow"), message, capsys, data=folder / "data")


@pytest.mark.parametrize(("arguments", "message"), KINDS)
def test_results_of_another_kind_are_left_alone(
    arguments: tuple[str, ...], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    message = message if message.startswith("{") else f"{arguments[-1]} {message}"
    refuse(arguments, message, capsys, tmp=folder, data=folder / "data")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
