"""The chains of the example of inference, on densities that are known."""

from __future__ import annotations

import numpy as np
import pytest

from lrsa_coupled.cases.scripts.inference import delayed_acceptance, effective_samples, metropolis


def exact(point: np.ndarray) -> float:
    return -0.5 * float(np.sum((point - 0.3) ** 2)) / 0.1**2


def biased(point: np.ndarray) -> float:
    return -0.5 * float(np.sum((point - 0.32) ** 2)) / 0.12**2


def test_delayed_acceptance_has_the_exact_posterior() -> None:
    """Whatever the cheap density is; and each exact evaluation is worth several of a plain chain."""
    start = np.array([0.3])
    two = delayed_acceptance(biased, exact, start, steps=4000, inner=10, walk=0.08, rng=np.random.default_rng(0))
    one = metropolis(exact, start, steps=4000, walk=0.08, rng=np.random.default_rng(0))
    for chain in (one, two):
        worth = effective_samples(chain.points)
        assert chain.points.mean() == pytest.approx(0.3, abs=4.0 * 0.1 / np.sqrt(worth))
        assert chain.points.std() == pytest.approx(0.1, rel=4.0 / np.sqrt(2.0 * worth))
    assert effective_samples(two.points) > 3.0 * effective_samples(one.points)


def test_effective_samples() -> None:
    """Of independent points about all, of an autoregressive chain (1 - r) / (1 + r) of them."""
    noise = np.random.default_rng(0).standard_normal((20_000, 1))
    assert effective_samples(noise) == pytest.approx(20_000, rel=0.1)
    chain = np.zeros_like(noise)
    for place in range(1, len(noise)):
        chain[place] = 0.8 * chain[place - 1] + noise[place]
    assert effective_samples(chain) == pytest.approx(20_000 * 0.2 / 1.8, rel=0.2)
