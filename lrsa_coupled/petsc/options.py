"""PETSc options of the command line: given to PETSc when it is imported, their names checked, and their use afterwards.

A solver reads its options when it is made and later, so that no solve can say before its end that none has read one.
The libraries hold all names that they read: what ends in none of them is refused at once.

Options of the environment (``PETSC_OPTIONS``, ``.petscrc``) are not checked.
"""

from __future__ import annotations

import difflib
import mmap
import re
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mpi4py import MPI

# PETSc reads these in PetscFinalize, after the check.
_READ_LATE = frozenset(
    {"options_left", "options_view", "objects_dump", "memory_view", "malloc_view", "log_trace", "saws_options"}
)

_LIBRARY = re.compile(r"(lib)?(petsc|slepc)[^/]*\.(so|dylib)[^/]*", re.IGNORECASE)
_NAME = re.compile(rb"-([A-Za-z]\w*(?:%[a-z]+\w*)*)\0")
_OURS = re.compile("pc_lrsa_|lrsa_|ksp_gcrodr_")


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
        # PETSc's handler of signals ends a process that SIGTERM is to end gracefully.
        petsc4py.init(["lrsa-coupled", "-options_left", "no", "-no_signal_handler", *arguments])
        return MPI.COMM_WORLD
    from petsc4py import PETSc

    for name, value in options.items():
        PETSc.Options().setValue(name, "" if value is None else value)
    return MPI.COMM_WORLD


def check_names(arguments: Sequence[str], *, own: str = "") -> None:
    """Raise ValueError for an option that nothing reads, whatever its prefix; after ``initialise``. Collective: no.

    What reads options is PETSc, what is loaded with it, this package, and the source ``own`` of a case, as strings.
    A name of one word has no prefix. Nothing is refused where the libraries are not found.
    """
    from petsc4py import PETSc

    given = parse(arguments)
    known = _known_names() if given else frozenset()
    patterns = [re.compile(re.sub("%[a-z]+", r"\\w+", name)) for name in known if "%" in name]
    for name in given if known else ():
        tails = [name, *(name[found.end() :] for found in re.finditer("_", name) if "_" in name[found.end() :])]
        if any(tail in known or _OURS.match(tail) or f'"{tail}"' in own or f"'{tail}'" in own for tail in tails):
            continue
        if any(pattern.fullmatch(tail) for pattern in patterns for tail in tails):
            continue
        near = [(tail, close) for tail in tails for close in difflib.get_close_matches(tail, known, n=1, cutoff=0.8)]
        hint = f" (did you mean -{name.removesuffix(near[0][0])}{near[0][1]}?)" if near else ""
        PETSc.Options().delValue(name)
        raise ValueError(f"unknown PETSc option: -{name}: neither PETSc nor the case reads one of this name{hint}")


@cache
def _known_names() -> frozenset[str]:
    """Return the names of options, without prefixes, that the loaded libraries hold; %d and %s stand for more."""
    try:
        loaded = {line.split()[-1] for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()}
    except OSError:
        return frozenset()
    paths = {Path(name) for name in loaded if _LIBRARY.fullmatch(Path(name).name)}
    beside = {path for library in paths for path in library.parent.glob("libslepc*") if path.is_file()}
    names: set[str] = set()
    for path in sorted(paths | beside):
        with open(path, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            names.update(found[1].decode() for found in _NAME.finditer(content))
    return frozenset(names) if "ksp_type" in names else frozenset()


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
