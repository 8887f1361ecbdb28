"""The rules of the tree: who imports whom, how long files, functions and lines may be, what the top exports."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import lrsa_coupled

ROOT = Path(__file__).resolve().parents[2]
SOURCES = {
    path.relative_to(ROOT): ast.parse(path.read_text(encoding="utf-8"))
    for package in ("lrsa_coupled", "solvers", "cases")
    for path in sorted((ROOT / package).rglob("*.py"))
}
MAX_FILE, MAX_FUNCTION, MAX_LINE = 400, 40, 120

BASE = frozenset({"", "schema", "interfaces", "config", "settings", "files", "reading", "mpi", "logs", "traces"})
COUPLING = BASE | {"operators", "data", "training", "coupling"}
ARROWS = {
    "operators": BASE | {"operators"},
    "data": BASE | {"data"},
    "training": BASE | {"training", "data", "operators"},
    "coupling": COUPLING,
    "guess": COUPLING | {"guess", "study"},
    "generation": COUPLING | {"guess", "generation"},
    "study": COUPLING | {"guess", "generation", "study"},
    "certify": COUPLING | {"guess", "certify"},
    "petsc": COUPLING | {"petsc"},
    "bench": COUPLING | {"guess", "generation", "study", "certify", "petsc", "bench"},
    "catalog": BASE,
    "cli": COUPLING | {"catalog", "guess", "generation", "study", "certify", "petsc", "bench", "cli"},
} | dict.fromkeys(BASE, BASE)
"""Parts of the library, and the parts that each may import."""

CONTRACTS = frozenset({"schema", "interfaces", "coupling.compat", "coupling.failures", "coupling.options",
                       "coupling.residual", "coupling.scalars"})  # fmt: skip
"""Parts of the library that solvers may import; none of them imports torch."""

FEM = frozenset({"dolfinx", "petsc4py", "slepc4py", "ufl", "basix", "ffcx", "gmsh"})
FORBIDDEN = {
    "operators": FEM | {"mpi4py", "h5py"},
    "data": FEM | {"mpi4py"},
    "training": FEM | {"mpi4py"},
    "solvers": frozenset({"torch"}),
    "cases": frozenset({"torch"}),
    "interfaces": FEM | {"mpi4py", "torch"},
    "schema": FEM | {"mpi4py", "torch"},
}
"""Outside modules that a part must do without."""

MEETING_PLACES = frozenset({"coupling", "guess", "generation", "study", "certify", "petsc", "bench", "tutorial"})
"""Parts whose files may import torch and PETSc together; the bench times both, a tutorial is a program of a user."""


def part_of(path: Path) -> str:
    """The folder or file of the library, or ``solvers``, ``cases`` or ``tutorial``."""
    names = path.with_suffix("").parts
    if names[:2] == ("cases", "tutorial"):
        return "tutorial"
    return names[1].replace("__init__", "") if names[0] == "lrsa_coupled" else names[0]


def imports(tree: ast.AST) -> Iterator[str]:
    """Dotted names of all that a file imports, inside functions too, but for type checkers."""
    pending = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            pending += node.orelse
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module}.{alias.name}" for alias in node.names)
        pending += ast.iter_child_nodes(node)


def may_import(path: Path, name: str) -> bool:
    """Whether an arrow of the design leads from a file to a dotted name of ours."""
    target, inner = ([*name.split(".")[1:], ""])[:2]
    source = path.parts[0]
    if target == "cases":
        return source == "cases" and inner == path.parts[1]
    if target == "solvers":
        return source in ("solvers", "cases")
    if source == "solvers":
        return not CONTRACTS.isdisjoint({target, f"{target}.{inner}"})
    return source == "cases" or target in ARROWS.get(part_of(path), BASE)


def body_lines(node: ast.FunctionDef) -> int:
    """Lines of a function below its docstring."""
    first = node.body[1] if ast.get_docstring(node) and len(node.body) > 1 else node.body[0]
    return (node.end_lineno or 0) - first.lineno + 1


def test_imports() -> None:
    wrong = []
    for path, tree in SOURCES.items():
        names, part = set(imports(tree)), part_of(path)
        outside = {name.split(".")[0] for name in names} - {"lrsa_coupled"}
        wrong += [
            f"{path} -> {name}" for name in names if name.startswith("lrsa_coupled") and not may_import(path, name)
        ]
        wrong += [f"{path} -> {name}" for name in outside & FORBIDDEN.get(part, frozenset())]
        wrong += [f"{path}: a relative import" for name in names if name.startswith(".")]
        if part not in MEETING_PLACES and "torch" in outside and outside & {"petsc4py", "slepc4py", "dolfinx"}:
            wrong.append(f"{path} -> torch and PETSc")
    assert not wrong, "\n".join(wrong)


def test_sizes() -> None:
    long = []
    for path, tree in SOURCES.items():
        lines = (ROOT / path).read_text(encoding="utf-8").splitlines()
        long += [f"{path}: {len(lines)} lines"] if len(lines) > MAX_FILE else []
        long += [f"{path}:{i} is {len(line)} wide" for i, line in enumerate(lines, 1) if len(line) > MAX_LINE]
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        long += [f"{path}: {f.name}: {body_lines(f)} lines" for f in functions if body_lines(f) > MAX_FUNCTION]
    for path in (ROOT / "tests").rglob("*.py"):
        length = path.read_text(encoding="utf-8").count("\n")
        long += [f"{path}: {length} lines"] if length > MAX_FILE else []
    assert not long, "\n".join(long)


def test_hdf5_is_read_in_one_place() -> None:
    """Files of strangers hold links to other files; writing is in memory."""
    calls = {
        str(path): [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Call)]
        for path, tree in SOURCES.items()
    }
    opened = {path: [call for call in found if call.startswith("h5py.File(")] for path, found in calls.items()}
    assert [path for path, found in opened.items() if any("'w'" not in call for call in found)] == [
        "lrsa_coupled/data/hdf5.py"
    ]


def test_import_of_the_package_is_cheap() -> None:
    code = "import sys, lrsa_coupled; print({'torch', 'numpy', 'dolfinx', 'mpi4py', 'petsc4py'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_tables_of_experiments_need_neither_mpi_nor_petsc() -> None:
    code = "import sys; from lrsa_coupled.bench.experiments import all_experiments as every; "
    code += "[item.load().table for item in every().values()]; print({'dolfinx', 'mpi4py.MPI'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_public_names() -> None:
    tree = SOURCES[Path("lrsa_coupled/__init__.py")]
    for_checkers = {alias.asname for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert set(lrsa_coupled.__all__) - {"__version__"} == for_checkers - {None}
    assert all(getattr(lrsa_coupled, name) is not None for name in lrsa_coupled.__all__)
