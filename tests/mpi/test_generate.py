"""Data generation: the same arrays from any number of ranks, and after a crash."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI

pytest.importorskip("dolfinx", reason="generation needs DOLFINx")

from cases.cavity.case import CavityCase, CavityParameters
from lrsa_coupled.config import Config, GenerateConfig
from lrsa_coupled.coupling.generate import generate
from lrsa_coupled.data.format import SampleArrays
from lrsa_coupled.data.store import DataStore
from lrsa_coupled.interfaces import Case

COMM = MPI.COMM_WORLD
CONFIG = Config(case="cavity", generate=GenerateConfig(samples=5, seed=3, resolution=8, samples_per_shard=2))


def assert_same_arrays(one: Path, two: Path) -> None:
    a, b = DataStore(one), DataStore(two)
    assert a.status == b.status
    for index in a.solved:
        first, second = a.read(index).arrays, b.read(index).arrays
        for field in dataclasses.fields(SampleArrays):
            assert getattr(first, field.name).tobytes() == getattr(second, field.name).tobytes(), (index, field.name)


def test_arrays_do_not_depend_on_the_ranks(shared_path: Path) -> None:
    summary = generate(CavityCase(), CONFIG, shared_path / "all", COMM)
    assert (summary.samples, summary.solved) == (5, 5)
    if COMM.rank == 0:
        generate(CavityCase(), CONFIG, shared_path / "one", MPI.COMM_SELF)
        assert_same_arrays(shared_path / "all", shared_path / "one")


def test_a_lost_shard_is_made_again(shared_path: Path) -> None:
    generate(CavityCase(), CONFIG, shared_path / "all", COMM)
    if COMM.rank == 0:
        shutil.copytree(shared_path / "all", shared_path / "whole")
        lost = sorted((shared_path / "all" / "shards").glob("*.h5"))[0]
        lost.unlink()
    COMM.Barrier()
    generate(CavityCase(), CONFIG, shared_path / "all", COMM)
    if COMM.rank == 0:
        assert_same_arrays(shared_path / "all", shared_path / "whole")


class FailingCavity(Case):
    """The cavity, except that every second sample cannot be meshed or solved."""

    name, dim, resolution = CavityCase.name, CavityCase.dim, CavityCase.resolution
    inputs, scalars, fields, outputs = CavityCase.inputs, CavityCase.scalars, CavityCase.fields, CavityCase.outputs
    rtol = CavityCase.rtol
    real = CavityCase()

    def sample(self, rng: np.random.Generator) -> CavityParameters:
        parameters = self.real.sample(rng)
        return dataclasses.replace(parameters, reynolds=1e7 if rng.uniform() < 0.5 else 100.0)

    def mesh(self, comm, parameters, resolution):  # noqa: ANN001, ANN201
        if parameters.angle > 2.5:
            raise Exception("the mesher gave up")  # noqa: TRY002 - gmsh raises nothing more specific
        return self.real.mesh(comm, parameters, resolution)

    def problem(self, mesh, parameters):  # noqa: ANN001, ANN201
        return self.real.problem(mesh, parameters)

    def features(self, problem):  # noqa: ANN001, ANN201
        return self.real.features(problem)

    def solver(self, problem, atol, *, max_iterations=None):  # noqa: ANN001, ANN201
        return self.real.solver(problem, atol, max_iterations=max_iterations)

    def strategies(self):  # noqa: ANN201
        return {"zero": self.real.strategies()["zero"]}


def test_failures_are_recorded_with_their_reason(shared_path: Path) -> None:
    config = dataclasses.replace(CONFIG, generate=dataclasses.replace(CONFIG.generate, samples=8))
    summary = generate(FailingCavity(), config, shared_path / "failing", COMM)
    assert summary.samples == 8
    assert summary.solved + sum(summary.failed.values()) == 8
    assert "Exception: the mesher gave up" in summary.failed
    assert any(reason.startswith("DIVERGED") for reason in summary.failed)


def test_another_seed_in_the_same_folder_is_refused(shared_path: Path) -> None:
    generate(CavityCase(), CONFIG, shared_path / "data", COMM)
    other = dataclasses.replace(CONFIG, generate=dataclasses.replace(CONFIG.generate, seed=4))
    with pytest.raises(ValueError, match="seed = 3, asked for 4"):
        generate(CavityCase(), other, shared_path / "data", COMM)


def test_zero_samples_are_refused(shared_path: Path) -> None:
    none = dataclasses.replace(CONFIG, generate=dataclasses.replace(CONFIG.generate, samples=0))
    with pytest.raises(ValueError, match="at least one sample"):
        generate(CavityCase(), none, shared_path / "data", COMM)


def test_more_ranks_than_samples(shared_path: Path) -> None:
    one = dataclasses.replace(CONFIG, generate=dataclasses.replace(CONFIG.generate, samples=1))
    assert generate(CavityCase(), one, shared_path / "data", COMM).solved == 1


def test_damaged_shard_is_named(shared_path: Path) -> None:
    generate(CavityCase(), CONFIG, shared_path / "data", COMM)
    if COMM.rank == 0:
        path = sorted((shared_path / "data" / "shards").glob("*.h5"))[0]
        path.write_bytes(path.read_bytes()[:100])
    COMM.Barrier()
    with pytest.raises(ValueError, match="is damaged"):
        generate(CavityCase(), CONFIG, shared_path / "data", COMM)
