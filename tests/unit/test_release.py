"""Versions that stand in several places: the package, changes, citation, conda recipe, table of what is supported."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import lrsa_coupled

ROOT = Path(__file__).resolve().parents[2]
RECIPE = (ROOT / ".ci" / "conda" / "recipe.yaml").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CONDA = {
    "torch": "pytorch",
    "matplotlib": "matplotlib-base",
    "dolfinx-solver-real": "fenics-dolfinx",
    "gmsh": "python-gmsh",
}


def test_one_version() -> None:
    version = lrsa_coupled.__version__
    for name, pattern in {
        "CHANGELOG.md": r"^## (\S+)$",
        "CITATION.cff": r"^version: (\S+)$",
        ".ci/conda/recipe.yaml": r'^  version: "(\S+)"$',
    }.items():
        found = re.search(pattern, (ROOT / name).read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert found and found[1] == version, name


def test_the_recipe_asks_for_what_the_package_needs() -> None:
    run = RECIPE.partition("  run:\n")[2].partition("\ntests:")[0]
    found = dict(re.findall(r"    - ([\w-]+) ?(\S*)", run))
    needed = [f"python{PROJECT['requires-python']}", *PROJECT["dependencies"], *PROJECT["optional-dependencies"]["fem"]]
    for name, bound in (re.match(r"([\w-]+)(.*)", each).groups() for each in needed):
        assert found.pop(CONDA.get(name, name)) == bound, name
    assert found == {"slepc4py": ""}
    assert f"license: {PROJECT['license']}" in RECIPE and PROJECT["description"] in RECIPE
    assert all(f"{name} = {place}" in RECIPE for name, place in PROJECT["scripts"].items())
    assert "\t" not in RECIPE and all(
        f"\n{part}:" in RECIPE for part in ["package", "source", "build", "requirements", "tests", "about"]
    )


def test_the_table_of_supported_versions() -> None:
    text = (ROOT / "lrsa_coupled" / "README.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| (\w+) \| ([^|]+) \|", text.partition("## Supported versions")[2], flags=re.MULTILINE))
    compat = (ROOT / "lrsa_coupled" / "coupling" / "compat.py").read_text(encoding="utf-8")
    assert re.findall(r"[\d.]+", rows["DOLFINx"]) == re.findall(
        r"\"([\d.]+)\"", re.search(r"SUPPORTED = .*", compat)[0]
    )
    assert rows["Python"].split()[0] == PROJECT["requires-python"].removeprefix(">=")
    assert f"torch>={rows['torch'].split()[0]}" in PROJECT["dependencies"]
