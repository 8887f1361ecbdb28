"""The rules of the tree: who imports whom, how long a file may be, what the README lists."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("lrsa_coupled", "solvers", "cases")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))

BASE = frozenset({"", "schema", "interfaces", "transient", "spectral", "config", "files", "mpi", "logs"})
COUPLING = BASE | {"operators", "data", "training", "coupling"}
ARROWS = {
    "operators": BASE | {"operators"},
    "data": BASE | {"data"},
    "training": BASE | {"training", "data", "operators"},
    "coupling": COUPLING,
    "guess": COUPLING | {"guess"},
    "generation": COUPLING | {"guess", "generation"},
    "certify": COUPLING | {"guess", "certify"},
    "petsc": COUPLING | {"guess", "generation", "petsc"},
    "bench": COUPLING | {"guess", "generation", "certify", "petsc", "bench"},
    "catalog": BASE,
    "cli": COUPLING | {"catalog", "guess", "generation", "certify", "petsc", "bench", "cli"},
} | dict.fromkeys(BASE, BASE)
"""Parts of the library, and the parts that each may import."""

CONTRACTS = frozenset({"interfaces", "spectral"})
"""Parts of the library that solvers may import."""

FEM = frozenset({"dolfinx", "petsc4py", "slepc4py", "ufl", "basix", "ffcx", "gmsh"})
FORBIDDEN = {
    "operators": FEM | {"mpi4py", "h5py"},
    "data": FEM | {"mpi4py"},
    "training": FEM | {"mpi4py"},
    "solvers": frozenset({"torch"}),
    "cases": frozenset({"torch"}),
    "interfaces": FEM | {"mpi4py", "torch"},
    "schema": FEM | {"mpi4py", "torch"},
    "transient": FEM | {"mpi4py", "torch"},
    "spectral": FEM | {"mpi4py", "torch"},
}
"""Outside modules that a part must do without."""

MEETING_PLACES = frozenset({"coupling", "guess", "generation", "study", "certify", "petsc", "bench"})
"""Parts whose files may import torch and PETSc together; the bench times both."""


def part_of(path: Path) -> str:
    names = path.relative_to(ROOT).with_suffix("").parts
    return names[1] if names[0] == "lrsa_coupled" and len(names) > 1 else names[0]


def imports(path: Path) -> Iterator[str]:
    """Dotted names of all that a file imports, inside functions too, but for type checkers."""
    pending: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            pending += node.orelse
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        pending += ast.iter_child_nodes(node)


def ours(path: Path) -> list[tuple[str, str]]:
    """(folder, part) of every import of our own packages; the part of a case is its name."""
    split = [name.split(".") for name in imports(path)]
    found = [
        names[1:] if names[1:2] in (["solvers"], ["cases"]) else names for names in split if names[0] == "lrsa_coupled"
    ]
    return [(names[0], names[1] if len(names) > 1 else "") for names in found]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_import_arrows(path: Path) -> None:
    package, part = path.relative_to(ROOT).parts[0], part_of(path)
    for target, name in ours(path):
        arrow = f"{path.relative_to(ROOT)} -> {target}.{name}"
        if package == "lrsa_coupled":
            assert target == "lrsa_coupled" and name in ARROWS.get(part, BASE), arrow
        elif package == "solvers":
            assert target == "solvers" or (target == "lrsa_coupled" and name in CONTRACTS), arrow


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_outside_imports(path: Path) -> None:
    part, outside = part_of(path), {name.split(".")[0] for name in imports(path)}
    assert not outside & FORBIDDEN.get(part, frozenset())
    if part not in MEETING_PLACES:
        assert not ("torch" in outside and outside & {"petsc4py", "slepc4py", "dolfinx"})


def test_case_imports_no_other_case() -> None:
    for path in (ROOT / "cases").rglob("*.py"):
        names = path.relative_to(ROOT).parts
        assert {part for package, part in ours(path) if package == "cases"} <= {names[1]}


def test_files_are_short() -> None:
    lengths = {str(p.relative_to(ROOT)): p.read_text(encoding="utf-8").count("\n") for p in [*SOURCES, *TESTS]}
    assert not {name: lines for name, lines in lengths.items() if lines > 400}


def test_functions_are_short() -> None:
    long = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and body_lines(node) > 50:
                long.append(f"{path.relative_to(ROOT)}: {node.name} has {body_lines(node)} lines")
    assert not long


def body_lines(node: ast.FunctionDef) -> int:
    """Lines of a function below its docstring."""
    first = node.body[1] if ast.get_docstring(node) and len(node.body) > 1 else node.body[0]
    return (node.end_lineno or 0) - first.lineno + 1


def test_import_is_cheap() -> None:
    code = (
        "import sys, lrsa_coupled; print(*(m for m in ('torch', 'dolfinx', 'mpi4py', 'petsc4py') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
