"""A twin of a user's SNES: same problem, type, tolerances and preconditioner, and nothing that the user has hooked in.

An attempt runs in it. The user's monitors, tests and pre- and post-solves see nothing of an attempt, whatever becomes
of it, and what PETSc leaves locked or half set after an error is thrown away with the twin. It shares the matrices and
the preconditioner with the user's solver, which sets both up again in its next iteration.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import final

import numpy as np
from mpi4py import MPI
from petsc4py import PETSc

from lrsa_coupled.guess.target import Check
from lrsa_coupled.mpi import agree, collective_errors, own_copy

TYPES = frozenset({"newtonls", "newtontr", "vinewtonrsls", "vinewtonssls"})
"""Types of SNES of which a twin can be made."""


@final
class Twin:
    """A twin of a SNES for vectors like ``x``. Collective: making it and all methods."""

    def __init__(self, snes: PETSc.SNES, x: PETSc.Vec) -> None:
        self._comm = communicator(snes)
        self._residual, self._x = x.duplicate(), x.duplicate()
        self._ksp = _twin_ksp(snes.getKSP(), self._comm)
        self._tolerances = snes.getTolerances()
        self._bounds = bounds_of(snes)
        self._check: Check | None = None
        self._keeps_pc = self._bounds is None
        self.snes = twin = PETSc.SNES().create(self._comm)
        twin.setType(snes.getType())
        twin.setKSP(self._ksp)
        twin.setFunction(_function(snes), self._residual)
        matrix, preconditioner, _ = snes.getJacobian()
        twin.setJacobian(_jacobian(snes), matrix, preconditioner)
        if snes.getObjective() is not None:
            twin.setObjective(lambda _, at: snes.computeObjective(at))
        own, search = snes.getLineSearch(), twin.getLineSearch()
        if own.getType() is not None:
            search.setType(own.getType())
            search.setOrder(own.getOrder())
        if self._bounds is not None:
            twin.setVariableBounds(*self._bounds)
        twin.setMonitor(self._monitor)

    def norm(self, x: PETSc.Vec) -> float:
        """Return the residual norm by which the SNES judges a vector: with bounds that of the inactive part."""
        agree(self._comm)
        x.copy(self._x)
        self.snes.setTolerances(max_it=0)
        self.snes.solve(None, self._x)
        return float(self.snes.getFunctionNorm())

    def solve(self, x: PETSc.Vec, atol: float, max_iterations: int | None, check: Check | None) -> None:
        """Solve from ``x``, brought between the bounds, to an absolute tolerance; ``check`` ends it.

        The length of a step ends it where the user's SNES has no other tolerance: beside a wrong guess of great length
        every step is short.
        """
        agree(self._comm)
        _, _, stol, limit = self._tolerances
        limit = limit if max_iterations is None else min(limit, max_iterations)
        if self._bounds is not None:
            x.pointwiseMax(x, self._bounds[0])
            x.pointwiseMin(x, self._bounds[1])
        self.snes.setTolerances(rtol=0.0, atol=atol, stol=0.0 if atol > 0.0 else stol, max_it=limit)
        self._check = check
        keeps_pc, self._keeps_pc = self._keeps_pc, False
        self.snes.solve(None, x)
        self._keeps_pc = keeps_pc and self._ksp.getConvergedReason() > PETSc.KSP.ConvergedReason.DIVERGED_PCSETUP_FAILED

    def destroy(self) -> None:
        """Free the PETSc objects; after an error too.

        A SNES resets the preconditioner of its KSP at its end, and with it the symbolic factorisation, which can take
        as long as several numeric ones. So it is given another one before, unless the attempt may have left its own
        half set; with bounds, it is of a part of the matrix.
        """
        if self._keeps_pc:
            other = PETSc.PC().create(self._comm)
            self._ksp.setPC(other)
            other.destroy()
        for item in (self.snes, self._ksp, self._residual, self._x):
            item.destroy()

    def _monitor(self, snes: PETSc.SNES, iteration: int, norm: float) -> None:
        agree(self._comm)
        if self._check is not None and not snes.getConvergedReason() and self._check(iteration, norm):
            snes.setConvergedReason(PETSc.SNES.ConvergedReason.DIVERGED_LOCAL_MIN)


_anchors: dict[int, PETSc.Random] = {}
"""An object for each communicator of twins by its handle, with which PETSc's own copy of it lives."""


def communicator(solver: PETSc.Object) -> MPI.Comm:
    """Return the communicator of the twins of a solver. Collective.

    Not the user's: after an error on one rank the ranks may have made different numbers of objects, and PETSc takes the
    tags of messages from that number.
    """
    comm = own_copy(solver.comm.tompi4py())
    if comm.size > 1 and comm.handle not in _anchors:
        _anchors[comm.handle] = PETSc.Random().create(comm)
    return comm


def bounds_of(snes: PETSc.SNES) -> tuple[PETSc.Vec, PETSc.Vec] | None:
    """Return lower and upper bounds of a variational inequality, None for any other problem. Collective: no."""
    return snes.getVariableBounds() if str(snes.getType()).startswith("vi") else None


def _function(snes: PETSc.SNES) -> Callable[..., None]:
    """Return what evaluates the residual of the user's SNES, for which it stands in the user's own function."""
    _, (function, args, kwargs) = snes.getFunction()
    comm: MPI.Comm = snes.comm.tompi4py()

    def evaluate(_: PETSc.SNES, x: PETSc.Vec, f: PETSc.Vec) -> None:
        with collective_errors(comm):
            function(snes, x, f, *args, **kwargs)

    return evaluate


def _jacobian(snes: PETSc.SNES) -> Callable[..., None]:
    _, _, (function, args, kwargs) = snes.getJacobian()
    comm: MPI.Comm = snes.comm.tompi4py()

    def evaluate(_: PETSc.SNES, x: PETSc.Vec, matrix: PETSc.Mat, preconditioner: PETSc.Mat) -> None:
        with collective_errors(comm):
            function(snes, x, matrix, preconditioner, *args, **kwargs)

    return evaluate


def _twin_ksp(ksp: PETSc.KSP, comm: MPI.Comm) -> PETSc.KSP:
    twin = PETSc.KSP().create(comm)
    twin.setType(ksp.getType() or PETSc.KSP.Type.GMRES)
    twin.setPC(ksp.getPC())
    rtol, atol, divtol, max_it = ksp.getTolerances()
    twin.setTolerances(rtol=rtol, atol=atol, divtol=divtol, max_it=max_it)
    if "gmres" in str(ksp.getType()):
        twin.setGMRESRestart(_restart(ksp))
    return twin


def _restart(ksp: PETSc.KSP) -> int:
    """Return the restart of GMRES, which PETSc's Python interface has no function for. Collective: no."""
    restart = np.zeros(1, dtype=PETSc.IntType)
    ctypes.CDLL(PETSc.__file__).KSPGMRESGetRestart(ctypes.c_void_p(ksp.handle), ctypes.c_void_p(restart.ctypes.data))
    return int(restart[0])
