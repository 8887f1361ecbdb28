"""Cheap predictions of quantities from parameters, fitted to solves."""

from __future__ import annotations

import dataclasses
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from lrsa_coupled.config import GuessConfig
    from lrsa_coupled.coupling.predictor import Predictor
    from lrsa_coupled.interfaces import Case

Array = npt.NDArray[np.float64]

LARGEST, TUNED = 2000, 250
"""Values to which a Gaussian process is fitted at most, its lengths to fewer: its cost grows with their third power."""

POINTS, BATCH = 512, 8
"""Points at which an operator is evaluated, and problems at a time."""

SEPARATE = 20
"""Numbers of the parameters up to which each has a length of its own."""


class Surrogate(ABC):
    """Predicts quantities; deterministic."""

    @abstractmethod
    def fit(self, parameters: Sequence[Any], values_NQ: Array) -> None:
        """Fit to quantities of solves."""

    @abstractmethod
    def predict(self, parameters: Sequence[Any]) -> Array:
        """Predict the quantities ``(N, Q)``."""

    def spread(self, parameters: Sequence[Any]) -> Array | None:
        """Return the variances ``(N, Q)`` that it expects of its errors; None where it expects nothing."""
        return None

    def quick(self) -> Surrogate:
        """Return a model of it that takes microseconds, itself where it does."""
        return self


@final
class GaussianProcess(Surrogate):
    """A Gaussian process on each quantity, Matern 5/2, with noise; lengths by the marginal likelihood."""

    def __init__(self) -> None:
        self._processes: list[Any] = []

    def fit(self, parameters: Sequence[Any], values_NQ: Array) -> None:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

        points = numbers(parameters[:LARGEST])
        self._centre, spread = points.mean(axis=0), points.std(axis=0)
        self._used = spread > 0.0
        self._spread = spread[self._used]
        scaled = self._scaled(points)
        size = scaled.shape[1]
        lengths = np.full(size, np.sqrt(size)) if size <= SEPARATE else np.sqrt(float(size))
        kernel = ConstantKernel(1.0, (1e-3, 1e4)) * Matern(lengths, (0.1, 1e3), nu=2.5)
        self._processes = []
        for column in values_NQ[:LARGEST].T:
            process = GaussianProcessRegressor(kernel + WhiteKernel(1e-3, (1e-9, 1.0)), normalize_y=True)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                process.fit(scaled[:TUNED], column[:TUNED])
            if len(scaled) > TUNED:
                process = GaussianProcessRegressor(process.kernel_, optimizer=None, normalize_y=True)
                process.fit(scaled, column)
            self._processes.append(process)

    def predict(self, parameters: Sequence[Any]) -> Array:
        scaled = self._scaled(numbers(parameters))
        return np.stack([process.predict(scaled) for process in self._processes], axis=1)

    def spread(self, parameters: Sequence[Any]) -> Array:
        scaled = self._scaled(numbers(parameters))
        return np.stack([each.predict(scaled, return_std=True)[1] ** 2 for each in self._processes], axis=1)

    def _scaled(self, points: Array) -> Array:
        return (points[:, self._used] - self._centre[self._used]) / self._spread


