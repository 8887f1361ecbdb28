"""``lrsa-coupled list``: the cases of the package."""

from __future__ import annotations

import dataclasses
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lrsa_coupled import catalog, mpi
from lrsa_coupled.cli._startup import check_petsc, resolve, start_petsc
from lrsa_coupled.config import Config

if TYPE_CHECKING:
    from lrsa_coupled.interfaces import Case
    from lrsa_coupled.schema import Field

HELP = "list the cases"
EXAMPLE = "lrsa-coupled list"


def add_arguments(parser: ArgumentParser) -> None:
    """There are no arguments but the common ones."""


def run(args: Namespace, petsc: Sequence[str]) -> int:
    """Print every case: what it is, what its operator sees and predicts, its methods, options and shipped models."""
    resolve(args, Config())
    comm = start_petsc(petsc)
    for name in catalog.case_names():
        case = catalog.load_case(name)
        folder = catalog.case_folder(name)
        methods = [f"{method} (default)" if method == case.default_method else method for method in case.methods()]
        models = sorted(str(path.parent.relative_to(folder)) for path in folder.rglob("model.safetensors"))
        mpi.print_once(f"{name:12s} {_summary(case)}")
        for what, text in {
            "in": f"{_fields(case.schema.inputs)}; scalars: {', '.join(case.schema.scalars) or 'none'}",
            "out": _fields(case.schema.outputs),
            "quantities": ", ".join(f"{q.name} [{q.unit}]" for q in case.quantities),
            "methods": ", ".join(methods),
            "options": ", ".join(f"{name} = {value}" for name, value in dataclasses.asdict(case.options).items()),
            "models": ", ".join("shipped" if model == "." else model for model in models),
        }.items():
            if text:
                mpi.print_once(f"{'':12s} {what}: {text}")
        for wrapped in catalog.wrapped_names(name):
            mpi.print_once(f"{wrapped:12s} {_summary(catalog.load_case(wrapped))}")
    check_petsc(comm, petsc)
    return 0


def _summary(case: Case) -> str:
    return (type(case).__doc__ or "").strip().splitlines()[0]


def _fields(fields: Sequence[Field]) -> str:
    return ", ".join(f"{f.name}[{f.components}]" if f.components > 1 else f.name for f in fields) or "none"
