"""Files that appear whole or not at all; JSON and TOML with errors that name the file."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

DAY = 86400.0


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
    if machine != _machine() or not number.isdigit():
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
    """Give a path beside ``path`` that no other process uses, and remove what is there afterwards."""
    temporary = path.with_name(f".{path.name}~{secrets.token_hex(4)}~{process_name()}.tmp")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def abandoned(folder: Path) -> list[Path]:
    """Return the temporary files and folders whose process has ended; of other machines files unchanged for a day."""
    found = [*folder.glob(".*~*~*.tmp")]
    if not found:
        return []
    with temporary_path(folder / "now") as probe:  # times of one clock, that of the disk
        probe.touch()
        now = probe.stat().st_mtime
    return [path for path in found if _is_abandoned(path, now)]


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
    while not (text := path.read_text(encoding="utf-8")).endswith("\n"):
        if time.monotonic() > end:
            text = "has no end: a job was killed while it wrote it"
            raise ValueError(f"{path} {text}; remove it when no job is at work in this folder")
        time.sleep(0.01)
    return text


def _fill_new(path: Path, text: str) -> bool:
    try:
        with open(path, "x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        return False
    return True


def write_text_atomically(path: Path, text: str) -> None:
    """Write a text file by atomic rename, making its folder when it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; ValueError when the file holds something else, OSError when it cannot be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a valid JSON file: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(content).__name__}")
    return content


def converted[T](content: Any, kind: type[T], *, where: str) -> T:
    """Return JSON content as a dataclass or another type; ValueError names the entry that is missing or wrong."""
    try:
        return msgspec.convert(content, kind)
    except msgspec.ValidationError as error:
        raise ValueError(f"{where}: {error}") from error


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file; ValueError when it cannot be read or is not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a valid TOML file: {error}") from error
    except OSError as error:
        raise ValueError(f"cannot read the configuration file {path}: {error.strerror}") from error
