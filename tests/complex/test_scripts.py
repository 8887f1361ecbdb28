"""The complex one of the scripts of users: the same answers with a learned guess as without."""

from __future__ import annotations

from pathlib import Path

from lrsa_coupled.cases.scripts.runner import compare


def test_helmholtz_with_and_without_guess(shared_path: Path) -> None:
    results = compare("helmholtz", shared_path, quick=True)
    assert [row.method for row in results.rows] == ["plain", "untrained", "learned"]
    assert all(row.solved for row in results.rows), [row.values for row in results.rows]
