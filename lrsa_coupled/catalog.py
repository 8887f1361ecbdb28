"""Finds cases by name (a folder of ``cases``) or by path (a user's own), and imports only the one asked for."""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.util
import inspect
import logging
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from lrsa_coupled.interfaces import Case
from lrsa_coupled.reading import read_toml
from lrsa_coupled.schema import Schema, check_tuple
from lrsa_coupled.settings import nearest, update
from lrsa_coupled.traces import OWN_CASE

logger = logging.getLogger(__name__)

WRAPPERS = {
    "modes": ("lrsa_coupled.generation.modes", "ModesCase", "basis"),
    "correction": ("lrsa_coupled.generation.corrections", "CorrectionCase", "correction"),
}
"""What may follow the name of a case after a colon: module, class, and the folder of a shipped model."""


def case_names() -> list[str]:
    """List the folders of the ``cases`` package that hold a ``case.py``."""
    return sorted({path.parent.name for root in _roots() for path in root.glob("*/case.py")})


def templates() -> dict[str, Path]:
    """Return the files of ``lrsa-coupled new`` by name."""
    found = {path.stem: path for root in _roots() for path in sorted(root.glob("templates/*.py"))}
    return {name: path for name, path in found.items() if name != "__init__"}


def is_shipped(name: str) -> bool:
    """Return whether it names a case of this package, wrapped or not."""
    return _split(name)[0] in case_names()


def own_source(name_or_path: str | Path) -> str:
    """Return the text of the Python files in the folder of a user's own case, empty for a case of this package."""
    files = [] if is_shipped(str(name_or_path)) else sorted(case_folder(name_or_path).glob("*.py"))
    return "\n".join(path.read_text(encoding="utf-8", errors="replace") for path in files)


def case_folder(name_or_path: str | Path) -> Path:
    """Return the folder of a case: its ``case.py``, ``config.toml`` and shipped model.

    It is given by its name, or the path to a ``case.py`` or to the folder of one; ``:modes`` or ``:correction`` may
    follow. ValueError for an unknown case; the nearest known one is named.
    """
    name, _ = _split(name_or_path)
    for root in _roots():
        if name in case_names() and (root / name / "case.py").is_file():
            return root / name
    path = Path(name)
    if path.is_file() and path.suffix == ".py":
        return path.parent
    if (path / "case.py").is_file():
        return path
    if path.is_dir():
        raise ValueError(f"the folder {path} has no case.py")
    if path.suffix == ".py":
        raise ValueError(f"there is no file {path}")
    known = nearest(name, case_names())
    raise ValueError(f"unknown case '{name}'{known}; a case of your own is given by the path of its case.py")


def load_case(
    name_or_path: str | Path, options: Mapping[str, Any] | None = None, *, rtol: float | None = None
) -> Case[Any]:
    """Import a case and make an instance of its class, of the variant given by ``options``, with a tolerance if given.

    Raises:
        ValueError: For an unknown case or option, or a file that does not hold exactly one final subclass of ``Case``.
    """
    name, wrapper = _split(name_or_path)
    case_class = _case_class(name)
    make: Callable[..., Case[Any]] = case_class
    default = case_class.default_options
    if wrapper is not None:
        module, wrapping, _ = WRAPPERS[wrapper]
        make = partial(getattr(importlib.import_module(module), wrapping), case_class)
        default = make().default_options
    case = make(update(default, options or {}, where="options", prefix="options."))
    if lacking := [name for name in ("schema", "resolution", "rtol") if not hasattr(case, name)]:
        raise ValueError(
            f"{case_class.__name__} lacks {', '.join(lacking)}: set them in the class, see lrsa_coupled.Case"
        )
    if rtol is not None:
        case.rtol = rtol
    _check_attributes(case)
    method, methods = getattr(case, "default_method", None), case.methods()
    if not isinstance(methods, Mapping):
        raise TypeError(f"methods() of '{case.name}' must return solvers by name, got {type(methods).__name__}")
    if method not in methods:
        raise ValueError(f"default_method of '{case.name}' must be one of {', '.join(methods)}, got {method!r}")
    return case


