"""One writer for an output; files that are whole or not there on a disk that is full."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from lrsa_coupled import files
from lrsa_coupled.files import (
    append_line,
    create_text,
    locked,
    process_name,
    replace_all,
    reserve,
    temporary_folder,
    write_atomically,
    write_text_atomically,
)

HOLD = "import sys; from pathlib import Path; from lrsa_coupled.files import locked\n"
HOLD += "with locked(Path(sys.argv[1])):\n    print('held', flush=True); sys.stdin.read()"


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """A disk on which no file may be larger: as one that is full, without a mount."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def no_locks(*_: object) -> None:
    raise OSError(errno.ENOLCK, "no locks on this file system")


def test_the_holder_of_a_lock_is_named_and_its_end_frees_it(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
    expected = f"{out} is being written by process {holder.pid} on {os.uname().nodename}; wait for its end or write"
    with pytest.raises(BlockingIOError, match=expected), locked(out):
        pass
    holder.kill()
    holder.communicate()
    assert names(out) == [".lock"]
    with locked(out):
        pass
    assert names(out) == []


def test_files_of_a_folder_have_locks_of_their_own(tmp_path: Path) -> None:
    one, two = tmp_path / "a.json", tmp_path / "b.json"
    with locked(one, is_file=True), locked(two, is_file=True), locked(tmp_path):
        expected = f"a.json is being written by process {os.getpid()} on"
        with pytest.raises(BlockingIOError, match=expected), locked(one, is_file=True):
            pass
    assert names(tmp_path) == []


def test_one_of_many_writes_at_any_time(tmp_path: Path) -> None:
    inside: list[int] = []

    def work(number: int) -> tuple[int, int]:
        worked = refused = 0
        for _ in range(200):
            try:
                with locked(tmp_path):
                    inside.append(number)
                    assert inside == [number]
                    inside.remove(number)
                worked += 1
            except BlockingIOError:
                refused += 1
        return worked, refused

    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(work, range(6)))
    assert all(worked + refused == 200 for worked, refused in results) and sum(worked for worked, _ in results) >= 200
    assert names(tmp_path) == []


def test_locks_where_the_file_system_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", no_locks)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    claim, mine = tmp_path / ".lock-holder", process_name()
    for number in (None, ended.pid):  # none; left by one that was killed
        if number is not None:
            claim.write_text(mine.replace(f"~{os.getpid()}", f"~{number}") + "\n")
        with locked(tmp_path):
            assert claim.read_text() == f"{mine}\n"
        assert names(tmp_path) == []
    claim.write_text(mine.replace(f"~{os.getpid()}", f"~{os.getppid()}") + "\n")
    with pytest.raises(BlockingIOError, match=rf"\(if it has ended, remove {claim}\)$"), locked(tmp_path):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match=str(tmp_path)), locked(tmp_path):
        pass


def test_files_that_belong_together_appear_together(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    write_atomically({one: b"old 1", two: b"old 2"})
    with largest_file(1000), pytest.raises(OSError, match=f"File too large: '{two}'"):
        write_atomically({one: b"new 1", two: b"x" * 2000})
    assert (one.read_bytes(), two.read_bytes(), names(tmp_path)) == (b"old 1", b"old 2", ["one", "two"])
    with largest_file(1000), pytest.raises(OSError, match=f"File too large: '{one}'"):
        write_text_atomically(one, "x" * 2000)


def test_a_line_is_added_or_not(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    append_line(path, "a" * 50)
    with largest_file(80), pytest.raises(OSError, match=f": '{path}'"):
        append_line(path, "b" * 50)
    append_line(path, "c")
    assert path.read_text() == "a" * 50 + "\nc\n"


def test_a_created_text_that_cannot_be_written_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither with nor without links: half a claim would be one of a job at work."""
    with largest_file(100), pytest.raises(OSError, match="File too large"):
        create_text(tmp_path / "a", "x" * 200 + "\n")
    monkeypatch.setattr(os, "link", no_locks)
    with largest_file(100), pytest.raises(OSError, match="File too large"):
        files._fill_new(tmp_path / "a", "x" * 200 + "\n")
    assert names(tmp_path) == []
    assert create_text(tmp_path / "a", "x\n")


def test_room_is_made_sure_of_and_given_back(tmp_path: Path) -> None:
    reserve(tmp_path, 1 << 20)
    with largest_file(1 << 20), pytest.raises(OSError, match=f"File too large: '{tmp_path}"):
        reserve(tmp_path, (1 << 20) + 1)
    assert names(tmp_path) == []


def test_new_files_and_folders_take_the_place_of_old_ones(tmp_path: Path) -> None:
    for text in ("old", "new"):
        with temporary_folder(tmp_path / "fields") as new:
            write_text_atomically(new / "u.bp" / "data.0", text)
            write_text_atomically(new / "u.pvd", text)
            replace_all(new, tmp_path)
    assert (tmp_path / "u.bp" / "data.0").read_text() == (tmp_path / "u.pvd").read_text() == "new"
    assert names(tmp_path) == ["u.bp", "u.pvd"] and not new.exists()


def test_the_folder_of_a_killed_process_is_removed(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left = tmp_path / f".fields~00~{process_name().replace(f'~{os.getpid()}', f'~{ended.pid}')}.tmp"
    write_text_atomically(left / "u.bp" / "data.0", "half")
    with temporary_folder(tmp_path / "fields") as new:
        assert names(tmp_path) == [new.name]
