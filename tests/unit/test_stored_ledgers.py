"""Ledgers read back, and the verb ``report`` that prints them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lrsa_coupled import cli
from lrsa_coupled.bench.pictures import LEARNED
from lrsa_coupled.bench.report import table, write_json
from lrsa_coupled.bench.stored import read_ledger
from tests.helpers import ROOT, plain_environment
from tests.unit.test_breakeven import ledger
from tests.unit.test_report import strategy


@pytest.fixture
def measured() -> dict[str, Any]:
    return ledger(strategy("cold", [2.0, 8.0]), strategy(LEARNED, [1.0, 1.0], start=0.1), data=60.0, training=40.0)


@pytest.fixture
def stored(measured: dict[str, Any], tmp_path: Path) -> Path:
    write_json(measured, tmp_path / "one.json")
    return tmp_path / "one.json"


def refused(path: Path, content: Any) -> str:
    """Return the message with which a file of this content is refused."""
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    with pytest.raises(
        ValueError, match="expected a ledger that 'lrsa-coupled bench CASE --json FILE' wrote"
    ) as caught:
        read_ledger(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


def test_a_ledger_is_read_as_it_was_written(stored: Path, measured: dict[str, Any]) -> None:
    assert read_ledger(stored) == measured


def test_a_ledger_of_an_earlier_release_has_neither_cost_nor_unknowns(stored: Path, measured: dict[str, Any]) -> None:
    del measured["cost"]
    write_json(measured, stored)
    assert "unknown" in table(read_ledger(stored))


@pytest.mark.parametrize(("content", "message"), [
    ("", "not valid JSON"), ("[" * 100000, "not valid JSON"), ("[]", "it should be an object, got []"), ("{}", "'case' is missing"),
    ("NaN", "it holds NaN"), ('{"case": 1}', "case should be a text, got 1"),
])  # fmt: skip
def test_other_files_are_refused(content: str, message: str, tmp_path: Path) -> None:
    assert message in refused(tmp_path / "a.json", content)


@pytest.mark.parametrize(("change", "message"), [
    ({"ranks": 0}, "ranks should be positive, got 0"), ({"ranks": 1.5}, "ranks should be a whole number, got 1.5"),
    ({"ranks": True}, "ranks should be a whole number, got True"), ({"tolerance": "1"}, "tolerance should be a number, got '1'"),
    ({"strategies": []}, "it has no strategy"), ({"strategies": [3]}, "a strategy should be an object, got 3"),
    ({"strategies": [{"name": "a"}]}, "a strategy: 'samples' is missing"), ({"machine": "x"}, "machine should be an object"),
    ({"strategies": [{"name": "a\nb", "samples": []}]}, "should be a line of text"),
    ({"strategies": [{"name": "a", "samples": []}] * 2}, "a strategy occurs twice among a, a"),
    ({"strategies": [{"name": "a", "samples": [], "samples_per_hour": 1}]}, "ledger of data generation (--what generate)"),
    ({"cost": 3}, "cost should be an object, got 3"), ({"cost": {"data": "much"}}, "cost: data should be a number, got 'much'"),
    ({"cost": {"data": -1.0}}, "cost.data should be positive, got -1.0"),
])  # fmt: skip
def test_entries_that_make_no_sense_are_named(
    change: dict[str, Any], message: str, measured: dict[str, Any], tmp_path: Path
) -> None:
    assert message in refused(tmp_path / "a.json", measured | change)


@pytest.mark.parametrize(("change", "message"), [
    ({"solved": 1}, "cold, sample number 1: solved should be true or false, got 1"), ({"iterations": -1}, "should not be negative"),
    ({"relative_error": "x"}, "relative_error should be a number or null, got 'x'"), ({"index": 0}, "two samples of the same index"),
    ({"unknowns": 0.5}, "unknowns should be a whole number"), ({"reason": 3}, "reason should be a text or null"),
    ({"seconds": {"transfer": 0.0, "inference": 0.0, "solve": 1.0}}, "seconds: 'total' is missing"),
    ({"seconds": {"transfer": 0.0, "inference": 0.0, "solve": 0.0, "total": 0.0}}, "seconds: total should be positive, got 0.0"),
    ({"seconds": {"transfer": 0.0, "inference": 0.0, "solve": 1.0, "total": 10**400}}, "seconds: total should be a number below 1e+18"),
])  # fmt: skip
def test_samples_that_make_no_sense_are_named(
    change: dict[str, Any], message: str, measured: dict[str, Any], tmp_path: Path
) -> None:
    measured["strategies"][0]["samples"][1] |= change
    assert message in refused(tmp_path / "a.json", measured)


def test_report_prints_a_ledger(stored: Path, measured: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", str(stored)]) == 0
    assert capsys.readouterr().out.strip() == table(measured)
    assert [path.name for path in stored.parent.iterdir()] == ["one.json"]


def test_report_puts_ledgers_side_by_side(
    stored: Path, measured: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    two, html = stored.with_name("two.json"), stored.with_name("sub") / "page.html"
    write_json(measured | {"ranks": 2}, two)
    assert cli.main(["report", str(stored), str(two), "--html", str(html)]) == 0
    text = capsys.readouterr().out
    assert table(measured) in text and table(measured | {"ranks": 2}) in text and f"page: {html}" in text
    rows = [line.split() for line in text.partition("cavity: median time [s]")[2].splitlines()]
    assert ["8", "-", "1", "2", "5.000", "1.000"] in rows and ["8", "-", "2", "2", "5.000", "1.000"] in rows
    page = html.read_text(encoding="utf-8")
    assert "two.json" in page and "Time over ranks, resolution 8" in page


@pytest.mark.parametrize(("arguments", "message"), [
    ((), "the following arguments are required: LEDGER.json"),
    (("{tmp}/none.json",), "{tmp}/none.json: cannot be read (No such file or directory); expected a ledger"),
    (("{tmp}",), "{tmp}: cannot be read (Is a directory)"),
    (("{tmp}/one.json", "{tmp}/other.json"), "{tmp}/other.json: 'case' is missing"),
    (("{tmp}/one.json", "--html", "{tmp}/one.json/page.html"), "{tmp}/one.json"),
    (("{tmp}/one.json", "--set", "nothing=1"), "unknown key 'nothing'"),
    (("{tmp}/one.json", "--", "-ksp_type", "cg"), "'report' does not use PETSc"),
])  # fmt: skip
def test_report_says_in_a_line_what_is_wrong(
    arguments: tuple[str, ...], message: str, stored: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored.with_name("other.json").write_text("{}")
    assert cli.main(["report", *(argument.format(tmp=stored.parent) for argument in arguments)]) == 2
    text = capsys.readouterr().err
    assert text.startswith("lrsa-coupled: error: ") and text.count("\n") == 1, text
    assert message.format(tmp=stored.parent) in text


def test_report_needs_neither_mpi_nor_petsc_nor_torch(stored: Path) -> None:
    code = (
        f"import sys\nfrom lrsa_coupled import cli\ncode = cli.main(['report', {str(stored)!r}, '--html', {str(stored.with_name('a.html'))!r}])\n"
        "bad = [m for m in ('mpi4py', 'petsc4py', 'dolfinx', 'torch', 'jinja2') if m in sys.modules]\nsys.exit(f'{bad}' if bad or code else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=plain_environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_html_is_for_start_strategies(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "cavity", "--what", "generate", "--html", "a.html"]) == 2
    assert "bench --what generate does not read --html; it is for --what starts" in capsys.readouterr().err
