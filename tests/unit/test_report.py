"""Reports of a ledger made by hand, with ratios known exactly."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lrsa_coupled.bench.pictures import LEARNED, Example, fields_figure, save_figure
from lrsa_coupled.bench.report import best_rival, oracle_times, pictures, solved_times, speedup, table, write_json

pytest.importorskip("matplotlib")


def strategy(name: str, seconds: Sequence[float], *, failed: Sequence[int] = (), start: float = 0.0) -> dict[str, Any]:
    samples = [
        {"index": k, "solved": k not in failed, "iterations": 3 + k, "residual": 1e-9, "relative_error": 0.05 if start else None,
         "seconds": {"transfer": 0.0, "inference": start, "solve": total - start, "total": total},
         "reason": "DIVERGED_MAX_IT" if k in failed else None}
        for k, total in enumerate(seconds)
    ]  # fmt: skip
    return {"name": name, "samples": samples}


@pytest.fixture
def ledger() -> dict[str, Any]:
    """Cold is 2, 8 and 0.5 times slower than learned where both solve; learned fails on sample 3."""
    strategies = [
        strategy("cold", [2.0, 8.0, 0.5, 1.0]),
        strategy("fragile", [1.5, 9.0, 9.0, 9.0], failed=[1, 2]),
        strategy(LEARNED, [1.0, 1.0, 1.0, 9.0], failed=[3], start=0.1),
    ]
    return {"case": "cavity", "resolution": 8, "seed": 1, "ranks": 2, "tolerance": 1e-6, "strategies": strategies}


def test_speedup_is_the_geometric_mean_over_samples_both_solved(ledger: dict[str, Any]) -> None:
    times = solved_times(ledger)
    result = speedup(times["cold"], times[LEARNED])
    assert math.isclose(result.mean, 2.0, rel_tol=1e-14)
    assert (result.low, result.high, result.compared) == (0.5, 8.0, 3)


def test_losses_are_slower_samples_and_those_only_the_rival_solves(ledger: dict[str, Any]) -> None:
    times = solved_times(ledger)
    assert speedup(times["cold"], times[LEARNED]).losses == 2
    assert speedup(times["fragile"], times[LEARNED]).losses == 1


def test_the_best_rival_solves_most_and_the_oracle_is_the_least_of_each_sample(ledger: dict[str, Any]) -> None:
    times = solved_times(ledger)
    assert best_rival(times) == "cold"
    assert oracle_times(times) == {0: 1.5, 1: 8.0, 2: 0.5, 3: 1.0}


def test_nothing_in_common_gives_no_ratio() -> None:
    result = speedup({0: 1.0}, {1: 1.0})
    assert math.isnan(result.mean)
    assert (result.losses, result.compared) == (1, 0)


def test_the_table_shows_every_strategy_its_failures_and_the_losses(ledger: dict[str, Any]) -> None:
    lines = table(ledger).splitlines()
    cold = next(line for line in lines if line.startswith("cold"))
    assert cold.split()[1:4] == ["4/4", "4.50", "4.5"]
    assert any(line.split() == ["cold", "2.00", "0.50", "8.00", "2", "3"] for line in lines)
    assert "fragile: failed on 2 (DIVERGED_MAX_IT)" in lines
    learned = next(line for line in lines if line.startswith(LEARNED))
    assert "11.1 %" in learned and "5.00 %" in learned


def test_a_table_without_solved_or_learned_samples_is_still_printed(ledger: dict[str, Any]) -> None:
    cold = [strategy("cold", [1.0], failed=[0])]
    assert "0/1" in table({**ledger, "strategies": cold})
    assert "0/1" in table({**ledger, "strategies": [*cold, strategy(LEARNED, [1.0], failed=[0], start=0.1)]})


def test_json_round_trip_and_numbers_that_are_not_finite(ledger: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "new" / "ledger.json"
    write_json(ledger, path)
    assert json.loads(path.read_text()) == ledger
    with pytest.raises(ValueError, match="JSON"):
        write_json({**ledger, "tolerance": np.nan}, path)
    assert json.loads(path.read_text()) == ledger


def test_pictures_are_png_files(ledger: dict[str, Any], tmp_path: Path) -> None:
    ledger_module = pytest.importorskip("lrsa_coupled.bench.ledger", reason="needs DOLFINx", exc_type=ImportError)
    points = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    example = Example("velocity", points, np.array([[0, 1, 2], [1, 3, 2]]), points, 1.1 * points, 0.1)
    paths = pictures(ledger_module.BenchRun(ledger, example), tmp_path)
    assert [path.name for path in paths] == ["fields.png", "strategies.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)


def test_a_field_in_space_is_drawn_near_its_middle(tmp_path: Path) -> None:
    axis = np.linspace(0.0, 1.0, 6)
    points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    example = Example(
        "u", points, np.zeros((1, 4), np.int64), points[:, :1], points[:, :1] + 0.1, 0.2, source="prediction"
    )
    figure = fields_figure(example)
    assert save_figure(figure, tmp_path / "u.png").read_bytes().startswith(b"\x89PNG")
    assert figure.axes[1].get_title() == "prediction, relative error 20.0 %"
