"""What the preconditioners share: the life of an inner PETSc preconditioner, and their options."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, final

from mpi4py import MPI  # noqa: F401  (MPI is loaded before PETSc)
from petsc4py import PETSc

if TYPE_CHECKING:
    from lrsa_coupled.config import Precision
    from lrsa_coupled.guess.learned import LearnedGuess


@final
class InnerPC:
    """The PETSc preconditioner inside one of ours, its options under ``<prefix of the outer one>pc_lrsa_inner_``.

    It is made for the preconditioning matrix of the outer one and, unless ``-pc_lrsa_inner_pc_use_amat`` is given, sees no other.

    Args:
        outer: Ours.
        default: Type unless the options say otherwise; PETSc's own default when empty.

    Attributes:
        pc: The PETSc object, set up after ``set_up``.
    """

    def __init__(self, outer: PETSc.PC, default: str = "") -> None:
        self.pc = PETSc.PC().create(outer.comm)
        self.pc.incrementTabLevel(1, parent=outer)
        self.pc.setOptionsPrefix((outer.getOptionsPrefix() or "") + "pc_lrsa_inner_")
        self.pc.setUseAmat(False)
        if default:
            self.pc.setType(default)
        self._configured = False

    def set_up(self, outer: PETSc.PC) -> None:
        """Set up for the operators of the outer preconditioner. Collective."""
        self.pc.setOperators(*outer.getOperators())
        if not self._configured:
            self.pc.setFromOptions()
            self._configured = True
        self.pc.setUp()

    def destroy(self) -> None:
        """Free the PETSc object. Collective."""
        self.pc.destroy()


def load_operator(pc: PETSc.PC, folder: str, precision: Precision = "fp32") -> LearnedGuess:
    """Load the operator of ``-pc_lrsa_checkpoint FOLDER``, once for all preconditioners that ask for it.

    Raises:
        ValueError: If the option is missing, or there is no sound model in the folder.
    """
    if not folder:
        raise ValueError(f"an operator is needed: -{pc.getOptionsPrefix() or ''}pc_lrsa_checkpoint FOLDER")
    card = Path(folder, "model.json")
    return _loaded(folder, precision, card.stat().st_mtime_ns if card.exists() else 0)


@lru_cache(maxsize=4)
def _loaded(folder: str, precision: Precision, changed: int) -> LearnedGuess:
    from lrsa_coupled.config import GuessConfig
    from lrsa_coupled.guess.learned import LearnedGuess  # torch: only where an operator is asked for

    return LearnedGuess.load(folder, GuessConfig(precision=precision))


def choice(options: PETSc.Options, name: str, default: str, allowed: tuple[str, ...]) -> str:
    """Read an option that is one of a few words.

    Raises:
        ValueError: If it is none of them.
    """
    word = options.getString(name, default)
    if word not in allowed:
        raise ValueError(f"-{options.prefix or ''}{name} must be one of {', '.join(allowed)}, got {word!r}")
    return word
