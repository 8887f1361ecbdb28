"""Parameters of a problem from a JSON file."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from lrsa_coupled.config import nearest


def read_parameters[T](sample: T, path: Path) -> T:
    """Replace fields of the parameters ``sample`` by those of a JSON file; a list replaces a tuple of the same length.

    Raises:
        ValueError: If the file is not a JSON object, a name is unknown, or a value is not of the type of the one it replaces.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a valid JSON file: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold a JSON object of parameters, got {type(values).__name__}")
    current = dataclasses.asdict(sample)
    for name, value in values.items():
        if name not in current:
            raise ValueError(f"{path}: unknown parameter '{name}'{nearest(name, list(current))}")
        values[name] = _like(current[name], value, f"{path}: '{name}'")
    return dataclasses.replace(sample, **values)


def _like(current: Any, value: Any, what: str) -> Any:
    if isinstance(current, tuple):
        if not isinstance(value, list) or len(value) != len(current):
            raise ValueError(f"{what} must be a list of {len(current)} values, got {value!r}")
        return tuple(_like(c, v, what) for c, v in zip(current, value, strict=True))
    if isinstance(current, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not type(current):
        raise ValueError(f"{what} must be of type {type(current).__name__}, got {value!r}")
    return value
