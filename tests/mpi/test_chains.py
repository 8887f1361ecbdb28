"""Data generation that reuses solvers, guesses and subspaces: samples depend on the chain alone, and are right."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI

pytest.importorskip("dolfinx", reason="generation needs DOLFINx")

from lrsa_coupled.cases.cavity.case import CavityCase
from lrsa_coupled.cases.darcy.case import DarcyCase, DarcyOptions
from lrsa_coupled.config import Config, GenerateConfig, ProblemConfig
from lrsa_coupled.data.format import ARRAYS
from lrsa_coupled.data.shard import write_shard
from lrsa_coupled.data.store import DataStore
from lrsa_coupled.generation.generate import GenerateSummary, generate

pytestmark = pytest.mark.two_ranks

COMM = MPI.COMM_WORLD
CASE = DarcyCase(DarcyOptions(model_cells=10))
EVERYTHING = {"reuse": "preconditioner", "recycle": 5, "guess": "previous", "sort": True}


def make(folder: Path, comm: MPI.Comm, **changes: object) -> GenerateSummary:
    settings = GenerateConfig(samples=9, samples_per_chain=3, **changes)
    return generate(
        CASE, Config(case="darcy", problem=ProblemConfig(seed=3, resolution=20), generate=settings), folder, comm
    )


def fields(folder: Path) -> dict[int, np.ndarray]:
    """Solutions by index, the nodes sorted by coordinates."""
    store = DataStore(folder)
    found = {}
    for index in store.solved:
        arrays = store.read(index).arrays
        found[index] = arrays.outputs[np.lexsort(np.round(arrays.points, 9).T)]
    return found


def relative_difference(one: dict[int, np.ndarray], two: dict[int, np.ndarray]) -> float:
    assert one.keys() == two.keys()
    return max(np.abs(one[i] - two[i]).max() / np.abs(one[i]).max() for i in one)


@pytest.mark.parametrize(
    "changes",
    [
        {"reuse": "setup"},
        {"guess": "previous", "sort": True},
        {"reuse": "preconditioner"},
        {"reuse": "setup", "recycle": 5},
        EVERYTHING,
        {"method": "mumps", "reuse": "preconditioner"},
    ],
    ids=["setup", "guess", "preconditioner", "recycling", "everything", "factorisation"],
)
def test_what_is_reused_changes_nothing_but_rounding(shared_path: Path, changes: dict[str, object]) -> None:
    assert make(shared_path / "kept", COMM, **changes).solved == 9
    if COMM.rank == 0:
        make(shared_path / "naive", MPI.COMM_SELF)
        make(shared_path / "alone", MPI.COMM_SELF, **changes)
        assert relative_difference(fields(shared_path / "naive"), fields(shared_path / "kept")) < 1e-8
        kept, alone = DataStore(shared_path / "kept"), DataStore(shared_path / "alone")
        assert kept.content_hash() == alone.content_hash()


def test_a_broken_chain_is_completed_to_the_last_bit(shared_path: Path) -> None:
    make(shared_path / "whole", COMM, **EVERYTHING)
    if COMM.rank == 0:
        whole = DataStore(shared_path / "whole")
        (shared_path / "part" / "shards").mkdir(parents=True)
        (shared_path / "part" / "dataset.json").write_bytes((shared_path / "whole" / "dataset.json").read_bytes())
        write_shard(shared_path / "part", [whole.read(index) for index in (0, 4, 5, 8)])
    COMM.Barrier()
    summary = make(shared_path / "part", COMM, **EVERYTHING)
    assert (summary.made, summary.samples) == (5, 9)
    if COMM.rank == 0:
        part = DataStore(shared_path / "part")
        for index in range(9):
            one, two = whole.read(index).arrays, part.read(index).arrays
            assert all(getattr(one, name).tobytes() == getattr(two, name).tobytes() for name in ARRAYS), index


@pytest.mark.parametrize("changes", [{}, EVERYTHING], ids=["naive", "everything"])
def test_ranks_that_share_a_sample_find_the_same_fields(shared_path: Path, changes: dict[str, object]) -> None:
    assert make(shared_path / "shared", COMM, ranks_per_sample=COMM.size, **changes).solved == 9
    if COMM.rank == 0:
        make(shared_path / "naive", MPI.COMM_SELF)
        assert relative_difference(fields(shared_path / "naive"), fields(shared_path / "shared")) < 1e-8


@pytest.mark.parametrize(("changes", "message"), [
    ({"recycle": 5}, "recycle needs generate.reuse"),
    ({"sort": True}, "sort orders samples"),
    ({"reuse": "setup", "guess": "nearest"}, "does not go with reuse=setup"),
    ({"method": "gamg"}, "did you mean 'gamg-cg'"),
])  # fmt: skip
def test_settings_that_contradict_each_other_are_refused(
    shared_path: Path, changes: dict[str, object], message: str
) -> None:
    settings = dataclasses.replace(GenerateConfig(samples=2), **changes)
    with pytest.raises(ValueError, match=message):
        generate(CASE, Config(case="darcy", generate=settings), shared_path / "none", COMM)
    assert not (shared_path / "none").exists()


def test_meshes_that_differ_cannot_be_reused(shared_path: Path) -> None:
    with pytest.raises(ValueError, match="case on one mesh"):
        generate(CavityCase(), Config(generate=GenerateConfig(reuse="setup")), shared_path / "none", COMM)
