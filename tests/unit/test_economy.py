"""When a study trains: only where that is expected to pay, for a time that fits, and never without a free core."""

from __future__ import annotations

import dataclasses

import pytest

pytest.importorskip("mpi4py", reason="the coupling needs MPI")
from mpi4py import MPI

pytest.importorskip("dolfinx", reason="the study needs DOLFINx")

from lrsa_coupled.guess.record import DEFAULT
from lrsa_coupled.study.economy import ASSUMPTIONS, Situation, decide, expected_time, newton_iterations, worth_loading

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
    long = dataclasses.replace(HEAT, samples=8000, remaining=4360.0)
    free, shared = decide(long, "learned"), decide(dataclasses.replace(long, free_cores=0, groups=8), "learned")
    assert shared.seconds == free.seconds is not None
    assert free.saved - shared.saved == pytest.approx((1 / 8 - ASSUMPTIONS.contention) * shared.seconds)


def test_where_no_core_is_free_the_first_training_waits_for_samples() -> None:
    shared = dataclasses.replace(HEAT, remaining=4360.0, free_cores=0, groups=8)
    assert "more with twice the samples" in decide(shared, "learned").why
    assert decide(dataclasses.replace(shared, samples=8000), "learned").seconds is not None


def test_what_is_spent_must_be_expected_to_come_back_twice() -> None:
    shared = dataclasses.replace(HEAT, samples=640, free_cores=0, groups=8)
    verdict = decide(shared, "learned")
    assert verdict.saved > 0.0 and verdict.seconds is None


def test_no_more_is_expected_of_a_model_than_newtons_method_gains() -> None:
    """As on the cavity: from the default, a continuation, to a guess it is further than an error of 1 says."""
    costs, errors = {DEFAULT: 3.5, "learned": 1.3}, {DEFAULT: 1.0, "learned": 0.13}
    model = Situation(100, 205.0, costs, errors, model=True, free_cores=0, groups=2)
    assert 1.2 < expected_time(model, costs, "learned") < 1.25
    assert newton_iterations(0.08) == pytest.approx(3.6, abs=0.1) and newton_iterations(1.0) < 9.0


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
