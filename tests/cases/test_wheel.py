"""The wheel, as users install it: complete, and indifferent to modules of the user called ``solvers`` or ``cases``."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
INSTALLED = {"lrsa_coupled": "lrsa_coupled", "solvers": "lrsa_coupled/solvers", "cases": "lrsa_coupled/cases"}
"""Folders of the tree, and their places in the wheel."""

DECOYS = (("solvers.py", "cases/notes.txt"), ("solvers/__init__.py", "cases/__init__.py"))
"""What a folder of the user holds, some each."""

SCRIPT = """
import sys

from mpi4py import MPI
import petsc4py

options = ["-ksp_type", "python", "-ksp_python_type", "lrsa_coupled.solvers.gcrodr.GCRODR", "-pc_type", "jacobi"]
petsc4py.init([sys.argv[0], *options])
from petsc4py import PETSc

matrix = PETSc.Mat().createAIJ((8, 8), nnz=1)
for row in range(8):
    matrix.setValue(row, row, 1.0 + row)
matrix.assemble()
x, b = matrix.createVecs()
b.set(1.0)
ksp = PETSc.KSP().create()
ksp.setOperators(matrix)
ksp.setFromOptions()
ksp.solve(b, x)
assert ksp.getConvergedReason() > 0 and (matrix * x - b).norm() < 1e-8
"""


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The wheel of the tree, and the wheel of its source distribution."""
    folder = tmp_path_factory.mktemp("build")
    tree = folder / "tree"
    for name in INSTALLED:
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree / name)
    wheel = build_wheel(tree, folder / "wheel")
    run(sys.executable, "-c", "from setuptools import build_meta; build_meta.build_sdist('..')", cwd=tree)
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        archive.extractall(folder / "sdist", filter="data")
    return wheel, build_wheel(next((folder / "sdist").iterdir()), folder / "again")


@pytest.fixture(scope="module")
def scripts(wheels: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of an environment that holds the wheel, and the dependencies of this one."""
    prefix = tmp_path_factory.mktemp("environment")
    venv.create(prefix, with_pip=False)
    dependencies = [path for path in sys.path if path.endswith("-packages")]
    site = prefix / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    (site / "dependencies.pth").write_text("\n".join(dependencies))
    for library in Path(sys.prefix, "lib").iterdir():  # the MPI library is looked for beside the interpreter
        if not (prefix / "lib" / library.name).exists():
            (prefix / "lib" / library.name).symlink_to(library)
    pip = (sys.executable, "-m", "pip", "--python", prefix / "bin" / "python")
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", "--ignore-installed", wheels[0], cwd=prefix)
    return prefix / "bin"


def build_wheel(source: Path, folder: Path) -> Path:
    options = ("--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", folder)
    run(sys.executable, "-m", "pip", "wheel", *options, source, cwd=source)
    return next(folder.glob("*.whl"))


def run(*command: str | Path, cwd: Path, **variables: str) -> str:
    done = subprocess.run(
        command, cwd=cwd, check=False, capture_output=True, text=True, env={**os.environ, **variables}
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_wheel_holds_the_tree(wheels: tuple[Path, Path]) -> None:
    held = {name: data for name, data in contents(wheels[0]).items() if ".dist-info/" not in name}
    expected = {}
    for name, place in INSTALLED.items():
        for path in (ROOT / name).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                expected[f"{place}/{path.relative_to(ROOT / name).as_posix()}"] = path.read_bytes()
    assert sorted(held) == sorted(expected)
    assert held == expected


def test_source_distribution_makes_the_same_wheel(wheels: tuple[Path, Path]) -> None:
    assert contents(wheels[0]) == contents(wheels[1])


def test_modules_of_the_user_do_not_matter(scripts: Path, tmp_path: Path) -> None:
    for number, decoys in enumerate(DECOYS):
        folder = tmp_path / str(number)
        for decoy in decoys:
            (folder / decoy).parent.mkdir(parents=True, exist_ok=True)
            (folder / decoy).write_text("raise RuntimeError('the module of the user')\n")
        (folder / "script.py").write_text(SCRIPT)
        assert "cavity" in run(scripts / "lrsa-coupled", "list", cwd=folder, PYTHONPATH=str(folder))
        run(scripts / "python", "script.py", cwd=folder, PYTHONPATH=str(folder))
        solve = (scripts / "lrsa-coupled", "solve", "cavity", "--resolution", "8", "--out", "answer")
        assert "converged" in run(*solve, cwd=folder, PYTHONPATH=str(folder))
