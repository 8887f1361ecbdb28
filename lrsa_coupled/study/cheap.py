"""A cheap model of the quantities of a case, fitted to the solves of an estimate: evaluations, derivatives."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt

from lrsa_coupled.config import GuessConfig
from lrsa_coupled.interfaces import Case
from lrsa_coupled.reading import read_json
from lrsa_coupled.study.pilot import SampleDraw
from lrsa_coupled.study.solves import FOLDER, read_answers
from lrsa_coupled.study.statistics import coefficients_for
from lrsa_coupled.study.surrogates import (
    GaussianProcess,
    OperatorReadout,
    Surrogate,
    numbers,
    predicted_by,
    read_operator,
)

Array = npt.NDArray[np.float64]

FOLDS, LEAST = 5, 20
"""Fits by which surrogates are weighted; solves at least."""

STEP = 1e-2
"""Of the differences that stand for derivatives, in deviations of a number over the solves."""


@final
class CheapModel:
    """What surrogates, weighted by how they predict solves that they have not seen, say about the quantities.

    Args:
        make: Makes the surrogates.
        parameters: Of the solves.
        values_NQ: Their quantities.

    Attributes:
        left: Shares of the variance of the quantities ``(Q,)`` that are left at solves not seen.
    """

    def __init__(self, make: Callable[[], Sequence[Surrogate]], parameters: Sequence[Any], values_NQ: Array) -> None:
        if len(parameters) < LEAST:
            raise ValueError(f"a surrogate needs at least {LEAST} solves, got {len(parameters)}")
        folds = np.arange(len(parameters)) % FOLDS
        unseen = np.empty((len(parameters), len(make()), values_NQ.shape[1]))
        for fold in range(FOLDS):
            mine = folds == fold
            known = [each for each, own in zip(parameters, mine, strict=True) if not own]
            asked = [each for each, own in zip(parameters, mine, strict=True) if own]
            unseen[mine] = predicted_by(_fit(make(), known, values_NQ[~mine]), asked)
        found = [coefficients_for(unseen[..., q], column) for q, column in enumerate(values_NQ.T)]
        self._weights, self._shift = np.stack(found, axis=1), np.zeros(values_NQ.shape[1])
        self._shift = np.mean(values_NQ - self._weighted(unseen), axis=0)
        left = np.var(values_NQ - self._weighted(unseen), axis=0)
        self.left: Array = left / np.maximum(np.var(values_NQ, axis=0), 1e-300)
        self._surrogates = _fit(make(), parameters, values_NQ)
        self.spread: Array = numbers(parameters).std(axis=0)

    def __call__(self, parameters: Sequence[Any]) -> Array:
        """Return the quantities ``(N, Q)``. Collective: no."""
        return self._weighted(predicted_by(self._surrogates, parameters))

    def jacobian(self, given: Sequence[float], at: Callable[[Sequence[float]], Any]) -> Array:
        """Return derivatives ``(Q, d)`` by the numbers of the parameters, which ``at`` makes of these.

        By central differences, all in one batch; zero by a number that was the same in all solves.
        """
        moved = np.flatnonzero(self.spread > 0.0)
        steps = STEP * self.spread[moved]
        shifts = np.zeros((len(moved), len(given)))
        shifts[np.arange(len(moved)), moved] = steps
        points = np.concatenate([np.asarray(given) + shifts, np.asarray(given) - shifts])
        above, below = np.split(self([at(each.tolist()) for each in points]), 2)
        found = np.zeros((above.shape[1], len(given)))
        found[:, moved] = ((above - below) / (2.0 * steps[:, None])).T
        return found

    def _weighted(self, predictions_NLQ: Array) -> Array:
        return np.einsum("nlq,lq->nq", predictions_NLQ, self._weights) + self._shift


def fitted_to(
    folder: Path, case: Case, names: Sequence[str], *, model: Path | None, settings: GuessConfig
) -> CheapModel:
    """Fit to the solves of an estimate on its finest mesh: a Gaussian process and, with a model, what that predicts.

    Raises:
        ValueError: If the folder holds no estimate of these quantities of the case, or too few solves.
    """
    asked = read_json(folder / "estimate.json")
    problem = {"case": case.name, "options": json.loads(json.dumps(dataclasses.asdict(case.options)))}
    for key, value in problem.items():
        if asked.get(key) != value:
            raise ValueError(f"{folder} holds an estimate with {key} = {asked.get(key)}, not {value}")
    draw, rows = SampleDraw(case, asked["seed"]), []
    for ask, answer in sorted(read_answers(folder / FOLDER).items()):
        if ask.resolution == asked["resolution"] and answer.values is not None:
            if missing := [name for name in names if name not in answer.values]:
                raise ValueError(f"the solves in {folder} have no '{missing[0]}', but {', '.join(answer.values)}")
            rows.append((draw(ask.index, ask.member), [answer.values[name] for name in names]))
    predictor, known = None if model is None else read_operator(model, settings, case), dict[Any, Array]()

    def make() -> Sequence[Surrogate]:
        process = GaussianProcess()
        return [process] if predictor is None else [OperatorReadout(case, predictor, known), process]

    return CheapModel(make, [point for point, _ in rows], np.array([values for _, values in rows]))


def _fit(surrogates: Sequence[Surrogate], parameters: Sequence[Any], values_NQ: Array) -> Sequence[Surrogate]:
    for each in surrogates:
        each.fit(parameters, values_NQ)
    return surrogates
