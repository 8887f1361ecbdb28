"""Methods of an estimate: what solves and predictions it takes, what that costs, and the samples it is made of."""

from __future__ import annotations

import dataclasses
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from operator import itemgetter
from typing import TYPE_CHECKING, Any, final

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from lrsa_coupled.study import allocation, surrogates
from lrsa_coupled.study.allocation import Allocation
from lrsa_coupled.study.pilot import AFTER, Study, shared
from lrsa_coupled.study.quasi import quasi_samples
from lrsa_coupled.study.solves import Answer, Ask
from lrsa_coupled.study.statistics import NORMAL, Controlled, Multifidelity, Multilevel, Plain, Sampled, mean
from lrsa_coupled.study.surrogates import GaussianProcess, OperatorReadout, Surrogate, predicted_by

if TYPE_CHECKING:
    from lrsa_coupled.coupling.predictor import Predictor

Array = npt.NDArray[np.float64]
Predict = Callable[[Sequence[Any]], Array]
Fitted = tuple[Predict, Predict | None, Predict]

FOLDS = 5
"""Of a surrogate that is fitted to the solves that it corrects."""

APART = 10**8
"""Between the indices of the samples of one difference of multilevel Monte Carlo and those of the next."""

FURTHER, MOST, BLOCKS = 256, 2**17, 4
"""Cheap evaluations of a fold at first, of all folds at most; blocks of those of a fold that are independent."""

LEARNT, BEYOND = 512, 16
"""Predictions of an operator that a quick model learns; its own, for each of the operator's."""


class Method(ABC):
    """A method, for a study whose pilot is solved. ``target`` is the variance of the first quantity's estimate."""

    name: str
    least = 0
    """Samples at least, those that the last result was made of."""

    def __init__(self, study: Study) -> None:
        self.study = study

    @abstractmethod
    def expected(self, target: float) -> float:
        """Return what the estimate will have cost, the pilot included, wall time x ranks [s]; infinite if it cannot."""

    @abstractmethod
    def sampled(self, target: float) -> dict[str, Sampled]:
        """Solve what this target takes and return the samples of each quantity. Collective."""

    def step(self, target: float) -> dict[str, Sampled]:
        """Do as ``sampled``, or first a part of it that shows whether so much is needed. Collective."""
        return self.sampled(target)

    def describe(self, target: float) -> str:
        """Return in words what it will do."""
        return ""

    def made_before(self) -> dict[str, float]:
        """Return the time of what it was given and has not made, by part, wall time x ranks [s]."""
        return {}

    @property
    def _spread(self) -> float:
        """Variance of the first quantity, from all answers of the mesh that counts."""
        answers = self.study.solves.answers.values()
        asked = [each for each in answers if each.ask.resolution == self.study.resolutions[0] and not each.ask.member]
        values = [each.values[self.study.names[0]] for each in asked if each.values is not None]
        return float(np.var(values, ddof=1)) if len(values) > 1 else math.nan

    @property
    def _pilot_cost(self) -> float:
        return self.study.pilot * sum(self.study.costs)


@final
class MonteCarlo(Method):
    """The mean of solves."""

    name = "mc"

    def expected(self, target: float) -> float:
        return self._plan(target).cost

    def sampled(self, target: float) -> dict[str, Sampled]:
        study = self.study
        self.least = max(self._plan(target).counts[0], study.pilot, self.least)
        table = study.values(study.resolutions[:1], range(self.least))[:, 0]
        return {name: Plain(column) for name, column in zip(study.names, table.T, strict=True)}

    def describe(self, target: float) -> str:
        return f"{self._plan(target).counts[0]} solves"

    def _plan(self, target: float) -> Allocation:
        return allocation.monte_carlo(self._spread, self.study.costs[0], target)


class _Meshes(Method):
    """Methods with several meshes."""

    def expected(self, target: float) -> float:
        return self._pilot_cost + self._plan(target).cost

    def describe(self, target: float) -> str:
        plan = self._plan(target)
        names = [str(self.study.resolutions[i]) for i in plan.models]
        return ", ".join(f"{n} at resolution {name}" for n, name in zip(plan.counts, names, strict=True))

    @abstractmethod
    def _plan(self, target: float) -> Allocation:
        """Return meshes and counts."""


