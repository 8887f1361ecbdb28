"""The scripts of users: lines put into their text, and one of them run with and without a learned guess."""

from __future__ import annotations

from pathlib import Path

import pytest

from lrsa_coupled.cases.scripts.insertion import edited
from tests.helpers import ROOT, needs_dolfinx

RUNNER = {"__init__.py", "__main__.py", "insertion.py", "runner.py", "families.py", "inference.py", "studies.py"}
SOURCE = """steps = 3
problem = make(
    steps,
)
for _ in range(steps):
    u = problem.solve()  # each time
    print(u)
"""


def test_lines_follow_their_statements() -> None:
    found = edited(
        SOURCE, after={"problem = make": "a = 1\nb = 2", "u = problem.solve": "add()"}, values={"steps": "5"}
    )
    expected = SOURCE.replace("steps = 3", "steps = 5").replace(")\nfor", ")\na = 1\nb = 2\nfor")
    assert found == expected.replace("each time\n", "each time\n    add()\n")
    assert edited(SOURCE, after={}, values={}) == SOURCE


@pytest.mark.parametrize(
    ("after", "values"), [({"problem.solve": ""}, {}), ({"print": ""}, {"step": "1"}), ({}, {"u": "0"})]
)
def test_a_statement_that_is_not_there_is_named(after: dict[str, str], values: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="expected one statement '(problem.solve|step|u)' in the script, got 0"):
        edited(SOURCE, after=after, values=values)


def test_the_scripts_know_nothing_of_this_package() -> None:
    users = [path for path in (ROOT / "cases" / "scripts").glob("*.py") if path.name not in RUNNER]
    assert len(users) == 8
    assert not any("lrsa" in path.read_text(encoding="utf-8") for path in users)


@needs_dolfinx
def test_a_script_with_and_without_guess(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("petsc4py")
    from lrsa_coupled.cases.scripts.__main__ import main

    assert main(["cahn_hilliard", "--quick", "--out", str(tmp_path)]) == 0
    heading, _, *rows = capsys.readouterr().out.splitlines()
    assert heading.split()[:4] == ["script", "ranks", "method", "iterations"]
    assert [row.split()[2] for row in rows] == ["plain", "untrained", "learned"]
    with pytest.raises(SystemExit):
        main(["poison", "--out", str(tmp_path)])
