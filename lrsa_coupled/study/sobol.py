"""Sobol indices of a parameter from samples of pick and freeze; no PETSc."""

from __future__ import annotations

import math

import numpy as np

from lrsa_coupled.study.statistics import Array, Estimate, Function, Sampled, mean


def sobol(sampled: Sampled, number: int) -> tuple[Estimate, Estimate]:
    """Estimate the first-order and the total index of a parameter.

    The answers of a sample are those at independent points A and B, then at A with parameter 0, 1, ... taken from B.

    Sources: Saltelli et al. (2010), Comput. Phys. Commun. 181; Jansen (1999), ibid. 117.
    """
    middle = float(np.mean(sampled.truth[..., :2]))
    alone = _ratio(sampled, lambda q: (q[..., 1] - middle) * (q[..., 2 + number] - q[..., 0]))
    together = _ratio(sampled, lambda q: 0.5 * (q[..., 0] - q[..., 2 + number]) ** 2)
    return alone, together


def _ratio(sampled: Sampled, of: Function) -> Estimate:
    """Estimate the mean of a function over the variance."""

    def spread(q: Array) -> Array:
        return 0.5 * (q[..., 0] - q[..., 1]) ** 2

    total = mean(sampled, spread).value
    if not total > 0.0:
        return Estimate(math.nan, -math.inf, math.inf, math.inf, 0.0)
    first = mean(sampled, of).value / total
    left = mean(sampled, lambda q: (of(q) - first * spread(q)) / total)
    return Estimate(first + left.value, first + left.low, first + left.high, left.standard_error, left.worth)
