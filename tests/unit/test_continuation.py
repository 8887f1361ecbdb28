"""Continuation: what counts as an answer is a solution at the end of the path."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mpi4py.MPI", reason="needs MPI")
pytest.importorskip("dolfinx", reason="needs DOLFINx")

from lrsa_coupled.interfaces import Continuation, SolveResult
from lrsa_coupled.solvers.continuation import ContinuationSolver, StepControl

LOOSE = StepControl(first_step=1.35, growth=1.0, inner_rtol=0.5, max_inner=3, extrapolate=False)


def solver(start: float, target: float, *, logarithmic: bool = True) -> tuple[ContinuationSolver, list[float]]:
    """A solver whose Newton iterations converge at once, and the values of the path at which they did."""
    visited: list[float] = []
    path = Continuation(visited.append, start, target, logarithmic)
    newton: Any = SimpleNamespace(
        problem=SimpleNamespace(continuation=path, solution=SimpleNamespace(x=SimpleNamespace(array=np.zeros(3)))),
        solve_loosely=lambda rtol, limit: SolveResult(True, "CONVERGED_FNORM_ABS", "", 2, 1e-9),
    )
    return ContinuationSolver(newton, LOOSE), visited


def test_a_path_is_walked_to_its_end() -> None:
    made, visited = solver(200.0, 1000.0)
    result = made.solve()
    assert result.converged and visited[-1] == 1000.0 and visited[0] == 200.0 and len(visited) == 8


@pytest.mark.parametrize("logarithmic", [True, False])
def test_a_path_may_fall(logarithmic: bool) -> None:
    made, visited = solver(2.0, 1.25, logarithmic=logarithmic)
    assert made.solve().converged
    assert visited[0] == 2.0 and visited[-1] == 1.25 and len(visited) >= 3
    assert all(next_ < before for before, next_ in itertools.pairwise(visited[:-1]))


def test_a_failure_at_the_start_is_not_one_on_the_way() -> None:
    made, _ = solver(2.0, 1.25)
    failed = SolveResult(False, "DIVERGED_LINE_SEARCH", "", 2, 1.0)
    made.newton = SimpleNamespace(problem=made.newton.problem, solve_loosely=lambda rtol, limit: failed)
    assert "no solution at the start of the path, 2" in made.solve().advice
    ended = iter([True])
    found = SolveResult(True, "CONVERGED_FNORM_ABS", "", 2, 1e-9)
    made.newton.solve_loosely = lambda rtol, limit: found if next(ended, False) else failed
    assert "walked to 0% of the path" in made.solve().advice


def test_a_loose_first_point_is_no_answer() -> None:
    """As it was on a path so long that the first step is below the smallest."""
    made, visited = solver(200.0, 1e300)
    result = made.solve()
    assert not result.converged and result.reason == "the path is too long for the smallest step" and result.advice
    assert visited[:1] == [200.0]


@pytest.mark.parametrize(("start", "target"), [(200.0, -5.0), (0.0, 1.0), (200.0, np.inf), (200.0, np.nan)])
def test_a_logarithmic_path_has_positive_ends(start: float, target: float) -> None:
    with pytest.raises(ValueError, match="positive numbers at both ends, got"):
        solver(start, target)


def test_a_linear_path_has_finite_ends() -> None:
    with pytest.raises(ValueError, match="numbers at both ends, got 0.0 and inf"):
        solver(0.0, np.inf, logarithmic=False)
