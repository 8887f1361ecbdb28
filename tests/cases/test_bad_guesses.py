"""The shipped operator behind the gate, poisoned in many ways: every answer is right."""

from __future__ import annotations

import pytest
from mpi4py import MPI

pytest.importorskip("dolfinx", reason="the cases need DOLFINx")

from lrsa_coupled import catalog, config
from lrsa_coupled.bench.poison import bench_gate, gate_table


def test_bad_guesses_end_right_and_are_switched_off() -> None:
    settings = config.load(
        config.Config(case="cavity"),
        assignments=[
            "bench.samples=4",
            "problem.resolution=8",
            "problem.seed=3",
            "guess.patience=2",
            "guess.budget=100",
        ],
    )
    case, folder = catalog.load_case("cavity"), catalog.case_folder("cavity")
    ledger = bench_gate(case, settings, MPI.COMM_SELF, model=folder, others=[folder / "high"])
    rows = {row["name"]: row for row in ledger["poisons"]}
    assert all(row["solved"] == row["samples"] == 4 for row in rows.values())
    assert rows["as it is"]["outcomes"]["converged"] >= 1
    for name in ("not a number", "infinite", "zeros", "sign flipped", "ten times", "white noise of 100 %"):
        assert set(rows[name]["outcomes"]) == {"rejected", "not tried"}
        assert rows[name]["wasted"] > 0.0
        assert rows[name]["decisions"][0]["choice"] == "default"
    assert len(rows) == 10 and all(name in gate_table(ledger) for name in rows)


def test_at_least_two_samples_are_needed() -> None:
    settings = config.load(config.Config(case="cavity"), assignments=["bench.samples=1", "problem.seed=3"])
    with pytest.raises(ValueError, match="needs at least two samples"):
        bench_gate(
            catalog.load_case("cavity"),
            settings,
            MPI.COMM_SELF,
            model=catalog.shipped_model(catalog.case_folder("cavity")),
        )
