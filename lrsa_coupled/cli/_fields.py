"""A solution as files for ParaView: fields in VTX (``.bp``), ``.pvd`` where DOLFINx has no ADIOS2; all in VTKHDF."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from dolfinx import io
from dolfinx.fem import Function

from lrsa_coupled import mpi
from lrsa_coupled.coupling.compat import cell_nodes
from lrsa_coupled.data.export import Exported, differences, write_vtkhdf
from lrsa_coupled.data.parameters import parameter_values
from lrsa_coupled.files import replace_all, reserve, temporary_folder
from lrsa_coupled.generation.sample_arrays import SampleGatherer
from lrsa_coupled.interfaces import Case, InitialGuess, Problem
from lrsa_coupled.schema import Field

DESCRIPTION = 1 << 15
"""Bound of the bytes of a file beside the values."""


def write_fields(case: Case, problem: Problem, folder: Path) -> None:
    """Write the fields of a case; the files appear when all are whole. Collective.

    OSError when there is no room: that is made sure of before, as a disk that fills up while ADIOS2 writes would end
    the process.
    """
    parts, comm = [_part(problem, field) for field in case.fields], problem.mesh.comm
    size = comm.allreduce(sum(map(_size, parts)))
    with ExitStack() as stack:
        new = mpi.share(comm, lambda: stack.enter_context(temporary_folder(folder / "fields")))
        mpi.share(comm, lambda: reserve(folder, size))
        for part in parts:
            if io.has_adios2:
                with io.VTXWriter(comm, new / f"{part.name}.bp", [part]) as writer:
                    writer.write(0.0)
            else:
                with io.VTKFile(comm, new / f"{part.name}.pvd", "w") as writer:
                    writer.write_function(part)
        mpi.share(comm, lambda: replace_all(new, folder))


def write_sample(
    case: Case, problem: Problem, folder: Path, *, about: Mapping[str, Any], guess: InitialGuess | None
) -> dict[str, float]:
    """Write ``sample.vtkhdf``: inputs, solution, initial guess and their difference, gathered to rank 0. Collective.

    ``about`` and the parameters of the problem are field data. Returned is the norm of the difference relative to that
    of the solution, nodal values of a field, by field; nothing without a guess.
    """
    gather = SampleGatherer(case, problem)
    arrays, predicted = gather(problem), None
    if guess is not None:
        solved = problem.solution.x.array.copy()
        guessed = gather(problem) if guess.put(problem).accepted else None
        predicted = None if guessed is None else guessed.outputs
        problem.solution.x.array[:] = solved
    units = {item.name: item.metadata.get("unit", "1") for item in dataclasses.fields(problem.parameters)}
    values = parameter_values(dataclasses.asdict(problem.parameters), units)
    known = {name: value for name, value in about.items() if value is not None}

    def write() -> dict[str, float]:
        if arrays is None:
            return {}
        sample = Exported(arrays, case.schema, predicted, known | values)
        write_vtkhdf(folder / "sample.vtkhdf", sample)
        return differences(sample)

    return mpi.share(problem.mesh.comm, write)


def _part(problem: Problem, field: Field) -> Function:
    part = problem.solution
    for index in field.subspace:
        part = part.sub(index)
    part = part.collapse() if field.subspace else part
    part.name = field.name
    return part


def _size(part: Function) -> int:
    """Return a bound of the bytes that this rank adds to the file of a function: nodes, their values, cells."""
    space, mesh = part.function_space, part.function_space.mesh
    maps = space.dofmap.index_map, mesh.geometry.index_map(), mesh.topology.index_map(mesh.topology.dim)
    dofs, vertices, cells = (each.size_local + each.num_ghosts for each in maps)
    width = max(space.dofmap.dof_layout.num_dofs, cell_nodes(mesh).shape[1]) + 1
    values = part.x.array.itemsize * max(3 ** len(part.ufl_shape), space.value_size)
    return max(dofs, vertices) * (33 + values) + 8 * cells * width + DESCRIPTION
