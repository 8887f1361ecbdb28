"""What a study knows on one mesh: the solutions so far, the guesses made of them, what describes a problem."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any, final

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from lrsa_coupled.data.format import SampleArrays
from lrsa_coupled.data.store import DataStore
from lrsa_coupled.generation.sample_arrays import SampleGatherer
from lrsa_coupled.guess.interpolated import INTERPOLATED, InterpolatedGuess
from lrsa_coupled.guess.record import DEFAULT
from lrsa_coupled.guess.regression import RULES
from lrsa_coupled.guess.solutions import CombinedGuess, Moments, Solutions, owned_values
from lrsa_coupled.interfaces import Described, Features, InitialGuess, Unknown
from lrsa_coupled.mpi import agree, allreduce, share
from lrsa_coupled.schema import Schema
from lrsa_coupled.study.library import Library
from lrsa_coupled.study.study import Study

EARLIER = 128
"""Samples of earlier runs that are read at the beginning, the last ones."""
ENOUGH = 8
"""Solutions on a mesh with which those on others are of no further use."""


@final
class OnMesh:
    """What is known on one mesh. Collective: all methods."""

    def __init__(self, study: Study, what: Unknown, seen: Seen, gatherer: SampleGatherer | None) -> None:
        self.study, self.what, self.comm = study, what, what.mesh.comm
        self.gatherer = gatherer or SampleGatherer(seen, what)
        self.gatherer.case = seen
        nodes = self.gatherer.nodes
        self._moments = Moments(nodes.points, nodes.mass, self.comm)
        groups, num_scalars = _groups(seen.schema, len(self._moments)), len(seen.schema.scalars)
        self.solutions = Solutions(what, groups, num_scalars=num_scalars)
        if study.library is None:
            study.library = Library(groups, num_scalars=num_scalars)
        self.description: npt.NDArray[np.float64] = np.zeros(0)
        self._combined: list[InitialGuess] = [CombinedGuess(rule, self.solutions) for rule in RULES]
        self._elsewhere = InterpolatedGuess(nodes)
        self._is_elsewhere = False

    def take_over(self, what: Unknown, seen: Seen) -> bool:
        """Go on with another problem if it has the same mesh, spaces and Dirichlet conditions, else return False."""
        if not allreduce(self.comm, is_same(self.what, what), min):
            return False
        self.what = self.solutions.problem = what
        self.gatherer.case = seen
        return True

    @property
    def guesses(self) -> list[InitialGuess]:
        """Those for the problem at hand."""
        return [*self._combined, *([self._elsewhere] if self._is_elsewhere else [])]

    def expect(self, features: Features) -> None:
        """Take the description of the problem that is solved next."""
        sums = allreduce(self.comm, self._moments(features.nodal), np.add)
        self.description = np.concatenate([features.scalars, sums])
        self.solutions.expect(self.description)
        self._is_elsewhere = False
        if len(self.solutions.combinations) < ENOUGH:
            found = share(self.comm, self._nearest_elsewhere)
            if found is not None:
                self._elsewhere.take(*found)
                self._is_elsewhere = True

    def add(self, own: npt.NDArray[Any]) -> dict[str, float]:
        """Add the solution in the unknown; return the relative errors in hindsight by choice."""
        errors = self.solutions.add(own)
        errors[DEFAULT] = errors.pop("")
        if self._is_elsewhere and self.study.looks(INTERPOLATED):
            squares = allreduce(self.comm, np.array(self._elsewhere.errors(self.what)), np.add)
            errors[INTERPOLATED] = math.sqrt(squares[0] / max(squares[1], 1e-300))
        return errors

    def recall(self) -> Iterator[dict[str, float]]:
        """Take the solutions of earlier runs, which the unknown holds meanwhile; yield the errors in hindsight."""
        log = self.study.log
        indices = share(self.comm, lambda: [] if log is None else log.earlier[-EARLIER:])
        store = DataStore(self.study.folder, tolerant=True) if indices and self.comm.rank == 0 else None
        agree(self.comm)
        for index in indices:
            arrays = None if store is None else _read(store, index)
            found = self.gatherer.spread(arrays)
            if found is None:
                self._remember(arrays)
                continue
            inputs, outputs, scalars = found
            for function in self.what.functions:
                function.x.array[:] = 0.0
            self.gatherer.nodes.scatter(outputs, self.what.solution)
            self.expect(Features(inputs, scalars))
            errors = self.solutions.add(owned_values(self.what))
            self._remember(arrays)
            yield {name: error for name, error in errors.items() if name}

    def _remember(self, arrays: SampleArrays | None) -> None:
        """Put a sample of an earlier run into the library."""
        if arrays is not None:
            assert self.study.library is not None
            functions = Moments(arrays.points, arrays.mass, MPI.COMM_SELF)
            description = np.concatenate([arrays.scalars, functions(arrays.inputs)])
            self.study.library.add(description, arrays)

    def _nearest_elsewhere(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]] | None:
        """Return points and values of the nearest solution on another mesh, None when there is none; on rank 0."""
        assert self.study.library is not None
        found = self.study.library.nearest(self.description, self.gatherer.mesh)
        return None if found is None else (found.points, found.outputs)


@final
class Seen(Described[Unknown]):
    """What describes problems, evaluated once a solve, before it: inputs may be functions that the solve changes."""

    def __init__(self, described: Described) -> None:
        self.described, self.schema = described, described.schema
        self._features: Features | None = None

    def look(self, problem: Unknown) -> Features:
        """Evaluate the inputs as they are now. Collective."""
        self._features = self.described.features(problem)
        return self._features

    def forget(self) -> None:
        """Have what comes next evaluated anew."""
        self._features = None

    def features(self, problem: Unknown) -> Features:
        return self._features or self.look(problem)


def is_same(one: Unknown, other: Unknown) -> bool:
    """Return whether two unknowns have equal elements, nodes, degrees of freedom and constrained ones on this rank."""
    if one is other:
        return True
    if one.node_space.mesh is not one.mesh or other.node_space.mesh is not other.mesh:
        return False
    elements = [[function.function_space.ufl_element() for function in each.functions] for each in (one, other)]
    if elements[0] != elements[1]:
        return False
    return all(
        len(mine) == len(others) and all(map(np.array_equal, mine, others))
        for mine, others in zip(_layout(one), _layout(other), strict=True)
    )


def _layout(problem: Unknown) -> list[list[npt.NDArray[Any]]]:
    dofmaps = [problem.node_space.dofmap, *(function.function_space.dofmap for function in problem.functions)]
    sizes = [np.array([dofmap.index_map.size_local, dofmap.index_map_bs]) for dofmap in dofmaps]
    constrained = [bc.dof_indices()[0] for bc in problem.bcs]
    return [sizes, [problem.node_space.tabulate_dof_coordinates()], [dofmap.list for dofmap in dofmaps], constrained]


def _groups(schema: Schema, num_moments: int) -> list[slice]:
    """Return the columns of a description that belong together, see ``Combinations``."""
    widths = [1] * len(schema.scalars) + [field.components * num_moments for field in schema.inputs]
    ends = np.cumsum([0, *widths]).tolist()
    return [slice(start, end) for start, end in itertools.pairwise(ends)]


def _read(store: DataStore, index: int) -> SampleArrays | None:
    """Return the arrays of a sample, None where it is damaged."""
    try:
        return store.arrays(index)
    except ValueError:
        return None
