"""A script of a user on several ranks: the same answers with a learned guess as without."""

from __future__ import annotations

from pathlib import Path

import pytest
from mpi4py import MPI

pytest.importorskip("dolfinx", reason="the scripts need DOLFINx")

from lrsa_coupled.cases.scripts.runner import compare, difference

pytestmark = pytest.mark.two_ranks


def test_a_direct_solver_prints_the_same(shared_path: Path) -> None:
    results = compare("poisson", shared_path, quick=True)
    assert [row.method for row in results.rows] == ["plain", "untrained", "learned"]
    assert all(row.solved and row.iterations == 10 for row in results.rows)


def test_numbers_are_compared_one_by_one() -> None:
    assert difference("a 1.0e+00, b -2.0", "a 1.0e+00, b -2.0") == 0.0
    assert abs(difference("a 1.5, b 1.0e-9", "a 1.0, b 1.0e-9") - 0.5) < 1e-15
    assert difference("a 1.0", "a 1.0 b 2.0") == float("inf")
