"""Ranks, and errors that reach all of them.

Nothing here imports mpi4py before a communicator is asked for, so training runs without an MPI library.
"""

from __future__ import annotations

import atexit
import builtins
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Thread, current_thread, main_thread
from typing import TYPE_CHECKING, Any, ClassVar, final

from lrsa_coupled.traces import notes, own_trace

if TYPE_CHECKING:
    from mpi4py import MPI

# Variables of launchers: MPICH and Intel MPI, Open MPI, MVAPICH, Slurm (set in a step started by srun only).
_LAUNCHERS = (
    ("PMI_RANK", "PMI_SIZE"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
)


def rank() -> int:
    """Return the rank of this process in the world; 0 without MPI. Collective: no."""
    return _placement()[0]


def size() -> int:
    """Return the number of ranks in the world; 1 without MPI. Collective: no."""
    return _placement()[1]


def print_once(text: str) -> None:
    """Print on the first rank of the world. Collective: no."""
    if rank() == 0:
        print(text, flush=True)


def world() -> MPI.Intracomm:
    """Return the world communicator; loads the MPI library."""
    from mpi4py import MPI

    return MPI.COMM_WORLD


@dataclass(frozen=True)
class _Left:
    """What a rank contributes to a reduction of the others after it has left their block by an error.

    ``is_echo``: of an error that began on another rank.
    """

    is_echo: bool
    rank: int
    kind: str
    args: tuple[Any, ...]
    notes: tuple[str, ...]


class OutOfReach(BaseException):
    """Raised from an error on one rank of which the others do not hear: they wait for this rank, perhaps for ever.

    Not an ``Exception``: who handles an error that all ranks have must not go on alone.
    """


_copies: list[MPI.Comm] = []


def own_copy(comm: MPI.Comm) -> MPI.Comm:
    """Return our copy of a communicator, one for all of the same ranks; it is never freed. Collective at first."""
    from mpi4py import MPI

    if comm.size == 1:
        return comm
    for copy in _copies:
        if MPI.Comm.Compare(copy, comm) in (MPI.IDENT, MPI.CONGRUENT):
            return copy
    _copies.append(comm.Dup())
    _copies[-1].allreduce(0, op=lambda one, two: one)  # the first one duplicates it again, and keeps Python's lock
    return _copies[-1]


def allreduce[T](comm: MPI.Comm, value: T, op: Callable[[T, T], T]) -> T:
    """Reduce picklable values over the ranks; inside ``collective_errors`` it carries the error of another rank.

    Collective: yes. ``op`` takes two values, as ``MPI.SUM`` does; of arrays ``np.maximum``, not ``MPI.MAX``.

    Raises:
        Exception: That of a rank that has left the block in which the others still are; see ``collective_errors``.
    """
    if comm.size == 1:
        return value
    result = own_copy(comm).allreduce(value, op=lambda one, two: _first_left(one, two) or op(one, two))
    if isinstance(result, _Left):
        raise _noted(_rebuilt(result), own_copy(comm), is_echo=True)
    return result


def agree(comm: MPI.Comm) -> None:
    """Go on if all ranks have come here, else raise the error of the one that has not; as ``allreduce``.

    It stands before a collective call that a rank with an error would not reach.
    """
    allreduce(comm, 0, max)


@final
class collective_errors:  # noqa: N801 - used as a function, in with statements
    """Run a block such that an exception on one rank, an interrupt too, is raised on all.

    Collective: at the end, and in calls of ``allreduce`` and ``agree`` inside, by which the other ranks hear of the
    error: one should stand before any other collective call inside, after what may fail on one rank. Ranks that are in
    another collective call, of PETSc say, cannot be reached: ``patience`` bounds the time to wait for them.

    Not a generator: an exception thrown into one that raises another would refer to itself by its frames, and with it a
    user's PETSc objects would live on one rank until Python collects its cycles.

    Raises:
        BaseException: That of the lowest rank that has one: on the others of the same built-in type and text,
            RuntimeError where the type is not built in; its notes, and its traceback in a user's case, are notes there.
            An error that all ranks have passes further blocks as it is.
        OutOfReach: From an error of which the others have not heard in time; an interrupt goes on as it is, and if it
            ends the program, that ends the others.
    """

    def __init__(self, comm: MPI.Comm) -> None:
        self._comm = comm

    def __enter__(self) -> None:
        _blocks[0] += 1
        self._comm = own_copy(self._comm)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        comm = self._comm
        if error is None:
            agree(comm)
        elif comm.size > 1 and not _passes(error, comm):
            first = _announce(comm, error)
            if first is None and isinstance(error, KeyboardInterrupt):
                _alone.append(comm)
                _noted(error, comm, is_echo=False)  # blocks around this one need not wait again
                return
            if first is None:
                raise OutOfReach("the other ranks are in a collective call and do not hear of an error") from error
            if first.rank != comm.rank:
                raise _noted(_rebuilt(first), comm, is_echo=True) from error
            _noted(error, comm, is_echo=is_echo(error))


@contextmanager
def patience(seconds: float) -> Iterator[None]:
    """Let errors wait so long in ``collective_errors`` for the other ranks, instead of ``PATIENCE`` [s]."""
    before, _patience[0] = _patience[0], seconds
    try:
        yield
    finally:
        _patience[0] = before


def is_echo(error: BaseException) -> bool:
    """Whether an error began on another rank, which can report it with its traceback."""
    known = _find(error)
    return known is not None and known.is_echo


def raise_on_all_ranks(comm: MPI.Comm, error: Exception | None) -> None:
    """Raise the error of the lowest rank that has one, on every rank; return when none has. As ``collective_errors``.

    Collective: yes. Call it after the rank-local work and before the next collective call.
    """
    with collective_errors(comm):
        if error is not None:
            raise error


PATIENCE = 300.0
"""Time that a rank with an error waits for the others to come, in a user's script [s]: they may be at work."""

INTERRUPTED = 3.0
"""The same after Ctrl-C, which all ranks get, at places of their own [s]."""

_patience = [PATIENCE]

_alone: list[MPI.Comm] = []
"""Communicators whose other ranks have not heard of an interrupt here."""


@atexit.register  # before what studies register, so that it comes after
def _end_others() -> None:
    if _alone and isinstance(getattr(sys, "last_exc", None), KeyboardInterrupt):
        _alone[0].Abort(130)  # they wait for this rank in a collective call, as MPI itself would at the end


_blocks = [0]
"""Number of blocks of ``collective_errors`` begun so far."""

_MARK = "_lrsa_known"
"""Attribute of an exception that several ranks are raising, a ``_Known``.

It is on the exception, as a list of such exceptions would keep what their frames refer to: a user's problem.
"""


@dataclass(frozen=True)
class _Known:
    """The ranks that have an error, whether it began on another one, and the last block begun by then."""

    comm: MPI.Comm
    is_echo: bool
    block: int


def _find(error: BaseException | None) -> _Known | None:
    """Return what is known of an error, or the one that caused it: PETSc raises its own for one in a callback."""
    while error is not None:
        known = getattr(error, _MARK, None)
        if isinstance(known, _Known):
            return known
        error = error.__cause__
    return None


def _passes(error: BaseException, comm: MPI.Comm) -> bool:
    """Whether all ranks of ``comm`` have an error already, or cannot be reached."""
    from mpi4py import MPI

    if isinstance(error, OutOfReach):
        return True
    known = _find(error)
    if known is None or known.block != _blocks[0]:
        return False
    having, asked = known.comm.Get_group(), comm.Get_group()
    return MPI.Group.Intersection(having, asked).size == asked.size


def _announce(comm: MPI.Comm, error: BaseException) -> _Left | None:
    """Return the first of the errors by which ranks have left a block; None where the others do not come in time.

    The rank on which it began goes first.
    """
    left = _Left(is_echo(error), comm.rank, *_describe(error), (*notes(error), own_trace(error)))
    found: list[_Left] = []

    def reduce() -> None:
        found.append(comm.allreduce(left, op=lambda one, two: _first_left(one, two) or one))

    waiting = Thread(target=reduce, daemon=True)  # the others are in a call that has no version with a limit of time
    waiting.start()
    seconds = min(_patience[0], INTERRUPTED) if isinstance(error, KeyboardInterrupt) else _patience[0]
    waiting.join(seconds * (1.5 if left.is_echo else 1.0))
    return found[0] if found else None


def _first_left(one: object, two: object) -> _Left | None:
    """Return the one of the lowest rank, before all that are echoes."""
    left = (each for each in (one, two) if isinstance(each, _Left))
    return min(left, key=lambda each: (each.is_echo, each.rank), default=None)


def _rebuilt(left: _Left) -> BaseException:
    from lrsa_coupled.interfaces import NumericalError

    kind = NumericalError if left.kind == NumericalError.__name__ else vars(builtins).get(left.kind)
    known = (ValueError, TypeError, OSError, ArithmeticError, MemoryError, RuntimeError, KeyboardInterrupt, SystemExit)
    error: BaseException = RuntimeError(f"{left.kind}: {' '.join(map(str, left.args))}")
    if isinstance(kind, type) and issubclass(kind, (NumericalError, *known)):
        error = kind(*left.args)
    for note in filter(None, left.notes):
        error.add_note(note)
    return error


def _noted[E: BaseException](error: E, comm: MPI.Comm, *, is_echo: bool) -> E:
    setattr(error, _MARK, _Known(comm, is_echo, _blocks[0]))
    return error


def share[T](comm: MPI.Comm, function: Callable[[], T]) -> T:
    """Call ``function`` on rank 0 and return its value, or raise its error, on all ranks.

    Collective: yes. The other ranks sleep meanwhile, so that rank 0 may use their cores. The value is pickled.
    """
    if comm.size == 1:
        return function()
    with collective_errors(comm):
        try:
            value = function() if comm.rank == 0 else None
        finally:
            _wait(comm.Ibarrier())
    return comm.bcast(value, root=0)


def failed_ranks(comm: MPI.Comm, failed: bool, *, patience: float) -> list[int] | None:
    """Return the ranks that failed once all ranks have called; None when this rank failed and others do not come.

    A failed rank waits ``patience`` seconds for the others, one that did not fail for all.
    Collective: yes, over a communicator used for nothing else.
    """
    import numpy as np

    flags = np.zeros(comm.size, dtype=np.int32)
    request = comm.Iallgather(np.array([failed], dtype=np.int32), flags)
    if not _wait(request, seconds=patience if failed else float("inf")):
        return None
    return [int(r) for r in np.flatnonzero(flags)]


@final
class StopSignals:
    """Notes SIGTERM and SIGUSR1, the warnings of batch systems, instead of ending the process; for the main thread.

    One inside another knows what has come before.
    """

    _came: ClassVar[list[str]] = []
    _depth: ClassVar[int] = 0

    def __init__(self) -> None:
        self._before: dict[signal.Signals, Any] = {}

    @property
    def name(self) -> str:
        """Name of the signal that has come, empty before."""
        rearm_signals()
        return self._came[0] if self._came else ""

    def __enter__(self) -> StopSignals:
        StopSignals._depth += 1
        for number in (signal.SIGTERM, signal.SIGUSR1):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        StopSignals._depth -= 1
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: set by a library
        if not self._depth:
            self._came.clear()

    def _note(self, number: int, frame: object) -> None:
        self._came.append(signal.Signals(number).name)


def rearm_signals() -> None:
    """Install Python's handlers of signals again, which a library such as gmsh replaces when it starts."""
    if current_thread() is main_thread():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            handler = signal.getsignal(number)
            if handler is not None:
                signal.signal(number, handler)


def _placement() -> tuple[int, int]:
    module = sys.modules.get("mpi4py.MPI")
    if module is not None:
        return module.COMM_WORLD.rank, module.COMM_WORLD.size
    for rank_name, size_name in _LAUNCHERS if _is_connected() else ():
        if rank_name in os.environ and size_name in os.environ:
            return int(os.environ[rank_name]), int(os.environ[size_name])
    return 0, 1


def _is_connected() -> bool:
    """Return whether the launcher's end of its descriptor is there: what a rank starts inherits the variables only."""
    try:
        os.fstat(int(os.environ.get("PMI_FD", "0")))
    except (OSError, ValueError, OverflowError):
        return False
    return True


def _wait(request: MPI.Request, seconds: float = float("inf")) -> bool:
    end, pause = time.monotonic() + seconds, 5e-5
    while not request.Test():
        if time.monotonic() > end:
            return False
        time.sleep(pause)
        pause = min(2 * pause, 0.02)
    return True


def _describe(error: BaseException) -> tuple[str, tuple[Any, ...]]:
    kind = type(error)
    if isinstance(error, OSError) and error.strerror is not None:
        return kind.__name__, (f"{error.strerror}: {error.filename}" if error.filename else error.strerror,)
    simple = kind.__module__ == "builtins" and all(isinstance(each, str | bytes | int | float) for each in error.args)
    return kind.__name__, error.args if simple else (str(error),)