@final
class OperatorReadout(Surrogate):
    """A linear function of moments of the fields that an operator predicts at points, for which no mesh is made.

    The moments are means over the points of the fields, their sizes and their products, times polynomials of degree two
    of the coordinates, times the volume of the domain; what the case measures itself (``PointSampling.probe``) and few
    numbers of the parameters stand beside them. The
    coefficients, ridge regression, are fitted to solves that the operator has not been trained on.

    Args:
        case: A case whose operator is evaluated without a mesh.
        predictor: The operator.
        known: Moments by parameters, which all fits share; they grow.
        random: Parameters at which ``quick`` learns what it predicts.
    """

    def __init__(self, case: Case, predictor: Predictor, known: dict[Any, Array], random: Sequence[Any] = ()) -> None:
        self.case, self.predictor, self._known, self._random = case, predictor, known, random

    def fit(self, parameters: Sequence[Any], values_NQ: Array) -> None:
        from sklearn.linear_model import RidgeCV
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        self._lines = []
        for column in values_NQ.T:
            line = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-8.0, 3.0, 23)))
            self._lines.append(line.fit(self.moments(parameters), column))

    def predict(self, parameters: Sequence[Any]) -> Array:
        moments = self.moments(parameters)
        return np.stack([line.predict(moments) for line in self._lines], axis=1)

    def quick(self) -> Surrogate:
        process = GaussianProcess()
        process.fit(self._random, self.predict(self._random))
        return process

    def moments(self, parameters: Sequence[Any]) -> Array:
        """Return the moments ``(N, M)``."""
        missing = [each for each in dict.fromkeys(parameters) if each not in self._known]
        self._known |= zip(missing, self._evaluated(missing), strict=True)
        rows, points = np.array([self._known[each] for each in parameters]), numbers(parameters)
        return np.hstack([rows, points]) if points.shape[1] <= SEPARATE else rows

    def _evaluated(self, parameters: Sequence[Any]) -> list[Array]:
        sampling, rows = self.case.points, []
        assert sampling is not None
        probe = sampling.probe
        for first in range(0, len(parameters), BATCH):
            batch = parameters[first : first + BATCH]
            points = [sampling.points(each, POINTS) for each in batch]
            count = len(points[0])
            mass = np.ones(count) if sampling.mass is None else sampling.mass(points[0])
            if probe is not None:
                points = [np.concatenate([own, probe.points(each)]) for each, own in zip(batch, points, strict=True)]
            features = [sampling.features(each, own) for each, own in zip(batch, points, strict=True)]
            fields = self.predictor.evaluate_batch(points, features, mass=mass, apart=len(points[0]) - count)
            for each, at, values in zip(batch, points, fields, strict=True):
                row = sampling.volume(each) * _moments_of(at[:count], values[:count], mass / mass.sum())
                rows.append(row if probe is None else np.append(row, probe.measure(each, values[count:])))
        return rows


def _moments_of(points_Nd: Array, fields_NK: Array, shares_N: Array) -> Array:
    pairs = np.triu_indices(fields_NK.shape[1])
    products = fields_NK[:, pairs[0]] * fields_NK[:, pairs[1]]
    functions = np.column_stack([fields_NK, np.abs(fields_NK), products])
    first, second = np.triu_indices(points_Nd.shape[1])
    weights = np.column_stack([np.ones(len(points_Nd)), points_Nd, points_Nd[:, first] * points_Nd[:, second]])
    return (weights.T @ (shares_N[:, None] * functions)).ravel()


def read_operator(model: Path, settings: GuessConfig, case: Case) -> Predictor:
    """Read an operator; raises as ``Predictor.load`` and ``check`` do, on all ranks. Collective."""
    from lrsa_coupled.coupling.predictor import Predictor  # torch comes with it

    found = Predictor.load(model, settings)
    found.check(case)
    return found


def predicted_by(surrogates: Sequence[Surrogate], parameters: Sequence[Any]) -> Array:
    """Return the predictions ``(N, L, Q)`` of surrogates."""
    return np.stack([each.predict(parameters) for each in surrogates], axis=1)


def spread_of(surrogates: Sequence[Surrogate], parameters: Sequence[Any]) -> Array:
    """Return the variances ``(N, L, Q)`` that surrogates expect of their errors, 0 where they expect nothing."""
    found = [each.spread(parameters) for each in surrogates]
    zero = 0.0 * next((each for each in found if each is not None), np.zeros((len(parameters), 1)))
    return np.stack([zero if each is None else each for each in found], axis=1)


def numbers(parameters: Sequence[Any]) -> Array:
    """Return the real numbers of parameters ``(N, d)``; integers, seeds and counts, are none of them."""
    names = [f.name for f in dataclasses.fields(parameters[0])]
    real = [n for n in names if np.issubdtype(np.asarray(getattr(parameters[0], n)).dtype, np.floating)]
    rows = [np.concatenate([np.ravel(getattr(each, name)) for name in real]) for each in parameters]
    return np.array(rows, dtype=np.float64).reshape(len(parameters), -1)
