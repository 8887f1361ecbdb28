"""The sample of a data set that is nearest in the parameters, interpolated to the mesh of the problem."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np
import numpy.typing as npt
from scipy.interpolate import LinearNDInterpolator, NearestNDInterpolator
from scipy.spatial import Delaunay, cKDTree

from lrsa_coupled.coupling.contract import features_of
from lrsa_coupled.coupling.residual import set_dirichlet
from lrsa_coupled.coupling.transfer import NodeSet
from lrsa_coupled.data.store import DataStore
from lrsa_coupled.interfaces import Case, Guess, InitialGuess, Problem

Array = npt.NDArray[np.float64]


class NearestSample:
    """Finds the sample nearest in standardised parameters and interpolates its fields.

    The parameters are the case's scalars, or the numbers of its parameter dataclass when it has no scalars, each scaled
    to unit variance over the data set. The fields are interpolated linearly on the Delaunay triangulation of the
    sample's nodes; nodes outside it take the nearest value. The tree over the parameters and the last triangulation are
    reused. ``indices`` are those of solved samples, all when None; each is read once. ValueError when there is none.
    """

    def __init__(self, store: DataStore, indices: Sequence[int] | None = None) -> None:
        indices = store.solved if indices is None else indices
        if not indices:
            raise ValueError("the nearest sample needs a data set with at least one solved sample, got none")
        records = map(store.read, indices)
        rows = [_row(r.arrays.scalars, json.loads(r.parameters)) for r in records if r.arrays is not None]
        if len({row.shape for row in rows}) > 1 or not np.isfinite(rows).all():
            raise ValueError(f"{store.folder}: expected samples with the same parameters, finite numbers all of them")
        table = np.array(rows)
        spread = table.std(axis=0)
        varies = spread > 1e-12 * np.abs(table).max(axis=0)
        self._store, self._indices = store, tuple(indices)
        self._scale = np.divide(1.0, spread, out=np.zeros_like(spread), where=varies)
        self._tree = cKDTree(table * self._scale)
        self._last: tuple[int, LinearNDInterpolator, NearestNDInterpolator] | None = None

    def find(self, scalars: Array, parameters: Mapping[str, Any]) -> int:
        """Return the index of the nearest sample. Collective: no."""
        return self._indices[int(self._tree.query(_row(scalars, parameters) * self._scale)[1])]

    def values(self, index: int, points: Array) -> Array:
        """Return the fields of a sample at points ``(num_points, dim)``, as ``(num_points, K)``. Collective: no."""
        if self._last is None or self._last[0] != index:
            arrays = self._store.arrays(index)
            linear = LinearNDInterpolator(Delaunay(arrays.points), arrays.outputs)
            self._last = index, linear, NearestNDInterpolator(arrays.points, arrays.outputs)
        _, linear, nearest = self._last
        values = linear(points)
        outside = np.isnan(values).any(axis=1)
        if outside.any():
            values[outside] = nearest(points[outside])
        return values


@final
class NearestGuess(InitialGuess):
    """The fields of the nearest sample of a case, with the problem's own Dirichlet values."""

    name = "nearest"

    def __init__(self, case: Case, samples: NearestSample) -> None:
        self.case, self.samples = case, samples

    def put(self, problem: Problem) -> Guess:
        nodes = NodeSet(problem, self.case.schema.outputs)
        index = self.samples.find(features_of(self.case, problem).scalars, dataclasses.asdict(problem.parameters))
        nodes.scatter(self.samples.values(index, nodes.points), problem.solution)
        set_dirichlet(problem)
        return Guess()


def _row(scalars: Array, parameters: Mapping[str, Any]) -> Array:
    return scalars if scalars.size else np.hstack([np.ravel(parameters[name]) for name in sorted(parameters)])
