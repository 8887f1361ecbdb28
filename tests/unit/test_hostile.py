"""Data sets whose digests fit and whose contents do not: named, without following links, without large allocations."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import threading
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from lrsa_coupled import cli, files
from lrsa_coupled.cli import verify
from lrsa_coupled.data import hdf5
from lrsa_coupled.data.card import read_card
from lrsa_coupled.data.dataset import PointDataset
from lrsa_coupled.data.format import digest
from lrsa_coupled.data.shard import read_header, write_shard
from lrsa_coupled.data.store import INDEX, Damage, DataStore
from lrsa_coupled.data.writer import DAMAGED, repair, tidy
from lrsa_coupled.files import set_aside
from lrsa_coupled.reading import Damaged, read_json, sealed
from tests.hostile import change, with_header
from tests.unit.test_store import assert_holds, make, record

SAMPLE = "samples/00000001"
READERS = (["verify"], ["info", "--hash"], ["info", "--statistics"], ["export", "--index", "1"])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    make(tmp_path, [0, 1], 2)
    (tmp_path / "config.json").write_text(json.dumps({"generate": {"samples": 2}}))
    return tmp_path


def shard_of(data: Path) -> Path:
    return min((data / "shards").glob("*.h5"))


def run(data: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> tuple[int, str]:
    """Run a verb on a data set; the exit code and all that was printed."""
    out = ["--out", str(data / "out")] if arguments[0] == "export" else []
    code = cli.main([arguments[0], str(data), *arguments[1:], *out])
    return code, "".join(capsys.readouterr())


def verified(data: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Verify a data set, without the time that the parser of the command line takes."""
    try:
        return verify.run(Namespace(data=data), []), capsys.readouterr().out
    except (ValueError, OSError) as error:
        return 2, f"{error}\n"


def replaced(name: str, **options: object) -> Callable[[h5py.File], None]:
    """Replace an array of sample 1."""

    def edit(file: h5py.File) -> None:
        del file[f"{SAMPLE}/{name}"]
        file[SAMPLE].create_dataset(name, **options)

    return edit


def linked(path: str, link: object) -> Callable[[h5py.File], None]:
    def edit(file: h5py.File) -> None:
        del file[path]
        file[path] = link

    return edit


def attribute(name: str, value: object) -> Callable[[h5py.File], None]:
    return lambda file: file[SAMPLE].attrs.__setitem__(name, value)


def without(path: str) -> Callable[[h5py.File], None]:
    return lambda file: file.__delitem__(path)


def external(file: h5py.File) -> None:
    """The values of a field are the bytes of another file."""
    del file[f"{SAMPLE}/outputs"]
    file[SAMPLE].create_dataset("outputs", (9, 1), np.float64, external=[("/etc/passwd", 0, 72)])


def elsewhere(path: str) -> Callable[[h5py.File], None]:
    """A group or an array is that of another file, here of a copy."""

    def edit(file: h5py.File) -> None:
        other = Path(file.filename).with_name("other")
        other.write_bytes(Path(file.filename).read_bytes())
        linked(path, h5py.ExternalLink(str(other), path))(file)

    return edit


EDITS = {
    "external storage": external,
    "external link to an array": elsewhere(f"{SAMPLE}/outputs"),
    "external link to a sample": elsewhere(SAMPLE),
    "external link to all": elsewhere("samples"),
    "soft link": linked(SAMPLE, h5py.SoftLink("/samples/00000000")),
    "6.4 GB of which nothing is there": replaced("outputs", shape=(800_000_000, 1), dtype=np.float64),
    "6.4 GB in pieces": replaced("outputs", shape=(800_000_000, 1), dtype=np.float64, chunks=(1024, 1)),
    "1.5 TiB": replaced("inputs", shape=(1 << 38, 2), dtype=np.float32, chunks=(1024, 2)),
    "compressed": replaced("outputs", data=np.zeros((9, 1)), compression="gzip"),
    "another type": replaced("outputs", data=np.zeros((9, 1), np.int64)),
    "texts of any length": replaced("outputs", data=["a"] * 9, dtype=h5py.string_dtype()),
    "one number": replaced("outputs", data=1.0),
    "nothing": replaced("outputs", data=h5py.Empty(np.float64)),
    "another shape": replaced("outputs", data=np.zeros((9, 2))),
    "another number of nodes": replaced("outputs", data=np.zeros((5, 1))),
    "values that are not finite": replaced("outputs", data=np.full((9, 1), np.nan)),
    "values beyond float32": replaced("outputs", data=np.full((9, 1), 1e300)),
    "values that do not fit the digest": replaced("outputs", data=np.zeros((9, 1))),
    "a missing array": without(f"{SAMPLE}/outputs"),
    "a missing sample": without(SAMPLE),
    "no samples": without("samples"),
    "no geometry": without("geometry"),
    "a group for an array": lambda file: (without(f"{SAMPLE}/outputs")(file), file[SAMPLE].create_group("outputs")),
    "an array for a group": lambda file: (without(SAMPLE)(file), file.create_dataset(SAMPLE, data=np.zeros(3))),
    "a missing attribute": lambda file: file[SAMPLE].attrs.__delitem__("reason"),
    "many values in an attribute": attribute("iterations", np.arange(1000)),
    "a number for a text": attribute("reason", 3),
    "infinite iterations": attribute("iterations", np.inf),
    "no text": attribute("reason", h5py.Empty("S1")),
    "another geometry": attribute("geometry", "../.."),
}  # fmt: skip


