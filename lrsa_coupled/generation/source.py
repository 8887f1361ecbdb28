"""The source that makes the samples of a case: when it changes, samples that are there are those of another case."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

from lrsa_coupled.data.format import digest
from lrsa_coupled.generation.corrections import CorrectionCase
from lrsa_coupled.generation.modes import ModesCase
from lrsa_coupled.interfaces import Case


def source_digest(case: Case) -> str | None:
    """Return the digest of the file of a case and of those beside it that it imports; None for a case without a file.

    Comments, docstrings and layout do not count. Collective: no.
    """
    own = case.case if isinstance(case, (ModesCase, CorrectionCase)) else case
    path = getattr(sys.modules.get(type(own).__module__), "__file__", None)
    if path is None or not Path(path).is_file():  # of an interactive session
        return None
    return digest(ast.unparse(tree).encode() for _, tree in sorted(_trees(Path(path)).items()))


def _trees(path: Path) -> dict[str, ast.Module]:
    """Return the syntax trees of a file and of what it imports from its folder, by file name."""
    found: dict[str, ast.Module] = {}
    pending = [path]
    while pending:
        file = pending.pop()
        name = file.relative_to(path.parent).as_posix()
        if name not in found:
            found[name] = ast.parse(file.read_bytes())
            pending += [beside for beside in _imported(found[name], path.parent) if beside.is_file()]
    for tree in found.values():
        _drop_docstrings(tree)
    return found


def _imported(tree: ast.Module, folder: Path) -> list[Path]:
    """Return where the modules that a file imports are if they are in the folder, whatever package that belongs to."""
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [node.module or "", *(f"{node.module or ''}.{alias.name}" for alias in node.names)]
    parts = [name.strip(".").split(".") for name in names]
    tails = {tuple(each[first:]) for each in parts for first in range(len(each))}
    return [folder.joinpath(*tail).with_suffix(".py") for tail in sorted(tails) if tail != ("",)]


def _drop_docstrings(tree: ast.Module) -> None:
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
            texts = [each for each in node.body if isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant)]
            node.body = [each for each in node.body if each not in texts]
