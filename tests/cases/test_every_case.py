"""Every case of the tree at smoke size: contracts, then data, training and benchmark end to end."""

from __future__ import annotations

import dataclasses
import json
import shutil
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI

pytest.importorskip("dolfinx", reason="cases need DOLFINx")

from lrsa_coupled import catalog, cli, config
from lrsa_coupled.bench.compare import ADAPTIVE, LEARNED, NEAREST, POD
from lrsa_coupled.bench.experiments import generation
from lrsa_coupled.bench.html import page
from lrsa_coupled.bench.measure import compare_methods
from lrsa_coupled.bench.methods import methods_of_data
from lrsa_coupled.bench.payback import pay_backs
from lrsa_coupled.bench.pictures import comparison_pictures
from lrsa_coupled.bench.report import table
from lrsa_coupled.bench.rows import read_rows, write_rows
from lrsa_coupled.bench.samples import Samples
from lrsa_coupled.coupling.residual import reference_norm, residual_norm
from lrsa_coupled.coupling.scalars import IS_COMPLEX
from lrsa_coupled.coupling.transfer import NodeSet
from lrsa_coupled.generation.generate import generate
from lrsa_coupled.generation.plan import sample_parameters
from lrsa_coupled.guess.guarded import GuardedSolver
from lrsa_coupled.settings import update
from lrsa_coupled.training.loop import train

CASES = [name for name in catalog.case_names() if catalog.load_case(name).is_complex == IS_COMPLEX]
"""Those for the PETSc of this environment."""


def smoke_config(name: str) -> config.Config:
    values, presets = catalog.case_settings(catalog.case_folder(name))
    base = update(config.Config(case=name), values, where=name)
    base = update(base, presets["smoke"], where=name)
    tiny = ["generate.samples=10", "training.epochs=4", "bench.samples=1", "training.valid_fraction=0.2"]
    return config.load(base, assignments=tiny)


@pytest.mark.parametrize("name", CASES)
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


