"""The experiment on the acceptance of guesses, on one tiny family of a file of its own; the ten families solve."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI

pytest.importorskip("dolfinx", reason="the families need DOLFINx")

from lrsa_coupled import config
from lrsa_coupled.bench.experiments.acceptance import BAD, PREDICTION, SETTINGS, run, table
from lrsa_coupled.bench.report import solved_count
from lrsa_coupled.cases.scripts.families import CELLS, FAMILIES
from lrsa_coupled.settings import update

TINY = """
from lrsa_coupled.cases.scripts.families import bratu

CELLS = {"tiny": 4}
FAMILIES = {"tiny": bratu}
"""


def test_what_becomes_of_good_and_bad_guesses_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "tiny.py"
    path.write_text(TINY, encoding="utf-8")
    base = update(config.Config(), SETTINGS, where="acceptance")
    settings = config.load(base, assignments=["training.epochs=1", "operator.width=16"])
    args = Namespace(families=str(path), train=8, samples=3, only=[])
    results = run(args, settings)
    assert {row.values["manner"] for row in results.rows} == {PREDICTION, *BAD}
    assert solved_count(results.rows) == "6/6"
    for row in results.rows:
        assert row.values["faster"] <= (row.iterations < row.number("default_iterations"))
        abandoned = str(row.values["outcome"]).startswith("abandoned") and not row.values["faster"]
        assert row.number("lost") >= 0.0 and (not abandoned or row.number("lost") > 0.0)
    text = table(results)
    assert "budget 15 %" in text and text.count("tiny") == 1 and "falsely rejected" in text
    with pytest.raises(ValueError, match="has no large, only tiny"):
        run(Namespace(families=str(path), train=8, samples=3, only=["large"]), settings)
    with pytest.raises(ValueError, match=r"missing\.py is no Python file"):
        run(Namespace(families="missing.py", train=8, samples=3, only=[]), settings)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_families_solve(name: str) -> None:
    family, rng = FAMILIES[name](MPI.COMM_SELF, CELLS[name] // 2), np.random.default_rng(1)
    family.problem.u.x.array[:] = 0.0
    family.draw(rng)
    family.problem.solve()
    assert family.problem.solver.getConvergedReason() > 0
    assert np.isfinite(family.problem.u.x.array).all() and family.problem.u.x.array.any()
