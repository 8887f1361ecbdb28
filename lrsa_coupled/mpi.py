"""Ranks, and errors that reach all of them.

Nothing here imports mpi4py before a communicator is asked for, so training runs without an MPI library.
"""

from __future__ import annotations

import builtins
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

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
    """What a rank contributes to a reduction of the others after it has left their block by an error."""

    rank: int
    kind: str
    text: str
    notes: tuple[str, ...]


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
        raise _noted(_rebuilt(result))
    return result


def agree(comm: MPI.Comm) -> None:
    """Go on if all ranks have come here, else raise the error of the one that has not; as ``allreduce``.

    It stands before a collective call that a rank with an error would not reach.
    """
    allreduce(comm, 0, max)


@final
class collective_errors:  # noqa: N801 - used as a function, in with statements
    """Run a block such that an exception on one rank is raised on all.

    Collective: at the end, and in calls of ``allreduce`` and ``agree`` inside, by which the other ranks hear of the
    error: one must stand before any other collective call inside, after what may fail on one rank.

    Not a generator: an exception thrown into one that raises another would refer to itself by its frames, and with it a
    user's PETSc objects would live on one rank until Python collects its cycles.

    Raises:
        Exception: That of the lowest rank that has one: on the others of the same built-in type and text, RuntimeError
            where the type is not built in; its notes, and its traceback in a user's case, are notes there. An error
            that all ranks have had passes further blocks as it is.
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
        elif isinstance(error, Exception) and comm.size > 1 and not _is_on_all_ranks(error):
            left = _Left(comm.rank, *_describe(error), (*notes(error), own_trace(error)))
            first = comm.allreduce(left, op=lambda one, two: _first_left(one, two) or one)
            if first.rank != comm.rank:
                raise _noted(_rebuilt(first)) from error
            _noted(error)


def raise_on_all_ranks(comm: MPI.Comm, error: Exception | None) -> None:
    """Raise the error of the lowest rank that has one, on every rank; return when none has. As ``collective_errors``.

    Collective: yes. Call it after the rank-local work and before the next collective call.
    """
    with collective_errors(comm):
        if error is not None:
            raise error


_blocks = [0]
"""Number of blocks of ``collective_errors`` begun so far."""

_MARK = "_lrsa_on_all_ranks"
"""Attribute of an exception that all ranks are raising: the number of the last block begun by then.

It is on the exception, as a list of such exceptions would keep what their frames refer to: a user's problem.
"""


def _is_on_all_ranks(error: BaseException | None) -> bool:
    """Whether all ranks have had an error, or the one that caused it: PETSc raises its own for one in a callback."""
    while error is not None and getattr(error, _MARK, None) != _blocks[0]:
        error = error.__cause__
    return error is not None


def _first_left(one: object, two: object) -> _Left | None:
    """Return the one of the lowest rank."""
    return min((each for each in (one, two) if isinstance(each, _Left)), key=lambda left: left.rank, default=None)


def _rebuilt(left: _Left) -> Exception:
    from lrsa_coupled.interfaces import NumericalError

    kind = (vars(builtins) | {"NumericalError": NumericalError}).get(left.kind)
    known = (NumericalError, ValueError, TypeError, OSError, ArithmeticError, MemoryError, RuntimeError)
    error = kind(left.text) if isinstance(kind, type) and issubclass(kind, known) else None
    error = error or RuntimeError(f"{left.kind}: {left.text}")
    for note in filter(None, left.notes):
        error.add_note(note)
    return error


def _noted(error: Exception) -> Exception:
    setattr(error, _MARK, _blocks[0])
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
class SharedCounter:
    """Counts from 0 for all ranks, each number once, without waiting for other ranks. Making it is collective.

    Its window is locked once: a lock for each number would wait for the next MPI call of rank 0. The atomic
    fetch-and-add does not, where the network has atomics.
    """

    def __init__(self, comm: MPI.Intracomm) -> None:
        from mpi4py import MPI

        self._window = MPI.Win.Allocate(8 if comm.rank == 0 else 0, disp_unit=8, comm=comm)
        if comm.rank == 0:
            self._window.tomemory()[:] = bytes(8)
        comm.Barrier()
        self._window.Lock_all(MPI.MODE_NOCHECK)
        comm.Barrier()

    def take(self) -> int:
        """Return the next number. Collective: no."""
        import numpy as np
        from mpi4py import MPI

        one, taken = np.ones(1, dtype=np.int64), np.empty(1, dtype=np.int64)
        self._window.Fetch_and_op(one, taken, 0, op=MPI.SUM)
        self._window.Flush(0)
        return int(taken[0])

    def free(self) -> None:
        """Free the window. Collective."""
        self._window.Unlock_all()
        self._window.Free()


@final
class StopSignals:
    """Notes SIGTERM and SIGUSR1, the warnings of batch systems, instead of ending the process; for the main thread.

    Attributes:
        name: Name of the signal that has come, empty before.
    """

    def __init__(self) -> None:
        self.name = ""
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        for number in (signal.SIGTERM, signal.SIGUSR1):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: set by a library

    def _note(self, number: int, frame: object) -> None:
        self.name = signal.Signals(number).name


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


def _describe(error: Exception | None) -> tuple[str, str]:
    if isinstance(error, OSError) and error.strerror is not None:
        return type(error).__name__, f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return type(error).__name__, str(error)
