"""Data sets as one: no sample is lost or counted twice, the result appears whole or not at all, the card is honest."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from lrsa_coupled import cli
from lrsa_coupled.data import merge as merge_module
from lrsa_coupled.data.card import create, read_card
from lrsa_coupled.data.dataset import PointDataset
from lrsa_coupled.data.merge import MergeSummary, merge
from lrsa_coupled.data.shard import write_shard
from lrsa_coupled.data.store import DataStore
from lrsa_coupled.schema import Field, Symmetry
from tests.helpers import needs_dolfinx
from tests.unit.test_store import CARD, assert_holds, make, record

COLLECTED = dataclasses.replace(CARD, resolution=0, parameters={})


def data(folder: Path, card=CARD, **samples: int) -> Path:
    """Make a data set; ``i3=7`` is the sample 7 of the others under the index 3."""
    create(folder, card)
    for name, number in samples.items():
        write_shard(folder, [dataclasses.replace(record(number), index=int(name[1:]))])
    return folder


def numbers(folder: Path) -> dict[int, int]:
    """The scalar of each solved sample, which is its number, and -1 for failed ones."""
    records = {index: DataStore(folder).read(index) for index in DataStore(folder).entries}
    return {i: -1 if one.arrays is None else int(one.arrays.scalars[0]) for i, one in records.items()}


def test_parts_of_one_data_set_are_the_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = make(tmp_path / "whole", [0, 1, 2, 3, 4, 5, 6])
    one, two, three = make(tmp_path / "a", [0, 3, 4]), make(tmp_path / "b", [1, 2, 3]), make(tmp_path / "c", [5, 6])
    assert cli.main(["merge", str(one), str(two), str(three), "--out", str(tmp_path / "new" / "d")]) == 0
    text = capsys.readouterr().out
    assert "7 samples, 6 solved: 3 of" in text and "0 have another index, 1 were there already" in text
    assert_holds(tmp_path / "new" / "d", [0, 1, 2, 3, 4, 5, 6])
    assert DataStore(tmp_path / "new" / "d").content_hash() == DataStore(whole).content_hash()
    assert read_card(tmp_path / "new" / "d") == CARD and DataStore(one).solved == [0, 3]
    assert {path.name for path in (tmp_path / "new" / "d").iterdir()} == {"dataset.json", "shards", "index.json"}
    assert len(list((tmp_path / "new" / "d" / "shards").iterdir())) == 1
    assert len(PointDataset(DataStore(tmp_path / "new" / "d"))) == 6  # train reads it
    create(tmp_path / "new" / "d", CARD)  # generate goes on with it


def test_the_indices_that_collide_are_given_anew(tmp_path: Path) -> None:
    """Collected samples are told apart by their contents; a copy of one under the same index counts once."""
    a = data(tmp_path / "a", COLLECTED, i0=10, i1=11, i2=4)
    b = data(tmp_path / "b", COLLECTED, i0=20, i1=11, i5=25)
    c = data(tmp_path / "c", COLLECTED, i0=20, i2=32)
    assert merge([a, b, c], tmp_path / "d") == MergeSummary((3, 3, 2), renumbered=2, repeated=2)
    assert numbers(tmp_path / "d") == {0: 10, 1: 11, 2: -1, 5: 25, 6: 20, 7: 32}
    assert DataStore(tmp_path / "d").failures() == {"DIVERGED_MAX_IT": [2]}
    assert read_card(tmp_path / "d") == COLLECTED


def test_of_a_generated_sample_the_solved_one_counts(tmp_path: Path) -> None:
    one, two = data(tmp_path / "a", CARD, i0=4, i1=1), data(tmp_path / "b", CARD, i0=10, i1=4)
    assert merge([one, two], tmp_path / "d") == MergeSummary((2, 2), renumbered=0, repeated=2)
    assert numbers(tmp_path / "d") == {0: 10, 1: 1}


def test_the_card_of_data_sets_that_differ_lists_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = dataclasses.replace(CARD, settings={"rtol": 1e-8, "method": "a"})
    second = dataclasses.replace(CARD, seed=3, resolution=9, settings={"rtol": 1e-8, "method": "b"})
    one, two, three = data(tmp_path / "a", first, i0=0), data(tmp_path / "b", second, i0=6), data(tmp_path / "c", i9=2)
    merge([one, two], tmp_path / "ab")
    assert merge([tmp_path / "ab", three], tmp_path / "d").given == (2, 1)
    card = read_card(tmp_path / "d")
    assert (card.seed, card.resolution, card.settings, card.seeds) == (0, 4, {}, {0, 3})
    assert read_card(tmp_path / "ab").settings == {"rtol": 1e-8}
    found = [(part["seed"], part["resolution"], part["samples"]) for part in card.merged]
    assert found == [(0, 4, 1), (3, 9, 1), (0, 4, 1)]
    assert [part["settings"].get("method") for part in card.merged] == ["a", "b", None]
    assert numbers(tmp_path / "d") == {0: 0, 1: 6, 9: 2}
    assert cli.main(["info", str(tmp_path / "d")]) == 0
    assert "merged: 1 samples of seed 3, resolution 9" in capsys.readouterr().out
    with pytest.raises(ValueError, match="samples merged from data sets that differ"):
        create(tmp_path / "d", CARD)


def test_cost_is_that_of_all_ranks_and_the_settings_of_training_stay(tmp_path: Path) -> None:
    one, two = make(tmp_path / "a", [0, 1], seconds=0.5), make(tmp_path / "b", [2], seconds=0.25)
    settings = {"version": 2, "generate": {"ranks_per_sample": 4, "samples": 50}, "training": {"epochs": 3}}
    (one / "config.json").write_text(json.dumps(settings))
    merge([one, two], tmp_path / "d")
    assert DataStore(tmp_path / "d").seconds() == pytest.approx(4.25)
    assert json.loads((tmp_path / "d" / "config.json").read_text()) == {"version": 2, "training": {"epochs": 3}}


def test_what_only_training_reads_holds_for_all_samples(tmp_path: Path) -> None:
    mirror = (Symmetry(((-1, 0), (0, 1)), (0.5, 0.5)),)
    one = make(tmp_path / "a", [0])
    two = data(tmp_path / "b", dataclasses.replace(CARD, schema=dataclasses.replace(CARD.schema, symmetries=mirror)))
    merge([two, one], tmp_path / "d")
    assert read_card(tmp_path / "d").schema.symmetries == ()


def test_wrong_folders_are_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = make(tmp_path / "a", [0]), make(tmp_path / "b", [1])
    schema = dataclasses.replace(CARD.schema, outputs=(Field("p"),))
    other = data(tmp_path / "other", dataclasses.replace(CARD, schema=schema))
    (tmp_path / "file").write_text("")
    for folders, out, message in (
        ((a,), "d", "at least two data sets, got 1"),
        ((a, b), "a", "a is one of the data sets"),
        ((a, b, tmp_path / "b" / ".." / "a"), "d", "a is given twice"),
        ((a, other), "d", "do not fit each other: outputs u instead of p"),
        ((a, b), "other", "exists and is not an empty folder"),
        ((a, b), "file", "exists and is not an empty folder"),
        ((a, tmp_path / "none"), "d", "none is not a data set"),
    ):
        assert cli.main(["merge", *map(str, folders), "--out", str(tmp_path / out)]) == 2
        assert message in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", "other", "file"}
    (tmp_path / "empty").mkdir()
    assert cli.main(["merge", str(a), str(b), "--out", str(tmp_path / "empty")]) == 0
    assert_holds(tmp_path / "empty", [0, 1])


def test_a_damaged_sample_ends_it_without_a_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = make(tmp_path / "a", [0, 1]), make(tmp_path / "b", [2])
    path = next((b / "shards").iterdir())
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(bytes(raw))
    assert cli.main(["merge", str(a), str(b), "--out", str(tmp_path / "d")]) == 2
    assert f"shard {path} is damaged" in capsys.readouterr().err
    assert {each.name for each in tmp_path.iterdir()} == {"a", "b"}


def test_a_kill_leaves_no_half_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = make(tmp_path / "a", [0, 1]), make(tmp_path / "b", [2, 3])
    code = "import os, signal, sys; from pathlib import Path; from lrsa_coupled.data import merge as m;"
    code += "m.SAMPLES_PER_SHARD = 1; write = m.write_shard; kill = lambda: os.kill(os.getpid(), signal.SIGKILL);"
    code += "m.write_shard = lambda *a: (write(*a), kill()); m.merge(list(map(Path, sys.argv[1:3])), Path(sys.argv[3]))"
    done = subprocess.run([sys.executable, "-c", code, str(a), str(b), str(tmp_path / "d")], check=False)
    assert done.returncode == -9 and not (tmp_path / "d").exists() and len(list(tmp_path.iterdir())) == 3
    monkeypatch.setattr(merge_module, "SAMPLES_PER_SHARD", 3)
    merge([a, b], tmp_path / "d")
    assert_holds(tmp_path / "d", [0, 1, 2, 3])
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", "d"}
    assert sorted(len(header.entries) for header in DataStore(tmp_path / "d").headers.values()) == [1, 3]


@needs_dolfinx
def test_a_seed_of_any_part_has_been_seen() -> None:
    from lrsa_coupled.bench.samples import refuse_seen

    card = dataclasses.replace(CARD, merged=[{"seed": 3}, {"seed": 5}])
    refuse_seen(4, card.seeds, "the data")
    for seed in (0, 3, 5):
        with pytest.raises(ValueError, match=f"must be unseen: the seed {seed} is the one of the data"):
            refuse_seen(seed, card.seeds, "the data")
