"""Intervals with a Gaussian process of few solves cover the mean: repeated estimates of functions with known means."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from lrsa_coupled.study.methods import FOLDS
from lrsa_coupled.study.quasi import quasi_samples
from lrsa_coupled.study.statistics import Controlled, Estimate, mean
from lrsa_coupled.study.surrogates import GaussianProcess

REPEATS, BLOCKS, FURTHER = 100, 4, 64


@dataclass(frozen=True)
class Point:
    x: tuple[float, ...]


def log_normal(x: np.ndarray) -> float:
    return float(np.exp(0.5 * x[0] + 0.3 * x[1]))


def rough(x: np.ndarray) -> float:
    return float(np.exp(0.4 * x[0] - 0.3 * x[1]) + 0.2 * x[2] * x[3] + 0.1 * abs(x[4]))


def skew(x: np.ndarray) -> float:
    return float(np.exp(0.8 * x[0]) * (1.0 + 0.3 * np.sin(x[1])) + 0.3 * x[2] ** 2 * x[3])


def estimated(answer: Callable[[np.ndarray], float], dim: int, solves: int, *, seed: int) -> Estimate:
    def draw(rng: np.random.Generator) -> Point:
        return Point(tuple(rng.standard_normal(dim).tolist()))

    rng = np.random.default_rng([77, seed, solves])
    points, folds = [draw(rng) for _ in range(solves)], np.arange(solves) % FOLDS
    y = np.array([answer(np.array(point.x)) for point in points])
    cheap, own, rest, average = np.empty(solves), np.empty(solves), [], []
    for fold in range(FOLDS):
        mine, process = folds == fold, GaussianProcess()
        process.fit([point for point, here in zip(points, mine, strict=True) if not here], y[~mine][:, None])
        here = [point for point, use in zip(points, mine, strict=True) if use]
        further = [p for b in range(BLOCKS) for p in quasi_samples(draw, FURTHER, entropy=[5, seed, fold, b, solves])]
        cheap[mine], own[mine] = process.predict(here)[:, 0], process.spread(here)[:, 0]
        rest.append(process.predict(further))
        average.append(process.spread(further).mean())
    expected = own, float(np.mean(average))
    return mean(Controlled(y, cheap[:, None], rest, folds, replicates=BLOCKS, expected=expected))


@pytest.mark.parametrize("solves", [32, 100])
@pytest.mark.parametrize(
    ("answer", "dim", "exact"),
    [
        (log_normal, 2, np.exp(0.17)),
        (rough, 5, np.exp(0.125) + 0.1 * np.sqrt(2.0 / np.pi)),
        (skew, 4, np.exp(0.32)),
    ],
)
def test_coverage(answer: Callable[[np.ndarray], float], dim: int, exact: float, solves: int) -> None:
    """Of 95 %: in these cases, 0.75 to 0.9 without what the process expects and the lower freedom."""
    found = [estimated(answer, dim, solves, seed=seed) for seed in range(REPEATS)]
    share = np.mean([each.low <= exact <= each.high for each in found])
    print(f"{answer.__name__}, {solves} solves: {share:.3f}")
    assert share >= (0.84 if solves == 32 else 0.89)
