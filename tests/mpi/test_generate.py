"""Data generation: the same arrays from any number of ranks, and after a crash."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI

pytest.importorskip("dolfinx", reason="generation needs DOLFINx")

from lrsa_coupled.cases.cavity.case import CavityCase, CavityParameters
from lrsa_coupled.catalog import load_case
from lrsa_coupled.config import Config, GenerateConfig, GuessConfig, ProblemConfig
from lrsa_coupled.data.format import SampleArrays
from lrsa_coupled.data.store import DataStore
from lrsa_coupled.generation.counter import SharedCounter
from lrsa_coupled.generation.generate import generate
from lrsa_coupled.interfaces import Case, NumericalError

COMM = MPI.COMM_WORLD
CONFIG = Config(
    case="cavity", problem=ProblemConfig(seed=3, resolution=8), generate=GenerateConfig(samples=5, samples_per_shard=2)
)


def assert_same_arrays(one: Path, two: Path) -> None:
    a, b = DataStore(one), DataStore(two)
    assert a.entries == b.entries
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

    schema, fields, resolution = CavityCase.schema, CavityCase.fields, CavityCase.resolution
    rtol, default_method = CavityCase.rtol, "zero"
    real = CavityCase()

    def sample(self, rng: np.random.Generator) -> CavityParameters:
        parameters = self.real.sample(rng)
        return dataclasses.replace(parameters, reynolds=1e7 if rng.uniform() < 0.5 else 100.0)

    def mesh(self, comm, parameters, resolution):
        if parameters.angle > 2.5:
            raise NumericalError("the mesher gave up")
        return self.real.mesh(comm, parameters, resolution)

    def problem(self, mesh, parameters):
        return self.real.problem(mesh, parameters)

    def features(self, problem):
        return self.real.features(problem)

    def solver(self, problem, atol, *, max_iterations=None):
        return self.real.solver(problem, atol, max_iterations=max_iterations)

    def methods(self):
        return {"zero": self.real.methods()["zero"]}


class SignalledCavity(FailingCavity):
    """The cavity; this process gets a signal while it makes its first sample."""

    default_method = CavityCase.default_method

    def sample(self, rng: np.random.Generator) -> CavityParameters:
        return self.real.sample(rng)

    def mesh(self, comm, parameters, resolution):
        os.kill(os.getpid(), signal.SIGUSR1)
        return self.real.mesh(comm, parameters, resolution)

    def methods(self):
        return self.real.methods()


class MistakenCavity(FailingCavity):
    """The cavity; on the last rank a function of the case fails, and the others go on."""

    default_method = CavityCase.default_method
    place = "sample"

    def sample(self, rng: np.random.Generator) -> CavityParameters:
        self.fail("sample")
        return self.real.sample(rng)

    def mesh(self, comm, parameters, resolution):
        mesh = self.real.mesh(comm, parameters, resolution)
        self.fail("mesh")
        return mesh

    def methods(self):
        return self.real.methods()

    def fail(self, place: str) -> None:
        if place == self.place and COMM.rank == COMM.size - 1:
            raise NameError("name 'comm' is not defined")


@pytest.mark.parametrize("place", ["sample", "mesh"])
@pytest.mark.parametrize("together", [True, False])
def test_a_mistake_on_one_rank_ends_the_run_on_all(place: str, together: bool, shared_path: Path) -> None:
    """It is no failed sample; with a sample a rank the others, who have many to make, come to hear of it."""
    case, settings = MistakenCavity(), dataclasses.replace(CONFIG.generate, ranks_per_sample=COMM.size)
    case.place = place
    settings = settings if together else dataclasses.replace(settings, samples=1000, ranks_per_sample=1)
    with pytest.raises((NameError, RuntimeError), match="name 'comm' is not defined"):
        generate(case, dataclasses.replace(CONFIG, generate=settings), shared_path / "data", COMM)
    if place == "mesh":  # the first draw is checked before there is a data set
        data = DataStore(shared_path / "data")
        assert data.failures() == {} and len(data.solved) < 1000


def test_failures_are_recorded_with_their_reason(shared_path: Path) -> None:
    config = dataclasses.replace(CONFIG, generate=dataclasses.replace(CONFIG.generate, samples=8))
    summary = generate(FailingCavity(), config, shared_path / "failing", COMM)
    assert summary.samples == 8
    assert summary.solved + sum(map(len, summary.failed.values())) == 8
    assert "NumericalError: the mesher gave up" in summary.failed
    assert any(reason.startswith("DIVERGED") for reason in summary.failed)


def test_another_seed_in_the_same_folder_is_refused(shared_path: Path) -> None:
    generate(CavityCase(), CONFIG, shared_path / "data", COMM)
    other = dataclasses.replace(CONFIG, problem=dataclasses.replace(CONFIG.problem, seed=4))
    with pytest.raises(ValueError, match="seed 3 instead of 4"):
        generate(CavityCase(), other, shared_path / "data", COMM)


def test_more_ranks_than_samples(shared_path: Path) -> None:
    one = dataclasses.replace(CONFIG, generate=dataclasses.replace(CONFIG.generate, samples=1))
    assert generate(CavityCase(), one, shared_path / "data", COMM).solved == 1


def test_a_damaged_sample_is_made_again(shared_path: Path) -> None:
    """One shard is cut, another is empty."""
    generate(CavityCase(), CONFIG, shared_path / "data", COMM)
    if COMM.rank == 0:
        shutil.copytree(shared_path / "data", shared_path / "whole")
        for path, size in zip(sorted((shared_path / "data" / "shards").glob("*.h5")), (5000, 0), strict=False):
            path.write_bytes(path.read_bytes()[:size])
    COMM.Barrier()
    assert generate(CavityCase(), CONFIG, shared_path / "data", COMM).made in (2, 3, 4)
    if COMM.rank == 0:
        assert_same_arrays(shared_path / "data", shared_path / "whole")


def test_a_shard_that_cannot_be_read_stops_all_ranks_and_stays(shared_path: Path) -> None:
    """A link to itself cannot be opened, by the superuser either."""
    groups = dataclasses.replace(CONFIG.generate, samples=1, ranks_per_sample=COMM.size)
    config = dataclasses.replace(CONFIG, generate=groups)
    generate(CavityCase(), config, shared_path, COMM)
    path = sorted((shared_path / "shards").glob("*.h5"))[0]
    COMM.Barrier()
    if COMM.rank == 0:
        path.rename(shared_path / "kept")
        path.symlink_to(path.name)
    COMM.Barrier()
    with pytest.raises(OSError, match=path.name):
        generate(CavityCase(), config, shared_path, COMM)
    assert path.is_symlink() and not (shared_path / "damaged").exists()


def test_fields_do_not_depend_on_the_ranks_of_a_sample(shared_path: Path) -> None:
    together = dataclasses.replace(
        CONFIG, generate=dataclasses.replace(CONFIG.generate, samples=2, ranks_per_sample=COMM.size)
    )
    generate(CavityCase(), together, shared_path / "together", COMM)
    generate(
        CavityCase(),
        dataclasses.replace(CONFIG, generate=dataclasses.replace(CONFIG.generate, samples=2)),
        shared_path / "alone",
        COMM,
    )
    if COMM.rank == 0:
        one, two = DataStore(shared_path / "together"), DataStore(shared_path / "alone")
        for index in (0, 1):
            first, second = (sorted_by_place(store.read(index).arrays) for store in (one, two))
            for name in ("points", "mass", "boundary", "constrained", "inputs", "outputs"):
                assert np.abs(first[name].astype(float) - second[name]).max() < (1e-6 if name == "inputs" else 1e-8), (
                    name
                )
            assert first["cells"] == second["cells"]


def sorted_by_place(arrays: SampleArrays) -> dict:
    """Nodes by coordinates, cells as a set of sets of coordinates."""
    order = np.lexsort(arrays.points.round(9).T)
    rows = {
        name: getattr(arrays, name)[order]
        for name in ("points", "mass", "boundary", "constrained", "inputs", "outputs")
    }
    cells = {tuple(sorted(map(tuple, corners))) for corners in arrays.points.round(9)[arrays.cells].tolist()}
    return rows | {"cells": cells}


def test_nearest_guesses_depend_on_the_index_alone(shared_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lrsa_coupled.generation.plan.FIRST_GENERATION", 2)
    settings = dataclasses.replace(CONFIG.generate, samples=6, guess="nearest")
    config = dataclasses.replace(CONFIG, generate=settings)
    assert generate(CavityCase(), config, shared_path / "all", COMM).solved == 6
    generate(
        CavityCase(),
        dataclasses.replace(CONFIG, generate=dataclasses.replace(settings, samples=3)),
        shared_path / "parts",
        COMM,
    )
    generate(CavityCase(), config, shared_path / "parts", COMM)
    if COMM.rank == 0:
        generate(CavityCase(), config, shared_path / "one", MPI.COMM_SELF)
        assert_same_arrays(shared_path / "all", shared_path / "one")
        assert_same_arrays(shared_path / "all", shared_path / "parts")
        cold = dataclasses.replace(config, generate=dataclasses.replace(settings, guess="none"))
        generate(CavityCase(), cold, shared_path / "cold", MPI.COMM_SELF)
        one, two = DataStore(shared_path / "all"), DataStore(shared_path / "cold")
        for index in range(6):
            assert np.abs(one.read(index).arrays.outputs - two.read(index).arrays.outputs).max() < 5e-6  # of the solves
        warm = [one.read(i).arrays.outputs.tobytes() != two.read(i).arrays.outputs.tobytes() for i in range(6)]
        assert not any(warm[:2]) and any(warm[2:])


def test_ranks_that_do_not_divide_into_groups_are_refused(shared_path: Path) -> None:
    with pytest.raises(ValueError, match="must divide the number of ranks, got 4 and"):
        generate(
            CavityCase(),
            dataclasses.replace(CONFIG, generate=dataclasses.replace(CONFIG.generate, ranks_per_sample=4)),
            shared_path / "data",
            COMM,
        )


def test_a_choice_by_timings_is_refused(shared_path: Path) -> None:
    config = dataclasses.replace(CONFIG, guess=GuessConfig(policy="adaptive"))
    with pytest.raises(ValueError, match=r"must not depend on timings.*got adaptive"):
        generate(CavityCase(), config, shared_path / "data", COMM)


def test_the_tolerance_is_that_of_the_case_as_it_is_loaded(shared_path: Path) -> None:
    config = dataclasses.replace(CONFIG, problem=dataclasses.replace(CONFIG.problem, rtol=1e-2))
    with pytest.raises(ValueError, match=r"got 'cavity' with 1e-08 and problem.rtol = 0.01"):
        generate(CavityCase(), config, shared_path / "data", COMM)
    assert generate(load_case("cavity", rtol=1e-2), config, shared_path / "data", COMM).solved == 5
    data = DataStore(shared_path / "data")
    assert data.card.settings["rtol"] == 1e-2
    assert all(data.read(index).residual > 1e-8 for index in data.solved)


def test_a_signal_ends_the_run_after_the_current_samples(shared_path: Path) -> None:
    summary = generate(SignalledCavity(), CONFIG, shared_path / "data", COMM)
    assert summary.stopped == "SIGUSR1"
    assert summary.samples == summary.made < 5 or COMM.size > 2
    generate(CavityCase(), CONFIG, shared_path / "data", COMM, accept_changed_case=True)
    generate(CavityCase(), CONFIG, shared_path / "whole", COMM)
    if COMM.rank == 0:
        assert_same_arrays(shared_path / "data", shared_path / "whole")


def test_counter_hands_out_each_number_once() -> None:
    with SharedCounter(COMM) as counter:
        started = time.perf_counter()
        if COMM.rank == 0:
            time.sleep(2.0)  # in a solve, say: the others are not to wait for it
        taken = [counter.take() for _ in range(50)]
        assert COMM.rank == 0 or time.perf_counter() - started < 1.5
        COMM.Barrier()
        counter.stop()
        assert counter.take() >= 2**62
    assert sorted(number for part in COMM.allgather(taken) for number in part) == list(range(50 * COMM.size))
    assert taken == sorted(taken)