@final
class MultilevelMonteCarlo(_Meshes):
    """Independent differences between meshes."""

    name = "mlmc"

    def sampled(self, target: float) -> dict[str, Sampled]:
        study, plan = self.study, self._plan(target)
        tables = []
        for place, (model, count) in enumerate(zip(plan.models, plan.counts, strict=True)):
            pair = [study.resolutions[i] for i in (model, *plan.models[place + 1 : place + 2])]
            least = study.pilot if place == 0 else 0
            tables.append(study.values(pair, range(place * APART, place * APART + max(count, least))))
        tables.reverse()
        return {name: Multilevel([each[:, :, q] for each in tables]) for q, name in enumerate(study.names)}

    def _plan(self, target: float) -> Allocation:
        return allocation.multilevel(self.study.pilots[:, :, 0], self.study.costs, target)


@final
class MultifidelityMonteCarlo(_Meshes):
    """Coarser meshes as control variates of the finest one."""

    name = "mfmc"

    def sampled(self, target: float) -> dict[str, Sampled]:
        study, plan = self.study, self._plan(target)
        counts = [max(count, study.pilot) for count in plan.counts]
        meshes = [study.resolutions[i] for i in plan.models]
        asks = [Ask(mesh, index) for mesh, count in zip(meshes, counts, strict=True) for index in range(count)]
        failed = {answer.ask.index for answer in study.solves.ask(asks) if answer.values is None}
        tables = []
        for mesh, count in zip(meshes, counts, strict=True):
            answers = [study.solves.answers[Ask(mesh, index)] for index in range(count) if index not in failed]
            tables.append(np.array([[_of(answer)[name] for name in study.names] for answer in answers]))
        return {name: Multifidelity([each[:, q] for each in tables]) for q, name in enumerate(study.names)}

    def _plan(self, target: float) -> Allocation:
        return allocation.multifidelity(self.study.pilots[:, :, 0], self.study.costs, target)


@dataclass(frozen=True)
class _Pilot:
    """What a surrogate is good for.

    Args:
        left: Share of the variance that a fit to the pilot leaves.
        rate: Power of the samples with which that falls, at most 1.
        gain: Variance of the mean over quasi-random points relative to that over random ones.
        prediction: Time of a prediction [s].
    """

    left: float
    rate: float
    gain: float
    prediction: float


@dataclass(frozen=True)
class _Fold:
    """Of a fold, predictions ``(N, L, Q)`` of its own and at further points, and the time of one.

    ``spread`` and ``expected``: variances ``(N, L, Q)`` that the surrogates expect of their errors there.
    ``quick`` and ``beyond``: what quick models say there and at many more points; None: the surrogates are quick.
    """

    own: Array
    rest: Array
    seconds: float
    spread: Array
    expected: Array
    quick: Array | None
    beyond: Array | None


