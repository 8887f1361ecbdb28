"""Experiments on preconditioners and eigensolvers at small size, on one rank and several."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import pytest
from mpi4py import MPI

pytest.importorskip("dolfinx", reason="the cases need DOLFINx")

from lrsa_coupled.bench.experiments import eigensolvers, preconditioners
from lrsa_coupled.bench.linear_methods import linear_methods
from lrsa_coupled.bench.rows import Results
from lrsa_coupled.bench.samples import Samples
from lrsa_coupled.catalog import load_case
from lrsa_coupled.config import BenchConfig, Config, GuessConfig, ProblemConfig
from lrsa_coupled.schema import Field
from tests.learned import COMM, operator

pytestmark = pytest.mark.two_ranks

CONFIG = Config(
    problem=ProblemConfig(seed=7, resolution=10), bench=BenchConfig(samples=1), guess=GuessConfig(max_ratio=1e9)
)


def samples(name: str, model: Path | None = None, **options: float) -> Samples:
    return Samples(load_case(name, options), CONFIG, COMM, model)


def precondition(where: Samples, models: Sequence[Path], only: Sequence[str] = ()) -> Results:
    return preconditioners.run(Namespace(models=models, only=only), where)


def basis_of(folder: Path, count: int) -> Path:
    field = Field("modes", count, span=True)
    return operator(folder / f"basis{count}", field, inputs=("log_slowness",), case="helmholtz:modes", dim=3)


def test_every_method_of_helmholtz_is_measured(shared_path: Path) -> None:
    models = [basis_of(shared_path, 8)]
    results = precondition(samples("helmholtz", wave_number=14.0), models)
    rows = {row.method: row for row in results.rows}
    others = {"two-grid", "ilu", "gamg shifted", "learned basis, 2 inverse iteration steps"}
    solving = ("mumps", "superlu_dist", "gamg of P", "exact modes", "coarse modes", "learned basis")
    assert others | set(solving) <= set(rows)
    assert all(rows[name].solved and rows[name].residual <= 1.01e-8 for name in solving)
    assert rows["exact modes"].values["dimension"] == 64 and {row.unknowns for row in results.rows} == {1331}
    assert 2 * rows["exact modes"].iterations <= rows["gamg of P"].iterations
    assert rows["learned basis"].seconds.inference > 0.0
    assert rows["mumps"].values["memory"] is None or rows["mumps"].number("memory") >= 0
    text = preconditioners.table(results)
    assert all(f"\n{name} " in text for name in rows) and text.count(", by learned basis") == 5


def test_a_definite_case_takes_conjugate_gradients(shared_path: Path) -> None:
    inputs, case = ("log_coefficient", "residual"), "darcy:correction"
    folder = shared_path / "correction"
    correction = operator(folder, Field("correction"), inputs=inputs, case=case, scale=1e-3)
    only = ["gamg-cg", "sor", "coarse modes", "learned correction, fgmres, sor"]
    results = precondition(samples("darcy"), [correction], only)
    assert list(results.methods) == only and all(row.solved for row in results.rows)
    methods = linear_methods(load_case("darcy"), CONFIG, [correction, folder / ".." / "correction"])
    names = [method.name for method in methods]
    assert len(names) == len(set(names)) and f"learned correction of {correction}, fcg" in names


def test_what_cannot_be_measured_is_named(shared_path: Path) -> None:
    basis = basis_of(shared_path, 4)
    field = operator(shared_path / "field", Field("pressure"), inputs=("log_coefficient",), case="darcy")
    for where, models, only, message in (
        (samples("cavity"), [], [], "spectrum"),
        (samples("helmholtz:modes", modes=4), [], [], "spectrum"),
        (samples("darcy"), [basis], [], "expected an operator of 'darcy'"),
        (samples("darcy"), [field], [], "a basis or a correction"),
        (samples("darcy"), [], ["gamg-gc"], "did you mean 'gamg-cg'"),
    ):
        with pytest.raises(ValueError, match=message):
            precondition(where, models, only)
    with pytest.raises(ValueError, match="whose output is modes"):
        eigensolvers.run(Namespace(), samples("helmholtz", basis))


def test_eigensolvers_find_the_same_modes(shared_path: Path) -> None:
    results = eigensolvers.run(Namespace(), samples("helmholtz:modes", basis_of(shared_path, 8), modes=8))
    found = [(row.values["count"], row.method) for row in results.rows]
    names = ("krylov-schur", "lobpcg", "lobpcg, learned guess")
    assert found == [(count, name) for count in (1, 2) for name in names]
    assert all(row.solved and row.number("error") < 1e-6 for row in results.rows)
    assert all(name in eigensolvers.table(results) for name in names)
