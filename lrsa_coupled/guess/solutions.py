"""Guesses made of the solutions that a study has found so far on one mesh: the previous, the nearest, combinations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from lrsa_coupled.coupling.residual import set_dirichlet
from lrsa_coupled.guess.regression import NEAREST, PREVIOUS, Combinations
from lrsa_coupled.interfaces import Guess, InitialGuess, Unknown
from lrsa_coupled.mpi import agree, allreduce, share

Array = npt.NDArray[np.float64]

MEMORY = 2**28
"""Memory of a rank for solutions [bytes]."""

MOST = 512
"""Most solutions kept."""

SAME = 1e-5
"""Relative distance of two solutions with which they are taken for the same."""


@final
class Solutions:
    """Solutions on one mesh, each with the description of its problem.

    Each rank keeps its owned degrees of freedom, in single precision and relative to the first solution; descriptions
    and inner products are the same on all ranks.

    Args:
        problem: The unknown of all of them.
        groups: See ``Combinations``; so ``num_scalars``.

    Attributes:
        weights: Weights of the solutions for the problem at hand, by rule.
        repeats: Whether the solution added last is the nearest, or the previous one, again.

    Collective: all methods.
    """

    def __init__(self, problem: Unknown, groups: Sequence[slice], *, num_scalars: int) -> None:
        self.problem, self.comm = problem, problem.mesh.comm
        self._sizes = _sizes(problem)
        width = sum(self._sizes) * np.dtype(problem.functions[0].x.array.dtype).itemsize // 8
        most = allreduce(self.comm, max(4, min(MOST, MEMORY // (4 * max(width, 1)))), min)
        self.combinations = Combinations(groups, num_scalars=num_scalars, most=most)
        self.weights: dict[str, Array] = {}
        self.repeats = False
        self._first: npt.NDArray[Any] | None = None
        self._rows = np.zeros((4, width), dtype=np.float32)
        self._description: Array | None = None

    def expect(self, description: Array) -> None:
        """Take the description of the problem that is solved next."""
        self._description = description
        self.weights = share(self.comm, lambda: self.combinations.weights(description))

    def add(self, own: npt.NDArray[Any]) -> dict[str, float]:
        """Add the solution that is in the unknown; ``own`` are owned values of the user's own guess for it.

        Returns:
            Relative errors in hindsight of each rule, and of the user's own guess under the name "".
        """
        assert self._description is not None, "expect comes first"
        values = owned_values(self.problem)
        if self._first is None:
            self._first = values
        row = _real(values - self._first).astype(np.float32)
        count = len(self.combinations)
        near = [int(np.argmax(self.weights[rule])) for rule in (NEAREST, PREVIOUS) if rule in self.weights]
        others = [row.astype(np.float64), _real(values), _real(values - own), *(row - self._rows[k] for k in near)]
        products = np.einsum("nm,m->n", self._rows[:count], row)  # threads of a BLAS wait for each other here
        sums = np.array([*products, *map(_square, others)], dtype=np.float64)
        sums = allreduce(self.comm, sums, np.add)
        self.repeats = bool((sums[count + 3 :] <= SAME**2 * sums[count + 1]).any())
        square, norm = sums[count], np.sqrt(max(sums[count + 1], 1e-300))
        errors = self.combinations.errors(self.weights, sums[:count], square)
        self._keep(row)
        self.combinations.add(self._description, sums[:count], square)
        return {name: error / norm for name, error in (errors | {"": np.sqrt(sums[count + 2])}).items()}

    def combined(self, rule: str) -> npt.NDArray[Any]:
        """Return the owned values of the guess of a rule for the problem at hand. Collective: no."""
        weights, first = self.weights[rule], self._first
        assert first is not None
        (used,) = np.nonzero(weights)
        change = np.einsum("n,nm->m", weights[used].astype(np.float32), self._rows[used])
        return first + change.astype(np.float64).view(first.dtype)

    def put(self, values: npt.NDArray[Any]) -> None:
        """Write owned values into the unknown, and the Dirichlet values of the problem."""
        parts = np.split(values, np.cumsum(self._sizes)[:-1])
        for function, part in zip(self.problem.functions, parts, strict=True):
            function.x.array[: len(part)] = part
        agree(self.comm)
        for function in self.problem.functions:
            function.x.scatter_forward()
        set_dirichlet(self.problem)

    def _keep(self, row: npt.NDArray[np.float32]) -> None:
        place = self.combinations.place
        if place == len(self._rows):
            self._rows = np.pad(self._rows, ((0, min(place, self.combinations.most - place)), (0, 0)))
        self._rows[place] = row


@final
class CombinedGuess(InitialGuess):
    """The combination of solutions by one rule."""

    def __init__(self, name: str, solutions: Solutions) -> None:
        self.name, self.solutions = name, solutions

    def put(self, problem: Unknown) -> Guess:
        if self.name not in self.solutions.weights:
            return Guess(False, "too few solutions so far")
        self.solutions.put(self.solutions.combined(self.name))
        return Guess()


def owned_values(problem: Unknown) -> npt.NDArray[Any]:
    """Return the owned values of the unknown. Collective: no. Memory: copy."""
    functions = zip(problem.functions, _sizes(problem), strict=True)
    return np.concatenate([function.x.array[:size] for function, size in functions])


def _sizes(problem: Unknown) -> list[int]:
    """Return how many values of each function are owned."""
    maps = [function.function_space.dofmap for function in problem.functions]
    return [dofmap.index_map.size_local * dofmap.index_map_bs for dofmap in maps]


@final
class Moments:
    """Products of inputs with smooth functions, by which problems on any meshes are compared.

    The functions are the lowest cosines of the bounding box of the nodes, M products of one along each axis.
    Collective: making; a call gives the part of this rank's nodes.
    """

    def __init__(self, points: Array, mass: Array, comm: MPI.Comm) -> None:
        columns = np.ascontiguousarray(points.T)
        ends = np.array([column for each in columns for column in _ends(each)])
        ends = allreduce(comm, ends, np.minimum)
        total = allreduce(comm, float(mass.sum()), lambda one, two: one + two)
        orders = np.arange(NUM_WAVES[len(columns)])
        self._waves = []
        for column, low, high in zip(columns, ends[::2], -ends[1::2], strict=True):
            angle = np.pi * (column - low) / max(high - low, 1e-300)
            self._waves.append(np.cos(np.outer(orders, angle)))
        self._waves[0] *= mass / total

    def __len__(self) -> int:
        return len(self._waves[0]) ** len(self._waves)

    def __call__(self, inputs: npt.NDArray[np.floating]) -> Array:
        """Return the products with inputs ``(num_owned, F)``, those of an input after another ``(F M,)``."""
        first, *rest = self._waves
        found = [_product(first * column, rest) for column in np.ascontiguousarray(inputs.T, dtype=np.float64)]
        return np.concatenate(found) if found else np.zeros(0)


def _ends(column: Array) -> tuple[float, float]:
    """Return the least value and the negative of the greatest."""
    return (float(column.min()), -float(column.max())) if len(column) else (np.inf, np.inf)


def _product(values: Array, waves: Sequence[Array]) -> Array:
    """Sum the products of rows ``(R, n)`` with those of each axis over the nodes."""
    if not waves:
        return values.sum(axis=1)
    first, *rest = waves
    if not rest:
        return (values @ first.T).ravel()
    return np.concatenate([_product(row * first, rest) for row in values])


NUM_WAVES = {1: 32, 2: 6, 3: 4}
"""Cosines along an axis, by the dimension of space."""


def _real(values: npt.NDArray[Any]) -> Array:
    return np.ascontiguousarray(values).view(np.float64)


def _square(values: Array) -> float:
    return float(np.einsum("n,n->", values, values))
