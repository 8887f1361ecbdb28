"""A counter that ranks share, by which groups of them take their work."""

from __future__ import annotations

from typing import final

import numpy as np
from mpi4py import MPI

from lrsa_coupled.mpi import OutOfReach, collective_errors


@final
class SharedCounter:
    """Counts from 0 for all ranks, each number once, without waiting for other ranks. Making it is collective.

    For a ``with`` statement, whose block is one of ``collective_errors``: an error on a rank stops the counter, and the
    others hear of it after what they have taken.

    Its window is locked once: a lock for each number would wait for the next MPI call of rank 0. The atomic
    fetch-and-add does not, where the network has atomics.
    """

    def __init__(self, comm: MPI.Intracomm) -> None:
        self._errors = collective_errors(comm)
        self._window = MPI.Win.Allocate(8 if comm.rank == 0 else 0, disp_unit=8, comm=comm)
        if comm.rank == 0:
            self._window.tomemory()[:] = bytes(8)
        comm.Barrier()
        self._window.Lock_all(MPI.MODE_NOCHECK)
        comm.Barrier()

    def __enter__(self) -> SharedCounter:
        self._errors.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is not None:
            self.stop()
        try:
            self._errors.__exit__(kind, error, trace)
        except OutOfReach:
            raise
        except BaseException:
            self._free()
            raise
        if not isinstance(error, OutOfReach):
            self._free()

    def take(self) -> int:
        """Return the next number. Collective: no."""
        one, taken = np.ones(1, dtype=np.int64), np.empty(1, dtype=np.int64)
        self._window.Fetch_and_op(one, taken, 0, op=MPI.SUM)
        self._window.Flush(0)
        return int(taken[0])

    def stop(self) -> None:
        """Give out numbers beyond any work from now on. Collective: no."""
        before = np.empty(1, dtype=np.int64)
        self._window.Fetch_and_op(np.full(1, 2**62, dtype=np.int64), before, 0, op=MPI.REPLACE)
        self._window.Flush(0)

    def _free(self) -> None:
        """Free the window. Collective."""
        self._window.Unlock_all()
        self._window.Free()
