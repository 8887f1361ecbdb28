"""Each cell of the table of elements and problems in ``lrsa_coupled/README.md`` is what happens."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ufl
from mpi4py import MPI

pytest.importorskip("dolfinx", reason="the table is of DOLFINx")

from dolfinx import fem
from petsc4py import PETSc

from lrsa_coupled import Collector, Surrogate, attach, describe
from lrsa_coupled.coupling.elements import num_columns
from lrsa_coupled.coupling.options import default_options
from lrsa_coupled.coupling.script import unknown
from lrsa_coupled.coupling.transfer import NodeSet
from lrsa_coupled.data.store import DataStore
from lrsa_coupled.guess.learned import LearnedGuess
from lrsa_coupled.interfaces import Features, Problem
from lrsa_coupled.petsc.describe import KEY
from lrsa_coupled.schema import Field, Schema
from tests.kinds import KINDS, Kind
from tests.mpi.test_any_unknown import knows
from tests.mpi.test_user_program import Watched

COMM = MPI.COMM_WORLD
README = Path(__file__).resolve().parents[2] / "lrsa_coupled" / "README.md"
COLUMNS = ["attach", "collect", "surrogate", "coarse space"]


def table() -> dict[str, dict[str, str]]:
    """The cells by row and column."""
    section = README.read_text(encoding="utf-8").split("## What is supported")[1].split("\n## ")[0]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    rows = [line for line in lines if line[1:] != COLUMNS and not set("".join(line)) <= {"-", ":"}]
    return {row[0]: dict(zip(COLUMNS, row[1:], strict=True)) for row in rows}


TABLE = table()
CELLS = [(row, column) for row in TABLE for column in COLUMNS if TABLE[row][column] != "n/a"]


pytestmark = pytest.mark.two_ranks


def test_the_table_has_all_kinds() -> None:
    assert set(TABLE) == set(KINDS)
    cells = {cell.partition(":")[0] for row in TABLE.values() for cell in row.values()}
    assert cells == {"yes", "passed by", "refused", "n/a"}


@pytest.mark.parametrize(("row", "column"), CELLS)
def test_a_cell_of_the_table(row: str, column: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    cell, kind = TABLE[row][column], KINDS[row]()
    exercise = {"attach": attached, "collect": collected, "surrogate": certified, "coarse space": preconditioned}
    folder = Path(COMM.bcast(str(tmp_path_factory.mktemp("kind") / "data") if COMM.rank == 0 else None))
    if cell.startswith("refused"):
        words = cell.partition(":")[2].strip()
        with pytest.raises(ValueError, match=words.strip("`")):
            exercise[column](kind, folder, cell)
    else:
        exercise[column](kind, folder, cell)


def solution(kind: Kind) -> Any:
    return tuple(kind.u) if isinstance(kind.u, list) else kind.u


def fields(kind: Kind) -> tuple[Field, ...]:
    found = solution(kind)
    paths = [(number,) for number in range(len(found))] if isinstance(found, tuple) else [()]
    functions = found if isinstance(found, tuple) else (found,)
    names = [f"{function.name}{number}" for number, function in enumerate(functions)]
    return tuple(
        Field(name, num_columns(found, name, path), subspace=path) for name, path in zip(names, paths, strict=True)
    )


def knowing(kind: Kind, factor: float) -> tuple[LearnedGuess, Schema]:
    """An operator that predicts the present solution times a factor."""
    outputs = fields(kind)
    nodes = NodeSet(unknown(solution(kind), [], outputs), outputs)
    mesh = (kind.u[0] if isinstance(kind.u, list) else kind.u).function_space.mesh
    schema = Schema("kind", mesh.geometry.dim, (), (), outputs)
    return knows(schema, factor * nodes.gather(solution(kind))), schema


def attached(kind: Kind, folder: Path, cell: str) -> None:
    if not isinstance(kind.problem, PETSc.Object):
        truth, default = kind.run(), kind.problem.solver.getIterationNumber()
    guess = knowing(kind, 1.0)[0]
    found = attach(kind.problem, guess, policy=Watched())
    answers = kind.run()
    assert (found.passed_by is not None) == cell.startswith("passed by")
    tolerance = 0.0 if found.passed_by else 1e-6
    for answer, true in zip(answers, truth, strict=True):
        assert np.abs(answer - true).max(initial=0.0) <= tolerance * max(1.0, np.abs(true).max(initial=0.0))
    if not found.passed_by:
        last = found.policy.decisions[-1]
        assert (last.choice, last.outcome) == ("learned", "converged")
        assert kind.problem.solver.getIterationNumber() <= default


def collected(kind: Kind, folder: Path, cell: str) -> None:
    with Collector(folder, kind.problem, name="kind", inputs={"k": kind.source}) as samples:
        kind.run()
        samples.add()
    outputs = fields(kind)
    own = NodeSet(unknown(solution(kind), [], outputs), outputs).gather(solution(kind))
    sums = COMM.allreduce(np.append((own**2).sum(), len(own)), op=MPI.SUM)
    if COMM.rank == 0:
        arrays = DataStore(folder).read(0).arrays
        assert len(arrays.points) == sums[1] and np.isclose(
            (arrays.outputs.astype(float) ** 2).sum(), sums[0], rtol=1e-4
        )
        assert np.isfinite(arrays.inputs).all() and np.abs(arrays.inputs).max() > 0.0


def certified(kind: Kind, folder: Path, cell: str) -> None:
    if not isinstance(kind.problem, PETSc.Object):
        truth = kind.run()[0]
    guess, schema = knowing(kind, 1.01)
    nodes = unknown(kind.u, [], schema.outputs).node_space
    jacobian = fem.form(ufl.derivative(kind.residual, kind.u))
    problem = Problem(mesh=kind.u.function_space.mesh, solution=kind.u, bcs=[], node_space=nodes, parameters=None,
                      residual=fem.form(kind.residual), jacobian=jacobian)  # fmt: skip
    features = Features(np.zeros((nodes.dofmap.index_map.size_local, 0)), np.zeros(0))
    case: Any = SimpleNamespace(schema=schema, features=lambda _: features, rtol=1e-8)
    answer = Surrogate(case, guess, problem, accept=1e-3).solve()
    assert answer.certified and answer.fallback is None
    error = np.abs(kind.u.x.array - truth).max(initial=0.0)
    assert error < 5e-3 * COMM.allreduce(np.abs(truth).max(initial=0.0), op=MPI.MAX)


def preconditioned(kind: Kind, folder: Path, cell: str) -> None:
    kind.run()
    matrix = kind.problem.A
    space = (kind.u[0] if isinstance(kind.u, list) else kind.u).function_space
    describe(matrix, space, inputs={"k": kind.source})
    points = matrix.getAttr(KEY).nodes.points
    options = {"ksp_type": "gmres", "ksp_pc_side": "right", "ksp_rtol": 1e-10, "pc_type": "python",
               "pc_python_type": "lrsa_coupled.petsc.coarse_space.CoarseSpacePC",
               "pc_lrsa_inner_pc_type": "jacobi"}  # fmt: skip
    ksp = PETSc.KSP().create(COMM)
    ksp.setOptionsPrefix("table_")
    ksp.setOperators(matrix)
    with default_options("table_", options):
        ksp.setFromOptions()
        ksp.getPC().getPythonContext().set_basis(np.column_stack([np.ones(len(points)), points]))
        ksp.setUp()
        x, b = matrix.createVecs()
        x.array[:] = np.sin(3.0 * points[:, 0]) + points[:, 1]
        matrix.mult(x, b)
        found = x.duplicate()
        ksp.solve(b, found)
    assert ksp.getConvergedReason() > 0
    assert np.abs(found.array_r - x.array_r).max(initial=0.0) < 1e-6
    ksp.destroy()
