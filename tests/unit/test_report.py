"""Tables and pictures of results made by hand, with ratios known exactly."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from lrsa_coupled.bench.compare import ADAPTIVE, LEARNED, best_baseline, best_of_each, speedup
from lrsa_coupled.bench.pictures import Example, comparison_pictures, fields_figure
from lrsa_coupled.bench.report import cost_rows, decision_lines, remarks, speedup_rows, table
from lrsa_coupled.bench.rows import Results, Row, Seconds
from tests.results import method, results


@pytest.fixture
def measured() -> Results:
    """Cold is 2, 8 and 0.5 times slower than learned where both solve; learned fails on sample 3."""
    return results(
        method("cold", [2.0, 8.0, 0.5, 1.0]),
        method("fragile", [1.5, 9.0, 9.0, 9.0], failed=[1, 2]),
        method(LEARNED, [1.0, 1.0, 1.0, 9.0], failed=[3], guess=0.1),
        ranks=2,
    )


def test_speedup_is_the_geometric_mean_over_samples_that_both_solve(measured: Results) -> None:
    times = measured.solved_times
    result = speedup(times["cold"], times[LEARNED])
    assert math.isclose(result.mean, 2.0, rel_tol=1e-14)
    assert result.ratios == [2.0, 8.0, 0.5]


def test_losses_are_slower_samples_and_those_that_only_the_baseline_solves(measured: Results) -> None:
    times = measured.solved_times
    assert speedup(times["cold"], times[LEARNED]).losses == 2
    assert speedup(times["fragile"], times[LEARNED]).losses == 1
    nothing = speedup({0: 1.0}, {1: 1.0})
    assert math.isnan(nothing.mean) and (nothing.losses, nothing.ratios) == (1, [])


def test_the_best_baseline_solves_most_and_the_bound_is_the_least_of_each_sample(measured: Results) -> None:
    assert best_baseline(measured.solved_times) == "cold"
    assert best_of_each(measured.solved_times) == {0: 1.5, 1: 8.0, 2: 0.5, 3: 1.0}


def test_tables_hold_costs_speed_ups_and_failures(measured: Results) -> None:
    costs = {row[0]: row[1:] for row in cost_rows(measured)}
    assert costs["cold"] == ["4/4", "4.50", "4.5", "0", "0", "1.500", "1.500", "-", "-"]
    assert costs[LEARNED][0] == "3/4" and costs[LEARNED][-2:] == ["11.1 %", "5.00 %"]
    ratios = speedup_rows(measured.solved_times)
    assert ["cold", "2.00", "0.50", "8.00", "2", "3"] in ratios
    assert ratios[-2][0] == "best baseline overall (cold)" and ratios[-1][-1] == "3"
    assert "fragile: failed on 2 (DIVERGED_MAX_IT)" in remarks(measured)


def test_decisions_of_the_policy_are_counted() -> None:
    decisions = [
        {"choice": choice, "outcome": outcome, "seconds": 2.0, "wasted": wasted}
        for choice, outcome, wasted in (
            ("learned", "converged", 0.0),
            ("learned", "rejected: far", 0.5),
            ("default", "converged", 0.0),
        )
    ]
    rows = [Row(method=ADAPTIVE, sample=0, seconds=Seconds(total=1.0), solved=True, decisions=tuple(decisions))]
    assert decision_lines(rows) == [
        "adaptive: learned 2 times (1 converged, 1 rejected), median 2 s, 0.5 s lost on bad guesses",
        "adaptive: default 1 times (1 converged), median 2 s, 0 s lost on bad guesses",
    ]


def test_a_table_without_solved_or_learned_samples_is_still_printed() -> None:
    cold = method("cold", [1.0], failed=[0])
    assert "0/1" in table(results(cold))
    assert "0/1" in table(results(cold, method(LEARNED, [1.0], failed=[0], guess=0.1)))


def test_pictures_show_methods_and_fields(measured: Results, tmp_path: Path) -> None:
    points = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    example = Example("velocity", points, np.array([[0, 1, 2], [1, 3, 2]]), points, 1.1 * points, 0.1)
    paths = comparison_pictures(measured, example, tmp_path / "new")
    assert [path.name for path in paths] == ["fields.png", "methods.png"]
    assert all(np.ptp(imread(path)[..., :3]) > 0.5 for path in paths)


def test_a_field_in_space_is_drawn_near_its_middle() -> None:
    axis = np.linspace(0.0, 1.0, 6)
    points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    cells, values = np.zeros((1, 4), np.int64), points[:, :1]
    figure = fields_figure(Example("u", points, cells, values, values + 0.1, 0.2, source="prediction"))
    assert figure.axes[1].get_title() == "prediction, relative error 20.0 %"
