"""Command line ``lrsa-coupled``: a file of this folder without a leading underscore is a verb.

It has ``HELP``, ``EXAMPLE``, ``add_arguments`` and ``run``, turns its arguments into one request and calls a plain
function. It imports what it needs when it runs: training needs no PETSc, and no MPI on one rank; the other verbs load
MPI before PETSc. An error is one line on any number of ranks, below a traceback where it is unexpected or of a user's
own file.

| exit code | meaning |
|---|---|
| 0 | all that was asked for is done |
| 1 | a solve or a sample failed, or data are damaged |
| 2 | an error |
| 3 | stopped by a signal, SIGTERM or SIGUSR1; the same command goes on |
| 130 | interrupted by Ctrl-C |
| 141 | who reads the output has left |
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lrsa_coupled import logs, mpi
from lrsa_coupled.cli._arguments import HelpFormatter, HelpPrinted, Parser, common_arguments
from lrsa_coupled.traces import notes, own_trace

if TYPE_CHECKING:
    from mpi4py import MPI

PATIENCE = 10.0
"""Time a rank with an error waits for the others before it ends them [s]."""

_FEM_MODULES = frozenset({"mpi4py", "petsc4py", "slepc4py", "dolfinx", "ufl", "basix", "ffcx", "gmsh"})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code, the same on all ranks.

    Collective over the world when an MPI launcher started the process. A rank with an error that the others do not
    come to hear of, as they are in a collective call, ends the job.
    """
    given = [*(sys.argv[1:] if arguments is None else arguments)]
    # A communicator of its own: an error on one rank must not meet a collective call of another.
    comm = mpi.world().Dup() if mpi.size() > 1 else None
    code, error = 0, None
    try:
        with mpi.patience(PATIENCE):
            code = _run(given)
        sys.stdout.flush()  # a full disk is an error of this call, not of the end of the process
    except BaseException as caught:  # noqa: BLE001 - interrupts too: reported below, on all ranks
        code, error = _code(caught), caught
    verbose = "--verbose-errors" in given
    if comm is not None:
        return _agree(comm, code, error, verbose)
    if error is not None:
        _report(error, verbose)
    return code


def verbs() -> dict[str, str]:
    """Return the modules of the verbs by name."""
    names = (module.name for module in pkgutil.iter_modules(__path__))
    return {name.replace("_", "-"): f"{__name__}.{name}" for name in names if not name.startswith("_")}


def make_parser() -> Parser:
    """Return the parser of all verbs."""
    parser = Parser(prog="lrsa-coupled", description="Learned low-rank operators inside finite element solvers.")
    subparsers = parser.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=Parser)
    common = common_arguments()
    for name, path in verbs().items():
        verb = importlib.import_module(path)
        text = f"example: {verb.EXAMPLE}" + "\nwhat follows -- goes to PETSc" * ("check_petsc" in vars(verb))
        added = subparsers.add_parser(
            name, help=verb.HELP, description=verb.HELP, parents=[common], epilog=text, formatter_class=HelpFormatter
        )
        verb.add_arguments(added)
    return parser


def _run(given: Sequence[str]) -> int:
    place = given.index("--") if "--" in given else len(given)
    try:
        args = make_parser().parse_args(given[:place])
        logs.setup(-1 if args.quiet else args.verbose)
        return importlib.import_module(verbs()[args.verb]).run(args, given[place + 1 :])
    except HelpPrinted:
        return 0


def _code(error: BaseException) -> int:
    """Return the exit code of an error."""
    error = _origin(error)
    return 130 if isinstance(error, KeyboardInterrupt) else 141 if isinstance(error, BrokenPipeError) else 2


def _agree(comm: MPI.Comm, code: int, error: BaseException | None, verbose: bool) -> int:
    """Return the exit code of all ranks; of those that failed one reports, that on which its error began.

    A rank that fails alone ends the job rather than let the others wait.
    """
    alone = isinstance(error, mpi.OutOfReach)
    failed = None if alone else mpi.failed_ranks(comm, error is not None, patience=PATIENCE)
    if error is not None and failed is None:
        _report(error, verbose)
        comm.Abort(code)
    codes = comm.allgather((code, error is None or mpi.is_echo(error)))
    own = [rank for rank, (_, echo) in enumerate(codes) if not echo] or failed
    if error is not None and own and own[0] == comm.rank:
        _report(error, verbose)
    comm.Free()
    return codes[own[0]][0] if own else max(each for each, _ in codes)


def _report(error: BaseException, verbose: bool) -> None:
    """Print an error in one line, after the traceback in a user's own case, or the whole one where it is ours.

    Nothing where nobody reads, as after ``| head``.
    """
    error = _origin(error)
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return
    _drop_output()
    line, trace = _line(error), "" if isinstance(error, KeyboardInterrupt) else own_trace(error)
    if verbose or not (line or trace):
        traceback.print_exception(error, file=sys.stderr)
    elif trace:
        print(trace, end="", file=sys.stderr)
    if trace and not _remedy(error):
        line = f"the case failed, {_flat(trace.splitlines()[-1])}"
    line = line or f"unexpected {type(error).__name__}: {_flat(str(error))}"
    where = "".join(f" ({note})" for note in notes(error) if "\n" not in note)
    print(f"lrsa-coupled: error: {line}{where}", file=sys.stderr, flush=True)


def _origin(error: BaseException) -> BaseException:
    """Return the error of this rank that the others cannot be reached with; else the error."""
    return error.__cause__ or error if isinstance(error, mpi.OutOfReach) else error


def _remedy(error: BaseException) -> str | None:
    """Describe what the environment lacks and how to get it; None for any other error."""
    if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] in _FEM_MODULES:
        remedy = "install the extra with pip install 'lrsa-coupled[fem]', or fenics-dolfinx from conda-forge"
        return f"{error.name} is not installed; {remedy}"
    if isinstance(error, ImportError) and error.name == "dolfinx":  # another version of it
        return error.msg
    if type(error).__name__ == "VerificationError" or "JIT compilation" in str(error):  # of cffi; of DOLFINx on ranks
        text = "DOLFINx compiles forms by a C compiler, which failed"
        return f"{text}: {_flat(str(error))}; install one, or name it in the environment variable CC"
    return None


def _line(error: BaseException) -> str | None:
    """Describe an error that a user can do something about; None for any other."""
    from lrsa_coupled.interfaces import NumericalError

    if isinstance(error, KeyboardInterrupt):
        return "interrupted by Ctrl-C"
    if remedy := _remedy(error):
        return remedy
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    if isinstance(error, (ValueError, TypeError, OSError, FloatingPointError, NumericalError)):
        return _flat(str(error))
    if type(error).__module__.startswith("petsc4py"):
        return f"PETSc: {_flat(str(error.__cause__ or error))}"  # the cause is the message of a preconditioner of ours
    return None


def _drop_output() -> None:
    """Drop what was printed and cannot be written, which would be an error again at the end of the process."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _flat(text: str) -> str:
    return " ".join(text.split())
