"""Weights by which the solutions of a study are combined into a guess for the next problem; numpy only, no ranks.

A problem is known by its description: its scalars, and moments of its inputs. Solutions are known by their inner
products alone, so that errors of any combination are known without the solutions themselves: that of the weights w
against a solution u is ``u'u - 2 w'(U'u) + w'(U'U)w``. With it each rule is compared, in hindsight, with what a solve
found, and the settings of the regression are those of the least error of leaving one out.

n solutions, D numbers of a description.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt

PREVIOUS, NEAREST, EXTRAPOLATED, REGRESSION = "previous", "nearest", "extrapolated", "regression"
RULES = (PREVIOUS, NEAREST, EXTRAPOLATED, REGRESSION)

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Kernel:
    """A Gaussian process over descriptions.

    Args:
        length: Length of the Matern kernel 5/2, relative to the median distance between descriptions.
        noise: Variance of what the description does not say, relative to that of the process.
        inputs: Weight of the inputs against the scalars.
    """

    length: float = 4.0
    noise: float = 1e-3
    inputs: float = 1.0

    def matrix(self, one: Array, other: Array, median: float) -> Array:
        """Return the covariances of two sets of scaled descriptions ``(n, D)``, ``(m, D)``."""
        distances = np.sqrt(5.0 * squares(one, other)) / (self.length * median)
        return (1.0 + distances + distances**2 / 3.0) * np.exp(-distances)


CANDIDATES = [Kernel(*each) for each in itertools.product((1.0, 2.0, 4.0, 8.0), (1e-6, 1e-3, 3e-2), (0.5, 1.0, 2.0))]

LEAVE_ONE_OUT = 128
"""Solutions, the last ones, by which the settings of the regression are chosen."""


@final
class Combinations:
    """Weights of the solutions of a study by each rule, and what each rule would have been worth.

    Args:
        groups: Columns of a description that belong together: one for each scalar, those of an input for each input.
        num_scalars: How many of the groups are scalars; they come first.
        most: Solutions kept; the oldest gives its place to a new one.
    """

    def __init__(self, groups: Sequence[slice], *, num_scalars: int, most: int) -> None:
        self.groups, self.num_scalars, self.most = tuple(groups), num_scalars, most
        self.kernel = Kernel()
        self.number = 0
        width = groups[-1].stop if groups else 0
        self._descriptions = np.zeros((0, width))
        self._products = np.zeros((0, 0))
        self._chosen_at = 0

    def __len__(self) -> int:
        return len(self._descriptions)

    @property
    def place(self) -> int:
        """Where the next solution goes."""
        return self.number % self.most

    def add(self, description: Array, products: Array, square: float) -> None:
        """Add a solution: its inner products with those kept, ``(n,)``, and with itself."""
        count, place = len(self), self.place
        if place == count:
            self._descriptions = np.vstack([self._descriptions, description])
            self._products = np.pad(self._products, (0, 1))
            products = np.append(products, square)
        self._descriptions[place] = description
        self._products[place], self._products[:, place] = products, products
        self._products[place, place] = square
        self.number += 1

    def weights(self, description: Array) -> dict[str, Array]:
        """Return the weights ``(n,)`` of each rule that has enough solutions for a problem; each sums to one."""
        count = len(self)
        if not count:
            return {}
        last, found = (self.number - 1) % self.most, {}
        unit = np.eye(count)
        found[PREVIOUS] = unit[last]
        if count > 1:
            places = self._scaled(np.vstack([self._descriptions, description]), 1.0)
            distances = squares(places[-1:], places[:-1])[0]
            ages = (last - np.arange(count)) % self.most
            found[NEAREST] = unit[np.lexsort((ages, distances))[0]]
            found[EXTRAPOLATED] = 2.0 * unit[last] - unit[(last - 1) % self.most]
        if count > 2:
            self._choose()
            found[REGRESSION] = self._regression(description)
        return found

    def errors(self, weights: dict[str, Array], products: Array, square: float) -> dict[str, float]:
        """Return the norm of the error of each combination against a solution of these inner products."""
        return {
            name: math.sqrt(max(float(square - 2.0 * w @ products + w @ self._products @ w), 0.0))
            for name, w in weights.items()
        }

    def _regression(self, description: Array) -> Array:
        places = self._scaled(np.vstack([self._descriptions, description]), self.kernel.inputs)
        known, median = places[:-1], _median(places[:-1])
        covariance = self.kernel.matrix(known, known, median) + self.kernel.noise * np.eye(len(known))
        right = self.kernel.matrix(known, places[-1:], median)[:, 0]
        ones = np.ones(len(known))
        solved, mean = np.linalg.solve(covariance, np.column_stack([right, ones])).T
        return solved + mean * (1.0 - ones @ solved) / (ones @ mean)

    def _choose(self) -> None:
        """Choose the kernel of the least error of leaving one out, again after each growth by half."""
        if self.number < max(6, 1.5 * self._chosen_at):
            return
        self._chosen_at = self.number
        rows = np.argsort((self.number - 1 - np.arange(len(self))) % self.most)[:LEAVE_ONE_OUT]
        products = self._products[np.ix_(rows, rows)]
        both = 0 < self.num_scalars < len(self.groups)
        candidates = [each for each in CANDIDATES if both or each.inputs == 1.0]
        places = {each: self._scaled(self._descriptions[rows], each) for each in {c.inputs for c in candidates}}
        self.kernel = min(candidates, key=lambda each: _left_out(each, places[each.inputs], products))

    def _scaled(self, descriptions: Array, inputs: float) -> Array:
        return scaled(descriptions, self.groups, self.num_scalars, inputs)


def scaled(descriptions: Array, groups: Sequence[slice], num_scalars: int, inputs: float = 1.0) -> Array:
    """Scale each scalar to unit variance, each input such that its main components have about that."""
    found = np.zeros_like(descriptions)
    for number, group in enumerate(groups):
        columns = descriptions[:, group] - descriptions[:, group].mean(axis=0)
        singular = np.linalg.svd(columns, compute_uv=False) if columns.shape[1] > 1 else np.array([_norm(columns)])
        variances = singular**2 / len(columns)
        if variances.sum() > 1e-24 * max(float(np.abs(descriptions[:, group]).max()) ** 2, 1e-300):
            scale = np.sqrt(variances.sum() / np.sum(variances**2))
            found[:, group] = columns * scale * (1.0 if number < num_scalars else inputs)
    return found


def squares(one: Array, other: Array) -> Array:
    """Return the squared distances of the rows of two arrays."""
    return np.maximum((one**2).sum(axis=1)[:, None] + (other**2).sum(axis=1) - 2.0 * one @ other.T, 0.0)


def _norm(columns: Array) -> float:
    return float(np.linalg.norm(columns))


def _median(places: Array) -> float:
    distances = np.sqrt(squares(places, places)[np.triu_indices(len(places), 1)])
    median = float(np.median(distances)) if len(distances) else 0.0
    return median if median > 0.0 else 1.0


def _left_out(kernel: Kernel, places: Array, products: Array) -> float:
    """Return the mean logarithm of the squared error of each solution predicted from the others.

    Source: Dubrule (1983), cross validation of kriging in a unique neighbourhood.
    """
    covariance = kernel.matrix(places, places, _median(places)) + kernel.noise * np.eye(len(places))
    inverse = np.linalg.inv(covariance)
    mean = inverse.sum(axis=1)
    inverse -= np.outer(mean, mean) / mean.sum()
    errors = np.einsum("ij,jk,ik->i", inverse, products, inverse, optimize=True) / np.diag(inverse) ** 2
    return float(np.mean(np.log(np.maximum(errors, 1e-300))))
