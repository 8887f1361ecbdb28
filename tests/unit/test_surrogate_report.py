"""Table and picture of the certificate's ledger, from made-up numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lrsa_coupled.bench.effectivity import TARGETS, effectivity_picture, surrogate_table


def run(accept: float, index: float, *, seconds: float, error: float | None = None) -> dict[str, Any]:
    """A certified run whose estimate is ``index`` times its true error, by default half of what was asked for."""
    error = accept / 2 if error is None else error
    return {"accept": accept, "certified": True, "fallback": False, "error": error, "estimate": index * error,
            "prediction_estimate": 0.1 * index, "linearisations": 1, "iterations": 3, "seconds": seconds}  # fmt: skip


def ledger(runs: list[list[dict[str, Any]]]) -> dict[str, Any]:
    classical = [{"error": accept / 3, "seconds": 2.0} for accept in TARGETS]
    samples = [
        {"index": i, "unknowns": 9, "norm": "energy norm", "prediction": 0.1, "surrogate": item, "classical": classical}
        for i, item in enumerate(runs)
    ]
    return {"case": "made-up", "resolution": 4, "seed": 3, "ranks": 2, "samples": samples}


def row(text: str, name: str) -> list[str]:
    return next(line for line in text.splitlines() if line.startswith(name)).removeprefix(name).split()


def test_indices_failures_and_times_are_those_of_the_ledger() -> None:
    runs = [[run(accept, index, seconds=1.0) for accept in TARGETS] for index in (0.4, 1.0, 1.0, 2.0)]
    runs[1][1] = run(1e-2, 1.0, seconds=1.0, error=0.02)  # certified, yet above what was asked for
    runs[2][2] |= {"certified": False, "fallback": True, "estimate": None, "prediction_estimate": None, "seconds": 4.0}
    text = surrogate_table(ledger(runs))
    assert row(text, "prediction") == ["4", "0.49", "1.00", "1.85", "75", "%", "-"]
    assert row(text, "delivered, 1e-02 asked for")[-1] == "1"
    assert row(text, "delivered, 1e-01 asked for")[-1] == "0"
    assert row(text, "delivered, 1e-03 asked for")[0] == "3"
    assert row(text, "1e-01") == ["1.000", "2.000", "2.00", "0", "0"]
    assert row(text, "1e-02") == ["1.000", "2.000", "2.00", "1", "0"]  # one has not got there
    assert row(text, "1e-03") == ["1.000", "2.000", f"{(2.0**3 / 2.0) ** 0.25:.2f}", "1", "1"]
    assert "4 unseen samples (seed 3), resolution 4, 2 ranks; relative errors in the energy norm" in text


def test_nothing_certified_is_no_error(tmp_path: Path) -> None:
    runs = [[run(accept, 1.0, seconds=1.0) | {"certified": False, "estimate": None} for accept in TARGETS]]
    empty = ledger(runs)
    empty["samples"][0]["prediction"] = None
    assert row(surrogate_table(empty), "prediction") == ["0", "-", "-", "-", "-", "-"]
    assert effectivity_picture(empty, tmp_path).stat().st_size > 10_000


def test_picture(tmp_path: Path) -> None:
    path = effectivity_picture(ledger([[run(accept, 1.1, seconds=1.0) for accept in TARGETS]]), tmp_path / "new")
    assert path == tmp_path / "new" / "effectivity.png" and path.stat().st_size > 10_000
