"""Sobol indices of quantities by pick and freeze: first-order and total, with intervals."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lrsa_coupled.study.methods import FOLDS, Method, Predict, SurrogateMethod
from lrsa_coupled.study.pilot import AFTER, Study, shared
from lrsa_coupled.study.sobol import sobol
from lrsa_coupled.study.solves import Ask
from lrsa_coupled.study.statistics import Controlled, Estimate, Plain, Sampled

Array = npt.NDArray[np.float64]
Indices = dict[str, dict[str, tuple[Estimate, Estimate]]]

FURTHER = 4000
"""Samples of cheap evaluations, each at as many points as a sample has solves."""


def sensitivities(method: Method, count: int) -> Indices:
    """Estimate the indices of each field of the parameters, which must be independent of each other. Collective.

    A surrogate of the method, fitted to its solves, is their control variate.
    """
    study = method.study
    names = _varying(study)
    members = (0, 1, *(2 + place for place in names.values()))
    asks = [[Ask(study.resolutions[0], index, member) for member in members] for index in range(count)]
    study.solves.ask([each for row in asks for each in row])
    rows = [(row[0].index, [study.solves.answers[each].values for each in row]) for row in asks]
    whole = [(index, [v for v in values if v is not None]) for index, values in rows if None not in values]
    truth = np.array([[[v[name] for name in study.names] for v in values] for _, values in whole])
    sampled: dict[str, Sampled] = {name: Plain(truth[..., q]) for q, name in enumerate(study.names)}
    if isinstance(method, SurrogateMethod):
        sampled = _controlled(method, truth, [index for index, _ in whole], members)
    return {name: {field: sobol(each, place) for place, field in enumerate(names)} for name, each in sampled.items()}


def _varying(study: Study) -> dict[str, int]:
    """Return the places of the fields that are not the same in all samples."""
    points = [study.draw(index) for index in range(4)]
    fields = enumerate(field.name for field in dataclasses.fields(points[0]))
    return {name: place for place, name in fields if len({getattr(point, name) for point in points}) > 1}


def _controlled(
    method: SurrogateMethod, truth: Array, indices: Sequence[int], members: Sequence[int]
) -> dict[str, Sampled]:
    study, started = method.study, time.perf_counter()
    solved, values = method.solved()
    folds = np.array(indices) % FOLDS

    def predicted(fold: int) -> tuple[Array, ...]:
        known = np.array([index % FOLDS != fold for index in solved])
        points = [study.draw(index) for index, use in zip(solved, known, strict=True) if use]
        predict, quick, _ = method.fitted(points, values[known])

        def answers(samples: Sequence[int], by: Predict) -> Array:
            if not samples:
                return np.zeros((0, 1, len(members), len(study.names)))
            found = by([study.draw(index, member) for index in samples for member in members])
            return np.moveaxis(found.reshape(len(samples), len(members), -1, len(study.names)), 2, 1)

        own, first = [index for index in indices if index % FOLDS == fold], AFTER + 10 + fold * FURTHER
        many = range(first, first + FURTHER // FOLDS)
        if quick is None:
            return answers(own, predict), answers(many, predict)
        few = range(first + FURTHER // 2, first + FURTHER // 2 + max(len(own), 10))
        return answers(own, predict), answers(few, predict), answers(few, quick), answers(many, quick)

    found = shared(study.comm, predicted, FOLDS)
    cheap = np.empty((len(truth), *found[0][1].shape[1:]))
    for fold, (own, *_) in enumerate(found):
        cheap[folds == fold] = own
    study.spent("Sobol indices", started)
    result: dict[str, Sampled] = {}
    for q, name in enumerate(study.names):
        _, rest, *others = [[part[..., q] for part in parts] for parts in zip(*found, strict=True)]
        quick, beyond = others or ([], [])
        result[name] = Controlled(truth[..., q], cheap[..., q], rest, folds, quick=quick, beyond=beyond)
    return result
