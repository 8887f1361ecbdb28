"""The nearest training sample, on a data set made by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from lrsa_coupled.data.format import SampleArrays, SampleRecord

nearest = pytest.importorskip("lrsa_coupled.guess.nearest", reason="needs DOLFINx", exc_type=ImportError)

TOLERANCE = 1000 * np.finfo(np.float64).eps


class FakeStore:
    """Samples in memory with what ``NearestSample`` reads of a data set; counts the reads."""

    def __init__(
        self, scalars: Sequence[Sequence[float]], parameters: Sequence[dict[str, object]] | None = None
    ) -> None:
        self.solved = [10 * (k + 1) for k in range(len(scalars))]
        self.reads = 0
        self._scalars = np.array(scalars, dtype=np.float64)
        self._parameters = parameters or [{} for _ in scalars]

    def read(self, index: int) -> SampleRecord:
        self.reads += 1
        k = self.solved.index(index)
        points = np.random.default_rng(index).uniform(0.0, 1.0, (80, 2))
        points[:4] = [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]
        arrays = SampleArrays(
            points,
            np.ones(80),
            np.zeros(80, np.uint8),
            np.zeros((80, 2), np.uint8),
            np.zeros((1, 3), np.int32),
            np.zeros((80, 1), np.float32),
            linear_field(index, points),
            self._scalars[k],
        )
        return SampleRecord(index, "ok", "", json.dumps(self._parameters[k]), 1, 0.0, 0.0, arrays)

    def arrays(self, index: int) -> SampleArrays | None:
        return self.read(index).arrays


def linear_field(index: int, points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    x, y = points.T
    return np.column_stack([index + 2.0 * x - y, -index * x + 3.0 * y])


def test_distances_are_in_standard_deviations_and_constants_count_nothing() -> None:
    samples = nearest.NearestSample(FakeStore([[0.0, 0.0, 5.0], [1000.0, 1.0, 5.0], [2000.0, 0.0, 5.0]]))
    assert samples.find(np.array([400.0, 0.9, 5.0]), {}) == 20  # unscaled, the first would be nearest
    assert samples.find(np.array([400.0, 0.1, 900.0]), {}) == 10


def test_without_scalars_the_numbers_of_the_parameters_are_compared() -> None:
    parameters = [{"load": 1.0, "centre": [0.2, 0.3]}, {"load": 1.0, "centre": [0.2, 0.7]}]
    samples = nearest.NearestSample(FakeStore([[], []], parameters))
    assert samples.find(np.array([]), {"centre": (0.5, 0.6), "load": 3.0}) == 20


def test_linear_fields_are_interpolated_exactly() -> None:
    samples = nearest.NearestSample(FakeStore([[0.0], [1.0]]))
    points = np.random.default_rng(0).uniform(0.0, 1.0, (50, 2))
    np.testing.assert_allclose(samples.values(20, points), linear_field(20, points), rtol=0.0, atol=20 * TOLERANCE)


def test_points_outside_take_the_nearest_value_and_no_points_give_none() -> None:
    samples = nearest.NearestSample(FakeStore([[0.0], [1.0]]))
    outside = samples.values(10, np.array([[1.5, 1.5], [-0.1, -0.2]]))
    np.testing.assert_allclose(outside, linear_field(10, np.array([[1.0, 1.0], [0.0, 0.0]])), rtol=TOLERANCE)
    assert samples.values(10, np.empty((0, 2))).shape == (0, 2)


def test_a_sample_is_read_and_triangulated_once() -> None:
    store = FakeStore([[0.0], [1.0]])
    samples = nearest.NearestSample(store)
    store.reads = 0
    for _ in range(3):
        samples.values(10, np.array([[0.5, 0.5]]))
    assert store.reads == 1


def test_an_empty_data_set_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one solved sample"):
        nearest.NearestSample(FakeStore([]))
