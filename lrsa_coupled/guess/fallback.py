"""The classical strategy after a start that did not lead to the solution."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping

from lrsa_coupled.interfaces import Case, Problem, SolveResult


def solve_classically(
    case: Case, problem: Problem, atol: float, *, iterations: int, seconds: Mapping[str, float]
) -> SolveResult:
    """Solve by the case's first classical strategy, from zero. Collective.

    Args:
        case: The case.
        problem: Problem to solve.
        atol: Absolute tolerance of the residual norm.
        iterations: Iterations spent in vain before; counted.
        seconds: Time spent before, by stage [s]; counted.
    """
    started = time.perf_counter()
    problem.solution.x.array[:] = 0.0
    solver = case.default_solver(problem, atol)
    result = solver.solve()
    solver.destroy()
    solve = seconds.get("solve", 0.0) + time.perf_counter() - started
    return dataclasses.replace(
        result, iterations=iterations + result.iterations, seconds={**seconds, "solve": solve}, used_fallback=True
    )
