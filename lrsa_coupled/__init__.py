"""Learned low-rank operators inside finite element solvers.

The public names are loaded at their first use: importing the package loads no torch, no DOLFINx and no MPI library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.4.0"

_MODULES = {
    "Case": "interfaces",
    "Collector": "generation.collect",
    "Continuation": "interfaces",
    "Differentiable": "coupling.differentiable",
    "Features": "interfaces",
    "Field": "schema",
    "Gate": "guess.policy",
    "Guess": "interfaces",
    "InitialGuess": "interfaces",
    "LearnedGuess": "guess.learned",
    "Learning": "study.study",
    "NumericalError": "interfaces",
    "Problem": "interfaces",
    "Schema": "schema",
    "SolveResult": "interfaces",
    "Solver": "interfaces",
    "Surrogate": "certify.surrogate",
    "Symmetry": "schema",
    "attach": "guess.attach",
    "describe": "petsc.describe",
    "load_case": "catalog",
}

__all__ = ["__version__", *_MODULES]  # noqa: PLE0604 - strings

if TYPE_CHECKING:
    from lrsa_coupled.catalog import load_case as load_case
    from lrsa_coupled.certify.surrogate import Surrogate as Surrogate
    from lrsa_coupled.coupling.differentiable import Differentiable as Differentiable
    from lrsa_coupled.generation.collect import Collector as Collector
    from lrsa_coupled.guess.attach import attach as attach
    from lrsa_coupled.guess.learned import LearnedGuess as LearnedGuess
    from lrsa_coupled.guess.policy import Gate as Gate
    from lrsa_coupled.interfaces import (
        Case as Case,
        Continuation as Continuation,
        Features as Features,
        Guess as Guess,
        InitialGuess as InitialGuess,
        NumericalError as NumericalError,
        Problem as Problem,
        Solver as Solver,
        SolveResult as SolveResult,
    )
    from lrsa_coupled.petsc.describe import describe as describe
    from lrsa_coupled.schema import Field as Field, Schema as Schema, Symmetry as Symmetry
    from lrsa_coupled.study.study import Learning as Learning
else:

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"module 'lrsa_coupled' has no attribute '{name}'")
        from importlib import import_module

        return getattr(import_module(f"lrsa_coupled.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
