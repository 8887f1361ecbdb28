"""The ledgers of preconditioners and eigensolvers at small size, on one rank and several."""

from __future__ import annotations

from pathlib import Path

import pytest
from mpi4py import MPI

pytest.importorskip("dolfinx", reason="the cases need DOLFINx")

from lrsa_coupled.bench.modes import bench_modes, modes_table
from lrsa_coupled.bench.preconditioners import bench_preconditioners, preconditioners_table
from lrsa_coupled.bench.ways import all_ways
from lrsa_coupled.catalog import load_case
from lrsa_coupled.config import BenchConfig, Config, GuessConfig, ProblemConfig
from lrsa_coupled.schema import Field
from tests.learned import COMM, operator

CONFIG = Config(
    problem=ProblemConfig(seed=7, resolution=10), bench=BenchConfig(samples=1), guess=GuessConfig(max_ratio=1e9)
)


def test_every_way_of_helmholtz_is_measured(shared_path: Path) -> None:
    case = load_case("helmholtz", {"wave_number": 14.0})
    basis = operator(
        shared_path / "basis", Field("modes", 8, span=True), inputs=("log_slowness",), case="helmholtz:modes", dim=3
    )
    ledger = bench_preconditioners(case, CONFIG, COMM, models=[basis])
    ways = {way["name"]: way for way in ledger["preconditioners"]}
    assert {
        "mumps",
        "two-grid",
        "superlu_dist",
        "ilu",
        "gamg of P",
        "gamg shifted",
        "exact modes",
        "coarse modes",
        "learned basis, 2 cleanings",
    } <= set(ways)
    for name in ("mumps", "superlu_dist", "gamg of P", "exact modes", "coarse modes", "learned basis"):
        (sample,) = ways[name]["samples"]
        assert sample["solved"] and sample["residual"] <= 1.01e-8 and sample["setup"] + sample["solve"] > 0.0
    assert ways["exact modes"]["samples"][0]["dimension"] == 64
    assert 2 * ways["exact modes"]["samples"][0]["iterations"] <= ways["gamg of P"]["samples"][0]["iterations"]
    assert ways["learned basis"]["samples"][0]["inference"] > 0.0
    assert ways["mumps"]["memory"] is None or ways["mumps"]["memory"] >= 0
    table = preconditioners_table(ledger)
    assert "1331 unknowns" in table and all(f"\n{name} " in table for name in ways)
    assert table.count("N* [solves]") == 1 and table.count(", by learned basis") == 5


def test_a_definite_case_takes_conjugate_gradients(shared_path: Path) -> None:
    case = load_case("darcy", {})
    correction = operator(
        shared_path / "correction",
        Field("correction"),
        inputs=("log_coefficient", "residual"),
        case="darcy:correction",
        scale=1e-3,
    )
    only = ["gamg-cg", "sor", "coarse modes", "learned correction, fgmres, sor"]
    ledger = bench_preconditioners(case, CONFIG, COMM, models=[correction], only=only)
    assert [way["name"] for way in ledger["preconditioners"]] == only
    assert all(way["samples"][0]["solved"] for way in ledger["preconditioners"])
    names = [way.name for way in all_ways(case, CONFIG, [correction, shared_path / "correction" / ".." / "correction"])]
    assert len(names) == len(set(names)) and f"learned correction of {correction}, fcg" in names


def test_what_cannot_be_measured_is_named(shared_path: Path) -> None:
    basis = operator(
        shared_path / "basis", Field("modes", 4, span=True), inputs=("log_slowness",), case="helmholtz:modes", dim=3
    )
    field = operator(shared_path / "field", Field("pressure"), inputs=("log_coefficient",), case="darcy")
    for name, options, models, only, message in (
        ("cavity", {}, [], [], "spectrum"),
        ("helmholtz:modes", {"modes": 4}, [], [], "spectrum"),
        ("darcy", {}, [basis], [], "expected an operator of 'darcy'"),
        ("darcy", {}, [field], [], "a basis or a correction"),
        ("darcy", {}, [], ["gamg-gc"], "did you mean 'gamg-cg'"),
    ):
        with pytest.raises(ValueError, match=message):
            bench_preconditioners(load_case(name, options), CONFIG, COMM, models=models, only=only)
    with pytest.raises(ValueError, match="variant|modes of a case with a spectrum"):
        bench_modes(load_case("helmholtz", {}), CONFIG, COMM, model=basis)


def test_eigensolvers_find_the_same_modes(shared_path: Path) -> None:
    case = load_case("helmholtz:modes", {"modes": 8})
    basis = operator(
        shared_path / "basis", Field("modes", 8, span=True), inputs=("log_slowness",), case="helmholtz:modes", dim=3
    )
    ledger = bench_modes(case, CONFIG, COMM, model=basis)
    found = [(entry["count"], entry["name"]) for entry in ledger["eigensolvers"]]
    assert found == [(count, name) for count in (1, 2) for name in ("krylov-schur", "lobpcg", "lobpcg, learned start")]
    for entry in ledger["eigensolvers"]:
        (sample,) = entry["samples"]
        assert sample["solved"] and sample["error"] < 1e-6
    assert "lowest modes of 1 unseen samples" in modes_table(ledger)
