"""Several jobs write into one data set: no shard is lost, whoever merges, reads or is killed when."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lrsa_coupled.data import store as store_module, writer as writer_module
from lrsa_coupled.data.card import create, read_card
from lrsa_coupled.data.claims import Indices
from lrsa_coupled.data.format import SampleRecord
from lrsa_coupled.data.shard import write_shard
from lrsa_coupled.data.store import Damage, DataStore
from lrsa_coupled.data.writer import ShardWriter, repair, tidy
from lrsa_coupled.schema import Schema
from tests.unit.test_store import CARD, assert_holds, make, record

JOBS, SAMPLES = 3, 14


def job(folder: Path, careless: bool) -> None:
    """Write samples as a collector does; a careless job merges those of others too, as if it did not know of them."""
    create(folder, CARD)
    for _ in range(2):
        indices, writer = Indices(folder, 1 + max(DataStore(folder).entries, default=-1)), ShardWriter(folder, 4)
        for number in range(SAMPLES // 2):
            writer.add(record(indices.take()))
            if careless and number % 3 == 0:
                tidy(folder, 6)
        writer.close()
        indices.close()
        tidy(folder, 6, leave=() if careless else indices.of_others())


@pytest.mark.parametrize("careless", [False, True])
def test_jobs_lose_nothing(tmp_path: Path, careless: bool) -> None:
    context = multiprocessing.get_context("spawn")
    jobs = [context.Process(target=job, args=(tmp_path / "data", careless)) for _ in range(JOBS)]
    for each in jobs:
        each.start()
    for each in jobs:
        each.join(120)
    assert [each.exitcode for each in jobs] == [0] * JOBS
    store = DataStore(tmp_path / "data")
    assert len(store.entries) == JOBS * SAMPLES and not store.verify()
    assert_holds(tmp_path / "data", list(store.entries))
    tidy(tmp_path / "data", 6)
    assert_holds(tmp_path / "data", list(store.entries))
    assert len(list((tmp_path / "data" / "shards").iterdir())) <= -(-JOBS * SAMPLES // 4) + 1


def test_of_two_data_sets_made_at_once_one_is_refused(tmp_path: Path) -> None:
    def start(seed: int) -> str:
        try:
            create(tmp_path, dataclasses.replace(CARD, seed=seed))
        except ValueError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(6) as pool:
        errors = list(pool.map(start, range(6)))
    assert errors.count("") == 1
    assert read_card(tmp_path).seed == errors.index("")
    assert all(f"seed {errors.index('')} instead of" in error for error in errors if error)


def test_tidy_leaves_the_shards_and_files_of_others(tmp_path: Path) -> None:
    folder = make(tmp_path, [])
    for index in (0, 1, 20, 21):
        write_shard(folder, [record(index)])
    writing = folder / "shards" / f".00000022-1~0~elsewhere~{os.getpid()}.tmp"
    writing.write_bytes(b"half a shard")
    tidy(folder, 4, leave=[range(16, 32)])
    assert_holds(folder, [0, 1, 20, 21])
    assert sorted(path.name.rpartition("-")[0] for path in (folder / "shards").glob("*.h5")) == [
        "00000000-2",
        "00000020-1",
        "00000021-1",
    ]
    assert writing.exists()


def test_reading_goes_on_while_another_job_merges(tmp_path: Path) -> None:
    make(tmp_path, [])
    for index in range(5):
        write_shard(tmp_path, [record(index)])
    store = DataStore(tmp_path)
    assert store.read(0).index == 0
    tidy(tmp_path, 8)
    assert [store.read(index).index for index in range(5)] == [0, 1, 2, 3, 4]
    assert store.arrays(1).outputs.tobytes() == record(1).arrays.outputs.tobytes()
    assert DataStore(tmp_path).verify() == store.verify() == []


def test_locks_of_the_file_system_do_not_matter(tmp_path: Path) -> None:
    """Where it has none HDF5 would refuse to open a file."""
    make(tmp_path, [0, 1])
    (path,) = (tmp_path / "shards").iterdir()
    with open(path, "rb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        assert_holds(tmp_path, [0, 1])


def test_shards_that_another_job_has_merged_are_not_damaged(tmp_path: Path) -> None:
    make(tmp_path, [])
    for index in range(3):
        write_shard(tmp_path, [record(index)])
    store = DataStore(tmp_path)
    tidy(tmp_path, 4)
    damages = store.verify()
    assert damages == []
    repair(tmp_path, [Damage(path, None, ()) for path in store.headers])  # even so it removes nothing else
    assert_holds(tmp_path, [0, 1, 2])


def test_a_shard_that_goes_while_it_is_read_is_not_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over the network its handle is then stale."""
    make(tmp_path, [])
    path = write_shard(tmp_path, [record(0)])
    store = DataStore(tmp_path)

    def other_job(path: Path, schema: Schema) -> Iterator[SampleRecord]:
        path.unlink()
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))

    monkeypatch.setattr(store_module.shard, "whole_samples", other_job)
    assert store.verify() == [] and not path.exists()


def test_a_shard_that_goes_during_a_merge_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another job has merged sample 0 with 5: what is left of this merge has the name of a shard that stays."""
    make(tmp_path, [])
    first, second = (write_shard(tmp_path, [record(index)]) for index in (0, 1))
    whole_samples = writer_module.whole_samples

    def other_job(path: Path, schema: Schema) -> Iterator[SampleRecord]:
        if first.exists():
            write_shard(tmp_path, [record(0), record(5)])
            first.unlink()
        return whole_samples(path, schema)

    monkeypatch.setattr(writer_module, "whole_samples", other_job)
    tidy(tmp_path, 4)
    monkeypatch.undo()
    assert second.exists()
    assert_holds(tmp_path, [0, 1, 5])


def test_a_small_shard_stays_while_the_larger_one_is_damaged(tmp_path: Path) -> None:
    make(tmp_path, [])
    small, large = write_shard(tmp_path, [record(0)]), write_shard(tmp_path, [record(0), record(1)])
    raw = bytearray(large.read_bytes())
    raw[-1] ^= 1
    large.write_bytes(bytes(raw))
    tidy(tmp_path, 2)
    assert small.exists()
    repair(tmp_path, DataStore(tmp_path).verify())
    tidy(tmp_path, 4)
    assert DataStore(tmp_path).entries.keys() >= {0}
