"""Training data from a user's own script: every solve that is added becomes a sample of a data set."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import final

import ufl
from mpi4py import MPI
from dolfinx.fem import DirichletBC, Function
from dolfinx.fem.petsc import LinearProblem, NonlinearProblem
from petsc4py import PETSc

from lrsa_coupled.coupling.elements import Solution, num_columns
from lrsa_coupled.coupling.inputs import Input, input_columns
from lrsa_coupled.coupling.quantities import of_forms
from lrsa_coupled.coupling.script import Scalar, Script, named, unknown, unknown_of
from lrsa_coupled.data.card import DataCard, create
from lrsa_coupled.data.claims import Indices
from lrsa_coupled.data.format import SampleRecord
from lrsa_coupled.data.store import DataStore
from lrsa_coupled.data.writer import ShardWriter, tidy
from lrsa_coupled.generation.sample_arrays import SampleGatherer
from lrsa_coupled.interfaces import Unknown
from lrsa_coupled.mpi import collective_errors
from lrsa_coupled.schema import Field

SAMPLES_PER_SHARD = 16


@final
class Collector:
    """Writes the solved states of a script into a data set that ``lrsa-coupled train`` reads.

    A sample is on disk when ``add`` returns. A second run of the script adds to the data set, and several may run at
    once, on one machine or on several that share the folder: each has indices of its own. Use it in a ``with`` block,
    or call ``close``. Collective: all methods.

    Args:
        folder: The data set.
        problem: What solves; a bare SNES or KSP needs ``u`` and ``bcs``.
        name: Name of the family of problems.
        inputs: Nodal inputs of the operator to be trained, by name.
        scalars: Its scalars by name.
        outputs: Path of sub-indices of each field to predict in the space of the unknown, by name; it begins with the
            number of the function where the unknown is a list. None takes the whole unknown, under its own name or
            names.
        u: The unknown of a bare SNES or KSP, a function or a list of them.
        bcs: Its Dirichlet conditions, or those of a problem instead of what it was made with.
        quantities: Numbers to be kept with each sample, by name: forms of the unknown without test functions.

    Raises:
        ValueError: If an input or scalar is of no use, the unknown is of an element that is not supported, or the
            folder holds another data set; on all ranks.
    """

    def __init__(  # noqa: PLR0913 - what a script has, each by its name
        self,
        folder: Path | str,
        problem: LinearProblem | NonlinearProblem | PETSc.SNES | PETSc.KSP,
        *,
        name: str,
        inputs: Mapping[str, Input] | None = None,
        scalars: Mapping[str, Scalar] | None = None,
        outputs: Mapping[str, Sequence[int]] | None = None,
        u: Function | Sequence[Function] | None = None,
        bcs: Sequence[DirichletBC] | None = None,
        quantities: Mapping[str, ufl.Form] | None = None,
    ) -> None:
        solution, bcs = unknown_of(problem, u, bcs)
        fields = fields_of(solution, outputs)
        self.folder = Path(folder).resolve()  # a script may change its folder
        self.what = unknown(solution, bcs, fields)
        self.comm: MPI.Comm = self.what.mesh.comm
        self.solver = problem if isinstance(problem, (PETSc.SNES, PETSc.KSP)) else problem.solver
        self.script = script_of(
            name, self.what, named("inputs", inputs), scalars=named("scalars", scalars), outputs=fields
        )
        self._gatherer = SampleGatherer(self.script, self.what)
        self._quantities = of_forms(named("quantities", quantities), self.what)
        self._writer = ShardWriter(self.folder, SAMPLES_PER_SHARD)
        with collective_errors(self.comm):
            if self.comm.rank == 0:
                create(self.folder, DataCard(self.script.schema, seed=0, resolution=0))
                self._indices = Indices(self.folder, 1 + max(DataStore(self.folder).entries, default=-1))
        self._last = time.perf_counter()

    def add(self) -> None:
        """Add the state of the unknown after a solve; of a solve that failed the fields are left out."""
        seconds, solver = time.perf_counter() - self._last, self.solver
        reason, iterations = solver.getConvergedReason(), solver.getIterationNumber()
        arrays = self._gatherer(self.what) if reason > 0 else None
        numbers = self._quantities.text() if self._quantities is not None and reason > 0 else "{}"
        with collective_errors(self.comm):
            if self.comm.rank == 0:
                linear, status = isinstance(solver, PETSc.KSP), "ok" if reason > 0 else "failed"
                residual = solver.getResidualNorm() if linear else solver.getFunctionNorm()
                text = f"{'KSP' if linear else 'SNES'} reason {reason}"
                index = self._indices.take()
                rest = iterations, residual, seconds, arrays, numbers
                self._writer.add(SampleRecord(index, status, text, "{}", *rest))
        self._last = time.perf_counter()

    def close(self) -> None:
        """Put the data set in order."""
        with collective_errors(self.comm):
            if self.comm.rank == 0:
                self._writer.close()
                self._indices.close()
                tidy(self.folder, SAMPLES_PER_SHARD, leave=self._indices.of_others())

    def __enter__(self) -> Collector:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:  # after an error on one rank the others may not come here; the samples are on disk
            self.close()


def script_of(name: str, what: Unknown, inputs: Mapping[str, Input], *, scalars: Mapping[str, Scalar],
              outputs: Sequence[Field]) -> Script:  # fmt: skip
    """Return a script as an operator that is yet to be trained will see it; errors as ``Script``. Collective."""
    named = {Field(key, input_columns(key, source, what.mesh)): source for key, source in inputs.items()}
    return Script(name, named, scalars, outputs=outputs, node_space=what.node_space)


def fields_of(solution: Solution, outputs: Mapping[str, Sequence[int]] | None) -> tuple[Field, ...]:
    """Return the outputs of an operator for a solution; see ``Collector`` for ``outputs``. Collective: no."""
    fields, outputs = [], _names(solution) if outputs is None else outputs
    for name, path in outputs.items():
        fields.append(Field(name, num_columns(solution, name, path), subspace=tuple(path)))
    return tuple(fields)


def _names(solution: Solution) -> dict[str, tuple[int, ...]]:
    """Return the path of each function by its name, numbered where several have the same."""
    if isinstance(solution, Function):
        return {solution.name: ()}
    names = [function.name for function in solution]
    repeated = len(set(names)) < len(names)
    return {f"{name}_{number}" if repeated else name: (number,) for number, name in enumerate(names)}
