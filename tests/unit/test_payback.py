"""Pay-back of results made by hand, and where its costs come from."""

from __future__ import annotations

import dataclasses
import math

import pytest

from lrsa_coupled.bench.compare import LEARNED, NEAREST
from lrsa_coupled.bench.payback import cost_of, pay_back_rows, pay_backs
from lrsa_coupled.bench.report import note, table
from lrsa_coupled.bench.rows import Cost
from lrsa_coupled.training.checkpoint import load
from tests.helpers import ROOT
from tests.results import method, results


def test_pay_back_is_cost_over_mean_saving_on_all_ranks() -> None:
    """Savings of 2 s and 4 s on two ranks are 6 s a solve in the mean: 100 s are paid back in the 17th solve."""
    (found,) = pay_backs(results(method("cold", [3.0, 5.0]), method(LEARNED, [1.0, 1.0]), ranks=2))
    assert (found.saved, found.error, len(found.savings), found.cost) == (6.0, 2.0, 2, 100.0)
    assert (found.solves, found.text) == (17.0, "17")


def test_nothing_saved_is_never_whatever_the_cost() -> None:
    for cost in (Cost(60.0, 40.0), Cost()):
        (found,) = pay_backs(results(method("cold", [2.0, 4.0]), method(LEARNED, [3.0, 3.0]), cost=cost))
        assert (found.saved, found.solves, found.text) == (0.0, math.inf, "never")


@pytest.mark.parametrize("cost", [Cost(), Cost(training=40.0), Cost(data=60.0)])
def test_a_cost_that_is_not_known_is_said_to_be_unknown(cost: Cost) -> None:
    measured = results(method("cold", [3.0]), method(LEARNED, [1.0]), cost=cost)
    (found,) = pay_backs(measured)
    assert (found.saved, found.solves, found.text) == (2.0, None, "unknown") and math.isnan(found.error)
    assert "unknown" in note(measured)


def test_failures_of_the_learned_guess_cost_their_time_and_those_of_the_baseline_do_not_count() -> None:
    cold, learned = method("cold", [3.0, 3.0, 9.0], failed=[2]), method(LEARNED, [1.0, 1.5, 1.0], failed=[1])
    (found,) = pay_backs(results(cold, learned, cost=Cost(1.0, 1.0)))
    assert (found.saved, len(found.savings), found.solves) == (0.25, 2, 8.0)
    (found,) = pay_backs(results(method("cold", [3.0], failed=[0]), method(LEARNED, [1.0])))
    assert (found.savings, found.text) == ([], "-")


def test_the_best_baseline_comes_first_and_the_nearest_sample_needs_the_data_too() -> None:
    others = [method("slow", [4.0]), method("quick", [3.0]), method(NEAREST, [2.0])]
    measured = results(*others, method(LEARNED, [1.0]), cost=Cost(6.0, 4.0))
    found = {item.baseline: item.solves for item in pay_backs(measured)}
    assert list(found.items()) == [
        ("quick (best without data)", 5.0),
        ("slow", 4.0),
        (NEAREST, 10.0),
        (f"{NEAREST}, data available", 4.0),
    ]
    assert [row[1] for row in pay_back_rows(pay_backs(measured))[1:]] == ["5", "4", "10", "4"]
    assert "N* = (data 0.00167 h + training 0.00111 h)" in table(measured)


def test_without_a_learned_guess_or_a_baseline_there_is_nothing_to_compare() -> None:
    assert pay_backs(results(method("cold", [1.0]))) == pay_backs(results(method(LEARNED, [1.0]))) == []


def test_costs_of_a_card() -> None:
    _, shipped = load(ROOT / "cases" / "cavity")
    data = dataclasses.replace(shipped.data, seconds=50.0)
    assert cost_of(dataclasses.replace(shipped, data=data, seconds=7.0, ranks=3)) == Cost(50.0, 21.0)
    data = dataclasses.replace(shipped.data, seconds=None)
    assert cost_of(dataclasses.replace(shipped, data=data, seconds=None)) == Cost(None, None)
