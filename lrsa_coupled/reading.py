"""JSON, TOML and text as files of anybody hold them, with errors that name the file.

A file that cannot be read is an ``OSError``: nobody knows what it holds, so nothing is done about it. One that was read
and does not hold what was written is ``Damaged``. What is read may come from anybody: sizes are checked first.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

MOST_TEXT, DEEPEST = 1 << 24, 64
"""Bytes of a text file that is read whole, and levels of what JSON may nest."""


class Damaged(ValueError):  # noqa: N818 - what is wrong
    """A file was read and does not hold what was written: it has another digest or another structure."""


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading. OSError when it is none: a pipe would wait for ever, a device may have no end."""
    try:
        stream = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115
    except FileNotFoundError:
        if path.is_symlink():
            raise OSError(errno.ENOLINK, "a link to a file that does not exist", str(path)) from None
        raise
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        stream.close()
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return stream


def read_json(path: Path, *, infinite: bool = False) -> dict[str, Any]:
    """Read a JSON object. OSError when the file cannot be read.

    Raises:
        Damaged: If it holds something else, nests too deep, or has a number that is too large, or not finite unless
            ``infinite``.
    """
    return parse_json(read_text(path), where=str(path), infinite=infinite)


def parse_json(text: str, *, where: str, infinite: bool = False) -> dict[str, Any]:
    """Return a JSON object; errors, beginning with ``where``, as those of ``read_json``."""
    try:
        content = json.loads(text)
        _check_values(content, infinite=infinite)
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{where} is not a valid JSON file: {error}") from error
    if not isinstance(content, dict):
        raise Damaged(f"{where} must hold a JSON object, got {type(content).__name__}")
    return content


def _check_values(content: Any, *, infinite: bool) -> None:
    level, depth = [content], 0
    while level:
        depth += 1
        if depth > DEEPEST:
            raise ValueError(f"expected at most {DEEPEST} levels, got more")
        for value in level:
            if isinstance(value, int) and abs(value) >= 1 << 63:
                raise ValueError("expected integers of 64 bits, got a larger one")
            if isinstance(value, float) and not (infinite or math.isfinite(value)):
                raise ValueError(f"expected finite numbers, got {value}")
        lists = [[*value.values()] if isinstance(value, dict) else value for value in level]
        level = [item for items in lists if isinstance(items, list) for item in items]


def sealed(content: Mapping[str, Any]) -> str:
    """Return an object as JSON text with a ``digest`` of the other entries, which ``read_sealed`` checks."""
    return json.dumps({**content, "digest": _json_digest(content)}, indent=1) + "\n"


def read_sealed(path: Path, *, infinite: bool = False) -> dict[str, Any]:
    """Read an object that ``sealed`` wrote, or one of an earlier release without digest; errors as ``read_json``."""
    content = read_json(path, infinite=infinite)
    expected = content.pop("digest", None)
    if expected is not None and expected != _json_digest(content):
        raise Damaged(f"{path} is damaged: it does not fit its digest; restore it from its source")
    return content


def _json_digest(content: Mapping[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(canonical.encode("ascii"), digest_size=16).hexdigest()


def read_text(path: Path) -> str:
    """Read a text file; errors as those of ``read_json``."""
    with open_regular(path) as stream:
        raw = stream.read(MOST_TEXT + 1)
    if len(raw) > MOST_TEXT:
        raise Damaged(f"{path}: expected a text file of at most {MOST_TEXT} bytes, got more")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Damaged(f"{path} is not a valid text file: {error}") from error


def converted[T](content: Any, kind: type[T], *, where: str) -> T:
    """Return JSON content as a dataclass or another type; ValueError names the entry that is missing or wrong."""
    try:
        return msgspec.convert(content, kind)
    except msgspec.ValidationError as error:
        raise ValueError(f"{where}: {error}") from error


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file; ValueError when it cannot be read or is not TOML."""
    try:
        return tomllib.loads(read_text(path))
    except (Damaged, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not a valid TOML file: {error}") from error
    except OSError as error:
        raise ValueError(f"cannot read the configuration file {path}: {error.strerror}") from error
