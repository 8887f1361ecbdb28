"""Arrangement of samples into generations and chains."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass

import numpy as np

from lrsa_coupled.config import GenerateConfig
from lrsa_coupled.generation.plan import FIRST_GENERATION, Chain, in_order, plan


@dataclass(frozen=True)
class Parameters:
    place: float
    seed: int
    tail: tuple[float, float] = (0.0, 0.0)


class Line:
    """What ``plan`` needs of a case: samples at shuffled places on a line."""

    trajectory = None
    places = np.random.default_rng(1).permutation(40).astype(float)

    def sample(self, rng: np.random.Generator) -> Parameters:
        return Parameters(float(rng.uniform()), int(rng.integers(1000)))


CHAINED = GenerateConfig(samples=10, reuse="setup", samples_per_chain=4)


def test_each_sample_follows_its_nearest_neighbour() -> None:
    ends_first = np.sort(Line.places)
    shuffled = [
        Parameters(p, seed)
        for seed, p in enumerate([ends_first[0], *np.random.default_rng(2).permutation(ends_first[1:])])
    ]
    assert [shuffled[i].place for i in in_order(shuffled)] == sorted(p.place for p in shuffled)


def test_seeds_do_not_count_and_tuples_are_scaled_as_a_whole() -> None:
    rng = np.random.default_rng(3)
    samples = [
        Parameters(0.0, int(rng.integers(10**9)), (float(a), float(1e-3 * b))) for a, b in rng.standard_normal((50, 2))
    ]
    found = in_order(samples)
    steps = [abs(samples[a].tail[0] - samples[b].tail[0]) for a, b in itertools.pairwise(found)]
    assert np.median(steps) < 0.15 < np.median(np.abs(np.diff([s.tail[0] for s in samples])))


def test_single_samples_without_chains() -> None:
    (generation,) = plan(Line(), GenerateConfig(samples=10), [7, 2], seed=0)
    assert generation.chains == (Chain((2,), frozenset({2})), Chain((7,), frozenset({7})))
    assert plan(Line(), GenerateConfig(samples=10), [], seed=0) == []


def test_a_chain_is_solved_again_up_to_its_last_missing_sample() -> None:
    (generation,) = plan(Line(), CHAINED, [1, 2, 9], seed=0)
    assert generation.chains == (Chain((0, 1, 2), frozenset({1, 2})), Chain((8, 9), frozenset({9})))


def test_sorted_chains_hold_every_sample_once_and_do_not_depend_on_what_is_missing() -> None:
    settings = dataclasses.replace(CHAINED, samples=30, sort=True)
    (whole,) = plan(Line(), settings, range(30), seed=0)
    assert sorted(i for chain in whole.chains for i in chain.indices) == list(range(30))
    assert whole.chains[0].indices != (0, 1, 2, 3)
    lost = whole.chains[3].indices[2]
    (part,) = plan(Line(), settings, [lost], seed=0)
    assert part.chains == (Chain(whole.chains[3].indices[:3], frozenset({lost})),)


def test_generations_double() -> None:
    found = plan(
        Line(), GenerateConfig(samples=3 * FIRST_GENERATION, guess="nearest"), range(3 * FIRST_GENERATION), seed=0
    )
    assert [(g.first, len(g.chains)) for g in found] == [(0, FIRST_GENERATION), (FIRST_GENERATION, FIRST_GENERATION),
                                                         (2 * FIRST_GENERATION, FIRST_GENERATION)]  # fmt: skip
