"""Estimates on models with known statistics: coverage of the intervals, no bias, and what bad predictions cost."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from lrsa_coupled.study import allocation
from lrsa_coupled.study.quasi import quasi_samples
from lrsa_coupled.study.sobol import sobol
from lrsa_coupled.study.statistics import (
    Controlled,
    Estimate,
    Multifidelity,
    Multilevel,
    Plain,
    Sampled,
    deviation,
    mean,
    probability,
    quantile,
    variance,
)

REPEATS, SOLVES, FURTHER, FOLDS = 300, 60, 1000, 5
COVERED = (0.92, 0.98)


def answers(rng: np.random.Generator, count: int) -> np.ndarray:
    """A skew answer of mean 1 and variance 1.5."""
    x, y = rng.standard_normal((2, count))
    return x + 0.5 * y**2 + 0.5


PREDICTIONS: dict[str, Callable[[np.random.Generator, np.ndarray], np.ndarray]] = {
    "good": lambda rng, y: y + 0.1 * rng.standard_normal(len(y)),
    "biased": lambda rng, y: 0.8 * y - 3.0 + 0.2 * rng.standard_normal(len(y)),
    "useless": lambda rng, y: rng.standard_normal(len(y)),
    "constant": lambda rng, y: np.full(len(y), 7.0),
    "not a number": lambda rng, y: np.where(np.arange(len(y)) == 0, np.nan, y),
}


def controlled(rng: np.random.Generator, *kinds: str, solves: int = SOLVES, further: int = FURTHER) -> Controlled:
    y, rest = answers(rng, solves), [answers(rng, further // FOLDS) for _ in range(FOLDS)]
    cheap = np.stack([PREDICTIONS[kind](rng, y) for kind in kinds], axis=1)
    others = [np.stack([PREDICTIONS[kind](rng, each) for kind in kinds], axis=1) for each in rest]
    return Controlled(y, cheap, others, np.arange(solves) % FOLDS)


def plain(rng: np.random.Generator) -> Sampled:
    return Plain(answers(rng, SOLVES))


def multilevel(rng: np.random.Generator) -> Sampled:
    y, z = (answers(rng, count) for count in (SOLVES, 400))
    return Multilevel([PREDICTIONS["good"](rng, z)[:, None], np.stack([y, PREDICTIONS["good"](rng, y)], axis=1)])


def multifidelity(rng: np.random.Generator) -> Sampled:
    y = answers(rng, 800)
    return Multifidelity([y[:SOLVES], PREDICTIONS["good"](rng, y)[:200], PREDICTIONS["biased"](rng, y)])


def repeated(make: Callable[[np.random.Generator], Sampled], estimate: Callable[[Sampled], Estimate],
             repeats: int = REPEATS) -> list[Estimate]:  # fmt: skip
    rng = np.random.default_rng(5)
    return [estimate(make(rng)) for _ in range(repeats)]


def check(found: list[Estimate], exact: float) -> None:
    """The intervals cover in 92 to 98 of 100 cases, errors are what they say, and there is no bias."""
    values, errors = (np.array([getattr(each, name) for each in found]) for name in ("value", "standard_error"))
    share = np.mean([each.low <= exact <= each.high for each in found])
    assert COVERED[0] <= share <= COVERED[1]
    assert np.std(values) == pytest.approx(np.sqrt(np.mean(errors**2)), rel=0.2)
    assert np.mean(values) == pytest.approx(exact, abs=3.5 * np.std(values) / math.sqrt(len(found)))


@pytest.mark.parametrize("make", [plain, multilevel, multifidelity])
def test_mean(make: Callable[[np.random.Generator], Sampled]) -> None:
    check(repeated(make, mean), 1.0)


@pytest.mark.parametrize("kinds", [("good",), ("biased", "good"), ("useless",), ("constant",), ("not a number",)])
def test_mean_with_a_control_variate(kinds: tuple[str, ...]) -> None:
    """Whatever the predictions are; useless ones cost at most 10 %, good ones are worth many solves."""
    found = repeated(lambda rng: controlled(rng, *kinds), mean)
    check(found, 1.0)
    worth = np.mean([each.worth for each in found]) / SOLVES
    assert worth > 10.0 if "good" in kinds else 1.0 / 1.1 < worth < 1.1


def test_quasi_random_samples() -> None:
    """As distributed as random ones, more of them begin with the same; the mean of a smooth function is far better."""

    def draw(rng: np.random.Generator) -> tuple[float, ...]:
        pair, number = rng.normal([1.0, 2.0], 0.5), rng.integers(3)
        return (*pair.tolist(), float(rng.uniform(2.0, 4.0)), float(rng.standard_normal()), int(number))

    few, many = (quasi_samples(draw, count, entropy=[1, 2]) for count in (256, 1024))
    assert few == many[:256] and few != quasi_samples(draw, 256, entropy=[1, 3])
    table = np.array(many)
    assert table[:, :4].mean(axis=0) == pytest.approx([1.0, 2.0, 3.0, 0.0], abs=5e-3)
    assert table[:, :4].std(axis=0) == pytest.approx([0.5, 0.5, 1.0 / math.sqrt(3.0), 1.0], rel=2e-2)
    assert set(table[:, 4]) == {0.0, 1.0, 2.0}
    long = quasi_samples(lambda rng: rng.random(100), 64, entropy=[0])
    assert np.shape(long) == (64, 100) and 0.4 < np.mean([each[80:] for each in long]) < 0.6


def test_mean_with_quasi_random_points() -> None:
    def answer(rng: np.random.Generator) -> float:
        x, y = rng.standard_normal(2)
        return x + 0.5 * y**2 + 0.5

    numbers = itertools.count()

    def make(rng: np.random.Generator) -> Sampled:
        y = answers(rng, SOLVES)
        blocks = [[quasi_samples(answer, 64, entropy=[next(numbers), 7]) for _ in range(4)] for _ in range(FOLDS)]
        further = [0.9 * np.ravel(each)[:, None] for each in blocks]
        cheap = 0.9 * y + 0.05 * rng.standard_normal(SOLVES)
        return Controlled(y, cheap[:, None], further, np.arange(SOLVES) % FOLDS, replicates=4)

    found = repeated(make, mean, repeats=40)
    assert 0.85 <= np.mean([each.low <= 1.0 <= each.high for each in found]) <= 1.0
    assert np.mean([each.worth for each in found]) > 2.0 * 64 * 4 * FOLDS  # as many random points


@pytest.mark.parametrize(("quick", "gain"), [("good", 4.0), ("useless", 0.4)])
def test_mean_with_a_quick_model_of_the_predictions(quick: str, gain: float) -> None:
    """Unbiased whatever it says; a good one stands for many more points, a useless one costs little."""

    def made(rng: np.random.Generator, *, with_quick: bool) -> Controlled:
        y, (here, there) = answers(rng, SOLVES), ([answers(rng, count) for _ in range(FOLDS)] for count in (40, 4000))
        cheap, further = (y + 0.05 * rng.standard_normal(SOLVES))[:, None], [each[:, None] for each in here]
        if not with_quick:
            return Controlled(y, cheap, further, np.arange(SOLVES) % FOLDS)
        says = [[PREDICTIONS[quick](rng, each)[:, None] for each in part] for part in (here, there)]
        return Controlled(y, cheap, further, np.arange(SOLVES) % FOLDS, quick=says[0], beyond=says[1])

    found = repeated(lambda rng: made(rng, with_quick=True), mean)
    check(found, 1.0)
    without = repeated(lambda rng: made(rng, with_quick=False), mean, repeats=20)
    assert np.mean([each.worth for each in found]) > gain * np.mean([each.worth for each in without])


def test_rare_large_errors_do_not_move_the_coefficient() -> None:
    """Predictions that miss the tail, either way, are taken as they are; a factor of their own is still found."""

    def drawn(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        y = np.exp(0.6 * rng.standard_normal(shape))
        return np.stack([y, y + 0.05 * y**2 * rng.standard_normal(shape)])

    pair, found = drawn(np.random.default_rng(0), (10**6,)), {1.0: [], 0.5: []}
    for seed in range(200):
        rng = np.random.default_rng([1, seed])
        (y, cheap), (_, rest) = drawn(rng, (32,)), drawn(rng, (FOLDS, 2000))
        for factor, values in found.items():
            further = [factor * each[:, None] for each in rest]
            values.append(mean(Controlled(y, factor * cheap[:, None], further, np.arange(32) % FOLDS)).value)
    spread = float(np.sqrt(np.var(pair[1] - pair[0]) / 32 + np.var(pair[1]) / (FOLDS * 2000)))
    assert np.std(found[1.0]) < spread and np.std(found[0.5]) < 1.4 * spread < 0.4 * np.std(pair[0]) / math.sqrt(32)


def test_errors_that_predictions_expect_and_few_answers_do_not_show() -> None:
    """As much is left at least, more where the answers show more than is expected there; no more than the variance."""
    rng = np.random.default_rng(0)
    y, rest = rng.standard_normal(50), rng.standard_normal((FOLDS, 20_000))
    cheap, own = (y + 1e-2 * rng.standard_normal(50))[:, None], np.full((50, 1), 1e-4)
    found = [
        mean(Controlled(y, cheap, list(rest[:, :, None]), np.arange(50) % FOLDS, expected=expected))
        for expected in (None, *((own / less, np.array([a])) for less, a in ((1, 1e-9), (1, 0.1), (3, 0.1), (1, 1e9))))
    ]
    errors = [each.standard_error for each in found]
    assert errors[0] == errors[1] < errors[2] < errors[3] < errors[4] < 1.5 / math.sqrt(50)
    assert found[1].half_width > found[0].half_width and found[1].worth < found[0].worth


def test_a_biased_prediction_counts_as_much_as_a_good_one() -> None:
    (found,) = repeated(lambda rng: controlled(rng, "biased"), mean, repeats=1)
    assert found.worth > 5.0 * SOLVES


@pytest.mark.parametrize("kind", [None, "good", "useless"])
def test_variance(kind: str | None) -> None:
    def make(rng: np.random.Generator) -> Sampled:
        return Plain(answers(rng, 800)) if kind is None else controlled(rng, kind, solves=800, further=20_000)

    found = repeated(make, variance, repeats=200)
    assert COVERED[0] <= np.mean([each.low <= 1.5 <= each.high for each in found]) <= COVERED[1]
    assert np.mean([each.value for each in found]) == pytest.approx(1.5, rel=0.02)
    other = deviation(make(np.random.default_rng(0)))
    assert other.low**2 < 1.5 < other.high**2


@pytest.mark.parametrize(("chance", "kind"), [(0.1, "good"), (0.1, "useless"), (1e-3, "good"), (0.1, None)])
def test_probability(chance: float, kind: str | None) -> None:
    """Of a normal answer; a rare event, of which hardly a solve shows anything, is within its interval, too."""
    threshold, repeats = float(stats.norm.isf(chance)), 200

    def make(rng: np.random.Generator) -> Sampled:
        y, rest = rng.standard_normal(400), rng.standard_normal((FOLDS, 8000))
        if kind is None:
            return Plain(y)
        cheap, further = (PREDICTIONS[kind](rng, each.ravel()).reshape(each.shape) for each in (y, rest))
        return Controlled(y, cheap[:, None], list(further[:, :, None]), np.arange(400) % FOLDS)

    found = repeated(make, lambda sampled: probability(sampled, threshold), repeats=repeats)
    covered = np.mean([each.low <= chance <= each.high for each in found])
    assert covered >= 0.92 and (chance < 0.01 or covered <= 0.985)
    values = np.array([each.value for each in found])
    assert values.mean() == pytest.approx(chance, abs=3.5 * values.std() / math.sqrt(repeats))
    if kind == "good":
        assert np.mean([each.worth for each in found]) > (5.0 if chance == 0.1 else 2.0) * 400


def test_what_no_prediction_shows_is_not_impossible() -> None:
    y, rest = np.linspace(0.0, 1.0, 50), np.tile(np.linspace(0.0, 1.0, 200), (FOLDS, 1))
    sampled = Controlled(y, y[:, None], list(rest[:, :, None]), np.arange(50) % FOLDS)
    above, below = (probability(sampled, threshold) for threshold in (100.0, -100.0))
    assert (above.value, above.high) == (0.0, 0.06) and (below.value, below.low) == (1.0, 0.94)


def test_quantile() -> None:
    exact = float(stats.norm.ppf(0.9))

    def make(rng: np.random.Generator) -> Sampled:
        y, rest = rng.standard_normal(200), rng.standard_normal((FOLDS, 400))
        return Controlled(y, (y + 0.1)[:, None], list((rest + 0.1)[:, :, None]), np.arange(200) % FOLDS)

    found = repeated(make, lambda sampled: quantile(sampled, 0.9), repeats=10)
    assert sum(each.low <= exact <= each.high for each in found) >= 8
    assert all(each.worth > 200 for each in found)
    with pytest.raises(ValueError, match=r"a share between 0 and 1, got 1\.5"):
        quantile(make(np.random.default_rng(0)), 1.5)


def ishigami(x: np.ndarray) -> np.ndarray:
    return np.sin(x[..., 0]) + 7.0 * np.sin(x[..., 1]) ** 2 + 0.1 * x[..., 2] ** 4 * np.sin(x[..., 0])


def pick_freeze(rng: np.random.Generator, count: int) -> np.ndarray:
    """Points ``(count, 5, 3)``: A, B, and A with one coordinate from B."""
    a, b = rng.uniform(-np.pi, np.pi, (2, count, 3))
    mixed = [np.where(np.arange(3) == i, b, a) for i in range(3)]
    return np.stack([a, b, *mixed], axis=1)


@pytest.mark.parametrize("worth", [1.0, 3.0])
def test_sobol_indices_of_ishigami(worth: float) -> None:
    """The indices lie within their intervals, and predictions, here with one term missing, make these smaller."""
    exact = [(0.3139, 0.5576), (0.4424, 0.4424), (0.0, 0.2437)]

    def cheap(points: np.ndarray) -> np.ndarray:
        return ishigami(points) + 0.2 * np.cos(points[..., 0] * points[..., 1])

    def make(rng: np.random.Generator) -> Sampled:
        x = pick_freeze(rng, 400)
        if worth == 1.0:
            return Plain(ishigami(x))
        rest = [cheap(pick_freeze(rng, 2000))[:, None] for _ in range(FOLDS)]
        return Controlled(ishigami(x), cheap(x)[:, None], rest, np.arange(400) % FOLDS)

    rng, covered, gains = np.random.default_rng(2), [], []
    for _ in range(12):
        sampled = make(rng)
        for number, pair in enumerate(exact):
            for found, value in zip(sobol(sampled, number), pair, strict=True):
                covered.append(found.low <= value <= found.high)
                gains.append(found.worth / 400)
    assert np.mean(covered) > 0.92
    assert np.mean(gains) >= worth - 1e-6


def test_sobol_indices_of_a_constant_are_unknown() -> None:
    first, total = sobol(Plain(np.ones((10, 3))), 0)
    assert math.isnan(first.value) and math.isnan(total.value) and total.high == math.inf


def test_multifidelity_needs_more_and_more_samples() -> None:
    with pytest.raises(ValueError, match=r"as many samples as the one before, got \[5, 3\]"):
        Multifidelity([np.zeros(5), np.zeros(3)])


def pilot() -> np.ndarray:
    rng = np.random.default_rng(0)
    y = rng.standard_normal(20_000)
    return np.stack([y, y + 0.05 * rng.standard_normal(len(y)), y + 0.3 * rng.standard_normal(len(y))], axis=1)


def test_allocations() -> None:
    """They meet the target, and neighbouring ones that meet it cost no less."""
    table, costs, target = pilot(), [1.0, 0.1, 0.01], 1e-4
    spread = np.var(table[:, 0], ddof=1)
    plain = allocation.monte_carlo(spread, costs[0], target)
    assert plain.counts == (math.ceil(spread / target),)
    levels = allocation.multilevel(table, costs, target)
    assert levels.models == (0, 1, 2) and levels.cost < plain.cost / 5.0
    differences = [np.var(table[:, 0] - table[:, 1]), np.var(table[:, 1] - table[:, 2]), np.var(table[:, 2])]
    assert sum(v / n for v, n in zip(differences, levels.counts, strict=True)) == pytest.approx(target, rel=0.05)
    several = allocation.multifidelity(table, costs, target)
    assert several.models[0] == 0 and several.cost < levels.cost
    rho = np.corrcoef(table, rowvar=False)[0]

    def reached(counts: tuple[int, ...]) -> float:
        pairs = zip(itertools.pairwise(counts), several.models[1:], strict=True)
        return spread * (1.0 / counts[0] - sum((1.0 / a - 1.0 / b) * rho[i] ** 2 for (a, b), i in pairs))

    assert reached(several.counts) == pytest.approx(target, rel=0.05)
    for place, factor in itertools.product(range(len(several.counts)), (0.8, 1.25)):
        counts = tuple(int(n * factor) if i == place else n for i, n in enumerate(several.counts))
        scale = reached(counts) / target
        assert scale * sum(n * costs[i] for n, i in zip(counts, several.models, strict=True)) > 0.97 * several.cost
    useless = allocation.multifidelity(np.random.default_rng(0).standard_normal((500, 2)), [1.0, 0.5], target)
    assert useless.models == (0,)


def test_allocation_of_a_control_variate() -> None:
    """Peherstorfer's ratio of costs; solves that exist already save others."""
    left, cheap, target = 0.01, 1e-3, 1e-4
    solves, further = allocation.controlled(1.0, left, cost=1.0, cheap=cheap, target=target)
    assert left / solves + (1.0 - left) / further == pytest.approx(target, rel=0.02)
    ratio = (math.sqrt(left) + math.sqrt(cheap * (1.0 - left))) ** 2
    assert (solves + cheap * further) * target == pytest.approx(ratio, rel=0.02)
    more, fewer = allocation.controlled(1.0, left, cost=1.0, cheap=cheap, target=target, least=500)
    assert more == 500 and fewer < further