@pytest.mark.parametrize("name", EDITS)
def test_contents_that_do_not_fit_are_named_and_made_again(data: Path, capsys, name: str) -> None:
    path = shard_of(data)
    change(path, EDITS[name])
    code, text = verified(data, capsys)
    assert code == 1 and path.name in text, text
    for read in (DataStore.read, DataStore.arrays):
        with pytest.raises(Damaged, match=path.name):
            read(DataStore(data), 1)
    before = path.read_bytes()
    repair(data, DataStore(data, tolerant=True).verify())
    assert (data / DAMAGED / path.name).read_bytes() == before
    tidy(data, 2)
    left = DataStore(data)
    assert left.verify() == [] and (0 in left.entries or name in ("external link to all", "no samples", "no geometry"))


@pytest.mark.parametrize(
    "changes",
    [
        {"cells": np.array([[0, 1, 9]], np.int32)},
        {"cells": np.array([[0, -1, 2]], np.int32)},
        {"cells": np.zeros((1, 1 << 10), np.int32)},
        {"mass": np.zeros(9)},
        {"points": np.zeros((9, 3))},
        {"boundary": np.zeros(4, np.uint8)},
        {"scalars": np.array([np.inf])},
    ],
)
def test_arrays_that_make_no_sense_are_named_though_all_digests_fit(tmp_path: Path, capsys, changes: dict) -> None:
    whole = record(1)
    make(tmp_path, [0])
    path = write_shard(tmp_path, [dataclasses.replace(whole, arrays=dataclasses.replace(whole.arrays, **changes))])
    code, text = verified(tmp_path, capsys)
    assert code == 1 and f"{path} is damaged: sample 1 lost" in text
    for read in (DataStore.read, DataStore.arrays):
        with pytest.raises(Damaged, match=f"{path.name}, sample 1: '?(it has no points|{next(iter(changes))})"):
            read(DataStore(tmp_path), 1)


HEADERS = {
    "nothing": b"{}",
    "a list": b"[]",
    "nested": b"[" * 400,
    "no text": b"\xff\xfe",
    "infinite": b'{"digest": "", "samples": [[0, 1, Infinity, 2]]}',
    "1e9 nodes": b'{"digest": "DIGEST", "samples": [[0, 1, 1000000000, 2], [1, 1, 9, 2]]}',
    "1e18 cells": b'{"digest": "DIGEST", "samples": [[0, 1, 9, 1000000000000000000], [1, 1, 9, 2]]}',
    "a negative index": b'{"digest": "DIGEST", "samples": [[-1, 1, 9, 2]]}',
    "a sample twice": b'{"digest": "DIGEST", "samples": [[0, 1, 9, 2], [0, 1, 9, 2]]}',
    "a sample that is not there": b'{"digest": "DIGEST", "samples": [[0, 1, 9, 2], [3, 1, 9, 2]]}',
    "a failed sample": b'{"digest": "DIGEST", "samples": [[0, 0, 0, 0], [1, 1, 9, 2]]}',
    "a short entry": b'{"digest": "DIGEST", "samples": [[0]]}',
}


