"""Settings in dataclasses: types and ranges are checked, an unknown name is an error with the nearest known one."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec


def setting(default: Any, doc: str) -> Any:
    """Return a field with its one line of documentation."""
    return dataclasses.field(default=default, metadata={"doc": doc})


class Section:
    """Base of the groups of settings: values are checked whenever one is made."""

    def variant(self, values: Mapping[str, Any], *, where: str) -> Section:
        """Return the section to which ``values`` are to be applied, when they choose between several."""
        return self

    def __post_init__(self) -> None:
        for name, hint in hints(self).items():
            checked(getattr(self, name), hint, f"'{type(self).__name__}.{name}'")


def update[T](config: T, values: Mapping[str, Any], *, where: str, prefix: str = "") -> T:
    """Return a dataclass with ``values`` (nested mappings for nested dataclasses) replaced, names and types checked."""
    changes: dict[str, Any] = {}
    base: Any = config.variant(values, where=where) if isinstance(config, Section) else config
    types_by_name = hints(base)
    for key, value in values.items():
        name = prefix + key
        if key not in types_by_name:
            raise ValueError(f"{where}: unknown key '{name}'{_nearest_key(name, base, prefix)}")
        current = getattr(base, key)
        if dataclasses.is_dataclass(current):
            if not isinstance(value, Mapping):
                raise ValueError(f"{where}: '{name}' is a table of keys, got {value!r}")
            changes[key] = update(current, value, where=where, prefix=f"{name}.")
        else:
            new = checked(value, types_by_name[key], f"{where}: '{name}'")
            changes[key] = current | new if isinstance(current, dict) else new
    return dataclasses.replace(base, **changes)


def hints(config: Any) -> dict[str, Any]:
    """Return the types of the fields of a dataclass, or of one of its instances, by name."""
    return _hints(config if isinstance(config, type) else type(config))


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    found = typing.get_type_hints(kind, include_extras=True)
    return {item.name: found[item.name] for item in dataclasses.fields(kind)}


def checked(value: Any, hint: Any, what: str) -> Any:
    """Return a value as the type ``hint``; ``none`` is None where allowed. ValueError says what was expected."""
    optional = types.NoneType in typing.get_args(hint)
    try:
        found = msgspec.convert(None if optional and value == "none" else value, hint)
    except msgspec.ValidationError as error:
        raise ValueError(f"{what}: expected {type_text(hint)}, got {value!r}") from error
    if not is_finite(found):
        raise ValueError(f"{what}: expected {type_text(hint)}, finite, got {value!r}")
    return found


def is_finite(value: Any) -> bool:
    """Return whether no number in a value, nested or not, is infinite or not a number."""
    if isinstance(value, Mapping):
        return all(map(is_finite, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def type_text(hint: Any) -> str:
    """Return a type as a user reads it, such as ``int >= 1 or none``."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(type_text(part) for part in typing.get_args(hint))
    if hint is types.NoneType:
        return "none"
    if typing.get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, typing.get_args(hint)))
    if typing.get_origin(hint) is Annotated:
        kind, meta = typing.get_args(hint)
        signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
        bounds = [f"{sign} {bound}" for name, sign in signs.items() if (bound := getattr(meta, name)) is not None]
        return f"{type_text(kind)} {' and '.join(bounds)}"
    if typing.get_origin(hint) is dict:
        return "a table of keys"
    if typing.get_origin(hint) is tuple:
        parts = [type_text(part) for part in typing.get_args(hint) if part is not ...]
        return f"a list of {parts[0]}" if ... in typing.get_args(hint) else f"a list of {', '.join(parts)}"
    return hint.__name__ if isinstance(hint, type) else str(hint)


def describe(config: Any, prefix: str = "") -> Iterator[tuple[str, Any, str, str]]:
    """Yield the settings of a configuration in order: dotted name, value, type and meaning."""
    for item in dataclasses.fields(config):
        value, key = getattr(config, item.name), prefix + item.name
        if dataclasses.is_dataclass(value):
            yield from describe(value, f"{key}.")
        else:
            yield key, value, type_text(hints(config)[item.name]), item.metadata.get("doc", "")


def nearest(name: str, names: Sequence[str]) -> str:
    """Return `` (did you mean '...'?)`` for the nearest of ``names``, or the list of all when none is near."""
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f" (did you mean '{close[0]}'?)" if close else f" (known: {', '.join(names)})"


def _nearest_key(name: str, config: Any, prefix: str) -> str:
    """Return the nearest key; or the one of that name in a section; or the keys beside it when none is near."""
    known = [known for known, *_ in describe(config, prefix)]
    found = [key for key in known if key.endswith(f".{name}")] or difflib.get_close_matches(name, known, cutoff=0.6)
    return nearest(found[0] if found else name, found or [prefix + key for key in hints(config)])


def parse(text: str) -> Any:
    """Return a value written as in TOML, or the text itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        return text
