"""Newton's method from guesses that are out of its reach: an easier problem is solved a little way first."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import final

from lrsa_coupled.coupling.residual import energy
from lrsa_coupled.interfaces import Continuation, Solver, SolveResult
from lrsa_coupled.solvers.newton import NEAR, NewtonSolver


@dataclass(frozen=True)
class Stage:
    """An easier problem on the way to the one to solve."""

    value: float  # of the path parameter
    rtol: float  # reduction of the residual norm that is enough
    max_iterations: int  # Newton iterations after which the next stage begins all the same


@final
class RelaxedSolver(Solver):
    """Newton's method from the values in the solution, over stages along ``problem.relaxation`` if the guess needs it.

    It does where the energy at the guess is not that of the problem at the first stage: it is not defined, or in the
    range that the path changes. A guess near the solution (``newton.NEAR``) needs none, though the solution may lie in
    that range. The last stage is repeated up to four times while the energy of the problem to solve is not defined.
    ``iterations`` are those of all stages; the last solve alone decides whether the problem is solved.

    Args:
        newton: Solver of a problem with an energy and a relaxation.
        stages: Stages in their order.

    Raises:
        ValueError: If the problem has no energy or no relaxation, or there is no stage.
    """

    def __init__(self, newton: NewtonSolver, stages: Sequence[Stage]) -> None:
        path = newton.problem.relaxation
        if path is None or newton.problem.energy is None or not stages:
            raise ValueError("a relaxed solve needs a problem with an energy and a relaxation, and at least one stage")
        self.newton, self.stages = newton, tuple(stages)
        self.path: Continuation = path
        self._stopped = False

    def solve(self) -> SolveResult:
        """Solve to the tolerance of the Newton solver. Collective."""
        started = time.perf_counter()
        self._stopped, iterations = False, 0
        for stage in self._stages():
            self.path.set_value(stage.value)
            result = self.newton.solve_loosely(stage.rtol, stage.max_iterations)
            iterations += result.iterations
            self.path.set_value(self.path.target)
            if self._stopped:
                break
        if not self._stopped:
            result = self.newton.solve()
            iterations += result.iterations
        else:
            result = dataclasses.replace(result, converged=False)
        return dataclasses.replace(result, iterations=iterations, seconds={"solve": time.perf_counter() - started})

    def monitor(self, check: Callable[[int, float], bool]) -> None:
        """See ``Solver.monitor``; iterations and residual norms are those of a stage."""

        def noted(iteration: int, norm: float) -> bool:
            self._stopped = check(iteration, norm)
            return self._stopped

        self.newton.monitor(noted)

    def destroy(self) -> None:
        self.newton.destroy()

    def _stages(self) -> Iterator[Stage]:
        problem = self.newton.problem
        self.path.set_value(self.stages[0].value)
        eased = energy(problem)
        self.path.set_value(self.path.target)
        own = energy(problem)
        if own != eased and (own == math.inf or self.newton.solve_loosely(0.0, 0).residual > NEAR * self.newton.atol):
            yield from self.stages
            for _ in range(4):
                if energy(problem) < math.inf:
                    break
                yield self.stages[-1]
