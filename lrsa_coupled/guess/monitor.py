"""The convergence monitor: ends a solve from a guess that has used up its budget and does not converge."""

from __future__ import annotations

import math
import sys
import time
from typing import final

from mpi4py import MPI

from lrsa_coupled.mpi import allreduce


@final
class Monitor:
    """Called by the solver after each iteration; returns whether to end the solve.

    A solve goes on past its budget while the residual norm falls to less than ``stalled`` in an iteration, the mean of
    the last two, and while it would end before a default solve 1.5 times as hard as expected. For that
    the norm is taken to fall as that of Newton's method near a solution: the number of digits gained doubles with each
    iteration.

    Args:
        comm: Ranks of the problem.
        atol: Tolerance.
        started: When the guess was begun, ``time.perf_counter()`` [s].
        budget: What a guess that fails may cost [s].
        expected: What a default solve is expected to cost [s].
        stalled: Reduction of the residual norm in an iteration from which Newton's method is not near a solution.

    Attributes:
        reason: Why the solve was ended, None when it was not.
    """

    def __init__(self, comm: MPI.Comm, atol: float, *, started: float, budget: float, expected: float,
                 stalled: float) -> None:  # fmt: skip
        self.comm, self.atol, self.stalled, self.longest = comm, atol, stalled, 1.5 * expected
        self.started, self.budget = started, budget
        self.reason: str | None = None
        self._norms: list[float] = []
        self._begun = 0.0

    def __call__(self, iteration: int, norm: float) -> bool:
        """Return whether to end the solve. Collective."""
        elapsed = allreduce(self.comm, time.perf_counter() - self.started, MPI.MAX)
        self._norms.append(norm)
        if iteration == 0:
            self._begun = elapsed
        if iteration == 0 or elapsed <= self.budget or norm <= self.atol:
            return False
        pace = (elapsed - self._begun) / iteration
        if elapsed + pace * self._remaining() <= self.longest:
            return False
        norms = f"residual norm {norm:.2g} after {iteration} iterations, {self._norms[-2]:.2g} before the last"
        self.reason = f"{norms}, {self.atol:.2g} asked for"
        return True

    def _remaining(self) -> float:
        """Return the iterations from here to the tolerance, with none to the rounding errors of the first norm."""
        last, aim = self._norms[-3:], max(self.atol, sys.float_info.epsilon * self._norms[0])
        gained = math.log(last[0] / last[-1]) / (len(last) - 1) if last[-1] < last[0] else 0.0
        if gained <= -math.log(self.stalled):
            return math.inf
        return math.log2(1.0 + max(0.0, math.log(last[-1] / aim)) / (2.0 * gained))