class SurrogateMethod(Method):
    """A surrogate, fitted to all folds of the solves but one, as control variate of that one.

    Attributes:
        rest: Share of the variance that cheap evaluations may leave: more where they cost more.
    """

    rest: float

    def __init__(self, study: Study) -> None:
        super().__init__(study)
        self._prediction, self._reached, self._goal = 0.0, (0, 0.0), 0.0
        self._fits: dict[tuple[int, int], Fitted] = {}

    @abstractmethod
    def make(self) -> Sequence[Surrogate]:
        """Make surrogates, each a control variate of its own."""

    def expected(self, target: float) -> float:
        solves, study, pilot = self._solves(target), self.study, self._pilots
        further = pilot.gain * self._spread / (self.rest * target)
        return self._pilot_cost + max(solves - study.pilot, 0) * study.costs[0] + pilot.prediction * further

    def sampled(self, target: float) -> dict[str, Sampled]:
        return self._made(self._solves(target), target)

    def step(self, target: float) -> dict[str, Sampled]:
        """Make at most twice the solves there were for the first target: they show how much fits improve with them."""
        self._goal = goal = self._goal or target
        before, reached = self._reached
        more = before * min(max(reached / goal, 1.05), 2.0)
        return self._made(math.ceil(more) if before else min(self._solves(goal), 2 * self.study.pilot), goal)

    def _made(self, solves: int, target: float) -> dict[str, Sampled]:
        """Solve, fit, and double the further points until they leave their share of the variance at most."""
        name, further, solves = self.study.names[0], FURTHER, max(solves, self.study.pilot, self.least)
        self.least = solves
        while True:
            found = self._fitted(solves, further)
            rest = sum(part.variance for part in found[name].parts(lambda values: values)[1:])
            if rest <= self.rest * target or 2 * further * FOLDS > MOST:
                self._reached = solves, (mean(found[name]).half_width / NORMAL) ** 2
                return found
            further *= 2

    def solved(self, count: int | None = None) -> tuple[list[int], Array]:
        """Return indices and quantities ``(N, Q)`` of the solves, of the first ``count`` samples."""
        study, finest = self.study, self.study.resolutions[0]
        found = {}
        for ask, answer in study.solves.answers.items():
            if ask.resolution == finest and not ask.member and (count is None or ask.index < count):
                found[ask.index] = answer.values
        solved = [(index, values) for index, values in sorted(found.items(), key=itemgetter(0)) if values is not None]
        return [index for index, _ in solved], np.array([[each[name] for name in study.names] for _, each in solved])

    def describe(self, target: float) -> str:
        return f"about {self._solves(target)} solves"

    def _solves(self, target: float) -> int:
        """Return solves such that what a surrogate fitted to them leaves of the variance meets the target."""
        left, rate, pilot = self._pilots.left, self._pilots.rate, self.study.pilot
        count = left * self._spread / ((1.0 - self.rest) * target)
        return math.ceil(max((count * pilot**rate) ** (1.0 / (1.0 + rate)) if count > pilot else count, 2.0))

    @cached_property
    def _pilots(self) -> _Pilot:
        """What fits to the pilot and to half of it show. Collective at first."""
        study, shares, rest = self.study, [], 0.0
        for count in (study.pilot // 2, study.pilot):
            if len(self.solved(count)[0]) < 2 * FOLDS:  # others of the first half have failed
                continue
            found = self._fitted(count, FURTHER)[study.names[0]]
            left, *others = found.parts(lambda values: values)
            shares.append(min(left.variance * len(left.values) / np.var(found.truth, ddof=1), 1.0))
            rest = sum(part.variance for part in others)
        rate = min(max(math.log2(shares[0] / shares[-1]), 0.0), 1.0)
        return _Pilot(shares[-1], rate, min(rest * FURTHER * FOLDS / self._spread, 1.0), self._prediction)

    def _fitted(self, count: int, further: int) -> dict[str, Sampled]:
        """Fit to the first samples; each fold has as many further points, in independent blocks. Collective."""
        study = self.study
        study.values(study.resolutions[:1], range(count))
        indices, truth = self.solved(count)
        points, folds = [study.draw(index) for index in indices], np.arange(len(indices)) % FOLDS
        started = time.perf_counter()

        def predicted(fold: int) -> _Fold:
            mine = folds == fold
            if (count, fold) not in self._fits:
                known = [p for p, own in zip(points, mine, strict=True) if not own]
                self._fits[count, fold] = self.fitted(known, truth[~mine])
            predict, quick, spread = self._fits[count, fold]
            own, others = (
                [p for p, here in zip(points, mine, strict=True) if here],
                further_points(study, fold, further),
            )
            begun = time.perf_counter()
            rest = predict(others)
            seconds = (time.perf_counter() - begun) / further
            found = _Fold(predict(own), rest, seconds, spread(own), spread(others[::BLOCKS]), None, None)
            if quick is None:
                return found
            more = further_points(study, FOLDS + fold, BEYOND * further)
            return dataclasses.replace(found, quick=quick(others), beyond=quick(more))

        found = shared(study.comm, predicted, FOLDS)
        self._prediction = max(self._prediction, found[0].seconds)
        study.spent(self.name, started)
        return {name: _controlled(found, truth, folds, q) for q, name in enumerate(study.names)}

    def fitted(self, points: Sequence[Any], values_NQ: Array) -> Fitted:
        """Fit surrogates; return what predicts ``(M, L, Q)``, what does quickly (None if that does), their spreads."""
        made = self.make()
        for surrogate in made:
            surrogate.fit(points, values_NQ)
        quick = [each.quick() for each in made]
        differ = any(one is not other for one, other in zip(quick, made, strict=True))
        return (
            partial(predicted_by, made),
            partial(predicted_by, quick) if differ else None,
            partial(surrogates.spread_of, made),
        )


@final
class GaussianProcessMethod(SurrogateMethod):
    """A Gaussian process on the quantity."""

    name, rest = "gp", 0.05

    def make(self) -> Sequence[Surrogate]:
        return [GaussianProcess()]


@final
class OperatorMethod(SurrogateMethod):
    """A linear function of what an operator predicts, and the Gaussian process beside it, which costs little."""

    name, rest = "operator", 0.35

    def __init__(self, study: Study) -> None:
        super().__init__(study)
        self._known: dict[Any, Array] = {}

    @cached_property
    def _predictor(self) -> Predictor:
        assert self.study.model is not None
        found = surrogates.read_operator(self.study.model, self.study.settings, self.study.case)
        seen = found.card.data
        if self.study.seed in {seen.seed, *seen.seeds}:
            text = f"the seed {self.study.seed} is that of the data behind the model {self.study.model}"
            raise ValueError(f"the samples of an estimate must be unseen: {text}; choose another with --seed")
        return found

    def made_before(self) -> dict[str, float]:
        card = self._predictor.card
        if "training" in self.study.seconds or card.seconds is None or card.data.seconds is None:
            return {}
        return {"data": card.data.seconds, "training": card.seconds * card.ranks}

    def make(self) -> tuple[OperatorReadout, Surrogate]:
        return (OperatorReadout(self.study.case, self._predictor, self._known, self._random), GaussianProcess())

    @cached_property
    def _random(self) -> list[Any]:
        return further_points(self.study, 2 * FOLDS, LEARNT)


def further_points(study: Study, fold: int, count: int) -> list[Any]:
    """Draw the parameters of cheap evaluations of a fold, in independent blocks; more begin with the same in each."""
    points: list[Any] = []
    for block in range(BLOCKS):
        points += quasi_samples(study.case.sample, count // BLOCKS, entropy=[study.seed, AFTER + 1, fold, block + 1])
    steps = study.case.trajectory
    return points if steps is None else [steps.at_step(point, steps.num_steps - 1) for point in points]


def _controlled(found: Sequence[_Fold], truth: Array, folds: npt.NDArray[np.intp], q: int) -> Sampled:
    """Put the folds of a quantity together."""
    cheap, spread = (np.empty((len(truth), found[0].own.shape[1])) for _ in range(2))
    for fold, each in enumerate(found):
        cheap[folds == fold], spread[folds == fold] = each.own[..., q], each.spread[..., q]
    return Controlled(
        truth[:, q], cheap, [each.rest[..., q] for each in found], folds, replicates=BLOCKS,
        expected=(spread, np.mean([each.expected[..., q].mean(axis=0) for each in found], axis=0)),
        quick=[each.quick[..., q] for each in found if each.quick is not None],
        beyond=[each.beyond[..., q] for each in found if each.beyond is not None],
    )  # fmt: skip


def _of(answer: Answer) -> dict[str, float]:
    assert answer.values is not None
    return answer.values


_KINDS = (MonteCarlo, MultilevelMonteCarlo, MultifidelityMonteCarlo, GaussianProcessMethod, OperatorMethod)
METHODS: dict[str, type[Method]] = {kind.name: kind for kind in _KINDS}
