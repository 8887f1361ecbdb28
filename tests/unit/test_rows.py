"""Rows read back, and the verb ``report`` that prints them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lrsa_coupled import cli
from lrsa_coupled.bench.compare import LEARNED
from lrsa_coupled.bench.report import table
from lrsa_coupled.bench.rows import Header, Results, Row, Seconds, read_rows, write_rows
from tests.helpers import ROOT, plain_environment
from tests.results import method, results

HEADER = {"record": "header", "study": "bench", "case": "cavity"}
ROW = {"record": "row", "method": "cold", "sample": 0, "seconds": {"total": 1.0}, "solved": True}


@pytest.fixture
def measured() -> Results:
    return results(method("cold", [2.0, 8.0]), method(LEARNED, [1.0, 1.0], guess=0.1))


@pytest.fixture
def stored(measured: Results, tmp_path: Path) -> Path:
    write_rows(measured, tmp_path / "new" / "one.jsonl")
    return tmp_path / "new" / "one.jsonl"


def test_rows_are_read_as_they_were_written(stored: Path, measured: Results) -> None:
    assert read_rows(stored) == measured
    keys = json.loads(stored.read_text(encoding="utf-8").splitlines()[1])
    assert {"case", "study", "method", "sample", "unknowns", "ranks", "iterations", "solved", "start_error"} < set(keys)
    assert set(keys["seconds"]) == {"transfer", "inference", "setup", "solve", "total"}
    assert [path.name for path in stored.parent.iterdir()] == ["one.jsonl"]


def test_numbers_that_are_not_finite_are_null(tmp_path: Path) -> None:
    row = Row(method="m", sample=0, seconds=Seconds(total=1.0), solved=False, residual=float("inf"), values={"a": None})
    write_rows(Results(Header(study="bench", case="c"), [row]), tmp_path / "a.jsonl")
    (read,) = read_rows(tmp_path / "a.jsonl").rows
    assert read == msgspec.structs.replace(row, residual=None) and read.number("a") != read.number("a")


@pytest.mark.parametrize(("lines", "message"), [
    ([], "empty"), (["{"], "line 1: not valid JSON"), ([[]], "line 1: Expected `object`, got `array`"),
    ([{}], "line 1: Object missing required field `record`"), ([ROW], "line 1: a row before the header"),
    ([HEADER, HEADER], "line 2: a second header"), ([HEADER | {"ranks": 0}], "Expected `int` >= 1 - at `$.ranks`"),
    ([HEADER | {"costs": {"a": {"data": "much"}}}], "Expected `float | null`, got `str` - at `$.costs[...].data`"),
    ([HEADER, ROW | {"solved": 1}], "line 2: Expected `bool`, got `int` - at `$.solved`"),
    ([HEADER, ROW, ROW | {"iterations": -1}], "line 3: Expected `int` >= 0 - at `$.iterations`"),
    ([HEADER, ROW | {"seconds": {"solve": 1.0}}], "Object missing required field `total` - at `$.seconds`"),
    ([HEADER, ROW | {"seconds": {"total": 0.0}}], "Expected `float` > 0.0 - at `$.seconds.total`"),
    ([HEADER, ROW | {"values": {"a": [1]}}], "- at `$.values[...]`"),
    ([HEADER, ROW, ROW | {"iterations": 1}], "line 3: a second row of 'cold' on sample 0"),
    ([HEADER | {"study": "speed"}, ROW, ROW], "line 3: a second row of 'cold' on sample 0"),
])  # fmt: skip
def test_other_files_are_refused_with_their_line(lines: list[Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    with pytest.raises(ValueError, match="expected results as 'lrsa-coupled bench CASE --json FILE'") as caught:
        read_rows(path)
    assert message in str(caught.value) and str(path) in str(caught.value)


def test_report_prints_rows(stored: Path, measured: Results, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", str(stored)]) == 0
    assert capsys.readouterr().out.strip() == table(measured)


def test_report_puts_rows_side_by_side(stored: Path, measured: Results, capsys: pytest.CaptureFixture[str]) -> None:
    two, html = stored.with_name("two.jsonl"), stored.with_name("sub") / "page.html"
    write_rows(results(method("cold", [2.0, 8.0]), method(LEARNED, [1.0, 1.0], guess=0.1), ranks=2), two)
    assert cli.main(["report", str(stored), str(two), "--html", str(html)]) == 0
    text = capsys.readouterr().out
    assert table(measured) in text and f"page: {html}" in text
    rows = [line.split() for line in text.partition("cavity: median time [s]")[2].splitlines()]
    assert ["8", "-", "1", "2", "5.000", "1.000"] in rows and ["8", "-", "2", "2", "5.000", "1.000"] in rows
    page = html.read_text(encoding="utf-8")
    assert "two.jsonl" in page and "Time over ranks, resolution 8" in page


@pytest.mark.parametrize(("arguments", "message"), [
    ((), "the following arguments are required: ROWS.jsonl"),
    (("{tmp}/none.jsonl",), "{tmp}/none.jsonl: cannot be read (No such file or directory); expected results"),
    (("{tmp}",), "{tmp}: cannot be read (Is a directory)"),
    (("{tmp}/one.jsonl", "{tmp}/other.jsonl"), "{tmp}/other.jsonl, line 1: Object missing required field `record`"),
    (("{tmp}/one.jsonl", "--html", "{tmp}/one.jsonl/page.html"), "{tmp}/one.jsonl"),
    (("{tmp}/speed.jsonl", "--html", "{tmp}/page.html"), "--html is for results of bench, got some of the experiment"),
    (("{tmp}/fly.jsonl",), "unknown experiment 'fly'"),
    (("{tmp}/one.jsonl", "--set", "nothing=1"), "unknown key 'nothing'"),
    (("{tmp}/one.jsonl", "--", "-ksp_type", "cg"), "'report' does not use PETSc"),
])  # fmt: skip
def test_report_says_in_a_line_what_is_wrong(
    arguments: tuple[str, ...], message: str, stored: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored.with_name("other.jsonl").write_text("{}")
    for study in ("speed", "fly"):
        write_rows(Results(Header(study=study, case=""), []), stored.with_name(f"{study}.jsonl"))
    assert cli.main(["report", *(argument.format(tmp=stored.parent) for argument in arguments)]) == 2
    text = capsys.readouterr().err
    assert text.startswith("lrsa-coupled: error: ") and text.count("\n") == 1, text
    assert message.format(tmp=stored.parent) in text


def test_report_needs_neither_mpi_nor_petsc_nor_torch(stored: Path) -> None:
    arguments = ["report", str(stored), "--html", str(stored.with_name("a.html"))]
    code = (
        f"import sys\nfrom lrsa_coupled import cli\ncode = cli.main({arguments!r})\n"
        "bad = [m for m in ('mpi4py', 'petsc4py', 'dolfinx', 'torch') if m in sys.modules]\n"
        "sys.exit(f'{bad}' if bad or code else 0)"
    )
    command, environment = [sys.executable, "-c", code], plain_environment()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
