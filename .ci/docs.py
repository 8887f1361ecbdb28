"""Hook of mkdocs: takes pages from where they are in the tree, and makes one of docstrings for each folder of code."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import jupytext
from mkdocs.structure.files import File, Files

import lrsa_coupled

ROOT = Path(__file__).resolve().parents[1]
SHOWN = {".md", ".png", ".svg", ".py", ".toml", ".cff", ""}
PARTS = """bench catalog certify config coupling data generation guess interfaces operators petsc schema solvers study
           training"""
CSS = """
.wy-table-responsive table td, .wy-table-responsive table th { white-space: normal; padding: 6px 10px !important; }
.wy-nav-content { max-width: 1000px; }
@media (max-width: 768px) {
  .wy-table-responsive table td, .wy-table-responsive table th { padding: 3px !important; font-size: 70% !important; }
}
"""


def on_files(files: Files, config: Any) -> Files:
    """Add what git knows and pages link to, the tutorial and docstrings as pages, and one of the public names."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in listed.splitlines():
        if (ROOT / name).suffix in SHOWN and not name.startswith((".", "tests/")):
            files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    places = vars(lrsa_coupled)["_MODULES"].items()
    lines = [f"* [{n}](lrsa_coupled.{m.split('.')[0]}.md#lrsa_coupled.{m}.{n})" for n, m in places]
    pages = {"public names": "\n".join(["# Public names", "", "`from lrsa_coupled import ...`", "", *lines])}
    pages |= {name: f"::: {name}" for name in [f"lrsa_coupled.{part}" for part in PARTS.split()]}
    for name, text in pages.items():
        files.append(
            File.generated(config, f"api/{name.replace(' ', '_')}.md", content=f"---\ntitle: {name}\n---\n{text}\n")
        )
    for path in sorted((ROOT / "cases" / "tutorial").glob("*.py")):
        cells = jupytext.read(path).cells
        parts = [each.source if each.cell_type == "markdown" else f"```python\n{each.source}\n```" for each in cells]
        files.append(File.generated(config, f"tutorial/{path.stem}.md", content="\n\n".join(parts)))
    files.append(File.generated(config, "site.css", content=CSS))
    return files
