"""Mistakes of a case on some of the ranks that share a sample, and failures for a numerical reason."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
from mpi4py import MPI

pytest.importorskip("dolfinx", reason="generation needs DOLFINx")

from lrsa_coupled.catalog import load_case
from lrsa_coupled.config import Config, GenerateConfig
from lrsa_coupled.coupling.failures import is_numerical
from lrsa_coupled.data.store import DataStore
from lrsa_coupled.generation.generate import GenerateSummary, generate
from lrsa_coupled.interfaces import NumericalError
from lrsa_coupled.meshing import gmsh_mesh
from lrsa_coupled.traces import notes, own_trace
from tests.own_case import write_case

COMM = MPI.COMM_WORLD


def run(folder: Path, statements: dict[str, str]) -> GenerateSummary:
    """Make three samples, each on all ranks; the source of the last one is below 1.2."""
    if COMM.rank == 0:
        write_case(folder / "case", **statements)
    COMM.Barrier()
    config = Config(generate=GenerateConfig(samples=3, ranks_per_sample=COMM.size))
    return generate(load_case(str(folder / "case")), config, folder / "data", COMM)


@pytest.mark.parametrize(
    ("statements", "message"),
    [
        ({"sample": "source += comm.rank"}, "sample 0 of 'plate' must be the same on all ranks"),
        ({"sample": "source += comm.rank * (source < 1.2)"}, "sample 2 of 'plate' must be the same on all ranks"),
        ({"features": "scalars = scalars + comm.rank"}, "scalars must be the same on all ranks, got others of source"),
        ({"features": "values = values[comm.rank == comm.size - 1 :]"}, "shape of nodal"),
    ],
)
def test_ranks_that_differ_are_noticed(statements: dict[str, str], message: str, shared_path: Path) -> None:
    if COMM.size == 1 and "shape" not in message:
        pytest.skip("ranks differ where there are several")
    given = {name: f"from mpi4py import MPI; comm = MPI.COMM_WORLD; {text}" for name, text in statements.items()}
    with pytest.raises(ValueError, match=message):
        run(shared_path, given)


def test_a_mistake_on_one_rank_is_shown_by_all(shared_path: Path) -> None:
    statement = "if parameters.source < 1.2: int('no number')"
    with pytest.raises(ValueError, match="no number") as caught:
        run(shared_path, {"features": statement.replace("parameters", "problem.parameters")})
    assert "case.py" in own_trace(caught.value) and "no number" in own_trace(caught.value).splitlines()[-1]
    assert "in sample 2 of 'plate'" in notes(caught.value)
    assert list(DataStore(shared_path / "data").entries) == [0, 1]


def test_what_cannot_be_meshed_is_a_numerical_error_on_all_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    gmsh = pytest.importorskip("gmsh")

    def give_up(dim: int) -> None:
        raise Exception("cannot recover an edge")

    def draw(gmsh: ModuleType) -> None:
        gmsh.model.occ.addRectangle(0, 0, 0, 1, 1)
        gmsh.model.occ.synchronize()

    before = gmsh_mesh(COMM, draw, 2).topology.index_map(2).size_global
    with monkeypatch.context() as patched:
        patched.setattr(gmsh.model.mesh, "generate", give_up)
        with pytest.raises(NumericalError, match="gmsh gave up: cannot recover an edge") as caught:
            gmsh_mesh(COMM, draw, 2)
    assert is_numerical(caught.value)
    assert gmsh_mesh(COMM, draw, 2).topology.index_map(2).size_global == before  # nothing of it is left
