"""When a study trains: only where that is expected to pay, for a time that fits, and never without a free core."""

from __future__ import annotations

import dataclasses

import pytest

pytest.importorskip("mpi4py", reason="the coupling needs MPI")
from mpi4py import MPI

pytest.importorskip("dolfinx", reason="the study needs DOLFINx")

from lrsa_coupled.guess.record import DEFAULT
from lrsa_coupled.study.economy import ASSUMPTIONS, Situation, decide, worth_loading

HEAT = Situation(
    samples=64,
    remaining=436.0,
    costs={DEFAULT: 1.7, "nearest": 1.45},
    errors={DEFAULT: 1.0, "nearest": 0.25, "previous": 0.5},
    model=False,
    free_cores=1,
)


def test_a_long_study_trains_for_a_share_of_what_is_left() -> None:
    verdict = decide(HEAT, "learned")
    assert verdict.seconds == pytest.approx(ASSUMPTIONS.share * 436 * 1.45) and verdict.saved > 0.0
    assert "64 samples, about 436 solves to come at 1.45 s (nearest)" in verdict.why


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"free_cores": 0}, "no core is free"),
        ({"remaining": 30.0}, "too short for a training, nearest is enough"),
        ({"costs": {DEFAULT: 1.7, "nearest": 1.69}}, "not expected to pay"),
        ({"costs": {DEFAULT: 1.7, "nearest": 2.5}}, "not expected to pay"),
        ({"costs": {}}, "no solve has been measured"),
        (
            {"costs": {**HEAT.costs, "regression": 1.2}, "errors": {**HEAT.errors, "regression": 0.01}},
            "not expected to pay",
        ),
    ],
)
def test_else_it_does_not_and_says_why(changes: dict[str, object], why: str) -> None:
    verdict = decide(dataclasses.replace(HEAT, **changes), "learned")
    assert verdict.seconds is None and why in verdict.why


def test_where_no_core_is_free_a_training_takes_that_of_one_group_of_several() -> None:
    free, shared = decide(HEAT, "learned"), decide(dataclasses.replace(HEAT, free_cores=0, groups=8), "learned")
    assert shared.seconds == free.seconds is not None
    assert free.saved - shared.saved == pytest.approx((1 / 8 - ASSUMPTIONS.contention) * shared.seconds)


def test_a_model_is_refined_where_the_last_one_has_paid() -> None:
    errors = {**HEAT.errors, "learned": 0.08}
    paid = dataclasses.replace(HEAT, costs={**HEAT.costs, "learned": 1.2}, errors=errors, model=True)
    assert decide(paid, "learned").seconds is not None
    lost = dataclasses.replace(paid, costs={**HEAT.costs, "learned": 1.8})
    assert decide(lost, "learned").seconds is None


def test_a_model_is_loaded_where_enough_solves_are_to_come() -> None:
    assert worth_loading(HEAT)
    assert not worth_loading(dataclasses.replace(HEAT, remaining=20.0))
    assert not worth_loading(dataclasses.replace(HEAT, costs={}))
