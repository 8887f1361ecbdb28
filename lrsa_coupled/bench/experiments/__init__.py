"""Experiments: one question a file, run by ``lrsa-coupled experiment NAME``; a file that is put here is found.

A file has the question in the first line of its docstring, ``add_arguments(parser)`` for what it needs besides the
case, ``table(results) -> str`` and ``run``. With ``ON_RANKS = True`` it solves samples of a case on MPI ranks,
``run(args, samples: Samples) -> Results``; with ``ON_RANKS = False`` it works in one process without options of PETSc,
``run(args, config: Config) -> Results``. One without a case has ``SETTINGS``, which override the defaults.
Importing it loads neither MPI nor PETSc: ``report`` prints its table anywhere.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
from argparse import ArgumentParser
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from lrsa_coupled.settings import nearest


@dataclass(frozen=True)
class Experiment:
    """What is known of an experiment before it is imported."""

    name: str
    question: str
    on_ranks: bool

    def load(self) -> ModuleType:
        """Import its file."""
        return importlib.import_module(f"{__name__}.{self.name.replace('-', '_')}")


def all_experiments() -> dict[str, Experiment]:
    """Return the experiments by name, from their texts."""
    found = {}
    for module in pkgutil.iter_modules(__path__):
        tree = ast.parse((Path(__path__[0]) / f"{module.name}.py").read_text(encoding="utf-8"))
        name, question = module.name.replace("_", "-"), (ast.get_docstring(tree) or "").splitlines()[0]
        on_ranks = any(ast.unparse(node) == "ON_RANKS = True" for node in tree.body)
        found[name] = Experiment(name, question, on_ranks)
    return found


def find(name: str) -> Experiment:
    """Return an experiment; ValueError for an unknown name."""
    known = all_experiments()
    if name not in known:
        raise ValueError(f"unknown experiment '{name}'{nearest(name, list(known))}")
    return known[name]


def add_model(parser: ArgumentParser) -> None:
    """Add the model."""
    parser.add_argument("--model", type=Path, metavar="DIR", help="folder of the model; the shipped one by default")


def add_only(parser: ArgumentParser, what: str) -> None:
    """Add a choice of methods."""
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help=f"some of the {what}; all by default")
