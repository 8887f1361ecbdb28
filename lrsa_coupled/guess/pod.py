"""Proper orthogonal decomposition of the samples, and a Gaussian process for the coefficients; for one mesh.

Shapes: S samples, N nodes, F nodal inputs, G scalars, K outputs, I modes of the inputs, R modes of the outputs.

Source: Guo & Hesthaven (2018), Reduced order modeling for nonlinear structural analysis using Gaussian process
regression, CMAME 341.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_solve, eigh
from scipy.optimize import minimize
from scipy.spatial import cKDTree
from mpi4py import MPI

from lrsa_coupled.coupling.residual import set_dirichlet
from lrsa_coupled.coupling.transfer import NodeSet
from lrsa_coupled.data.store import DataStore
from lrsa_coupled.interfaces import Described, Guess, InitialGuess, Unknown
from lrsa_coupled.mpi import allreduce, share

if TYPE_CHECKING:
    from sklearn.gaussian_process import GaussianProcessRegressor

Array = npt.NDArray[np.float64]
Rows = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Limits:
    """Sizes: of what is read, of the bases, and of what the hyperparameters are fitted to."""

    samples: int = 1000
    input_modes: int = 12
    output_modes: int = 64
    fitted_samples: int = 128
    fitted_modes: int = 8
    iterations: int = 30
    lost: float = 1e-8  # share of the square that a basis may leave out


LIMITS = Limits()


@dataclass(frozen=True)
class Basis:
    """Mean ``(N, C)`` and modes ``(R, N, C)``, orthonormal with the lumped masses, of fields of C columns."""

    mean: Array
    modes: Array

    @classmethod
    def of(cls, fields_SNC: Array, mass_N: Array, *, most: int) -> tuple[Basis, Array, Array]:
        """Return the basis of some fields, their coefficients ``(S, R)``, and the squares of all modes, falling."""
        mean = fields_SNC.mean(axis=0)
        root_N1 = np.sqrt(mass_N)[:, None]
        rows_SX = ((fields_SNC - mean) * root_N1).reshape(len(fields_SNC), -1)
        squares, vectors_SS = eigh(rows_SX @ rows_SX.T)
        squares, vectors_SS = np.maximum(squares[::-1], 0.0), vectors_SS[:, ::-1]
        left = np.append(np.cumsum(squares[::-1])[::-1][1:], 0.0)
        count = min(most, len(fields_SNC) - 1, 1 + int(np.argmax(left <= LIMITS.lost * squares.sum())))
        rounding = 1e-24 * float(np.square(fields_SNC * root_N1).sum())
        count = int(np.count_nonzero(squares[:count] > rounding))
        sizes_R = np.sqrt(squares[:count])
        modes_RX = (vectors_SS[:, :count] / sizes_R).T @ rows_SX
        modes = modes_RX.reshape(count, *mean.shape) / root_N1
        return cls(mean, modes), vectors_SS[:, :count] * sizes_R, squares


@final
class PodRegression:
    """The map from scalars and principal components of the inputs to the coefficients of the fields.

    Attributes:
        points: Nodes of the mesh ``(N, dim)``.
        error: Relative L2 error expected at a new problem: at each sample, of the regression without it.

    Collective: no.
    """

    def __init__(self, points: Array, mass: Array, inputs: Basis, outputs: Basis, relative_to: Sequence[int], *,
                 units: Array, process: GaussianProcessRegressor, error: float) -> None:  # fmt: skip
        self.points, self.mass, self.inputs, self.outputs = points, mass, inputs, outputs
        self.relative_to, self.units, self.process, self.error = list(relative_to), units, process, error

    @classmethod
    def fit(cls, store: DataStore, indices: Sequence[int] | None = None) -> PodRegression:
        """Fit to the solved samples of a data set, or some of them; of very many to evenly spread ones.

        ValueError for fewer than three, or when they are not on one mesh whose nodes have places of their own.
        """
        solved = list(store.solved if indices is None else indices)
        if len(solved) < 3:
            raise ValueError(f"a decomposition of samples needs at least 3 solved ones, got {len(solved)}")
        places = np.linspace(0, len(solved) - 1, min(len(solved), LIMITS.samples)).astype(int)
        samples = [store.arrays(solved[place]) for place in places]
        points, mass = samples[0].points, samples[0].mass
        if any(each.points.shape != points.shape or not np.array_equal(each.points, points) for each in samples):
            raise ValueError("a decomposition of samples needs all of them on one mesh")
        if cKDTree(points).query(points, 2)[0][:, 1].min(initial=np.inf) == 0.0:
            raise ValueError("a decomposition of samples needs nodes at different places, not those of broken spaces")
        inputs, scores_SI, _ = Basis.of(
            np.stack([each.inputs.astype(np.float64) for each in samples]), mass, most=LIMITS.input_modes
        )
        columns = store.card.schema.corrected_columns()
        differences_SNK = np.stack([each.outputs - _base(each.inputs, columns) for each in samples])
        outputs, targets_SR, squares = Basis.of(differences_SNK, mass, most=LIMITS.output_modes)
        rows = np.hstack([np.stack([each.scalars for each in samples]), scores_SI])
        if rows.shape[1] == 0 or targets_SR.shape[1] == 0:
            raise ValueError("a decomposition of samples needs inputs or scalars, and solutions, that differ")
        units, size = _units(rows, scores_SI.shape[1]), float(targets_SR[:, 0].std())
        process = _fitted(rows / units, targets_SR / size)
        lost = squares[targets_SR.shape[1] :].sum()
        total = sum(float(mass @ np.square(each.outputs).sum(axis=1)) for each in samples)
        error = float(np.sqrt((size**2 * _left_out(process) + lost) / total))
        basis = Basis(outputs.mean, size * outputs.modes)
        return cls(points, mass, inputs, basis, columns, units=units, process=process, error=error)

    def values(self, scalars: Array, scores: Array, nodal: Array, rows: Rows) -> Array:
        """Return the fields ``(len(rows), K)`` at some nodes, from the inputs there and their scores ``(I,)``."""
        regressors = np.concatenate([scalars, scores])[None] / self.units
        coefficients = np.atleast_1d(self.process.predict(regressors)[0])
        basis, base = self.outputs, _base(nodal, self.relative_to)
        return base + basis.mean[rows] + np.tensordot(coefficients, basis.modes[:, rows], axes=1)

    def partial_scores(self, nodal: Array, rows: Rows) -> Array:
        """Return what some nodes add to the scores ``(I,)`` of the inputs."""
        difference_NF = (nodal - self.inputs.mean[rows]) * self.mass[rows][:, None]
        return np.einsum("inf,nf->i", self.inputs.modes[:, rows], difference_NF)


@final
class PodGuess(InitialGuess):
    """The prediction of a ``PodRegression``, with the problem's own Dirichlet values; refused on another mesh."""

    name = "pod"

    def __init__(self, described: Described, regression: PodRegression, *, nodes: NodeSet | None = None) -> None:
        self.described, self.regression, self.nodes = described, regression, nodes
        self._tree = cKDTree(regression.points)

    @classmethod
    def load(cls, described: Described, store: DataStore, comm: MPI.Comm, *, nodes: NodeSet | None = None) -> PodGuess:
        """Fit to a data set on the first rank; errors as ``PodRegression.fit``, on all ranks. Collective."""
        return cls(described, share(comm, lambda: PodRegression.fit(store)), nodes=nodes)

    def put(self, problem: Unknown) -> Guess:
        nodes = self.nodes or NodeSet(problem, self.described.schema.outputs)
        features = self.described.features(problem)
        comm, fit = problem.mesh.comm, self.regression
        distances, rows = self._tree.query(nodes.points)
        far = float(distances.max(initial=0.0))
        if allreduce(comm, far, MPI.MAX) > 1e-8 * float(np.ptp(fit.points, axis=0).max(initial=0.0)):
            return Guess(False, "the mesh is not that of the samples")
        scores = allreduce(comm, fit.partial_scores(features.nodal, rows), MPI.SUM)
        nodes.scatter(fit.values(features.scalars, scores, features.nodal, rows), problem.solution)
        set_dirichlet(problem)
        return Guess()