@pytest.mark.parametrize("name", HEADERS)
@pytest.mark.parametrize("indexed", [False, True])
def test_headers_that_make_no_sense_are_named_and_made_again(data: Path, capsys, name: str, indexed: bool) -> None:
    path, header = shard_of(data), read_header(shard_of(data))
    if indexed:
        tidy(data, 2)
    with_header(path, HEADERS[name].replace(b"DIGEST", header.digest.encode()), header.size)
    code, text = verified(data, capsys)
    assert code == 1 and path.name in text, text
    with pytest.raises(ValueError, match=path.name):
        PointDataset(DataStore(data), memory_gib=1e-9)
    repair(data, DataStore(data, tolerant=True).verify())
    tidy(data, 2)
    assert_holds(data, [0, 1])


def test_an_index_that_does_not_fit_is_named_and_made_again(data: Path, capsys) -> None:
    path = shard_of(data)
    for entries in ([[0, 1, 9, 2], [7, 1, 9, 2]], [[0, 1, 1000000000, 2]], [], [[0, 1]], 3):
        header = read_header(path)
        text = json.dumps({path.name: [header.digest, header.size, entries]})
        (data / INDEX).write_text(f"{digest([text.encode()])}\n{text}\n")
        code, text = verified(data, capsys)
        assert code == 0, text
        if isinstance(entries, list) and all(len(entry) == 4 for entry in entries) and entries:
            with pytest.raises(Damaged, match=f"{INDEX} does not fit the header of"):
                DataStore(data).read(0)
        tidy(data, 2)
        assert_holds(data, [0, 1])


@pytest.mark.parametrize("size", [0, 1, 7, 31, 32, 100, 511, 512, 519, 520, 600])
def test_a_short_shard_is_damaged_not_endless(data: Path, capsys, size: int) -> None:
    path = shard_of(data)
    path.write_bytes(path.read_bytes()[:size])
    for arguments in READERS if size == 0 else READERS[:1]:
        code, text = run(data, capsys, arguments)
        assert code == (1 if arguments == ["verify"] else 2) and path.name in text and "damaged" in text
    repair(data, DataStore(data, tolerant=True).verify())
    assert not path.exists() and (data / DAMAGED / path.name).stat().st_size == size


def loop(path: Path) -> None:
    path.symlink_to(path.name)


IN_THE_PLACE = {
    "a folder": Path.mkdir,
    "a link to itself": loop,
    "a link to nowhere": lambda path: path.symlink_to("nowhere"),
    "a pipe": os.mkfifo,
    "a device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("name", IN_THE_PLACE)
@pytest.mark.parametrize("place", ["shard", "dataset.json"])
def test_what_cannot_be_read_stops_everything_and_stays(data: Path, capsys, name: str, place: str) -> None:
    path = shard_of(data) if place == "shard" else data / place
    path.rename(data / "kept")
    IN_THE_PLACE[name](path)
    for arguments in READERS if name == "a folder" else READERS[:1]:
        code, text = run(data, capsys, arguments)
        assert code == 2 and str(path) in text and "unexpected" not in text, text
    for act in (lambda: DataStore(data, tolerant=True).verify(), lambda: tidy(data, 2)):
        with pytest.raises(OSError, match=path.name):
            act()
    assert os.path.lexists(path) and not (data / DAMAGED).exists()


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE, errno.EMFILE])
@pytest.mark.parametrize("when", ["open", "hdf5"])
def test_an_intact_shard_that_cannot_be_read_stays(data: Path, capsys, monkeypatch, number: int, when: str) -> None:
    path = shard_of(make(data, [2], 2))
    before, damages = path.read_bytes(), [Damage(path, (0,), (1,))]

    def fail(name: object, *rest: object, **options: object) -> object:
        if str(name).endswith(".h5"):
            raise OSError(number, os.strerror(number), str(name))
        return real(name, *rest, **options)

    module, what = (files.os, "open") if when == "open" else (hdf5.h5py, "File")
    real = getattr(module, what)
    monkeypatch.setattr(module, what, fail)
    for act in (lambda: DataStore(data, tolerant=True).verify(), lambda: repair(data, damages), lambda: tidy(data, 4)):
        with pytest.raises(OSError, match=path.name) as caught:
            act()
        assert caught.value.errno == number
    code, text = verified(data, capsys)
    assert code == 2 and str(path) in text and text.count("\n") == 1
    monkeypatch.undo()
    assert path.read_bytes() == before and not (data / DAMAGED).exists()
    assert_holds(data, [0, 1, 2])


