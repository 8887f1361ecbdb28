"""Parameter continuation with step control around Newton's method."""

from __future__ import annotations

import dataclasses
import math
import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lrsa_coupled.interfaces import Continuation, Solver, SolveResult
from lrsa_coupled.solvers.newton import NewtonSolver

Point = tuple[float, npt.NDArray[np.float64]]
"""Scaled parameter of the path and the solution there."""


@dataclass(frozen=True)
class StepControl:
    """How the path is walked.

    Args:
        first_step: A ratio above 1 on a logarithmic path, a share of the whole path otherwise.
        growth: Factor on the step (its logarithm on a logarithmic path) after a success in few iterations.
        few: Newton iterations that are few.
        inner_rtol: Of the solves before the target; 0 solves them to the tolerance of the target.
        max_inner: Newton iterations after which a step is halved, or with a loose ``inner_rtol`` accepted as it is.
        max_last: Newton iterations at the target after which the last step is halved.
        extrapolate: Whether the guess of a step is the secant through the last two points.
        min_step: Smallest step, as a share of the path.
        otherwise: How to walk when this has failed, from the start of the path again.
    """

    first_step: float
    growth: float = 1.5
    few: int = 4
    inner_rtol: float = 0.0
    max_inner: int = 12
    max_last: int = 12
    extrapolate: bool = True
    min_step: float = 1e-2
    otherwise: StepControl | None = None


class ContinuationSolver(Solver):
    """Walks ``problem.continuation`` from its start and zeros to its target; the values in the solution are dropped.

    The path, which may rise or fall, is scaled to [0, 1], in the logarithm of the parameter when it is logarithmic. A
    step that fails is halved.

    Raises:
        ValueError: If the problem has no continuation path or the step control is out of range.
    """

    def __init__(self, newton: NewtonSolver, control: StepControl) -> None:
        path = newton.problem.continuation
        if path is None:
            raise ValueError("continuation needs a problem with a continuation path, got one without")
        if control.first_step <= (1.0 if path.logarithmic else 0.0) or control.growth < 1.0:
            raise ValueError(f"the first step must move forward and growth be at least 1, got {control}")
        least = 0.0 if path.logarithmic else -math.inf
        if not all(least < value < math.inf for value in (path.start, path.target)):
            wanted = "positive numbers" if path.logarithmic else "numbers"
            raise ValueError(f"the path must have {wanted} at both ends, got {path.start} and {path.target}")
        self.newton = newton
        self.control = control
        self.path: Continuation = path

    def solve(self) -> SolveResult:
        """Walk the path; ``iterations`` counts all Newton iterations, failed steps included. Collective."""
        started = time.perf_counter()
        iterations = linear = 0
        control: StepControl | None = self.control
        while control is not None:
            result = self._walk(control)
            iterations += result.iterations
            linear += result.linear_iterations
            control = None if result.converged else control.otherwise
        self.path.set_value(self.path.target)
        seconds = {"solve": time.perf_counter() - started}
        return dataclasses.replace(result, iterations=iterations, linear_iterations=linear, seconds=seconds)

    def _walk(self, control: StepControl) -> SolveResult:
        solution = self.newton.problem.solution.x.array
        solution[:] = 0.0
        t, step = self._first(control)
        result = self._solve_at(t, control)
        iterations, linear, reached = result.iterations, result.linear_iterations, _accepted(result, control)
        previous, current = None, (t, solution.copy())
        while reached and t < 1.0 and step >= control.min_step:
            trial = t + step if t + 1.25 * step < 1.0 else 1.0
            solution[:] = _predicted(previous, current, trial) if control.extrapolate else current[1]
            result = self._solve_at(trial, control)
            iterations += result.iterations
            linear += result.linear_iterations
            if _accepted(result, control) and (trial < 1.0 or result.converged):
                t, previous, current = trial, current, (trial, solution.copy())
                step *= control.growth if result.iterations <= control.few else 1.0
            else:
                step /= 2.0
        result = dataclasses.replace(result, iterations=iterations, linear_iterations=linear)
        if not result.converged:
            text = f"walked to {t:.0%} of the path: allow smaller steps or more iterations (StepControl)"
            if not reached:
                text = f"no solution at the start of the path, {self.path.start:g}: begin it where Newton converges"
            return dataclasses.replace(result, advice=text)
        if t < 1.0:  # at the beginning of the path: the first step is below the smallest
            text = "the path is too long for the smallest step"
            return dataclasses.replace(result, converged=False, reason=text, advice="allow smaller steps, or longer")
        return result

    def destroy(self) -> None:
        self.newton.destroy()

    def _first(self, control: StepControl) -> tuple[float, float]:
        """Return the first point of the path and the first step, in the scaled parameter."""
        if self.path.start == self.path.target:
            return 1.0, 1.0
        if self.path.logarithmic:
            return 0.0, math.log(control.first_step) / abs(math.log(self.path.target / self.path.start))
        return 0.0, control.first_step

    def _value(self, t: float) -> float:
        if t == 1.0:
            return self.path.target
        if self.path.logarithmic:
            return self.path.start * (self.path.target / self.path.start) ** t
        return self.path.start + t * (self.path.target - self.path.start)

    def _solve_at(self, t: float, control: StepControl) -> SolveResult:
        self.path.set_value(self._value(t))
        if t == 1.0:
            return self.newton.solve_loosely(0.0, control.max_last)
        return self.newton.solve_loosely(control.inner_rtol, control.max_inner)


def _predicted(previous: Point | None, current: Point, t: float) -> npt.NDArray[np.float64]:
    """Extrapolate the solution to ``t`` by the secant, at most twice as far as the last step was long."""
    if previous is None:
        return current[1]
    ratio = min((t - current[0]) / (current[0] - previous[0]), 2.0)
    return current[1] + ratio * (current[1] - previous[1])


def _accepted(result: SolveResult, control: StepControl) -> bool:
    """Return whether a point will do: loose tolerances may be missed, the line search has lowered the residual."""
    return result.converged or (control.inner_rtol > 0.0 and result.reason == "DIVERGED_MAX_IT")
