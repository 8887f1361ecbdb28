"""Files that appear whole or not at all, locks, and names of processes; ``reading.py`` reads what others wrote."""

from __future__ import annotations

import errno
import fcntl
import fnmatch
import hashlib
import itertools
import os
import secrets
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO

from lrsa_coupled.reading import Damaged, read_text

DAY = 86400.0
KINDS = {
    "dataset.json": "a data set",
    "model.json": "a model",
    "estimate.json": "an estimate",
    "result.json": "a solution",
}
"""What a folder holds, by the file that says it; an estimate has a result, too."""

_NO_LOCKS = frozenset({errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL})
"""Errors of file systems without locks."""


def process_name() -> str:
    """Return a name of this process that no running process of any machine has: its machine and number."""
    return f"{_machine()}~{os.getpid()}"


@cache
def _machine() -> str:
    """Return a name of the machine since its start, or of the container: many are called localhost."""
    known = [os.uname().nodename]
    with suppress(OSError):
        known += [Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8"), os.readlink("/proc/self/ns/pid")]
    return f"{known[0]}-{hashlib.blake2b(repr(known).encode(), digest_size=4).hexdigest()}"


def may_be_running(name: str) -> bool:
    """Return whether the process of a name may still be at work; of another machine nobody knows."""
    machine, _, number = name.rpartition("~")
    if machine != _machine() or not number.isdecimal():
        return True
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


@contextmanager
def temporary_path(path: Path) -> Iterator[Path]:
    """Give a path beside ``path`` that no other process uses, and remove what is there afterwards.

    An OSError that names no file, as that of a full disk, names ``path``.
    """
    temporary = path.with_name(f".{path.name}~{secrets.token_hex(4)}~{process_name()}.tmp")
    try:
        yield temporary
    except OSError as error:
        if error.errno is not None and error.filename in (None, str(temporary)):
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """Give a folder beside ``path`` that no other process uses; it is removed afterwards, and what killed ones left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for old in abandoned(path.parent):
        if old.name.startswith(f".{path.name}~"):
            shutil.rmtree(old, ignore_errors=True)
    with temporary_path(path) as folder:
        try:
            folder.mkdir()
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def reserve(folder: Path, size: int) -> None:
    """Raise OSError, with the name of the folder, unless so many bytes can be written into it now. Collective: no."""
    try:
        with temporary_path(folder / "space") as path, open(path, "wb") as file:
            if sys.platform != "darwin":
                os.posix_fallocate(file.fileno(), 0, size)
            elif shutil.disk_usage(folder).free < size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from error


def matching(folder: Path, pattern: str) -> list[Path]:
    """Return the paths in a folder whose names match, sorted, none where it does not exist.

    OSError when it cannot be read, which ``Path.glob`` takes for an empty one.
    """
    try:
        return sorted(folder / name for name in fnmatch.filter(os.listdir(folder), pattern))
    except FileNotFoundError:
        return []


def replace_all(new: Path, folder: Path) -> None:
    """Move what a temporary folder holds, files and folders, to a folder, in the place of what has the same names."""
    for path in sorted(new.iterdir()):
        target = folder / path.name
        if target.is_dir():
            target.rename(new / f".{path.name}-before")
        path.replace(target)


def abandoned(folder: Path) -> list[Path]:
    """Return the temporary files and folders whose process has ended; of other machines files unchanged for a day."""
    found = matching(folder, ".*~*~*.tmp")
    if not found:
        return []
    with temporary_path(folder / "now") as probe:  # times of one clock, that of the disk
        probe.touch()
        now = probe.stat().st_mtime
    return [path for path in found if _is_abandoned(path, now)]


def remove_abandoned(*folders: Path) -> None:
    """Remove temporary files, not folders, that killed processes have left. Collective: no."""
    for path in (path for folder in folders for path in abandoned(folder) if not path.is_dir()):
        path.unlink(missing_ok=True)


def _is_abandoned(path: Path, now: float) -> bool:
    if not may_be_running("~".join(path.name.removesuffix(".tmp").rsplit("~", 2)[1:])):
        return True
    try:
        return path.is_file() and now - path.stat().st_mtime > DAY
    except FileNotFoundError:
        return False


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; on success it is flushed to disk and renamed, on an error removed.

    Collective: no; any number of processes may write the same path. OSError when the folder cannot be written.
    """
    with temporary_path(path) as temporary:
        yield temporary
        flush(temporary)
        os.replace(temporary, path)


def flush(path: Path) -> None:
    """Wait until a file is on disk."""
    with open(path, "rb") as stream:
        os.fsync(stream.fileno())


def create_text(path: Path, text: str) -> bool:
    """Write a text file that does not exist yet and return True; False when there is one.

    One of several processes succeeds, on any number of machines. The file is whole, but for a moment on file systems
    without links: ``read_created`` waits for its end. ``text`` ends with a newline.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with temporary_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
        flush(temporary)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return temporary.stat().st_nlink > 1  # made by a first try whose answer the network lost
        except OSError:
            return _fill_new(path, text)
    return True


def read_created(path: Path, *, patience: float = 10.0) -> str:
    """Read a file of ``create_text``; ValueError when it has no end after ``patience`` seconds."""
    end = time.monotonic() + patience
    while not (text := read_text(path)).endswith("\n"):
        if time.monotonic() > end:
            text = "has no end: a job was killed while it wrote it"
            raise Damaged(f"{path} {text}; remove it when no job is at work in this folder")
        time.sleep(0.01)
    return text


def _fill_new(path: Path, text: str) -> bool:
    try:
        stream = open(path, "x", encoding="utf-8")  # noqa: SIM115 - closed below
    except FileExistsError:
        return False
    try:
        with stream:
            stream.write(text)
    except OSError:  # the disk is full: half a file would stop all other jobs
        path.unlink(missing_ok=True)
        raise
    return True


def write_text_atomically(path: Path, text: str) -> None:
    """Write a text file by atomic rename, making its folder when it is missing."""
    write_atomically({path: text.encode()})


def write_atomically(contents: Mapping[Path, bytes]) -> None:
    """Write files that belong together, making their folders: all are on disk before the first is renamed."""
    with ExitStack() as stack:
        written = []
        for path, content in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            written.append((stack.enter_context(temporary_path(path)), path))
            written[-1][0].write_bytes(content)
            flush(written[-1][0])
        for temporary, path in written:
            os.replace(temporary, path)


def append_line(path: Path, line: str) -> None:
    """Add a line to a text file, or nothing when the disk is full. Call on one process."""
    with open(path, "ab", buffering=0) as stream:
        size, content = stream.seek(0, os.SEEK_END), f"{line}\n".encode()
        try:
            if stream.write(content) < len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            stream.truncate(size)
            raise OSError(error.errno, error.strerror, str(path)) from error


def check_kind(folder: Path, own: str) -> None:
    """Raise ValueError when a folder holds results of another kind than ``own``, a name of ``KINDS``, or sources."""
    held = next((name for name in KINDS if (folder / name).exists()), own)
    if not (folder / own).exists() and any(folder.glob("*.py")):
        raise ValueError(f"{folder} holds Python files, expected {KINDS[own]} or a new folder; choose another one")
    if held != own:
        raise ValueError(f"{folder} holds {KINDS[held]}, expected {KINDS[own]} or a new folder; choose another one")


@contextmanager
def locked(output: Path, *, is_file: bool = False) -> Iterator[None]:
    """Be the only process that writes an output: a folder, made when it is missing, or a file.

    The lock goes with the process, however it ends. Temporary files that killed processes have left in the folder are
    removed. Collective: no; call on one rank.

    Raises:
        BlockingIOError: If another process writes the output; names it.
        OSError: If the folder cannot be written, or is a file.
    """
    path = output.with_name(f".{output.name}.lock") if is_file else output / ".lock"
    is_new = not path.parent.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise NotADirectoryError(f"{path.parent} cannot be a folder, there is a file; write elsewhere") from error
    while (held := _take(path, output)) is None:
        pass
    try:
        remove_abandoned(path.parent)
        yield
    finally:
        for name in (_claim(path), path):  # while it is held: who opens it now finds another file of this name, or none
            name.unlink(missing_ok=True)
        held.close()
        if is_new:
            with suppress(OSError):  # something has been written
                path.parent.rmdir()


def _take(path: Path, output: Path) -> IO[bytes] | None:
    """Open a lock file and lock it; None when its holder removes it at this moment."""
    with ExitStack() as stack:
        file = stack.enter_context(open(path, "a+b", buffering=0))
        if not _lock(file, path):
            machine, _, number = _holder(path).rpartition("~")
            who = f"process {number} on {machine.rpartition('-')[0]}" if machine else "another process"
            stale = f" (if it has ended, remove {_claim(path)})" if _claim(path).exists() else ""
            raise BlockingIOError(f"{output} is being written by {who}; wait for its end or write elsewhere{stale}")
        try:
            if not os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return None
            file.truncate(0)
            file.write(f"{process_name()}\n".encode())
        except FileNotFoundError:
            return None
        except OSError as error:  # the disk is full
            path.unlink(missing_ok=True)
            raise OSError(error.errno, error.strerror, str(path)) from error
        stack.pop_all()
        return file


def _lock(file: IO[bytes], path: Path) -> bool:
    """Return whether this process has the lock now."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return _create_claim(_claim(path))
    return True


def _create_claim(claim: Path) -> bool:
    """Lock by a file that only one process can create; of two that replace that of an ended one both may succeed."""
    name = process_name()
    if create_text(claim, f"{name}\n") or (holder := _holder(claim)) == name:
        return True
    if may_be_running(holder):
        return False
    claim.unlink(missing_ok=True)
    return create_text(claim, f"{name}\n")


def _claim(path: Path) -> Path:
    return path.with_name(f"{path.name}-holder")


def _holder(path: Path) -> str:
    """Return the name of the process that has a lock, "" when it has no name yet or no longer."""
    try:
        return read_created(path, patience=1.0).strip()
    except (OSError, ValueError):
        return ""


def set_aside(path: Path, folder: Path) -> None:
    """Give a damaged file a second name in ``folder``, which keeps it whatever takes its place."""
    folder.mkdir(exist_ok=True)
    for number in itertools.count():
        aside = folder / (f"{path.name}.{number}" if number else path.name)
        if os.path.lexists(aside):
            if path.samefile(aside):
                return
            continue
        try:
            os.link(path, aside)
        except FileExistsError:  # by another job, at this moment
            continue
        except FileNotFoundError:
            raise
        except OSError:  # a file system without links
            with atomic_path(aside) as temporary:
                shutil.copyfile(path, temporary)
        return
