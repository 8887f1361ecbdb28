"""Several collectors or generates in one folder, each on a rank of its own; tests/cases/test_jobs.py has processes."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import ufl
from mpi4py import MPI

pytest.importorskip("dolfinx", reason="the collector needs DOLFINx")

from dolfinx import fem
from dolfinx.fem.petsc import NonlinearProblem
from dolfinx.mesh import create_unit_square
from petsc4py import PETSc

from lrsa_coupled.cases.cavity.case import CavityCase
from lrsa_coupled.config import Config, GenerateConfig, ProblemConfig
from lrsa_coupled.data.claims import Shares
from lrsa_coupled.data.store import DataStore
from lrsa_coupled.generation.collect import Collector
from lrsa_coupled.generation.generate import generate

COMM = MPI.COMM_WORLD
SAMPLES = 5
CONFIG = Config(
    case="cavity", problem=ProblemConfig(seed=3, resolution=8), generate=GenerateConfig(samples=5, samples_per_shard=2)
)


class Job:
    """A user's script on one rank; its samples have the scalar ``100 * number, 100 * number + 1, ...``."""

    def __init__(self, number: int) -> None:
        mesh = create_unit_square(MPI.COMM_SELF, 2, 2)
        space = fem.functionspace(mesh, ("P", 1))
        u, v = fem.Function(space, name="u"), ufl.TestFunction(space)
        self.number, self.load = number, fem.Constant(mesh, PETSc.ScalarType(0.0))
        residual = (ufl.inner(ufl.grad(u), ufl.grad(v)) + ufl.inner(u - self.load, v)) * ufl.dx
        options = {"ksp_type": "preonly", "pc_type": "lu"}
        self.problem = NonlinearProblem(residual, u, petsc_options_prefix="job_", petsc_options=options)

    def collect(self, folder: Path, start: int, *, wait_after: int = -1) -> None:
        """Collect samples; after ``wait_after`` of them print a line and wait to be killed."""
        with Collector(folder, self.problem, name="job", scalars={"load": self.load}) as samples:
            for number in range(start, start + SAMPLES):
                self.load.value = 100 * self.number + number
                self.problem.solve()
                samples.add()
                if number == start + wait_after - 1:
                    print("waiting", flush=True)
                    sys.stdin.read()


def loads(folder: Path) -> list[float]:
    """Scalars of the samples, in ascending order; each sample is whole."""
    store = DataStore(folder)
    assert store.verify() == [] and store.solved == list(store.entries)
    records = [store.read(index).arrays for index in store.solved]
    for arrays in records:
        assert arrays is not None and np.allclose(arrays.outputs, arrays.scalars[0])
    return sorted(float(arrays.scalars[0]) for arrays in records if arrays is not None)


def wanted(*numbers: int, count: int = 2 * SAMPLES) -> list[float]:
    return [100.0 * number + sample for number in numbers for sample in range(count)]


def test_each_rank_collects_for_itself(shared_path: Path) -> None:
    job = Job(COMM.rank)
    COMM.Barrier()
    job.collect(shared_path / "data", 0)
    job.collect(shared_path / "data", SAMPLES)
    COMM.Barrier()
    assert loads(shared_path / "data") == wanted(*range(COMM.size))


def test_generates_at_work_in_one_folder_share_it(shared_path: Path) -> None:
    """Each rank is a job of its own; together they make the data set of one."""
    COMM.Barrier()
    summary = generate(CavityCase(), CONFIG, shared_path / "all", MPI.COMM_SELF)
    assert (summary.samples, summary.solved, summary.stopped) == (5, 5, None)
    made = COMM.allreduce(summary.made)
    assert 5 <= made < 5 * COMM.size or COMM.size == 1
    if COMM.rank == 0:
        generate(CavityCase(), CONFIG, shared_path / "one", MPI.COMM_SELF)
        one, all_jobs = DataStore(shared_path / "one"), DataStore(shared_path / "all")
        assert one.content_hash() == all_jobs.content_hash() and not all_jobs.verify()
        assert not (shared_path / "all" / "begun").exists()


def test_what_a_killed_generate_has_begun_is_made(shared_path: Path) -> None:
    if COMM.rank == 0:
        (shared_path / "data").mkdir()
        assert Shares(shared_path / "data").take(0) and Shares(shared_path / "data").take(3)
    COMM.Barrier()
    summary = generate(CavityCase(), CONFIG, shared_path / "data", COMM)
    assert (summary.samples, summary.made) == (5, 5)
    assert not (shared_path / "data" / "begun").exists()


def test_a_generate_and_a_collector_refuse_each_other(shared_path: Path) -> None:
    config = dataclasses.replace(CONFIG, generate=dataclasses.replace(CONFIG.generate, samples=1))
    generate(CavityCase(), config, shared_path / "generated", COMM)
    job = Job(0)
    with pytest.raises(ValueError, match="holds a data set with name 'cavity' instead of 'job'"):
        job.collect(shared_path / "generated", 0)
    if COMM.rank == 0:
        job.collect(shared_path / "collected", 0)
    COMM.Barrier()
    with pytest.raises(ValueError, match="holds a data set with name 'job' instead of 'cavity'"):
        generate(CavityCase(), config, shared_path / "collected", COMM)
