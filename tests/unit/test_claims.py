"""Indices of many jobs in one folder: each once, whoever is killed, with and without links, with old listings."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import msgspec
import pytest

from lrsa_coupled import files
from lrsa_coupled.data import claims
from lrsa_coupled.data.claims import SMALLEST, Indices, Shares
from lrsa_coupled.files import abandoned, create_text, locked, may_be_running, process_name, temporary_path
from tests.helpers import killed_process


def without_links(source: Path, target: Path) -> None:
    raise PermissionError("no links on this file system")


def one_listing(folder: Path, pattern: str) -> Iterator[Path]:
    """A directory cache of the network that never learns of new files."""
    return iter(())


@pytest.mark.parametrize("obstacle", [None, ("link", without_links), ("glob", one_listing)])
def test_no_index_is_taken_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, obstacle: tuple[str, Callable] | None
) -> None:
    if obstacle is not None:
        monkeypatch.setattr(os if obstacle[0] == "link" else Path, *obstacle)

    def job(_: int) -> list[int]:
        indices = Indices(tmp_path, 7)
        taken = [indices.take() for _ in range(2 * SMALLEST + 3)]
        indices.close()
        return taken

    with ThreadPoolExecutor(8) as pool:
        taken = [index for part in pool.map(job, range(8)) for index in part]
    assert len(set(taken)) == len(taken) == 8 * (2 * SMALLEST + 3)
    assert min(taken) == 7
    if obstacle is None:
        assert max(taken) < 7 + 8 * 3 * SMALLEST


def test_one_job_after_the_other_leaves_no_gap(tmp_path: Path) -> None:
    for first in (0, 3):
        indices = Indices(tmp_path, 0)
        assert [indices.take() for _ in range(3)] == [first, first + 1, first + 2]
        indices.close()
        indices.close()
    again = [indices.take()]  # after the end, too
    assert again == [6]


def test_samples_written_otherwise_are_counted(tmp_path: Path) -> None:
    indices = Indices(tmp_path, 0)
    indices.take()
    indices.close()
    assert Indices(tmp_path, 50).take() == 50


def test_a_killed_job_costs_its_block_and_stops_nobody(tmp_path: Path) -> None:
    code = "import os, signal, sys; from pathlib import Path; from lrsa_coupled.data.claims import Indices;"
    code += "indices = Indices(Path(sys.argv[1]), 0); print(indices.take(), indices.take(), flush=True);"
    code += "os.kill(os.getpid(), signal.SIGKILL)"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True, check=False)
    assert done.stdout.split() == ["0", "1"] and done.returncode == -9
    indices = Indices(tmp_path, 2)
    assert indices.take() == SMALLEST
    assert indices.of_others() == []  # it was on this machine: known to be gone
    path = tmp_path / "claims" / "00000000.json"
    block = msgspec.json.decode(path.read_bytes())
    path.write_bytes(msgspec.json.encode(block | {"job": "00~elsewhere~1"}) + b"\n")
    assert indices.of_others() == [range(SMALLEST)]  # of another machine nobody knows


def test_the_blocks_of_others_are_left_until_they_end(tmp_path: Path) -> None:
    one, two = Indices(tmp_path, 0), Indices(tmp_path, 0)
    one.take()
    two.take()
    assert one.of_others() == [range(SMALLEST, 2 * SMALLEST)] and two.of_others() == [range(SMALLEST)]
    two.close()
    assert one.of_others() == []


def test_a_claim_cut_short_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That takes a kill at this moment on a file system without links."""
    Indices(tmp_path, 5).take()
    broken = tmp_path / "claims" / "00000001.json"
    broken.write_text("{")
    monkeypatch.setattr(claims, "read_created", partial(files.read_created, patience=0.05))
    with pytest.raises(ValueError, match=rf"{broken} has no end: .* remove it when no job is at work"):
        Indices(tmp_path, 0).take()
    broken.unlink()
    assert Indices(tmp_path, 0).take() == 5 + SMALLEST


def test_a_text_is_created_once_and_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "a.json"
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda number: create_text(path, f"{number}" * 10_000 + "\n"), range(8)))
    assert made.count(True) == 1
    assert path.read_text() == f"{made.index(True)}" * 10_000 + "\n"
    link = os.link

    def answer_lost(source: Path, target: Path) -> None:
        link(source, target)
        raise FileExistsError("the first try has made it")

    monkeypatch.setattr(os, "link", answer_lost)
    assert create_text(tmp_path / "b.json", "b\n")
    assert [name.name for name in tmp_path.rglob(".*")] == []


def test_temporary_files_of_ended_processes_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with temporary_path(tmp_path / "a~b.h5") as mine:
        mine.touch()
        gone = mine.with_name(mine.name.replace(process_name(), killed_process()))
        other = mine.with_name(mine.name.replace(process_name(), "node-7.cluster~1"))
        for path in (gone, other):
            path.touch()
        assert abandoned(tmp_path) == [gone]
        os.utime(other, (0.0, other.stat().st_mtime - 86401.0))
        assert set(abandoned(tmp_path)) == {gone, other}
    assert not mine.exists()
    with locked(tmp_path):
        assert not gone.exists() and not other.exists()
    assert may_be_running("somewhere~1") and may_be_running("nonsense") and may_be_running(process_name())
    monkeypatch.setattr(files.os, "kill", lambda *_: (_ for _ in ()).throw(PermissionError))
    assert may_be_running(process_name())  # of another user


def test_shares_are_hints(tmp_path: Path) -> None:
    one, two = Shares(tmp_path), Shares(tmp_path)
    assert one.take(3) and not two.take(3) and two.take(4)
    one.remove([3])
    assert one.take(3) and not one.take(4)
    two.remove(range(10))
    assert not (tmp_path / "begun").exists()
    two.remove([1])  # nothing to remove
    assert Shares(tmp_path / "missing").take(0)  # the folder cannot be written: the sample will say it


def test_claims_that_make_no_sense_are_named(tmp_path: Path) -> None:
    assert Indices(tmp_path, 0).take() == 0
    (tmp_path / "claims" / "notes.json").write_text("not a claim\n")
    assert Indices(tmp_path, 0).take() == 16
    path = tmp_path / "claims" / "00000002.json"
    for text in ('{"first": 1e400}', '{"first": 1000000000000, "count": 1, "job": "a"}', "[" * 100_000, '{"first": 0}'):
        path.write_text(f"{text}\n")
        with pytest.raises(ValueError, match=path.name):
            Indices(tmp_path, 0).take()
