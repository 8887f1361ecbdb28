"""Every case of the tree at smoke size: contracts, then data, training and ledger end to end."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI

pytest.importorskip("dolfinx", reason="cases need DOLFINx")

from lrsa_coupled import catalog, config
from lrsa_coupled.bench.breakeven import break_even
from lrsa_coupled.bench.compare import NEAREST
from lrsa_coupled.bench.generation import bench_generation, generation_table
from lrsa_coupled.bench.html import page
from lrsa_coupled.bench.ledger import bench
from lrsa_coupled.bench.pictures import GATED
from lrsa_coupled.bench.report import LEARNED, pictures, table
from lrsa_coupled.bench.stored import check_ledger
from lrsa_coupled.coupling.residual import reference_norm, residual_norm
from lrsa_coupled.coupling.transfer import NodeSet
from lrsa_coupled.data.store import DataStore
from lrsa_coupled.generation.generate import generate
from lrsa_coupled.generation.plan import sample_parameters
from lrsa_coupled.settings import update
from lrsa_coupled.training.loop import train


def smoke_config(name: str) -> config.Config:
    values, presets = catalog.case_settings(catalog.case_folder(name))
    base = update(config.Config(case=name), values, where=name)
    base = update(base, presets["smoke"], where=name)
    tiny = ["generate.samples=10", "training.epochs=4", "bench.samples=1", "training.valid_fraction=0.2"]
    return config.load(base, assignments=tiny)


@pytest.mark.parametrize("name", catalog.case_names())
def test_contracts(name: str) -> None:
    case = catalog.load_case(name, smoke_config(name).options)
    assert case.name == name
    first, second = (sample_parameters(case, 4, index) for index in (0, 1))
    assert first == sample_parameters(case, 4, 0)
    assert first != second
    assert all("unit" in f.metadata for f in dataclasses.fields(first))
    assert type(first)(**{k: _tuples(v) for k, v in json.loads(json.dumps(dataclasses.asdict(first))).items()}) == first
    problem = case.problem(case.mesh(MPI.COMM_SELF, first, smoke_config(name).problem.resolution), first)
    assert not problem.solution.x.array.any()
    nodes = NodeSet(problem, case.fields)
    features = case.features(problem)
    assert features.nodal.shape == (nodes.num_owned, sum(f.components for f in case.schema.inputs))
    assert features.scalars.shape == (len(case.schema.scalars),)
    assert np.isfinite(features.nodal).all() and np.isfinite(features.scalars).all()
    assert set(case.schema.outputs) <= set(case.fields)
    atol = case.rtol * reference_norm(problem)
    solver = case.default_solver(problem, atol)
    assert solver.solve().converged
    solver.destroy()
    assert residual_norm(problem) <= atol * (1 + 1e-6)


def _tuples(value: object) -> object:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


@pytest.mark.parametrize("name", catalog.case_names())
def test_end_to_end(name: str, tmp_path: Path) -> None:
    settings = smoke_config(name)
    case = catalog.load_case(name, settings.options)
    assert generate(case, settings, tmp_path / "data", MPI.COMM_SELF).solved >= 8
    assert train(tmp_path / "data", tmp_path / "model", settings)["epochs"] == 4
    run = bench(case, settings, MPI.COMM_SELF, model=tmp_path / "model", data=tmp_path / "data")
    names = [strategy["name"] for strategy in run.ledger["strategies"]]
    nested = [name for name in names if name.startswith("nested")]
    assert len(nested) == (settings.bench.coarse_meshes or 0)
    assert names == [*case.methods(), *nested, NEAREST, GATED, LEARNED]
    rival = names[-4]  # the last one that needs no data
    few = bench(
        case,
        config.load(settings, assignments=["bench.samples=1"]),
        MPI.COMM_SELF,
        model=tmp_path / "model",
        only=[rival],
    )
    assert [strategy["name"] for strategy in few.ledger["strategies"]] == [rival, GATED, LEARNED]
    with pytest.raises(ValueError, match=r"unknown strategy 'best' .known: "):
        bench(case, settings, MPI.COMM_SELF, model=tmp_path / "model", only=["best"])
    learned = run.ledger["strategies"][-1]["samples"][0]
    assert learned["solved"] and learned["residual"] <= learned["atol"] * (1 + 1e-6)
    assert learned["relative_error"] > 0
    parameters = sample_parameters(case, settings.problem.test_seed, 0)
    problem = case.problem(case.mesh(MPI.COMM_SELF, parameters, settings.problem.resolution), parameters)
    assert {s["unknowns"] for strategy in run.ledger["strategies"] for s in strategy["samples"]} == {
        problem.solution.x.petsc_vec.getSize()
    }
    check_ledger(json.loads(json.dumps(run.ledger)))
    assert LEARNED in table(run.ledger) and LEARNED in page([run.ledger])
    assert {item.text for item in break_even(run.ledger)}.isdisjoint({"unknown", "-"})
    assert all(path.stat().st_size > 10_000 for path in pictures(run, tmp_path))
    assert DataStore(tmp_path / "data").card.schema.name == name
    settings = config.load(settings, assignments=["bench.samples=3", "generate.samples_per_chain=2"])
    ledger = bench_generation(case, settings, MPI.COMM_SELF, model=tmp_path / "model")
    assert {strategy["name"] for strategy in ledger["strategies"]} > set(case.methods())
    assert all(sample["solved"] for strategy in ledger["strategies"] for sample in strategy["samples"])
    assert "samples per hour" in generation_table(ledger)


@pytest.mark.parametrize("name", [n for n in catalog.case_names() if catalog.shipped_model(catalog.case_folder(n))])
def test_shipped_model(name: str) -> None:
    """The shipped weights load, are small, and start Newton better than zero does."""
    case, folder = catalog.load_case(name), catalog.case_folder(name)
    assert (folder / "model.safetensors").stat().st_size <= 4 * 2**20
    settings = config.load(
        config.Config(case=name),
        assignments=["bench.samples=2", f"problem.resolution={case.resolution}", "problem.seed=9"],
    )
    cold = "zero" if "zero" in case.methods() else case.default_method
    run = bench(case, settings, MPI.COMM_SELF, model=folder, only=[cold])
    learned = run.ledger["strategies"][-1]["samples"]
    first = run.ledger["strategies"][0]["samples"]
    assert all(sample["solved"] and not sample["used_fallback"] for sample in learned)
    assert all(a["iterations"] < b["iterations"] for a, b in zip(learned, first, strict=True))
    assert all(sample["relative_error"] < 0.1 for sample in learned)
