"""Break-even of ledgers made by hand, and where its costs come from."""

from __future__ import annotations

import math
from typing import Any

import pytest

from lrsa_coupled.bench.breakeven import break_even, break_even_note, break_even_rows, cost_of
from lrsa_coupled.bench.compare import NEAREST
from lrsa_coupled.bench.pictures import LEARNED
from lrsa_coupled.bench.report import table
from lrsa_coupled.config import LrsaConfig, TrainingConfig
from lrsa_coupled.schema import Field, Schema
from lrsa_coupled.training.checkpoint import DataInfo, ModelCard, load
from tests.helpers import ROOT
from tests.unit.test_report import strategy


def ledger(*strategies: dict[str, Any], ranks: int = 1, **cost: float | None) -> dict[str, Any]:
    return {
        "case": "cavity",
        "resolution": 8,
        "seed": 1,
        "ranks": ranks,
        "tolerance": 1e-6,
        "cost": cost,
        "strategies": list(strategies),
    }


def test_break_even_is_cost_over_mean_saving_on_all_ranks() -> None:
    """Savings of 2 s and 4 s on two ranks are 6 s a solve in the mean, so that 100 s are paid back in the 17th solve."""
    (found,) = break_even(
        ledger(strategy("cold", [3.0, 5.0]), strategy(LEARNED, [1.0, 1.0]), ranks=2, data=60.0, training=40.0)
    )
    assert (found.saved, found.error, found.compared, found.cost) == (6.0, 2.0, 2, 100.0)
    assert (found.solves, found.text) == (17.0, "17")


def test_nothing_saved_is_never_whatever_the_cost() -> None:
    slow = strategy(LEARNED, [3.0, 3.0])
    for cost in ({"data": 60.0, "training": 40.0}, {}):
        (found,) = break_even(ledger(strategy("cold", [2.0, 4.0]), slow, **cost))
        assert (found.saved, found.solves, found.text) == (0.0, math.inf, "never")


@pytest.mark.parametrize(
    "cost", [{}, {"data": None, "training": 40.0}, {"data": 60.0, "training": None}, {"data": 60.0}]
)
def test_a_cost_that_is_not_known_is_said_to_be_unknown(cost: dict[str, float | None]) -> None:
    measured = ledger(strategy("cold", [3.0]), strategy(LEARNED, [1.0]), **cost)
    (found,) = break_even(measured)
    assert (found.saved, found.solves, found.text) == (2.0, None, "unknown") and math.isnan(found.error)
    assert "unknown" in break_even_note(measured)
    del measured["cost"]
    assert break_even(measured)[0].text == "unknown"


def test_failures_of_the_learned_guess_cost_their_time_and_those_of_the_rival_do_not_count() -> None:
    cold, learned = strategy("cold", [3.0, 3.0, 9.0], failed=[2]), strategy(LEARNED, [1.0, 1.5, 1.0], failed=[1])
    (found,) = break_even(ledger(cold, learned, data=1.0, training=1.0))
    assert (found.saved, found.compared, found.solves) == (0.25, 2, 8.0)
    (found,) = break_even(ledger(strategy("cold", [3.0], failed=[0]), strategy(LEARNED, [1.0]), data=1.0, training=1.0))
    assert (found.compared, found.text) == (0, "-")


def test_the_best_classical_rival_comes_first_and_the_nearest_sample_needs_the_data_too() -> None:
    rivals = [strategy("slow", [4.0]), strategy("quick", [3.0]), strategy(NEAREST, [2.0])]
    measured = ledger(*rivals, strategy(LEARNED, [1.0]), data=6.0, training=4.0)
    found = {item.rival: item.solves for item in break_even(measured)}
    assert list(found.items()) == [
        ("quick (best classical)", 5.0),
        ("slow", 4.0),
        (NEAREST, 10.0),
        (f"{NEAREST}, data at hand", 4.0),
    ]
    assert [row[1] for row in break_even_rows(measured)[1:]] == ["5", "4", "10", "4"]
    text = table(measured)
    assert (
        "quick (best classical)" in text
        and "data at hand: training alone counts" in text
        and "N* = (data 0.00167 h + training 0.00111 h)" in text
    )


def test_without_a_learned_guess_or_a_rival_there_is_nothing_to_compare() -> None:
    assert break_even_rows(ledger(strategy("cold", [1.0]))) == break_even_rows(ledger(strategy(LEARNED, [1.0]))) == []


def test_costs_of_a_card() -> None:
    card = ModelCard(
        Schema("c", 2, (), (), (Field("u"),)),
        8,
        LrsaConfig(),
        TrainingConfig(),
        DataInfo(10, 0, 50.0),
        {},
        seconds=7.0,
        ranks=3,
    )
    assert cost_of(card) == {"data": 50.0, "training": 21.0}
    _, shipped = load(ROOT / "cases" / "cavity")
    old = ModelCard(**{**vars(shipped), "seconds": None, "data": DataInfo(10, 0)})
    assert cost_of(old) == {"data": None, "training": None}
