"""Errors and values reach all ranks."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import subprocess
import sys
import weakref
from contextlib import suppress

import numpy as np
import pytest
from mpi4py import MPI

from lrsa_coupled import mpi
from lrsa_coupled.interfaces import NumericalError


class OwnError(Exception):
    """An exception that takes more than its text."""

    def __init__(self, number: int, text: str) -> None:
        super().__init__(f"{number}: {text}")


def test_placement(comm: MPI.Intracomm) -> None:
    assert (mpi.rank(), mpi.size()) == (comm.rank, comm.size)


def test_a_program_that_a_rank_starts_is_alone() -> None:
    """It inherits the launcher's variables, not its descriptor; MPI ends a process that wants to join by those."""
    code = "from lrsa_coupled import mpi; print(mpi.rank(), mpi.size())"
    inherited = os.environ | {"PMI_RANK": "1", "PMI_SIZE": "2", "PMI_FD": "250"}
    done = subprocess.run([sys.executable, "-c", code], env=inherited, capture_output=True, text=True, check=True)
    assert done.stdout == "0 1\n"


def test_no_error(comm: MPI.Intracomm) -> None:
    mpi.raise_on_all_ranks(comm, None)
    with mpi.collective_errors(comm):
        pass


@pytest.mark.parametrize(
    "error", [ValueError("wrong"), FileNotFoundError(2, "No such file", "x.h5"), TypeError("kind")]
)
def test_one_rank_fails(comm: MPI.Intracomm, error: Exception) -> None:
    last = comm.size - 1
    with pytest.raises(type(error)) as caught:
        mpi.raise_on_all_ranks(comm, error if comm.rank == last else None)
    expected = str(error) if comm.rank == last or not isinstance(error, OSError) else "No such file: x.h5"
    assert str(caught.value) == expected


def test_lowest_rank_speaks(comm: MPI.Intracomm) -> None:
    with pytest.raises(ValueError, match="of rank 0"), mpi.collective_errors(comm):
        raise ValueError(f"of rank {comm.rank}")


def test_error_of_an_unknown_type(comm: MPI.Intracomm) -> None:
    with pytest.raises(OwnError if comm.rank == 0 else RuntimeError, match="3: text"), mpi.collective_errors(comm):
        if comm.rank == 0:
            raise OwnError(3, "text")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), NumericalError("not a number")])
def test_interrupts_and_numerical_errors_are_the_same_on_all_ranks(comm: MPI.Intracomm, error: BaseException) -> None:
    last = comm.size - 1
    with pytest.raises(type(error)) as caught, mpi.collective_errors(comm):
        if comm.rank == last:
            raise error
    assert caught.value.args == error.args and mpi.is_echo(caught.value) == (comm.rank != last)


def test_the_rank_on_which_it_began_goes_before_echoes(comm: MPI.Intracomm) -> None:
    """Ranks that share a sample raise the error of one of them, which need not be the first; then all others do."""
    pair = comm.Split(min(comm.rank, 1), comm.rank)  # rank 0 alone, the others together
    both = mpi.collective_errors(comm), mpi.collective_errors(pair)
    with pytest.raises(ValueError, match="began here") as caught, both[0], both[1]:
        if comm.rank == comm.size - 1:
            raise ValueError("began here")
    assert mpi.is_echo(caught.value) == (comm.rank != comm.size - 1)
    pair.Free()


def test_an_error_that_others_do_not_come_to_hear_of_goes_on_alone(comm: MPI.Intracomm) -> None:
    """The others are in a call that only the rank with the error could end."""
    if comm.size == 1:
        pytest.skip("needs other ranks")
    last = comm.size - 1
    both = mpi.collective_errors(comm), mpi.collective_errors(comm)
    with pytest.raises((ValueError, mpi.OutOfReach)) as caught, mpi.patience(0.2), both[0], both[1]:
        if comm.rank == last:
            raise ValueError("alone")
        comm.recv(source=last)
    assert isinstance(caught.value, mpi.OutOfReach) == (comm.rank == last)
    assert "alone" in str(caught.value.__cause__ if comm.rank == last else caught.value)
    for rank in range(last if comm.rank == last else 0):
        comm.send("go on", dest=rank)
    comm.Barrier()