@pytest.mark.skipif(IS_COMPLEX, reason="needs PETSc with real scalars")
@pytest.mark.parametrize("verb", ["generate", "solve", "bench"])
def test_a_complex_case_needs_complex_petsc(verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The case is listed; what would solve it names the package that is missing, before any work."""
    case = catalog.load_case("scattering")
    with pytest.raises(ValueError, match="'scattering' needs PETSc with complex scalars"):
        case.problem(case.mesh(MPI.COMM_SELF, sample_parameters(case, 0, 0), 8), sample_parameters(case, 0, 0))
    out = [] if verb == "bench" else ["--out", str(tmp_path / "out")]
    assert cli.main([verb, "scattering", *out]) == 2
    assert "pip install dolfinx-solver-complex" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def _tuples(value: object) -> object:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


@pytest.mark.parametrize("name", CASES)
def test_end_to_end(name: str, tmp_path: Path) -> None:
    settings = smoke_config(name)
    case = catalog.load_case(name, settings.options)
    assert generate(case, settings, tmp_path / "data", MPI.COMM_SELF).solved >= 8
    assert train(tmp_path / "data", tmp_path / "model", settings)["epochs"] == 4
    model, data = tmp_path / "model", tmp_path / "data"
    found = compare_methods(case, settings, MPI.COMM_SELF, model=model, data=data)
    names = list(found.results.methods)
    nested = [name for name in names if name.startswith("nested")]
    assert len(nested) == (settings.bench.coarse_meshes or 0)
    needing = [NEAREST, POD] if POD in names else [NEAREST]
    assert POD in names or case.fixed_mesh is None
    assert names == [*case.methods(), *nested, *needing, ADAPTIVE, LEARNED]
    last = names[-3 - len(needing)]  # the last one that needs no data
    few = compare_methods(case, settings, MPI.COMM_SELF, model=model, only=[last])
    assert list(few.results.methods) == [last, ADAPTIVE, LEARNED]
    with pytest.raises(ValueError, match=r"unknown method 'best' .known: "):
        compare_methods(case, settings, MPI.COMM_SELF, model=model, only=["best"])
    (learned,) = found.results.methods[LEARNED]
    assert learned.solved and learned.residual <= learned.atol * (1 + 1e-6) and learned.start_error > 0
    parameters = sample_parameters(case, settings.problem.test_seed, 0)
    problem = case.problem(case.mesh(MPI.COMM_SELF, parameters, settings.problem.resolution), parameters)
    assert {row.unknowns for row in found.results.rows} == {problem.solution.x.petsc_vec.getSize()}
    limited = config.load(settings, assignments=["guess.max_iterations=1"])
    solver = methods_of_data(case, limited, data, MPI.COMM_SELF)[0][0].make(problem, 1.0)
    assert isinstance(solver, GuardedSolver) and solver.policy.choose("", ["nearest"]).max_iterations == 1
    solver.destroy()
    write_rows(found.results, tmp_path / "rows.jsonl")
    assert read_rows(tmp_path / "rows.jsonl") == found.results
    assert found.results.header.settings["model"] == str(model)
    assert LEARNED in table(found.results) and LEARNED in page([found.results])
    assert {item.text for item in pay_backs(found.results)}.isdisjoint({"unknown", "-"})
    assert all(path.is_file() for path in comparison_pictures(found.results, found.example, tmp_path))
    settings = config.load(settings, assignments=["bench.samples=3", "generate.samples_per_chain=2"])
    results = generation.run(Namespace(), Samples(case, settings, MPI.COMM_SELF, model))
    assert set(results.methods) > set(case.methods()) and all(row.solved for row in results.rows)
    assert all(row.number("samples_per_hour") > 0.0 for row in results.rows)
    assert all(name in generation.table(results) for name in results.methods)


@pytest.mark.parametrize("name", [name for name in CASES if catalog.load_case(name).fixed_mesh is not None])
def test_a_study_takes_the_settings_of_the_case(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is reused on one mesh goes with learning; the steps of a trajectory do not, which is said."""
    words = ["study", name, "--preset", "smoke", "--samples", "3", "--out", str(tmp_path / "study"), "--quiet"]
    code, written = cli.main(words), capsys.readouterr()
    if catalog.load_case(name).trajectory is not None:
        assert code == 2 and "samples that do not depend on each other" in written.err
    else:
        assert code == 0 and "study: 3 solves" in written.out


@pytest.mark.parametrize("name", [n for n in CASES if catalog.shipped_model(catalog.case_folder(n))])
def test_shipped_model(name: str) -> None:
    """The shipped weights load, are small, and start Newton better than zero does."""
    case, folder = catalog.load_case(name), catalog.case_folder(name)
    assert (folder / "model.safetensors").stat().st_size <= 4 * 2**20
    settings = config.load(
        config.Config(case=name),
        assignments=["bench.samples=2", f"problem.resolution={case.resolution}", "problem.seed=9"],
    )
    cold = "zero" if "zero" in case.methods() else case.default_method
    methods = compare_methods(case, settings, MPI.COMM_SELF, model=folder, only=[cold]).results.methods
    assert all(row.solved and not row.used_fallback and row.start_error < 0.1 for row in methods[LEARNED])
    assert all(a.iterations < b.iterations for a, b in zip(methods[LEARNED], methods[cold], strict=True))


def test_bench_without_a_model_compares_the_others(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A coarse mesh that the case refuses is left out; the last line says how to get a learned guess."""
    folder, rows = tmp_path / "case", tmp_path / "rows.jsonl"
    folder.mkdir()
    for path in catalog.case_folder("cavity").glob("*.py"):
        shutil.copy(path, folder)
    settings = ["--samples", "1", "--resolution", "8", "--set", "bench.coarse_meshes=2", "--json", str(rows)]
    assert cli.main(["bench", str(folder), *settings]) == 0
    text = capfd.readouterr().out
    case = catalog.load_case(folder)
    assert list(read_rows(rows).methods) == [*case.methods(), "nested, 1 coarser mesh"]
    assert "nested, 2 coarser meshes: left out (the cavity needs a resolution of at least 4" in text
    assert text.splitlines()[-1].startswith(f"next: for a learned guess lrsa-coupled generate {folder} --out DATA, ")
