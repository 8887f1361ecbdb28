"""The nearest solution on another mesh, brought to the nodes of a problem by moving least squares."""

from __future__ import annotations

from typing import final

import numpy as np
import numpy.typing as npt

from lrsa_coupled.coupling.residual import set_dirichlet
from lrsa_coupled.coupling.transfer import NodeSet
from lrsa_coupled.interfaces import Guess, InitialGuess, Unknown

Array = npt.NDArray[np.float64]

INTERPOLATED = "interpolated"
CHUNK = 8192
"""Points worked on at a time."""
PROBES = 256
"""Nodes of a rank at which the error of a guess is looked at."""


@final
class MovingLeastSquares:
    """Linear polynomials fitted to the nearest points around each target: exact for linear fields, of second order.

    Args:
        points: ``(N, d)``; they may repeat.
        values: ``(N, K)``.

    Source: Lancaster & Salkauskas (1981), eq. 2.
    """

    def __init__(self, points: Array, values: Array) -> None:
        from scipy.spatial import cKDTree  # at its first use: it takes a quarter of a second

        self._points, self._values, self._tree = points, values, cKDTree(points)
        self._count = min(2 * points.shape[1] + 4, len(points))

    def __call__(self, targets: Array) -> Array:
        """Return values ``(M, K)`` at targets ``(M, d)``."""
        found = np.empty((len(targets), self._values.shape[1]))
        for start in range(0, len(targets), CHUNK):
            found[start : start + CHUNK] = self._fit(targets[start : start + CHUNK])
        return found

    def _fit(self, targets: Array) -> Array:
        distances, near = self._tree.query(targets, k=self._count)
        distances, near = distances.reshape(len(targets), -1), near.reshape(len(targets), -1)
        reach = np.maximum(distances[:, -1:], 1e-300)
        weights = np.exp(-4.0 * (distances / reach) ** 2)
        offsets = (self._points[near] - targets[:, None, :]) / reach[:, :, None]
        basis = np.concatenate([np.ones((*near.shape, 1)), offsets], axis=2)
        weighted = basis * weights[:, :, None]
        least = np.diag([1e-14, *[1e-8] * self._points.shape[1]])  # where points lie on a line the slope across is zero
        matrix = np.einsum("nka,nkb->nab", weighted, basis) + least
        right = np.einsum("nka,nkv->nav", weighted, self._values[near])
        return np.linalg.solve(matrix, right)[:, 0]


@final
class InterpolatedGuess(InitialGuess):
    """A solution given by its values at points.

    Args:
        nodes: Those of the problems to come.
    """

    name = INTERPOLATED

    def __init__(self, nodes: NodeSet) -> None:
        self.nodes = nodes
        self._taken: tuple[Array, Array] | None = None
        self._made: MovingLeastSquares | None = None
        step = max(1, nodes.num_owned // PROBES)
        self._probes = slice(0, nodes.num_owned, step)

    def take(self, points: Array, values: Array) -> None:
        """Take the solution of which the next guess is made. Collective: no."""
        self._taken, self._made = (points, values), None

    def errors(self, problem: Unknown) -> tuple[float, float]:
        """Return the squares of the guess's error and of the solution in the unknown, at some nodes of this rank.

        Collective: for nodes on a mesh of their own.
        """
        true = self.nodes.gather(problem.solution)[self._probes]
        difference = self._fit(self.nodes.points[self._probes]) - true
        return float(np.sum(difference**2)), float(np.sum(true**2))

    def put(self, problem: Unknown) -> Guess:
        if self._taken is None:
            return Guess(False, "there is no solution on another mesh")
        self.nodes.scatter(self._fit(self.nodes.points), problem.solution)
        set_dirichlet(problem)
        return Guess()

    def _fit(self, targets: Array) -> Array:
        """Return the solution at points; what it needs is made at the first call."""
        assert self._taken is not None
        self._made = self._made or MovingLeastSquares(*self._taken)
        return self._made(targets)