def _check_attributes(case: Case[Any]) -> None:
    """ValueError for one of a wrong type; warn of one that nothing reads and whose name is nearly that of another."""
    for name, kind in (("resolution", int), ("rtol", float), ("schema", Schema)):
        if not isinstance(value := getattr(case, name), kind):
            raise ValueError(f"{name} of '{case.name}' must be of type {kind.__name__}, got {value!r}")
    if not isinstance(case.quantities, tuple | list):
        check_tuple(f"quantities of '{case.name}'", case.quantities, type(case.quantities))
    names = [quantity.name for quantity in case.quantities]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"quantities of '{case.name}' need different names, got two of '{repeated[0]}'")
    kinds = type(case).__mro__
    own = {name for kind in kinds[: kinds.index(Case)] for name in vars(kind) if not name.startswith("_")}
    known = {*dir(Case), *Case.__annotations__, "schema"}
    for name in sorted(own - known):
        near = difflib.get_close_matches(name, known - own, n=1, cutoff=0.85)
        if near and not callable(getattr(type(case), name)):
            logger.warning("'%s' of '%s' is read by nothing (did you mean '%s'?)", name, case.name, near[0])


def wrapped_names(name: str) -> list[str]:
    """List the wrapped cases of a case: those with a table in its ``config.toml``."""
    path = case_folder(name) / "config.toml"
    return [f"{name}:{wrapper}" for wrapper in WRAPPERS if path.is_file() and wrapper in read_toml(path)]


def case_settings(name_or_path: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read a case's ``config.toml``; a table ``[modes]`` overrides the others for ``CASE:modes``.

    Returns:
        Overrides of the default configuration, and overrides by preset (table ``presets``); both empty without the
        file. ValueError for one that is not TOML.
    """
    path = case_folder(name_or_path) / "config.toml"
    if not path.is_file():
        return {}, {}
    values = read_toml(path)
    presets, tables = values.pop("presets", {}), {name: values.pop(name, {}) for name in WRAPPERS}
    for section, table in tables.get(_split(name_or_path)[1] or "", {}).items():
        values[section] = values.get(section, {}) | table
    return values, presets


def shipped_model(name_or_path: str | Path) -> Path | None:
    """Return where the model shipped with a case lies, None when it ships none."""
    wrapper = _split(name_or_path)[1]
    folder = case_folder(name_or_path) / (WRAPPERS[wrapper][2] if wrapper else "")
    return folder if (folder / "model.safetensors").is_file() else None


def shipped_guess(name_or_path: str | Path) -> Path | None:
    """Return the model shipped for initial guesses: of a case itself, as solvers of wrappers start from nothing."""
    return None if _split(name_or_path)[1] else shipped_model(name_or_path)


def shipped_operators(name_or_path: str | Path) -> list[Path]:
    """Return the models shipped with the wrappers of a case, for its preconditioners."""
    name, _ = _split(name_or_path)
    return [model for wrapper in WRAPPERS if (model := shipped_model(f"{name}:{wrapper}"))]


def _split(name_or_path: str | Path) -> tuple[str, str | None]:
    """Split ``helmholtz:modes`` into the case and its wrapper, None without one."""
    name, colon, wrapper = str(name_or_path).rpartition(":")
    if wrapper in WRAPPERS and colon:
        return name, wrapper
    if colon and name in case_names():
        raise ValueError(f"unknown wrapper '{wrapper}' of case '{name}'{nearest(wrapper, list(WRAPPERS))}")
    return str(name_or_path), None


def _case_class(name: str) -> type[Case[Any]]:
    path = Path(name) if name.endswith(".py") else case_folder(name) / "case.py"
    shipped = name in case_names()
    module = importlib.import_module(f"lrsa_coupled.cases.{name}.case") if shipped else _import_file(path)
    own = [each for each in vars(module).values() if isinstance(each, type) and each.__module__ == module.__name__]
    classes = [each for each in own if issubclass(each, Case) and not inspect.isabstract(each)]
    if len(classes) != 1:
        unfinished = [each for each in own if issubclass(each, Case) and inspect.isabstract(each)]
        lacking = "; ".join(f"{c.__name__} lacks {', '.join(sorted(c.__abstractmethods__))}" for c in unfinished)
        found = ", ".join(c.__name__ for c in classes) or lacking or "none"
        raise ValueError(f"{path} must hold exactly one class derived from lrsa_coupled.Case, found: {found}")
    return classes[0]


def _roots() -> list[Path]:
    spec = importlib.util.find_spec("lrsa_coupled.cases")
    locations = spec.submodule_search_locations if spec is not None else None
    return [Path(location) for location in locations or ()]


def _import_file(path: Path) -> ModuleType:
    try:
        is_case = any(isinstance(node, ast.ClassDef) for node in ast.walk(ast.parse(path.read_bytes())))
    except SyntaxError:
        is_case = True  # importing it says where
    if not is_case:  # a script, which is not to run
        raise ValueError(f"{path} must hold exactly one class derived from lrsa_coupled.Case, found: none")
    name = f"{OWN_CASE}{abs(hash(path.resolve()))}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module
