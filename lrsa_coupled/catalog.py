"""Finds cases by name (a folder of the ``cases`` package) or by path (a user's own), without importing more than the one asked for."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from lrsa_coupled.config import nearest, update
from lrsa_coupled.files import read_toml
from lrsa_coupled.interfaces import Case


def case_names() -> list[str]:
    """List the folders of the ``cases`` package that hold a ``case.py``."""
    return sorted({path.parent.name for root in _roots() for path in root.glob("*/case.py")})


def case_folder(name_or_path: str) -> Path:
    """Return the folder of a case: its ``case.py``, ``config.toml`` and shipped model.

    Args:
        name_or_path: Name of a case, or path to a ``case.py`` or to the folder of one.
    Raises:
        ValueError: For an unknown case; the nearest known one is named.
    """
    for root in _roots():
        if name_or_path in case_names() and (root / name_or_path / "case.py").is_file():
            return root / name_or_path
    path = Path(name_or_path)
    if path.is_file() and path.suffix == ".py":
        return path.parent
    if (path / "case.py").is_file():
        return path
    if path.is_dir():
        raise ValueError(f"the folder {path} has no case.py")
    raise ValueError(
        f"unknown case '{name_or_path}'{nearest(name_or_path, case_names())}; a case of your own is given by the path of its case.py"
    )


def load_case(name_or_path: str, options: Mapping[str, Any] | None = None) -> Case:
    """Import a case and make an instance of its class, of the variant given by ``options``.

    Raises:
        ValueError: For an unknown case or option, or a file that does not hold exactly one final subclass of ``Case``.
    """
    folder = case_folder(name_or_path)
    path = Path(name_or_path) if name_or_path.endswith(".py") else folder / "case.py"
    module = (
        importlib.import_module(f"lrsa_coupled.cases.{name_or_path}.case")
        if name_or_path in case_names()
        else _import_file(path)
    )
    classes = [value for value in vars(module).values() if _is_final_case(value, module)]
    if len(classes) != 1:
        found = ", ".join(c.__name__ for c in classes) or "none"
        raise ValueError(
            f"{path} must hold exactly one class derived from lrsa_coupled.interfaces.Case, found: {found}"
        )
    return classes[0](update(classes[0].default_options, options or {}, where="options", prefix="options."))


def case_settings(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read a case's ``config.toml``.

    Returns:
        Overrides of the default configuration, and overrides by preset (table ``presets``); both empty without the file.
    Raises:
        ValueError: For a file that is not TOML.
    """
    path = folder / "config.toml"
    if not path.is_file():
        return {}, {}
    values = read_toml(path)
    return values, values.pop("presets", {})


def shipped_model(folder: Path) -> Path | None:
    """Return where the model shipped with a case lies: its folder, None when it ships none."""
    return folder if (folder / "model.safetensors").is_file() else None


def shipped_operators(folder: Path) -> list[Path]:
    """Return the folders ``basis`` and ``correction`` in that of a case that hold a model, for its preconditioners."""
    return [folder / name for name in ("basis", "correction") if shipped_model(folder / name)]


def _roots() -> list[Path]:
    spec = importlib.util.find_spec("lrsa_coupled.cases")
    locations = spec.submodule_search_locations if spec is not None else None
    return [Path(location) for location in locations or ()]


def _import_file(path: Path) -> ModuleType:
    name = f"lrsa_coupled_own_case_{abs(hash(path.resolve()))}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


def _is_final_case(value: Any, module: ModuleType) -> bool:
    return (
        isinstance(value, type)
        and issubclass(value, Case)
        and value.__module__ == module.__name__
        and not inspect.isabstract(value)
    )
