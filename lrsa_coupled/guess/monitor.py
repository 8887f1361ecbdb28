"""The convergence monitor: ends a solve from a guess that has used up its budget and does not converge."""

from __future__ import annotations

import math
import sys
import time
from dataclasses import dataclass
from typing import final

from mpi4py import MPI

from lrsa_coupled.mpi import allreduce

FIRST_STEP, MANY = 10.0, 10.0
"""Times by which the first iteration may raise the residual norm, as it does from good guesses in elasticity, where a
default solve has at least so many iterations that one more costs little."""


@dataclass(frozen=True)
class Limits:
    """What a solve from a guess is measured by.

    Args:
        start: Residual norm of the default guess.
        atol: Residual norm to reach.
        budget: What a guess that fails may cost [s].
        expected: What a default solve is expected to cost [s].
        iterations: Those of a default solve as expected, None when not known.
        harder: How many times as hard as expected the problem may be.
    """

    start: float
    atol: float
    budget: float
    expected: float
    iterations: float | None = None
    harder: float = 1.5


@final
class Monitor:
    """Called by the solver after each iteration; returns whether to end the solve.

    A solve goes on past its budget while it would end before a default solve ``harder`` times as hard as expected, by
    the number of iterations, by their time where that is not known. The residual norm of the guess itself says little,
    as the first Newton step removes what is rough; where the default solve has ``MANY`` iterations that step is not
    judged either, unless the norm has risen ``FIRST_STEP`` times. From then on the norm is taken to fall by the mean
    factor of the last two iterations down to that of the default guess, and from there on as that of Newton's method
    near a solution: the number of digits gained doubles with each. Where the iterations of a default solve are known,
    one that gains less than a quarter of its mean stagnates, such as a line search of ever shorter steps.

    Args:
        comm: Ranks of the problem.
        limits: What the solve is measured by.
        started: When the guess was begun, ``time.perf_counter()`` [s].

    Attributes:
        reason: Why the solve was ended, None when it was not.
    """

    def __init__(self, comm: MPI.Comm, limits: Limits, *, started: float) -> None:
        self.comm, self.limits, self.started = comm, limits, started
        self.reason: str | None = None
        self._norms: list[float] = []
        self._begun = 0.0

    def __call__(self, iteration: int, norm: float) -> bool:
        """Return whether to end the solve. Collective."""
        limits, elapsed = self.limits, allreduce(self.comm, time.perf_counter() - self.started, MPI.MAX)
        self._norms.append(norm)
        if iteration == 0:
            self._begun = elapsed
        if iteration == 0 or elapsed <= limits.budget or norm <= limits.atol:
            return False
        total, expected = iteration + self._remaining(), limits.iterations
        if expected is None:  # what came before the iterations is spent, whatever is decided; the record counts it
            expected = limits.expected / (elapsed - self._begun) * iteration
        if total <= limits.harder * expected:
            return False
        norms = f"residual norm {norm:.2g} after {iteration} iterations, {self._norms[-2]:.2g} before the last"
        self.reason = f"{norms}, {limits.start:.2g} of the default guess, {limits.atol:.2g} asked for"
        return True

    def _remaining(self) -> float:
        """Return the iterations from here to the tolerance, with none to the rounding errors of the default guess."""
        last, start = self._norms[-3:], self.limits.start
        if len(last) == 2 and (self.limits.iterations or 0.0) >= MANY and last[1] <= FIRST_STEP * last[0]:
            return 0.0
        if not last[-1] < last[0] or not start > 0.0:  # also for what is not a number
            return math.inf
        gained = math.log(last[0] / last[-1]) / (len(last) - 1)
        above = max(math.log(last[-1] / start), 0.0)
        aim = max(self.limits.atol, sys.float_info.epsilon * start)
        below = max(math.log(last[-1] / aim) - above, 0.0)
        if gained < 0.25 * math.log(start / aim) / (self.limits.iterations or math.inf):
            return math.inf
        return above / gained + math.log2(1.0 + below / (2.0 * gained))
