"""A user's script as a study: how it learns by its arguments or PETSc's options, and its description."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mpi4py import MPI
from dolfinx.fem import DirichletBC
from petsc4py import PETSc

from lrsa_coupled.coupling.elements import Solution
from lrsa_coupled.coupling.inputs import Input
from lrsa_coupled.coupling.script import Scalar, Script, unknown
from lrsa_coupled.generation.collect import fields_of, script_of
from lrsa_coupled.interfaces import Unknown
from lrsa_coupled.settings import parse, update
from lrsa_coupled.study.study import Learning


def learning_of(learn: Learning | Path | str | None, options: PETSc.Options) -> Learning | None:
    """Return how to learn by an argument of ``attach`` or the options ``lrsa_learn``, ``lrsa_learn_<setting>``.

    None where there is neither. ValueError for a setting that is wrong. Collective: no.
    """
    if learn is None:
        learn = options.getString("lrsa_learn", "") or None
    if learn is None:
        return None
    if not isinstance(learn, Learning | Path | str):
        raise ValueError(f"learn: expected a folder or Learning(folder, ...), got {learn!r}")
    learning = learn if isinstance(learn, Learning) else Learning(str(learn))
    names = [name for name in ("solves", "when", "overhead") if options.hasName(f"lrsa_learn_{name}")]
    given = {name: parse(options.getString(f"lrsa_learn_{name}")) for name in names}
    learning = update(learning, given, where="PETSc options", prefix="lrsa_learn_")
    if not learning.folder:
        raise ValueError("learn: expected a folder for data and models, got none")
    return learning


def studied(solver: PETSc.SNES | PETSc.KSP, u: Solution, bcs: Sequence[DirichletBC], *, learning: Learning,
            inputs: Mapping[str, Input], scalars: Mapping[str, Scalar]) -> tuple[Unknown, Script]:  # fmt: skip
    """Return the unknown of a study and its description; errors as ``Script``. Collective."""
    fields = fields_of(u, learning.outputs)
    what = unknown(u, bcs, fields)
    name = learning.name or (solver.getOptionsPrefix() or "").strip("_") or "script"
    return what, script_of(name, what, inputs, scalars=scalars, outputs=fields)
