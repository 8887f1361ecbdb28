"""Forecasts of studies: what is saved without training, what a model adds, and that it says when none pays."""

from __future__ import annotations

import dataclasses

import pytest

pytest.importorskip("mpi4py", reason="the study needs MPI")
from mpi4py import MPI

pytest.importorskip("dolfinx", reason="the study needs DOLFINx")

from lrsa_coupled.guess.record import DEFAULT
from lrsa_coupled.study.forecast import expected

COSTS, ERRORS = {DEFAULT: 2.0, "nearest": 1.5}, {DEFAULT: 1.0, "nearest": 0.25}


def test_a_long_study_has_a_model_and_a_short_one_does_not() -> None:
    long, short = (expected(COSTS, ERRORS, solves, cores=1) for solves in (1000, 40))
    assert long.learned is not None and long.learned < 1.5 and long.saved > 500.0
    assert "paid back after" in str(long) and "1000 solves by the default method: 2000 s" in str(long)
    assert (short.learned, short.saved) == (None, pytest.approx(20.0))
    assert "training will not pay: nearest is enough" in str(short) and "1.33 times faster" in str(short)


def test_where_no_guess_helps_nothing_is_gained() -> None:
    found = expected({DEFAULT: 2.0, "nearest": 2.5}, ERRORS, 1000, cores=1)
    assert found.saved == 0.0 and "the default method is enough" in str(found)
    assert "regression" not in str(found)
    assert "not counted: regression" in str(dataclasses.replace(found, regression=True))
    with pytest.raises(ValueError, match="no sample was solved often enough"):
        expected({}, {}, 10, cores=1)
