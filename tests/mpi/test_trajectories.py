"""Data generation of time steps: whole trajectories as chains, the same whatever the ranks, completed after a break."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI

pytest.importorskip("dolfinx", reason="generation needs DOLFINx")

from lrsa_coupled.cases.convection.case import ConvectionCase, ConvectionOptions
from lrsa_coupled.config import Config, GenerateConfig, ProblemConfig
from lrsa_coupled.data.format import ARRAYS
from lrsa_coupled.data.shard import write_shard
from lrsa_coupled.data.store import DataStore
from lrsa_coupled.generation.generate import GenerateSummary, generate
from lrsa_coupled.generation.plan import plan, sample_parameters

pytestmark = pytest.mark.two_ranks

COMM = MPI.COMM_WORLD
CASE = ConvectionCase(ConvectionOptions(steps=3, model_cells=3))


def make(folder: Path, comm: MPI.Comm, **changes: object) -> GenerateSummary:
    return generate(
        CASE,
        Config(
            case="convection",
            problem=ProblemConfig(seed=3, resolution=6),
            generate=GenerateConfig(samples=8, **changes),
        ),
        folder,
        comm,
    )


def test_chains_are_trajectories() -> None:
    settings = GenerateConfig(samples=3000, reuse="setup", samples_per_chain=7)
    chains = plan(CASE, settings, range(3000), seed=0)[0].chains
    assert [chain.indices for chain in chains] == [tuple(range(first, first + 3)) for first in range(0, 3000, 3)]
    assert [chain.indices for chain in plan(CASE, settings, [4], seed=0)[0].chains] == [(3, 4)]
    first, second, other = (sample_parameters(CASE, 3, index) for index in (3, 5, 6))
    assert (first.step, second.step, other.step) == (0, 2, 0)
    assert CASE.trajectory.at_step(first, 2) == second
    assert first != other


@pytest.mark.parametrize("reuse", ["nothing", "setup"])
def test_what_is_made_does_not_depend_on_the_ranks(shared_path: Path, reuse: str) -> None:
    assert make(shared_path / "many", COMM, reuse=reuse).solved == 8
    if COMM.rank == 0:
        make(shared_path / "alone", MPI.COMM_SELF, reuse=reuse)
        assert DataStore(shared_path / "many").content_hash() == DataStore(shared_path / "alone").content_hash()


def test_a_broken_trajectory_is_completed_to_the_last_bit(shared_path: Path) -> None:
    make(shared_path / "whole", COMM, reuse="setup")
    if COMM.rank == 0:
        whole = DataStore(shared_path / "whole")
        (shared_path / "part" / "shards").mkdir(parents=True)
        (shared_path / "part" / "dataset.json").write_bytes((shared_path / "whole" / "dataset.json").read_bytes())
        write_shard(shared_path / "part", [whole.read(index) for index in (0, 4, 7)])
    COMM.Barrier()
    assert make(shared_path / "part", COMM, reuse="setup").made == 5
    if COMM.rank == 0:
        part = DataStore(shared_path / "part")
        for index in range(8):
            one, two = whole.read(index).arrays, part.read(index).arrays
            assert all(getattr(one, name).tobytes() == getattr(two, name).tobytes() for name in ARRAYS), index


def test_ranks_that_share_a_step_find_the_same_fields(shared_path: Path) -> None:
    assert make(shared_path / "shared", COMM, ranks_per_sample=COMM.size).solved == 8
    if COMM.rank == 0:
        make(shared_path / "alone", MPI.COMM_SELF)
        stores = [DataStore(shared_path / name) for name in ("shared", "alone")]
        for index in range(8):
            one, two = (store.read(index).arrays for store in stores)
            orders = [np.lexsort(np.round(arrays.points, 9).T) for arrays in (one, two)]
            for name in ("inputs", "outputs"):
                assert np.allclose(
                    getattr(one, name)[orders[0]], getattr(two, name)[orders[1]], rtol=1e-4, atol=1e-4
                ), (index, name)


@pytest.mark.parametrize("changes", [{"guess": "previous"}, {"guess": "nearest"}, {"reuse": "setup", "sort": True}])
def test_settings_that_break_trajectories_are_refused(shared_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="follow one another in time"):
        make(shared_path / "none", COMM, **changes)
