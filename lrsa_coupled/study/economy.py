"""Whether, and for how long, a study should train: by what that costs and what it may still save."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

from lrsa_coupled.guess.interpolated import INTERPOLATED
from lrsa_coupled.guess.record import DEFAULT
from lrsa_coupled.guess.regression import NEAREST

REFERENCES = (NEAREST, INTERPOLATED)
"""Guesses whose errors say how well a model may do."""
FIRST = 32
"""Samples of the first training; the next is at twice as many as the last."""
LARGEST, ONE_MORE = 0.9, 0.7
"""Of a guess for Newton's method: the relative error that counts as no guess at all; iterations on top."""


@dataclass(frozen=True)
class Assumptions:
    """What is taken for granted until it is measured.

    Args:
        first: Error of a first model relative to that of the nearest solution.
        doubled: Error of a model of twice as many samples relative to that of the last.
        inference: Time of a prediction, relative to a default solve.
        loading: Time until a model is in the solver's process, torch included [s].
        contention: Share of its time by which a training on a free core slows the solver.
        share: Of the time of the remaining solves that a training takes.
        early: Samples relative to the remaining solves up to which a first training may wait for more of them.
        shortest: Least time of a training [s].
        longest: Greatest time of a training [s].
    """

    first: float = 0.3
    doubled: float = 0.65
    inference: float = 0.05
    loading: float = 5.0
    contention: float = 0.05
    share: float = 0.25
    early: float = 0.125
    shortest: float = 20.0
    longest: float = 1200.0


ASSUMPTIONS = Assumptions()


@dataclass(frozen=True)
class Situation:
    """What is known of a study.

    Args:
        samples: On disk.
        remaining: Solves to come, as far as one knows.
        costs: Mean time of a solve by choice [s], measured.
        errors: Expected relative error by choice.
        model: Whether there is a model already.
        free_cores: Cores of the machine that no rank uses.
        groups: Groups of ranks that solve at the same time; where no core is free, a training takes that of one.
        progress: Expected error of the next model, relative to that of the last.
    """

    samples: int
    remaining: float
    costs: Mapping[str, float]
    errors: Mapping[str, float]
    model: bool
    free_cores: int
    groups: int = 1
    progress: float = ASSUMPTIONS.doubled


@dataclass(frozen=True)
class Verdict:
    """Seconds to train for, None for not at all, the seconds expected to be saved in all, and why, for people."""

    seconds: float | None
    saved: float
    why: str


def decide(situation: Situation, learned: str) -> Verdict:
    """Decide whether to train a model now; ``learned`` is the name of its guess among the choices."""
    found = ASSUMPTIONS
    costs = {name: cost for name, cost in situation.costs.items() if math.isfinite(cost)}
    if not costs:
        return Verdict(None, 0.0, "no solve has been measured yet")
    best = min(costs, key=costs.__getitem__)
    time = costs[best]
    begin = f"{situation.samples} samples, about {situation.remaining:.0f} solves to come at {time:.3g} s ({best})"
    if situation.free_cores < 1 and situation.groups == 1:
        return Verdict(None, 0.0, f"{begin}: no core is free for a training; run 'lrsa-coupled train' afterwards")
    seconds = min(found.share * situation.remaining * time, found.longest)
    if seconds < found.shortest:
        return Verdict(None, 0.0, f"{begin}: too short for a training, {best} is enough")
    expected = expected_time(situation, costs, learned)
    lost = price(situation, seconds)
    saved = _saved(situation, seconds, time, expected)
    if saved <= lost:  # expectations are rough: what is spent must be expected to come back twice
        return Verdict(None, saved, f"{begin}: a model is not expected to pay ({expected:.3g} s a solve)")
    early = situation.samples <= found.early * situation.remaining * situation.groups
    if situation.free_cores < 1 and not situation.model and early:
        later = dataclasses.replace(situation, remaining=situation.remaining - situation.samples / situation.groups)
        if _saved(later, seconds, time, expected_time(later, costs, learned, twice=True)) > saved:
            return Verdict(None, saved, f"{begin}: a training will save more with twice the samples")
    return Verdict(seconds, saved, f"{begin}: {seconds:.0f} s of training may save {saved:.0f} s ({expected:.3g} s)")


def price(situation: Situation, seconds: float) -> float:
    """Return what a training of some seconds costs the solves beside it [s]."""
    contention = ASSUMPTIONS.contention if situation.free_cores > 0 else 1.0 / situation.groups
    return contention * seconds + (0.0 if situation.model else ASSUMPTIONS.loading)


def _saved(situation: Situation, seconds: float, time: float, expected: float) -> float:
    """Return what a training will have saved in the end, less its price [s]."""
    return (situation.remaining - seconds / time) * (time - expected) - price(situation, seconds)


def worth_loading(situation: Situation) -> bool:
    """Return whether a model that is there should be loaded: what it may save is more than loading takes."""
    times = [cost for cost in situation.costs.values() if math.isfinite(cost)]
    return bool(times) and 0.1 * min(times) * situation.remaining > ASSUMPTIONS.loading


def expected_time(situation: Situation, costs: Mapping[str, float], learned: str, *, twice: bool = False) -> float:
    """Return the expected time of a solve with the next model [s], or of one of ``twice`` the samples.

    Time falls with the logarithm of the error, at the rate measured between the user's own guess and the best one, but
    no faster than the iterations of Newton's method.
    """
    found, errors = ASSUMPTIONS, situation.errors
    known = {name: cost for name, cost in costs.items() if errors.get(name, 0.0) > 0.0}
    default = known.get(DEFAULT, max(costs.values()))
    if situation.model and learned in known:
        base, before = known[learned], errors[learned]
        after = situation.progress * before
    else:
        cheap = {name: cost for name, cost in known.items() if name != learned} or {DEFAULT: default}
        best = min(cheap, key=cheap.__getitem__)
        base, before = cheap[best] + found.inference * default, errors.get(best, 1.0)
        after = found.first * next((errors[name] for name in REFERENCES if name in errors), 1.0)
    after *= found.doubled if twice else 1.0
    slope = base - _rate(known, errors) * math.log(before / after)
    return max(slope, base * newton_iterations(after) / newton_iterations(before), 0.1 * default)


def newton_iterations(error: float) -> float:
    """Return the iterations from a guess of a relative error to 1e-8, if all but ``ONE_MORE`` square the error.

    So many, within 0.7, the cavity needs from guesses of errors of 0.4 to 8 %.
    """
    return ONE_MORE + math.log2(math.log(1e8) / math.log(1.0 / min(error, LARGEST)))


def _rate(known: Mapping[str, float], errors: Mapping[str, float]) -> float:
    """Return the time saved by an error smaller by the factor e."""
    own = errors.get(DEFAULT, 1.0)
    rates = [
        (known[DEFAULT] - cost) / math.log(own / errors[name])
        for name, cost in known.items()
        if DEFAULT in known and name != DEFAULT and errors[name] < 0.9 * own
    ]
    if rates:
        return max(rates)
    return 0.1 * known.get(DEFAULT, 0.0)  # a tenth of a solve, such as half an iteration of five
