"""The data set as a rival of the operator trained on it: the sample nearest in the parameters, interpolated to the new mesh."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.interpolate import LinearNDInterpolator, NearestNDInterpolator
from scipy.spatial import Delaunay, cKDTree

from lrsa_coupled.guess.fallback import solve_classically
from lrsa_coupled.coupling.residual import set_dirichlet
from lrsa_coupled.coupling.transfer import NodeSet
from lrsa_coupled.data.store import DataStore
from lrsa_coupled.interfaces import Case, Problem, Solver, SolveResult


@dataclass(frozen=True)
class _Source:
    """A stored sample, ready to be interpolated."""

    index: int
    linear: LinearNDInterpolator
    nearest: NearestNDInterpolator

    def at(self, points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        values = self.linear(points)
        outside = np.isnan(values).any(axis=1)
        if outside.any():
            values[outside] = self.nearest(points[outside])
        return values


class NearestSample:
    """Finds the training sample nearest in standardised parameters and interpolates its fields.

    The parameters are the case's scalars, or the numbers of its parameter dataclass when it has no scalars, each scaled to unit variance
    over the data set.
    The fields are interpolated linearly on the Delaunay triangulation of the sample's nodes; nodes outside it take the nearest value.
    What depends on the data set alone (the tree over the parameters, the triangulation) is made once and kept.

    Args:
        store: Data set.
        indices: Which of its solved samples, all when None; each is read once.

    Raises:
        ValueError: If the data set holds no solved sample.
    """

    def __init__(self, store: DataStore, indices: Sequence[int] | None = None) -> None:
        indices = store.solved if indices is None else indices
        if not indices:
            raise ValueError("the nearest training sample needs a data set with at least one solved sample, got none")
        rows = [_row(record.arrays.scalars, json.loads(record.parameters)) for record in map(store.read, indices)]
        table = np.array(rows)
        spread = table.std(axis=0)
        self._store = store
        self._indices = tuple(indices)
        self._scale = np.divide(
            1.0, spread, out=np.zeros_like(spread), where=spread > 1e-12 * np.abs(table).max(axis=0)
        )
        self._tree = cKDTree(table * self._scale)
        self._source: _Source | None = None

    def find(self, scalars: npt.NDArray[np.float64], parameters: Mapping[str, Any]) -> int:
        """Return the index of the nearest sample. Collective: no."""
        return self._indices[int(self._tree.query(_row(scalars, parameters) * self._scale)[1])]

    def prepare(self, index: int) -> None:
        """Bring a sample into memory and triangulate its nodes, unless it is there. Collective: no."""
        if self._source is None or self._source.index != index:
            arrays = self._store.read(index).arrays
            triangulation = Delaunay(arrays.points)
            self._source = _Source(index, LinearNDInterpolator(triangulation, arrays.outputs),
                                   NearestNDInterpolator(arrays.points, arrays.outputs))  # fmt: skip

    def values(self, index: int, points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return the fields of sample ``index`` at ``points`` ``(num_points, dim)``, as ``(num_points, K)``. Collective: no."""
        self.prepare(index)
        return self._source.at(points)


class NearestSolver(Solver):
    """The case's plain solver, started from the nearest training sample.

    Args:
        case: The case.
        nearest: Training samples of the case.
        problem: Problem to solve.
        atol: Absolute tolerance of the residual norm.
        max_iterations: Newton iterations after which the first classical strategy takes over; without it there is no fall-back.
    """

    def __init__(
        self, case: Case, nearest: NearestSample, problem: Problem, *, atol: float, max_iterations: int | None = None
    ) -> None:
        self.case = case
        self.nearest = nearest
        self.problem, self.atol = problem, atol
        self.falls_back = max_iterations is not None
        self.solver = case.solver(problem, atol, max_iterations=max_iterations)

    def solve(self) -> SolveResult:
        """Interpolate the sample, then solve. Collective."""
        started = time.perf_counter()
        nearest_start(self.case, self.nearest, self.problem)
        transfer = time.perf_counter() - started
        result = self.solver.solve()
        seconds = {**result.seconds, "transfer": transfer, "inference": 0.0}
        if self.falls_back and not result.converged:
            return solve_classically(self.case, self.problem, self.atol, iterations=result.iterations, seconds=seconds)
        return dataclasses.replace(result, seconds=seconds)

    def destroy(self) -> None:
        """Free the plain solver. Collective."""
        self.solver.destroy()


def nearest_start(case: Case, nearest: NearestSample, problem: Problem) -> None:
    """Put the nearest sample, with the problem's own Dirichlet values, into the solution. Collective."""
    nodes = NodeSet(problem, case.schema.outputs)
    index = nearest.find(case.features(problem).scalars, dataclasses.asdict(problem.parameters))
    nodes.scatter(nearest.values(index, nodes.points), problem.solution)
    set_dirichlet(problem)


def _row(scalars: npt.NDArray[np.float64], parameters: Mapping[str, Any]) -> npt.NDArray[np.float64]:
    return scalars if scalars.size else np.array(_numbers([parameters[name] for name in sorted(parameters)]))


def _numbers(value: float | Sequence[Any]) -> list[float]:
    if isinstance(value, Sequence):
        return [number for item in value for number in _numbers(item)]
    return [float(value)]
