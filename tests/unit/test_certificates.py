"""Table and picture of certificates, from made-up numbers."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
from matplotlib.image import imread

from lrsa_coupled.bench.experiments.certificates import BASELINE, SURROGATE, TARGETS, effectivity_picture, table
from lrsa_coupled.bench.rows import Header, Results, Row, Seconds


def answer(accept: float, index: float, *, sample: int = 0, seconds: float = 1.0, error: float | None = None) -> Row:
    """A certified answer whose estimate is ``index`` times its true error, by default half of what was asked for."""
    error = accept / 2 if error is None else error
    values = {"accept": accept, "error": error, "estimate": index * error, "prediction_estimate": 0.1 * index}
    values |= {"prediction": 0.1, "norm": "energy norm"}
    return Row(method=SURROGATE, sample=sample, seconds=Seconds(total=seconds), solved=True, unknowns=9, values=values)


def results(answers: list[Row]) -> Results:
    samples = dict.fromkeys(row.sample for row in answers)
    baseline = [
        Row(method=BASELINE, sample=k, seconds=Seconds(total=2.0), solved=True, values={"accept": a, "error": a / 3})
        for k in samples
        for a in TARGETS
    ]
    header = Header(study="certificates", case="made-up", resolution=4, seed=3, ranks=2)
    return Results.of(header, [*answers, *baseline])


def cells(text: str, name: str) -> list[str]:
    return next(line for line in text.splitlines() if line.startswith(name)).removeprefix(name).split()


def test_indices_failures_and_times_are_those_of_the_rows() -> None:
    answers = [[answer(a, index, sample=k) for a in TARGETS] for k, index in enumerate((0.4, 1.0, 1.0, 2.0))]
    answers[1][1] = answer(1e-2, 1.0, sample=1, error=0.02)  # certified, yet above what was asked for
    values = answers[2][2].values | {"estimate": None, "prediction_estimate": None}
    answers[2][2] = answer(1e-3, 1.0, sample=2, seconds=4.0)
    answers[2][2] = msgspec.structs.replace(answers[2][2], solved=False, used_fallback=True, values=values)
    text = table(results([row for rows in answers for row in rows]))
    assert cells(text, "prediction") == ["4", "0.49", "1.00", "1.85", "75", "%", "-"]
    assert cells(text, "delivered, 1e-02 asked for")[-1] == "1"
    assert cells(text, "delivered, 1e-01 asked for")[-1] == "0"
    assert cells(text, "delivered, 1e-03 asked for")[0] == "3"
    assert cells(text, "1e-01") == ["1.000", "2.000", "2.00", "0", "0"]
    assert cells(text, "1e-02") == ["1.000", "2.000", "2.00", "1", "0"]  # one has not reached it
    assert cells(text, "1e-03") == ["1.000", "2.000", f"{(2.0**3 / 2.0) ** 0.25:.2f}", "1", "1"]
    assert "4 unseen samples (seed 3), resolution 4, 2 ranks" in text and "relative errors in the energy norm" in text


def test_nothing_certified_is_no_error(tmp_path: Path) -> None:
    nothing = {"estimate": None, "prediction": None}
    rows = [answer(accept, 1.0) for accept in TARGETS]
    rows = [msgspec.structs.replace(row, solved=False, values=row.values | nothing) for row in rows]
    assert cells(table(results(rows)), "prediction") == ["0", "-", "-", "-", "-", "-"]
    assert effectivity_picture(results(rows), tmp_path).is_file()


def test_the_picture_shows_the_estimates(tmp_path: Path) -> None:
    path = effectivity_picture(results([answer(accept, 1.1) for accept in TARGETS]), tmp_path / "new")
    assert path == tmp_path / "new" / "effectivity.png" and np.ptp(imread(path)[..., :3]) > 0.5