def _base(inputs: npt.NDArray[Any], columns: Sequence[int]) -> Array | float:
    """Return the inputs ``(N, K)`` that the fields correct, zero where there is none."""
    return np.pad(inputs.astype(np.float64), ((0, 0), (0, 1)))[:, list(columns)] if columns else 0.0


def _units(rows: Array, num_scores: int) -> Array:
    """Return the unit of each regressor: of scalars their deviation, of all scores that of the first."""
    units = rows.std(axis=0)
    if num_scores:
        units[-num_scores:] = units[-num_scores]
    return np.where(units > 1e-12 * np.abs(rows).max(axis=0, initial=0.0), units, 1.0)


def _fitted(rows: Array, targets_SR: Array) -> GaussianProcessRegressor:
    """Fit lengths and noise to some samples and the first coefficients, the largest, and the weights to all."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    kernel = ConstantKernel(1.0, (1e-3, 1e4)) * Matern(np.full(rows.shape[1], 3.0), (0.1, 1e4), nu=2.5)
    kernel += WhiteKernel(1e-4, (1e-10, 1.0))
    some = np.linspace(0, len(rows) - 1, min(len(rows), LIMITS.fitted_samples)).astype(int)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a length at its bound: that regressor has no effect
        fitted = GaussianProcessRegressor(kernel, optimizer=_maximum)
        fitted.fit(rows[some], targets_SR[some, : LIMITS.fitted_modes])
        return GaussianProcessRegressor(fitted.kernel_, optimizer=None).fit(rows, targets_SR)


def _maximum(objective: Callable[[Array], tuple[float, Array]], begin: Array, bounds: Array) -> tuple[Array, float]:
    """Minimise the negative logarithm of the likelihood, not to the last digit."""
    options = {"maxiter": LIMITS.iterations}
    found = minimize(objective, begin, jac=True, bounds=bounds, method="L-BFGS-B", options=options)
    return found.x, float(found.fun)


def _left_out(process: GaussianProcessRegressor) -> float:
    """Return the sum of squares of the errors at the samples, each predicted from the others.

    Source: Rasmussen & Williams (2006), Gaussian Processes for Machine Learning, equation 5.12.
    """
    inverse_S = np.diag(cho_solve((process.L_, True), np.eye(len(process.L_))))
    weights_SR = process.alpha_.reshape(len(inverse_S), -1)
    return float(((weights_SR / inverse_S[:, None]) ** 2).sum())
