"""Means, variances, probabilities, quantiles and sensitivities of an answer, with confidence intervals; no PETSc.

An estimate is a sum of means over sets of independent samples, and its variance the sum of theirs:

* plain Monte Carlo: the answers y;
* multilevel: the coarsest answers, and the differences between each mesh and the next coarser one, on samples of their
  own (Giles 2008);
* multifidelity: answers of all models at the first samples, of the cheaper ones at further ones, too (Peherstorfer,
  Willcox & Gunzburger 2016);
* control variate: y less what cheap predictions z say about it, and the mean of that at further random points w,

      mean(y - (z - mean(w)) b),   b the coefficients that leave least variance.

The samples of a control variate come in folds. Predictions and coefficients of a fold are made without its answers, and
each fold has further points of its own: the estimate has no bias whatever the predictions are, and the spread of what
is left is that of data which the coefficients have not seen. A prediction that is not finite somewhere is left out.

Intervals are Student's, with the degrees of freedom of Welch and Satterthwaite.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt
from scipy import special

Array = npt.NDArray[np.float64]
Function = Callable[[Array], Array]
"""Of answers, elementwise over the samples; what belongs to one sample lies along the last axis."""

LEVEL = 0.95
"""Of the confidence intervals."""

NORMAL = 1.959964
"""Half-width of such an interval in standard errors, of many samples."""

RARE = 14.0
"""Answers for a degree of freedom where predictions interpolate: so they cover, ``tests/faults/test_coverage.py``."""
UNSEEN = 4.0
"""How much more two predictions may differ elsewhere than at few answers, by chance."""


@dataclass(frozen=True)
class Estimate:
    """A number and its confidence interval.

    Args:
        value: The estimate.
        low: Lower end of the interval.
        high: Upper end.
        standard_error: Of the estimate.
        worth: Plain solves whose mean has an interval of this length.
    """

    value: float
    low: float
    high: float
    standard_error: float
    worth: float

    @property
    def half_width(self) -> float:
        """Half the length of the interval."""
        return 0.5 * (self.high - self.low)


@dataclass(frozen=True)
class Part:
    """Independent values whose mean is summed.

    Args:
        values: These.
        lost: Coefficients that were fitted to them.
        floor: What their variance is at least, known from elsewhere.
        rare: Values for a degree of freedom: more where few of them show most of the spread.
    """

    values: Array
    lost: int = 0
    floor: float = 0.0
    rare: float = 1.0

    @property
    def freedom(self) -> float:
        """Degrees of freedom."""
        return max((len(self.values) - 1.0 - self.lost) / self.rare, 1.0)

    @property
    def variance(self) -> float:
        """Estimated variance of the mean; infinite of a single value."""
        if len(self.values) < 2:
            return math.inf
        return max(float(np.var(self.values, ddof=1)), self.floor) / len(self.values)


class Sampled(ABC):
    """Samples of an answer.

    Attributes:
        truth: Answers of the model that counts ``(N, ...)``.
    """

    truth: Array

    @abstractmethod
    def parts(self, of: Function, threshold: float | None = None) -> list[Part]:
        """Return what is summed to the mean of a function, with a ``threshold`` that of being above it."""


@final
class Plain(Sampled):
    """Plain Monte Carlo."""

    def __init__(self, truth: Array) -> None:
        self.truth = truth

    def parts(self, of: Function, threshold: float | None = None) -> list[Part]:
        return [Part(of(self.truth))]


@final
class Multilevel(Sampled):
    """Answers ``(N, 2)`` of each mesh and the next coarser one on the same samples; ``(N, 1)`` of the coarsest."""

    def __init__(self, levels: Sequence[Array]) -> None:
        self.levels, self.truth = levels, levels[-1][:, 0]

    def parts(self, of: Function, threshold: float | None = None) -> list[Part]:
        differences = [of(pair[:, 0]) - (of(pair[:, 1]) if pair.shape[1] > 1 else 0.0) for pair in self.levels]
        return [Part(each, floor=_floor(each, threshold)) for each in differences]


@final
class Multifidelity(Sampled):
    """Answers of the models, the one that counts first, at the first samples each; the others have more and more."""

    def __init__(self, models: Sequence[Array]) -> None:
        counts = [len(each) for each in models]
        if any(more < less for less, more in itertools.pairwise(counts)):
            raise ValueError(f"multifidelity: each model needs as many samples as the one before, got {counts}")
        self.models, self.truth = models, models[0]

    def parts(self, of: Function, threshold: float | None = None) -> list[Part]:
        values = [of(each) for each in self.models]
        counts = [len(each) for each in values]
        shares = np.zeros(counts[-1])
        shares[: counts[0]] = values[0] / counts[0]
        for before, count, own in zip(counts, counts[1:], values[1:], strict=False):
            coefficient = _coefficients(own[: counts[0], None], values[0])[0]
            shares[:count] += coefficient * own / count
            shares[:before] -= coefficient * own[:before] / before
        ends = sorted({*counts})
        blocks = [shares[start:end] for start, end in zip([0, *ends], ends, strict=False)]
        first = len(values) - 1
        return [
            Part(len(block) * block, lost=0 if number else first, floor=_floor(block, threshold))
            for number, block in enumerate(blocks)
        ]


@final
class Controlled(Sampled):
    """Answers and predictions.

    Args:
        truth: Answers ``(N, ...)``.
        cheap: Predictions of them ``(N, L, ...)``, of each fold by models that have not seen its answers.
        further: For each fold its models' predictions ``(M_k, L, ...)`` at further random points.
        folds: Number of the fold of each answer ``(N,)``.
        replicates: Blocks of each fold's further points that are independent, where the points themselves are not:
            randomised quasi-Monte Carlo. None where all are.
        expected: Variance that predictions expect of their errors at the answers ``(N, L)`` and on average ``(L,)``, of
            those that interpolate, 0 of others. Few answers show such errors, which are rare and large: the average,
            times what the answers show over what is expected there where that is more, is left at least of their part
            in the control variate, and by that part there is one degree of freedom for up to ``RARE`` answers. Where
            others differ from those far more at further points than at the answers, the answers do not show their
            errors either: what they differ by more than ``UNSEEN`` times is left of their part.
        quick: What quick models of these models say at the further points.
        beyond: What they say at many more points ``(M'_k, L, ...)``: the mean of a prediction is that of its difference
            to the quick one, plus the mean of this one there. Both empty without them.
    """

    def __init__(self, truth: Array, cheap: Array, further: Sequence[Array], folds: npt.NDArray[np.intp], *,
                 replicates: int | None = None, expected: tuple[Array, Array] | None = None,
                 quick: Sequence[Array] = (), beyond: Sequence[Array] = ()) -> None:  # fmt: skip
        finite = np.isfinite(cheap).all(axis=tuple(i for i in range(cheap.ndim) if i != 1))
        for each in (*further, *quick, *beyond):
            finite &= np.isfinite(each).all(axis=tuple(i for i in range(each.ndim) if i != 1))
        self.truth, self.folds, self.replicates = truth, folds, replicates
        self.cheap, self.further = cheap[:, finite], [each[:, finite] for each in further]
        self.quick, self.beyond = ([each[:, finite] for each in part] for part in (quick, beyond))
        self.expected = None if expected is None else (expected[0][:, finite], expected[1][finite])

    def parts(self, of: Function, threshold: float | None = None) -> list[Part]:
        if not self.cheap.shape[1]:
            return [Part(of(self.truth))]
        left, rest, chances, used = of(self.truth).astype(np.float64), [], [], np.zeros(self.cheap.shape[1])
        for fold, further in enumerate(self.further):
            mine = self.folds == fold
            predict = of if threshold is None else self._chance(~mine, threshold)
            own, others = predict(self.cheap[mine]), predict(further)
            function = of if threshold is None else lambda values: values
            coefficients = coefficients_for(function(self.cheap[~mine]), function(self.truth[~mine]))
            used += mine.mean() * coefficients**2
            if threshold is not None:  # a chance as it is: answers above a threshold may be too few to fit one
                coefficients = np.ones(1)
            sums = [others - predict(self.quick[fold]), predict(self.beyond[fold])] if self.quick else [others]
            left[mine] -= (own - sum(each.mean(axis=0) for each in sums)) @ coefficients
            for each in sums:
                values = mine.mean() * ((each - each.mean(axis=0)) @ coefficients)
                rest.append(Part(values.reshape(self.replicates or len(values), -1).mean(axis=1)))
            chances.append(float(np.mean(others * (1.0 - others))) if threshold is not None else 0.0)
        share, rare = self._expected(used)
        floor = max(float(np.mean(chances)), share * float(np.var(of(self.truth), ddof=1)))
        return [Part(left, lost=self.cheap.shape[1], floor=floor, rare=rare), *rest]

    def _expected(self, used: Array) -> tuple[float, float]:
        """Return the share of the truth's variance that is expected to be left, and answers for a degree of freedom.

        ``used``: squares of the coefficients of the predictions.
        """
        if self.expected is None:
            return 0.0, 1.0
        own, average = self.expected
        expects = average > 0.0
        rare = 1.0 + (RARE - 1.0) * min(float(used[expects].sum()), 1.0)
        if self.truth.ndim > 1:
            return 0.0, rare
        seen = np.var(self.truth[:, None] - self.cheap[:, expects], axis=0)
        times = np.maximum(seen / np.maximum(own[:, expects].mean(axis=0), 1e-300), 1.0)
        left = float(used[expects] @ (times * average[expects]))
        if expects.any():
            left += float(used[~expects] @ self._unseen(expects))
        return min(left / max(float(np.var(self.truth, ddof=1)), 1e-300), 1.0), rare

    def _unseen(self, expects: npt.NDArray[np.bool_]) -> Array:
        """Return how much more others differ from the first that expects at further points than at the answers."""
        differ = [each[:, ~expects] - each[:, expects][:, :1] for each in (self.cheap, *self.further)]
        here, *there = (np.mean(each**2, axis=0) for each in differ)
        return np.maximum(np.mean(there, axis=0) - UNSEEN * here, 0.0)

    def _chance(self, known: npt.NDArray[np.bool_], threshold: float) -> Function:
        """Return what takes predictions to the chance ``(n, 1)`` of an answer above a threshold."""
        truth, cheap = self.truth[known], self.cheap[known]
        slopes = _coefficients(cheap, truth)
        middle = truth.mean() - cheap.mean(axis=0) @ slopes
        spread = float(np.std(truth - cheap @ slopes, ddof=min(1 + len(slopes), len(truth) - 1)))
        return lambda values: special.ndtr((middle + values @ slopes - threshold) / max(spread, 1e-300))[:, None]


def mean(sampled: Sampled, of: Function | None = None) -> Estimate:
    """Estimate the mean of the answer, or of a function of it."""
    of = of or (lambda values: values)
    return _estimate(sampled.parts(of), plain=float(np.var(of(sampled.truth), ddof=1)))


def variance(sampled: Sampled) -> Estimate:
    """Estimate the variance; the interval is symmetric for its logarithm."""
    centre = mean(sampled)
    found = mean(sampled, lambda values: (values - centre.value) ** 2)
    value = found.value + centre.standard_error**2
    if not value > 0.0:
        return Estimate(max(value, 0.0), 0.0, max(found.high, 0.0), found.standard_error, found.worth)
    factor = math.exp(min(found.half_width / value, 700.0))
    return Estimate(value, value / factor, value * factor, found.standard_error, found.worth)


def deviation(sampled: Sampled) -> Estimate:
    """Estimate the standard deviation."""
    found = variance(sampled)
    value, low, high = (math.sqrt(each) for each in (found.value, found.low, found.high))
    error = found.standard_error / (2.0 * value) if value > 0.0 else math.inf
    return Estimate(value, low, high, error, found.worth)


def probability(sampled: Sampled, threshold: float) -> Estimate:
    """Estimate the probability of an answer above a threshold; of plain answers the interval is exact.

    Where hardly an answer is, the spread of what a control variate leaves is at least that by its own chances.

    Source: Clopper & Pearson (1934), Biometrika 26.
    """
    count = len(sampled.truth)
    found = _estimate(sampled.parts(lambda values: (values > threshold).astype(np.float64), threshold), plain=0.0)
    value = min(max(found.value, 0.0), 1.0)
    worth = _worth(value * (1.0 - value), found.half_width) if found.standard_error > 0.0 else float(count)
    low, high = max(found.low, 0.0), min(found.high, 1.0)
    if isinstance(sampled, Controlled) and sampled.cheap.shape[1]:
        unseen = 3.0 / count  # the rule of three: where no solve is, predictions alone say nothing
        low, high = min(low, 1.0 - unseen), max(high, unseen)
    if isinstance(sampled, Plain):
        hits, tail = round(value * count), 0.5 * (1.0 - LEVEL)
        low = float(special.betaincinv(hits, count - hits + 1, tail)) if hits else 0.0
        high = float(special.betaincinv(hits + 1, count - hits, 1.0 - tail)) if hits < count else 1.0
    return Estimate(value, low, high, found.standard_error, worth)


def quantile(sampled: Sampled, share: float) -> Estimate:
    """Estimate the value that a share of answers is below; ends are where it leaves its interval, or infinite.

    Source: Woodruff (1952), J. Am. Stat. Assoc. 47.
    """
    if not 0.0 < share < 1.0:
        raise ValueError(f"a quantile is of a share between 0 and 1, got {share}")
    spread = float(np.ptp(sampled.truth)) or 1.0
    ends = float(np.min(sampled.truth)) - spread, float(np.max(sampled.truth)) + spread
    value, low, high = (_crossing(sampled, name, 1.0 - share, ends) for name in ("value", "low", "high"))
    error = 0.5 * (high - low) / float(special.ndtri(0.5 + 0.5 * LEVEL))
    return Estimate(value, low, high, error, probability(sampled, value).worth if math.isfinite(error) else 0.0)


def _estimate(parts: Sequence[Part], *, plain: float) -> Estimate:
    """Sum the means of parts; ``plain`` is the variance of a single answer."""
    value = float(sum(part.values.mean() for part in parts))
    variances = [part.variance for part in parts]
    total = sum(variances)
    if not math.isfinite(total):
        return Estimate(value, -math.inf, math.inf, math.inf, 0.0)
    if total == 0.0:
        return Estimate(value, value, value, 0.0, math.inf)
    freedom = total**2 / sum(each**2 / part.freedom for each, part in zip(variances, parts, strict=True))
    error = math.sqrt(total)
    width = float(special.stdtrit(freedom, 0.5 + 0.5 * LEVEL)) * error
    return Estimate(value, value - width, value + width, error, _worth(plain, width))


def _worth(plain: float, half_width: float) -> float:
    """Return the plain solves of this variance whose interval, with Student's quantile, has a half-width."""
    count = math.inf
    for _ in range(20):
        count = plain * float(special.stdtrit(max(count - 1.0, 4.0), 0.5 + 0.5 * LEVEL) / half_width) ** 2
    return count


def _coefficients(cheap_NL: Array, truth_N: Array) -> Array:
    """Return the coefficients of predictions that leave least variance; zeros for constant predictions."""
    return _fitted(cheap_NL, truth_N)[0]


def coefficients_for(cheap_NL: Array, truth_N: Array) -> Array:
    """Return such coefficients as far as the answers show that the best prediction as it is, 1 and 0, is no better.

    The last prediction is taken alone, as it is, unless another leaves half of what it leaves at most: between equals
    the errors of that are expected, see ``Controlled``.
    Errors that are rare and large would else move the coefficients more than they are worth. The distance is measured
    by a covariance that holds whatever the distribution of the errors is, and two a coefficient are taken off it.

    Source: MacKinnon & White (1985), J. Econometrics 29, HC3.
    """
    fitted, centred, scale = _fitted(cheap_NL, truth_N)
    as_it_is, alone = np.zeros(cheap_NL.shape[1]), np.var(truth_N[:, None] - cheap_NL, axis=0)
    if len(alone) > 1 and alone[:-1].min() > 0.5 * alone[-1]:
        as_it_is[-1] = 1.0
        return as_it_is
    as_it_is[int(np.argmin(alone))] = 1.0
    used = scale > 0.0
    scaled, away = centred[:, used] / scale[used], ((fitted - as_it_is) * scale)[used]
    inverse = np.linalg.pinv(scaled.T @ scaled, rcond=1e-8)
    leverage = np.einsum("nl,lk,nk->n", scaled, inverse, scaled) + 1.0 / len(scaled)
    left = truth_N - truth_N.mean() - centred @ fitted
    moved = scaled * (left / np.maximum(1.0 - leverage, 1e-3))[:, None] @ inverse
    distance = float(away @ np.linalg.pinv(moved.T @ moved, rcond=1e-8, hermitian=True) @ away)
    share = max(1.0 - 2.0 * used.sum() / distance, 0.0) if distance > 0.0 else 1.0
    return as_it_is + share * (fitted - as_it_is)


def _fitted(cheap_NL: Array, truth_N: Array) -> tuple[Array, Array, Array]:
    """Return coefficients by least squares, predictions less their means, and the norms of these, 0 of constants."""
    centred = cheap_NL - cheap_NL.mean(axis=0)
    scale = np.linalg.norm(centred, axis=0)
    used = scale > 1e-12 * np.linalg.norm(cheap_NL, axis=0)
    result = np.zeros(cheap_NL.shape[1])
    if used.any() and len(truth_N) > used.sum() + 1:
        scaled = centred[:, used] / scale[used]
        result[used] = np.linalg.lstsq(scaled, truth_N - truth_N.mean(), rcond=1e-8)[0] / scale[used]
    return result, centred, np.where(used, scale, 0.0)


def _floor(values: Array, threshold: float | None) -> float:
    """Return the least variance of differences of indicators, by the rule of three where all are the same."""
    return 3.0 / len(values) if threshold is not None and np.ptp(values) == 0.0 else 0.0


def _crossing(sampled: Sampled, name: str, share: float, ends: tuple[float, float]) -> float:
    """Return where an end of the interval of the probability, which falls, crosses a share; infinite for nowhere."""
    low, high = ends
    for _ in range(30):
        middle = 0.5 * (low + high)
        if getattr(probability(sampled, middle), name) > share:
            low = middle
        else:
            high = middle
    return -math.inf if low == ends[0] else math.inf if high == ends[1] else 0.5 * (low + high)
