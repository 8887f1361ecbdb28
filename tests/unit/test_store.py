"""The data set on disk: flipped bytes are found and repaired, kills do no harm, hashes depend on the contents alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from lrsa_coupled.data import store as store_module
from lrsa_coupled.data.card import DataCard, create, read_card
from lrsa_coupled.data.format import SampleArrays, SampleRecord
from lrsa_coupled.data.hdf5 import HEAP
from lrsa_coupled.data.merge import merged_card
from lrsa_coupled.data.shard import read_header, write_shard
from lrsa_coupled.data.store import INDEX, DataStore
from lrsa_coupled.data.writer import ShardWriter, drop_failed, repair, tidy
from lrsa_coupled.schema import Field, Schema, Symmetry
from tests.hostile import refit

CARD = DataCard(Schema("synthetic", 2, (Field("k", 2, "W"),), ("s",), (Field("u", unit="K"),)), 0, 4, {"a": "m"})


def record(index: int, *, seconds: float = 0.5) -> SampleRecord:
    """Samples 0 and 1, 2 and 3, ... share their geometry; sample 4 has failed."""
    rng = np.random.default_rng(index // 2)
    points = rng.uniform(size=(9, 2))
    own = np.random.default_rng([1, index])
    arrays = SampleArrays(
        points=points,
        mass=rng.uniform(0.5, 1.5, 9),
        boundary=np.zeros(9, np.uint8),
        constrained=np.zeros((9, 1), np.uint8),
        cells=np.array([[0, 1, 2], [2, 3, 4]], np.int32),
        inputs=own.uniform(size=(9, 2)).astype(np.float32),
        outputs=own.uniform(size=(9, 1)),
        scalars=np.array([float(index)]),
    )
    if index == 4:
        return SampleRecord(index, "failed", "DIVERGED_MAX_IT", '{"a": 1.0}', 30, float("nan"), seconds, None)
    return SampleRecord(index, "ok", "CONVERGED_FNORM_ABS", '{"a": 1.0}', 5, 1e-9, seconds, arrays)


def make(folder: Path, indices: list[int], samples_per_shard: int = 4, *, seconds: float = 0.5) -> Path:
    create(folder, CARD)
    writer = ShardWriter(folder, samples_per_shard)
    for index in indices:
        writer.add(record(index, seconds=seconds))
    writer.close()
    return folder


def assert_holds(folder: Path, indices: list[int]) -> None:
    store = DataStore(folder)
    assert list(store.entries) == indices
    for index in indices:
        found, expected = store.read(index), record(index)
        assert (found.status, found.reason, found.parameters, found.iterations) == (
            expected.status, expected.reason, expected.parameters, expected.iterations)  # fmt: skip
        assert (found.arrays is None) == (expected.arrays is None)
        for arrays in () if found.arrays is None else (found.arrays, store.arrays(index)):
            for field in dataclasses.fields(SampleArrays):
                assert getattr(arrays, field.name).tobytes() == getattr(expected.arrays, field.name).tobytes()


def test_round_trip_and_shards(tmp_path: Path) -> None:
    make(tmp_path, [5, 3, 4, 0, 1, 2])
    assert_holds(tmp_path, [0, 1, 2, 3, 4, 5])
    store = DataStore(tmp_path)
    assert store.solved == [0, 1, 2, 3, 5]
    assert store.failures() == {"DIVERGED_MAX_IT": [4]}
    assert sorted(len(header.entries) for header in store.headers.values()) == [2, 4]
    assert store.verify() == []


def test_failed_samples_are_dropped_when_asked(tmp_path: Path) -> None:
    make(tmp_path, [0, 1, 2, 4], 4)
    make(tmp_path, [3, 4, 5], 4)
    write_shard(tmp_path, [record(4)])
    drop_failed(tmp_path)
    assert_holds(tmp_path, [0, 1, 2, 3, 5])
    assert DataStore(tmp_path).verify() == []
    before = sorted((tmp_path / "shards").iterdir())
    drop_failed(tmp_path)
    assert sorted((tmp_path / "shards").iterdir()) == before


def test_a_card_knows_the_source_of_its_case(tmp_path: Path) -> None:
    known, other = (dataclasses.replace(CARD, source=source) for source in ("a", "b"))
    for card in (CARD, known, CARD, known):  # of an older version, or of a case without a file
        create(tmp_path, card)
    assert read_card(tmp_path) == known
    with pytest.raises(ValueError, match="before its source changed; choose another folder, or .*--accept-changed"):
        create(tmp_path, other)
    create(tmp_path, other, accept_changed_case=True)
    create(tmp_path, other)
    assert read_card(tmp_path) == other
    with pytest.raises(ValueError, match="seed 0 instead of 1; choose another folder$"):
        create(tmp_path, dataclasses.replace(known, seed=1), accept_changed_case=True)
    merged = merged_card([known, other], [3, 4])
    assert merged.source is None and len(merged.merged) == 2
    assert merged_card([known, known], [3, 4]) == known


def test_of_many_samples_the_times_of_some_stand_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, [5, 3, 4, 0, 1, 2, 6], 2, seconds=0.25)
    read = []
    monkeypatch.setattr(store_module, "MOST_TIMES", 3)
    monkeypatch.setattr(store_module.ShardReader, "seconds", lambda _, index: read.append(index) or 0.25)
    assert DataStore(tmp_path).seconds() == pytest.approx(7 * 0.25)
    assert len(read) <= 4


def test_cost_is_the_time_of_all_samples_on_the_ranks_of_one(tmp_path: Path) -> None:
    """Failed samples took their time too; without a configuration a sample is of one rank."""
    make(tmp_path, [5, 3, 4, 0], 2, seconds=0.25)
    assert DataStore(tmp_path).seconds() == 1.0
    for text, expected in (
        ('{"generate": {"ranks_per_sample": 3}}', 3.0),
        ('{"generate": {}}', 1.0),
        ("[]", 1.0),
        ("{", 1.0),
    ):
        (tmp_path / "config.json").write_text(text)
        assert DataStore(tmp_path).seconds() == expected
    path = sorted((tmp_path / "shards").glob("*.h5"))[0]
    store = DataStore(tmp_path)
    path.write_bytes(path.read_bytes()[: read_header(path).size])
    with pytest.raises(ValueError, match="run generate again"):
        store.seconds()


def test_geometry_is_stored_once(tmp_path: Path) -> None:
    import h5py

    path = write_shard(make(tmp_path, []), [record(0), record(1), record(2)])
    with h5py.File(path) as file:
        assert len(file["geometry"]) == 2
        assert file["samples/00000000"].attrs["geometry"] == file["samples/00000001"].attrs["geometry"]


@pytest.mark.parametrize("seed", range(60))
def test_any_flipped_byte_is_found_and_repaired(tmp_path: Path, seed: int) -> None:
    folder, rng = make(tmp_path, [0, 1, 2, 3, 4, 5], samples_per_shard=3), np.random.default_rng(seed)
    path = sorted((folder / "shards").glob("*.h5"))[seed % 2]
    damaged_samples = {entry.index for entry in read_header(path).entries}
    raw = bytearray(path.read_bytes())
    header = read_header(path).size
    place = int(rng.integers(0, header)) if seed < 10 else int(rng.integers(header, len(raw)))
    raw[place] ^= 1 << int(rng.integers(0, 8))
    path.write_bytes(bytes(raw))
    if seed % 3 == 0:
        (folder / INDEX).unlink(missing_ok=True)
    store = DataStore(folder, tolerant=True)
    (damage,) = store.verify()
    assert damage.path == path
    assert set(damage.lost or ()) | set(damage.kept) <= damaged_samples
    for index in set(store.entries) & damaged_samples:
        with pytest.raises(ValueError, match=f"{path.name} is damaged"):
            store.read(index)
    repair(folder, [damage])
    tidy(folder, 3)
    left = DataStore(folder)
    missing = sorted(set(range(6)) - set(left.entries))
    assert set(missing) == damaged_samples - set(damage.kept)
    for index in missing:
        write_shard(folder, [record(index)])
    assert_holds(folder, [0, 1, 2, 3, 4, 5])


def test_hash_depends_on_the_samples_alone(tmp_path: Path) -> None:
    one = make(tmp_path / "one", [0, 1, 2, 3], 2)
    two = make(tmp_path / "two", [3, 1, 0, 2], 4, seconds=7.0)
    other = make(tmp_path / "other", [0, 1, 2, 5], 2)
    assert DataStore(one).content_hash() == DataStore(two).content_hash() != DataStore(other).content_hash()


def test_a_kill_while_merging_loses_nothing(tmp_path: Path) -> None:
    make(tmp_path, [])
    for index in (0, 1, 2):
        write_shard(tmp_path, [record(index)])
    write_shard(tmp_path, [record(0), record(1)])  # the merged shard is there, the small ones are not gone yet
    (tmp_path / "shards" / "00000007-1.part").write_bytes(b"half a shard")
    assert_holds(tmp_path, [0, 1, 2])
    tidy(tmp_path, 4)
    assert_holds(tmp_path, [0, 1, 2])
    assert len(list((tmp_path / "shards").iterdir())) == 1


def test_shards_that_overlap_are_merged(tmp_path: Path) -> None:
    make(tmp_path, [])
    for indices in ((0, 1), (1, 2)):
        write_shard(tmp_path, [record(index) for index in indices])
    tidy(tmp_path, 4)
    assert_holds(tmp_path, [0, 1, 2])
    assert len(list((tmp_path / "shards").iterdir())) == 1


def test_index_is_made_again(tmp_path: Path) -> None:
    make(tmp_path, [0, 1, 2, 3], 2)
    tidy(tmp_path, 2)
    whole = (tmp_path / INDEX).read_bytes()
    for damaged in (b"", whole[:40], whole.replace(b"0", b"1", 1), b"\xff\xfe"):
        (tmp_path / INDEX).write_bytes(damaged)
        assert_holds(tmp_path, [0, 1, 2, 3])
    tidy(tmp_path, 2)
    assert (tmp_path / INDEX).read_bytes() == whole
    write_shard(tmp_path, [record(5)])  # the index does not know it
    assert_holds(tmp_path, [0, 1, 2, 3, 5])


VERSION_2 = """{
 "format": 2, "case": "block", "dim": 2, "seed": 3, "resolution": 6, "rtol": 1e-08, "start": "classical",
 "options": {"modes": 4}, "strategy": "krylov-schur", "chains": [32, "setup", 0, false],
 "parameters": {"medium": "1"}, "scalars": ["load"],
 "inputs": [{"name": "a", "components": 1, "unit": "b", "subspace": [], "loss_weight": 1.0},
  {"name": "coarse", "components": 1, "unit": "b", "subspace": [], "loss_weight": 1.0}],
 "outputs": [
  {"name": "u", "components": 1, "unit": "b", "subspace": [0], "loss_weight": 2.0, "relative_to": "coarse"}
 ],
 "symmetries": [{"points": [[-1, 0], [0, 1]], "centre": [0.5, 0.5], "inputs": [], "scalars": [], "outputs": []}],
 "versions": {"lrsa-coupled": "0.1.0"}
}"""


def test_a_data_set_of_version_2_is_read_and_continued(tmp_path: Path) -> None:
    """The schema and the settings stand beside the others; some have other names."""
    make(tmp_path, [0, 1])
    content_hash = DataStore(tmp_path).content_hash()
    (tmp_path / "dataset.json").write_text(VERSION_2)
    mirror = Symmetry(((-1, 0), (0, 1)), (0.5, 0.5))
    inputs = (Field("a", unit="b"), Field("coarse", unit="b"))
    outputs = (Field("u", 1, "b", (0,), 2.0, relative_to="coarse"),)
    schema = Schema("block", 2, inputs, ("load",), outputs, symmetries=(mirror,))
    settings = {"rtol": 1e-8, "guess": "none", "options": {"modes": 4}, "method": "krylov-schur"}
    settings["chains"] = [32, "setup", None, False]
    store = DataStore(tmp_path)
    assert store.content_hash() == content_hash
    assert store.card == DataCard(schema, 3, 6, {"medium": "1"}, settings, {"lrsa-coupled": "0.1.0"})
    assert store.solved == [0, 1] and not store.verify()
    create(tmp_path, dataclasses.replace(store.card, versions={"lrsa-coupled": "0.2.0"}))
    with pytest.raises(ValueError, match=r"chains .*'setup', None.* instead of .*'setup', 3"):
        create(tmp_path, dataclasses.replace(store.card, settings=settings | {"chains": [32, "setup", 3, False]}))


def test_a_card_that_cannot_be_read_names_the_entry(tmp_path: Path) -> None:
    for text, message in (
        (VERSION_2.replace('"format": 2', '"format": 1'), "format version 1, expected 2 or 3"),
        (VERSION_2.replace('"seed": 3', '"sed": 3'), "missing required field `seed`"),
        (VERSION_2.replace('"dim": 2, ', ""), "missing required field `dim`"),
        ('{"format": 3, "seed": 0}', "schema: Expected `object`, got `null`"),
        ("{", "dataset.json is not a valid JSON file"),
    ):
        (tmp_path / "dataset.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            DataStore(tmp_path)


def test_a_data_set_older_than_an_option_goes_on_with_what_it_was(tmp_path):
    create(tmp_path, CARD)
    defaults = {"method": "cold", "options": {"range": 2.0}}
    narrow, wide = (
        dataclasses.replace(CARD, settings={"method": "cold", "options": {"range": value}}) for value in (2.0, 3.0)
    )
    create(tmp_path, narrow, defaults=defaults)
    with pytest.raises(ValueError, match=r"options {'range': 2.0} instead of {'range': 3.0}"):
        create(tmp_path, wide, defaults=defaults)


def test_what_only_training_reads_is_brought_up_to_date(tmp_path):
    create(tmp_path, CARD)
    before = DataStore(tmp_path).content_hash()
    symmetries = (Symmetry(((-1,),), (0.0,)),)
    create(tmp_path, dataclasses.replace(CARD, schema=dataclasses.replace(CARD.schema, symmetries=symmetries)))
    assert DataStore(tmp_path).card.schema.symmetries == symmetries and DataStore(tmp_path).content_hash() == before
    outputs = (dataclasses.replace(CARD.schema.outputs[0], loss_weight=2.0),)
    schema = dataclasses.replace(CARD.schema, symmetries=symmetries, outputs=outputs)
    create(tmp_path, dataclasses.replace(CARD, schema=schema))
    assert DataStore(tmp_path).card.schema == schema
    create(tmp_path, dataclasses.replace(CARD, schema=dataclasses.replace(schema, symmetries=())))
    assert DataStore(tmp_path).card.schema == schema


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, "seed 0 instead of 1"),
        ({"resolution": 8}, "resolution 4 instead of 8"),
        ({"settings": {"method": "nested"}}, "method None instead of nested"),
        ({"schema": dataclasses.replace(CARD.schema, scalars=("t",))}, "scalars s instead of t"),
    ],
)
def test_a_data_set_made_otherwise_is_refused(tmp_path, changes, message):
    create(tmp_path, CARD)
    with pytest.raises(ValueError, match=message):
        create(tmp_path, dataclasses.replace(CARD, **changes))


def test_a_text_of_no_room_is_not_read_for_ever(tmp_path: Path) -> None:
    """HDF5 looks for texts in a list of objects one after the other; here one has no size."""
    make(tmp_path, [0, 1])
    (path,) = (tmp_path / "shards").iterdir()
    raw, header = bytearray(path.read_bytes()), read_header(path)
    place = raw.index(HEAP) + 16
    raw[place : place + 16] = bytes(16)
    path.write_bytes(raw)
    refit(path, header.size, [[e.index, e.solved, e.num_nodes, e.num_cells] for e in header.entries])
    (damage,) = DataStore(tmp_path, tolerant=True).verify()
    assert damage.kept == () and damage.lost == (0, 1)
