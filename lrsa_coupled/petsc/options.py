"""PETSc options of the command line: given to PETSc when it is imported, checked for use afterwards.

Options of the environment (``PETSC_OPTIONS``, ``.petscrc``) are not checked.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mpi4py import MPI

# PETSc reads these in PetscFinalize, after the check.
_READ_LATE = frozenset(
    {"options_left", "options_view", "objects_dump", "memory_view", "malloc_view", "log_trace", "saws_options"}
)


def parse(arguments: Sequence[str]) -> dict[str, str | None]:
    """Split ``-name value -flag`` into names and values; ValueError for a value without a name."""
    options: dict[str, str | None] = {}
    name = ""
    for argument in arguments:
        if argument.startswith("-") and argument.lstrip("-")[:1].isalpha():
            name = argument.lstrip("-")
            options[name] = None
        elif not name:
            raise ValueError(f"PETSc options after '--' have the form -name value, got '{argument}' without a name")
        else:
            options[name], name = argument, ""
    return options


def initialise(arguments: Sequence[str]) -> MPI.Intracomm:
    """Initialise MPI, then PETSc with ``arguments``, or add them to its options; return the world. Collective."""
    options = parse(arguments)
    from mpi4py import MPI

    if "petsc4py.PETSc" not in sys.modules:
        import petsc4py

        # The check below names unused options; PETSc's own warning would come on top of every error message.
        petsc4py.init(["lrsa-coupled", "-options_left", "no", *arguments])
        return MPI.COMM_WORLD
    from petsc4py import PETSc

    for name, value in options.items():
        PETSc.Options().setValue(name, "" if value is None else value)
    return MPI.COMM_WORLD


def check_used(comm: MPI.Comm, arguments: Sequence[str]) -> None:
    """Raise ValueError, on all ranks, when the solves so far have used one of ``arguments`` on no rank. Collective."""
    from mpi4py import MPI
    from petsc4py import PETSc

    options = PETSc.Options()
    names = [name for name in parse(arguments) if name not in _READ_LATE]
    unused = [name for name in names if not comm.allreduce(int(options.used(name)), op=MPI.MAX)]
    if not unused:
        return
    close = difflib.get_close_matches(unused[0], [name for name in options.getAll() if options.used(name)], n=1)
    hint = f" (did you mean -{close[0]}?)" if close else ""
    for name in unused:
        options.delValue(name)
    plural, text = "s" if len(unused) > 1 else "", ", ".join(f"-{name}" for name in unused)
    raise ValueError(f"unknown PETSc option{plural}: {text}: no solver used it{hint}")
