"""Errors that say that a solve has failed; any other is a mistake, of code or of the environment. No torch here."""

from __future__ import annotations

import re

from mpi4py import MPI
from petsc4py import PETSc

from lrsa_coupled.interfaces import NumericalError

NUMERICAL = frozenset({71, 72, 81, 82, 91})
"""Numbers of PETSc's errors: zero pivot of LU, not a number, zero pivot of Cholesky, a solver that did not converge."""

FROM_LIBRARY, FROM_PYTHON = 76, 101
"""Numbers of an error in a library that PETSc calls, and of an exception in a Python callback, which is its cause."""

MUMPS_NUMERICAL = frozenset({-6, -9, -10, -40})
"""Of MUMPS: singular pattern, more fill-in by pivoting than room, zero pivot, not positive definite."""


def is_numerical(error: BaseException) -> bool:
    """Return whether a sample or a solve has failed for a numerical reason, rather than by a mistake. Collective: no.

    It has by an error of PETSc that says so, and by a ``NumericalError``. No other exception of Python is one, an
    ``ArithmeticError`` included, nor out of memory, an unknown type of solver, an interrupt, a missing compiler.
    """
    if isinstance(error, PETSc.Error) and error.ierr == FROM_PYTHON:
        return error.__cause__ is not None and is_numerical(error.__cause__)
    if isinstance(error, PETSc.Error) and error.ierr == FROM_LIBRARY:
        found = re.search(r"MUMPS error in .*INFOG\(1\)=(-\d+)", str(error))
        return found is not None and int(found[1]) in MUMPS_NUMERICAL
    return isinstance(error, NumericalError) or (isinstance(error, PETSc.Error) and error.ierr in NUMERICAL)


def reason(error: PETSc.Error) -> str:
    """Return the reason of a solve that an error has ended; raise what is no numerical one.

    That is an exception in a callback itself, not the error by which PETSc reports it.
    """
    if is_numerical(error):
        return f"PETSc error {error.ierr}"
    while isinstance(error, PETSc.Error) and error.ierr == FROM_PYTHON and error.__cause__ is not None:
        error = error.__cause__
    raise error from error.__cause__  # without that of PETSc
