"""Experiments: one question a file, run by ``lrsa-coupled experiment NAME``; a file that is put here is found.

A file has the question in the first line of its docstring, ``add_arguments(parser)``, ``table(results) -> str`` and
``run``. With ``ON_RANKS = True`` it solves problems of a case, ``run(args, place: OnRanks) -> Results``; with
``ON_RANKS = False`` it works in one process without MPI and PETSc, ``run(args, config: Config) -> Results``. It is
imported when it runs, with PETSc at work.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
from argparse import ArgumentParser
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from lrsa_coupled.settings import nearest

if TYPE_CHECKING:
    from mpi4py import MPI

    from lrsa_coupled.config import Config
    from lrsa_coupled.interfaces import Case


@dataclass(frozen=True)
class Experiment:
    """What is known of an experiment before it is imported."""

    name: str
    question: str
    on_ranks: bool

    def load(self) -> ModuleType:
        """Import its file."""
        return importlib.import_module(f"{__name__}.{self.name.replace('-', '_')}")


@dataclass(frozen=True)
class OnRanks:
    """A case, and the ranks on which its problems are solved.

    Args:
        case: The case.
        config: Settings.
        comm: Ranks.
        model: The given model, else the shipped one; None without either.
        operators: Folders of all operators that the case ships.
    """

    case: Case
    config: Config
    comm: MPI.Intracomm
    model: Path | None = None
    operators: tuple[Path, ...] = ()

    def needed_model(self) -> Path:
        """Return the model; ValueError without one."""
        if self.model is None:
            raise ValueError(f"the case '{self.case.name}' ships no model; name one with --model")
        return self.model


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


def add_case(parser: ArgumentParser) -> None:
    """Add the case and its presets."""
    parser.add_argument("case", metavar="CASE", help="name of a case, or path to a case.py or its folder")
    parser.add_argument(
        "--preset", metavar="NAME", help="a table of presets in the case's config.toml; none by default"
    )


def add_samples(parser: ArgumentParser) -> None:
    """Add the case and which of its samples are measured."""
    add_case(parser)
    numbers = {"bench.samples": "number of samples", "problem.seed": "seed of the samples"}
    numbers["problem.resolution"] = "resolution of the meshes; the case's own by default"
    for setting, text in numbers.items():
        name = setting.partition(".")[2]
        parser.add_argument(f"--{name}", dest=setting, type=int, metavar=name[0].upper(), help=text)


def add_model(parser: ArgumentParser) -> None:
    """Add the model."""
    parser.add_argument("--model", type=Path, metavar="DIR", help="folder of the model; the shipped one by default")


def add_only(parser: ArgumentParser, what: str) -> None:
    """Add a choice of methods."""
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help=f"some of the {what}; all by default")