def test_a_signal_is_noted_whatever_a_library_does_to_its_handler() -> None:
    with mpi.StopSignals() as outer:
        os.kill(os.getpid(), signal.SIGUSR1)
        assert outer.name == "SIGUSR1"
        with mpi.StopSignals() as inner:
            assert inner.name == "SIGUSR1"
    with mpi.StopSignals() as stop:
        assert stop.name == ""
        ctypes.CDLL(None).signal(signal.SIGTERM, 0)
        mpi.rearm_signals()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.name == "SIGTERM"


def test_share(comm: MPI.Intracomm) -> None:
    assert mpi.share(comm, lambda: {"rank": comm.rank}) == {"rank": 0}
    with pytest.raises(ValueError, match="on rank 0"):
        mpi.share(comm, lambda: int("on rank 0"))


def test_failed_ranks(comm: MPI.Intracomm) -> None:
    own = comm.Dup()
    assert mpi.failed_ranks(own, False, patience=5.0) == []
    assert mpi.failed_ranks(own, comm.rank == comm.size - 1, patience=5.0) == [comm.size - 1]
    own.Free()


def test_shared_path(shared_path: object, comm: MPI.Intracomm) -> None:
    assert len(set(comm.allgather(str(shared_path)))) == 1


def test_an_error_reaches_ranks_that_wait_in_the_middle_of_a_block(comm: MPI.Intracomm) -> None:
    """Whichever rank fails, at whichever place, and inside an inner block too."""
    copy = comm.Dup()
    for rank in range(comm.size):
        for place in range(4):
            with pytest.raises(ValueError, match=f"rank {rank}, place {place}"), mpi.collective_errors(comm):
                fail(comm, rank, place, at=0)
                assert mpi.allreduce(comm, comm.rank, MPI.SUM) == sum(range(comm.size))
                fail(comm, rank, place, at=1)
                with mpi.collective_errors(copy):  # of the same ranks
                    fail(comm, rank, place, at=2)
                    mpi.agree(copy)
                fail(comm, rank, place, at=3)
    copy.Free()
    assert mpi.allreduce(comm, np.arange(3) + comm.rank, np.maximum).tolist() == [comm.size - 1 + k for k in range(3)]


def fail(comm: MPI.Intracomm, rank: int, place: int, *, at: int) -> None:
    if comm.rank == rank and place == at:
        raise ValueError(f"rank {rank}, place {place}")


def test_an_error_that_another_one_stands_for_is_raised_once(comm: MPI.Intracomm) -> None:
    """As PETSc does with an error in a callback."""
    for rank in range(comm.size):
        with pytest.raises(RuntimeError, match=r"stands for it|ValueError: it"), mpi.collective_errors(comm):
            try:
                fail_with_its_own(comm, rank)
            except ValueError as error:
                raise RuntimeError("stands for it") from error
        mpi.agree(comm)


def fail_with_its_own(comm: MPI.Intracomm, rank: int) -> None:
    if comm.rank == rank:
        raise ValueError("it")
    mpi.agree(comm)


@pytest.mark.parametrize("ranks", ["all", "one"])
def test_an_error_that_was_handled_keeps_nothing_alive(comm: MPI.Intracomm, ranks: str) -> None:
    """A problem of a user goes when the program drops it, on all ranks at once, though an attempt failed on one."""
    kept: list[weakref.ref[OwnError]] = []

    def fail() -> None:
        local = OwnError(0, "any object")
        kept.append(weakref.ref(local))
        with mpi.collective_errors(comm):
            if ranks == "all" or comm.rank == comm.size - 1:
                raise RuntimeError("injected")

    gc.disable()
    with suppress(RuntimeError):
        fail()
    gc.enable()
    assert kept[0]() is None
