"""Adversarial predictions of the shipped operator behind the adaptive policy: every answer is right."""

from __future__ import annotations

from argparse import Namespace

import pytest
from mpi4py import MPI

pytest.importorskip("dolfinx", reason="the cases need DOLFINx")

from lrsa_coupled import catalog, config
from lrsa_coupled.bench.experiments.adversarial_guesses import outcomes, run, table
from lrsa_coupled.bench.samples import Samples


def test_bad_guesses_end_right_and_are_switched_off() -> None:
    settings = config.load(
        config.Config(case="cavity"),
        assignments=[
            "bench.samples=4",
            "problem.resolution=8",
            "problem.seed=3",
            "guess.patience=2",
            "guess.budget=1",
        ],
    )
    case, folder = catalog.load_case("cavity"), catalog.case_folder("cavity")
    results = run(Namespace(models=[folder / "high"]), Samples(case, settings, MPI.COMM_SELF, folder))
    methods = results.methods
    assert all(len(rows) == 4 and all(row.solved for row in rows) for rows in methods.values())
    assert "converged" in outcomes([row.decisions[0] for row in methods["as it is"]])
    for name in ("not a number", "infinite", "ten times"):
        decisions = [row.decisions[0] for row in methods[name]]
        assert decisions[0]["choice"] == "default"
        counts = {part.partition(" ")[2] for part in outcomes(decisions).split(", ")}
        assert counts == {"rejected", "not tried"} and max(decision["wasted"] for decision in decisions) > 0.0
    for name in ("zeros", "sign flipped", "white noise of 100 %"):  # how soon one is given up depends on the time
        tried = [d for row in methods[name] for d in row.decisions if d["choice"] == "learned"]
        assert tried and all((d["outcome"] == "converged") == (d["wasted"] == 0.0) for d in tried)
    text = table(results)
    assert len(methods) == 10 and all(name in text for name in methods) and "budget 100 %" in text


def test_at_least_two_samples_are_needed() -> None:
    settings = config.load(config.Config(case="cavity"), assignments=["bench.samples=1", "problem.seed=3"])
    model = catalog.shipped_model(catalog.case_folder("cavity"))
    with pytest.raises(ValueError, match="at least two samples"):
        run(Namespace(models=[]), Samples(catalog.load_case("cavity"), settings, MPI.COMM_SELF, model))
