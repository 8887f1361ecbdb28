"""Errors that say that a solve has failed; any other is a mistake, of code or of the environment. No torch here."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mpi4py import MPI
from petsc4py import PETSc

from lrsa_coupled.interfaces import NumericalError
from lrsa_coupled.mpi import collective_errors

NUMERICAL = frozenset({71, 72, 81, 82, 91})
"""Numbers of PETSc's errors: zero pivot of LU, not a number, zero pivot of Cholesky, a solver that did not converge."""

FROM_LIBRARY, FROM_PYTHON = 76, 101
"""Numbers of an error in a library that PETSc calls, and of an exception in a Python callback, which is its cause."""

FROM_LAPACK = re.compile("lapack (sub)?routine", re.IGNORECASE)
FROM_MUMPS = re.compile(r"MUMPS error in .*INFOG\(1\)=(-\d+)")
MUMPS_NUMERICAL = frozenset({-6, -9, -10, -40})
"""Of MUMPS: singular pattern, more fill-in by pivoting than room, zero pivot, not positive definite."""


def is_numerical(error: BaseException) -> bool:
    """Return whether a sample or a solve has failed for a numerical reason, rather than by a mistake. Collective: no.

    It has by an error of PETSc that says so, and by a ``NumericalError``. No other exception of Python is one, an
    ``ArithmeticError`` included, nor out of memory, an unknown type of solver, an interrupt, a missing compiler.
    """
    error = cause(error)
    if not isinstance(error, PETSc.Error):
        return isinstance(error, NumericalError)
    if error.ierr == FROM_LIBRARY:
        found = FROM_MUMPS.search(str(error))
        return int(found[1]) in MUMPS_NUMERICAL if found else FROM_LAPACK.search(str(error)) is not None
    return error.ierr in NUMERICAL


def cause(error: BaseException) -> BaseException:
    """Return the exception in a callback of PETSc which an error of PETSc stands for, else the error itself."""
    while isinstance(error, PETSc.Error) and error.ierr == FROM_PYTHON and error.__cause__ is not None:
        error = error.__cause__
    return error


def reason_name(reasons: type, number: int) -> str:
    """Return the name of a number in ``PETSc.SNES.ConvergedReason`` or ``PETSc.KSP.ConvergedReason``."""
    names = [n for n, value in vars(reasons).items() if value == number and n.startswith(("CONVERGED", "DIVERGED"))]
    return max(names, key=len) if names else f"reason {number}"


def reason_of(error: PETSc.Error) -> str:
    """Return the reason of a solve that an error has ended; raise what is not numerical, as it was in a callback."""
    found = cause(error)
    if not is_numerical(found):
        try:
            raise found from found.__cause__  # without that of PETSc
        finally:
            del found, error  # or the exception would refer to itself
    return f"PETSc error {found.ierr}" if isinstance(found, PETSc.Error) else str(found)


def failure_of(comm: MPI.Comm, solve: Callable[[], object]) -> str | None:
    """Call a solve of PETSc; return the numerical reason by which it failed on any rank, None without one. Collective.

    Raises:
        BaseException: What a callback has raised, and any error that is not numerical; see ``collective_errors``.
    """
    try:
        with collective_errors(comm):
            try:
                solve()
            except PETSc.Error as error:
                raise NumericalError(reason_of(error)) from error
    except NumericalError as error:
        return str(error)
    return None


@contextmanager
def interrupts() -> Iterator[None]:
    """Raise what a callback of PETSc has raised that is no ``Exception``, such as Ctrl-C, instead of PETSc's error."""
    interrupt: BaseException | None = None
    try:
        yield
    except PETSc.Error as error:
        interrupt = cause(error)
        if isinstance(interrupt, Exception):
            raise
    if interrupt is not None:
        raise interrupt