def test_a_damaged_file_is_kept_beside_others_of_its_name(tmp_path: Path, monkeypatch) -> None:
    path, folder = tmp_path / "a.h5", tmp_path / DAMAGED
    for number, links in enumerate((True, True, False)):
        path.unlink(missing_ok=True)
        path.write_bytes(b"%d" % number)
        if not links:
            monkeypatch.setattr(files.os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.EPERM, "no links")))
        set_aside(path, folder)
        if links:
            set_aside(path, folder)  # it is there already
    assert {each.name: each.read_bytes() for each in folder.iterdir()} == {"a.h5": b"0", "a.h5.1": b"1", "a.h5.2": b"2"}


CARDS = {
    "1e9 components": lambda card: card["schema"]["inputs"][0].update(components=10**9),
    "too many components in all": lambda card: card["schema"].update(
        inputs=[{"name": f"k{n}", "components": 4000} for n in range(3)]
    ),
    "a subspace that is no list": lambda card: card["schema"]["outputs"][0].update(subspace=3),
    "a dimension of 1e9": lambda card: card["schema"].update(dim=10**9),
    "an infinite loss weight": lambda card: card["schema"]["outputs"][0].update(loss_weight=float("inf")),
    "a name that cannot be printed": lambda card: card["schema"].update(name="a\nb"),
    "no schema": lambda card: card.pop("schema"),
    "a list for a schema": lambda card: card.update(schema=[]),
    "a seed that is a text": lambda card: card.update(seed="0"),
    "a seed of 30 digits": lambda card: card.update(seed=10**30),
    "parts without entries": lambda card: card.update(merged=[{}]),
    "options that are a list": lambda card: card.update(settings={"options": [1]}),
    "no version": lambda card: card.pop("format"),
    "chains of version 2": lambda card: card.update(format=2, chains=[1, 2]),
    "a deep value": lambda card: card.update(settings={"options": {"a": json.loads("[" * 900 + "]" * 900)}}),
}


@pytest.mark.parametrize("name", CARDS)
@pytest.mark.parametrize("fits", [False, True])
def test_cards_that_make_no_sense_are_named(data: Path, capsys, name: str, fits: bool) -> None:
    path = data / "dataset.json"
    card = json.loads(path.read_text())
    card.pop("digest")
    CARDS[name](card)
    path.write_text(sealed(card) if fits else json.dumps(card))
    code, text = verified(data, capsys)
    assert code == 2 and "dataset.json" in text and text.count("\n") == 1, text


def test_a_changed_letter_of_a_card_is_found(data: Path) -> None:
    path = data / "dataset.json"
    text, card = path.read_text(), read_card(data)
    for place in range(len(text)):
        path.write_text(text[:place] + chr(ord(text[place]) ^ 1) + text[place + 1 :], encoding="utf-8")
        try:
            assert read_card(data) == card, text[place - 9 : place + 9]
        except ValueError as error:
            assert str(path) in str(error)


@pytest.mark.parametrize("text", [
    "[]", "[" * 200_000, '{"a": ' * 70 + "0" + "}" * 70, '{"a": 1e400}', '{"a": NaN}', '{"a": 10000000000000000000}',
    "1" * 5000, "\udc80", "", '{"a": "' + "x" * (1 << 24) + '"}',
], ids=["list", "nested", "deep", "infinite", "NaN", "large", "digits", "bytes", "empty", "long"])  # fmt: skip
def test_json_that_is_not_taken(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(Damaged, match=r"a\.json"):
        read_json(path)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.json")
    found: list[BaseException] = []

    def read() -> None:
        try:
            read_json(tmp_path / "a.json")
        except OSError as error:
            found.append(error)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(10)
    assert found and "not a regular file" in str(found[0])


def test_a_configuration_cannot_ask_for_more_samples_than_there_is_memory(data: Path, capsys) -> None:
    for samples, expected, message in (
        (9_000_000, 1, "missing: sample 2 to 8999999"),
        (10**12, 0, "0 samples to make"),
        (float("inf"), 1, "expected finite numbers"),
    ):
        (data / "config.json").write_text(json.dumps({"generate": {"samples": samples}}))
        code, text = verified(data, capsys)
        assert code == expected and message in text


def test_a_damaged_configuration_is_named(data: Path, capsys) -> None:
    (data / "config.json").write_text("{")
    code, text = verified(data, capsys)
    assert code == 1 and "config.json is not a valid JSON file" in text and "missing is not known" in text


def test_a_shard_that_was_refitted_is_whole(data: Path) -> None:
    """What the tests above change is the contents alone."""
    change(shard_of(data), lambda file: None)
    assert_holds(data, [0, 1])
    assert DataStore(data, tolerant=True).verify() == []
