"""What the contexts of our preconditioners share: settings from options, the operator, the inner preconditioner."""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from mpi4py import MPI
from petsc4py import PETSc

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from lrsa_coupled.coupling.predictor import Predictor

PREFIX = "pc_lrsa_"
"""Options of our preconditioners begin so, under the prefix of the PC."""


def setting(default: float | str, *choices: str) -> Any:
    """Return a field of a dataclass of settings: one of a few words, a number of 0 or more, a text."""
    return dataclasses.field(default=default, metadata={"choices": choices})


def read_settings[T: DataclassInstance](pc: PETSc.PC, settings: T) -> T:
    """Return settings by ``-<prefix>pc_lrsa_<name>``; ValueError for a word not among the choices, a number below 0."""
    options = PETSc.Options(pc.getOptionsPrefix())
    getters = {str: options.getString, int: options.getInt, float: options.getReal}
    values: dict[str, Any] = {}
    for field in dataclasses.fields(settings):
        default, choices = getattr(settings, field.name), field.metadata["choices"]
        value = values[field.name] = getters[type(default)](PREFIX + field.name, default)
        option = f"-{options.prefix or ''}{PREFIX}{field.name}"
        if choices and value not in choices:
            raise ValueError(f"{option} must be one of {', '.join(choices)}, got {value!r}")
        if not isinstance(value, str) and value < 0:
            raise ValueError(f"{option} must be 0 or more, got {value}")
    return type(settings)(**values)


def load_operator(pc: PETSc.PC, folder: str, precision: str = "fp32") -> Predictor:
    """Load the operator of ``-pc_lrsa_checkpoint FOLDER``, once for all; ValueError without a sound model there."""
    if not folder:
        raise ValueError(f"an operator is needed: -{pc.getOptionsPrefix() or ''}{PREFIX}checkpoint FOLDER")
    card = Path(folder, "model.json")
    return _loaded(folder, precision, card.stat().st_mtime_ns if card.exists() else 0)


@lru_cache(maxsize=4)
def _loaded(folder: str, precision: Any, changed: int) -> Predictor:
    from lrsa_coupled.config import GuessConfig
    from lrsa_coupled.coupling.predictor import Predictor  # torch: only where an operator is asked for

    return Predictor.load(folder, GuessConfig(precision=precision))


@final
class InnerPC:
    """The PETSc preconditioner inside one of ours, its options under ``<prefix of the outer one>pc_lrsa_inner_``.

    It is made for the preconditioning matrix of the outer one and, unless ``-pc_lrsa_inner_pc_use_amat`` is given,
    sees no other. ``pc``, the PETSc object, is null until ``set_up``; it is of the type ``default`` unless the options
    give another.
    """

    def __init__(self, default: str | None = None) -> None:
        self.pc = PETSc.PC()
        self._default = default

    def set_up(self, outer: PETSc.PC) -> None:
        """Set up for the operators of the outer preconditioner. Collective."""
        is_new = not self.pc
        if is_new:
            self.pc.create(outer.comm)
            self.pc.incrementTabLevel(1, parent=outer)
            self.pc.setOptionsPrefix(f"{outer.getOptionsPrefix() or ''}{PREFIX}inner_")
            self.pc.setUseAmat(False)
            if self._default is not None:
                self.pc.setType(self._default)
        self.pc.setOperators(*outer.getOperators())
        if is_new:
            self.pc.setFromOptions()
        self.pc.setUp()
