"""Nested iteration: the solution of a coarser mesh as the start on a finer one (PETSc calls it grid sequencing)."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import final

import numpy as np
from mpi4py import MPI  # noqa: F401  (MPI is loaded before PETSc)

from lrsa_coupled.guess.fallback import solve_classically
from lrsa_coupled.coupling.residual import reference_norm, set_dirichlet
from lrsa_coupled.coupling.transfer import NodeSet
from lrsa_coupled.interfaces import Case, Problem, Solver, SolveResult

LOOSER = 1e3
"""Times the case's tolerance to which the coarser meshes are solved: 5 % quicker in all than its own on cavity and hyperelastic, 1e5 times fails."""


def coarser_problems(case: Case, problem: Problem, resolutions: Sequence[int]) -> list[Problem]:
    """Set up the same problem on coarser meshes. Collective."""
    return [
        case.problem(case.mesh(problem.mesh.comm, problem.parameters, resolution), problem.parameters)
        for resolution in resolutions
    ]


@final
class NestedSolver(Solver):
    """The case's first strategy on the coarsest mesh; from there, mesh by mesh, its plain solver from the interpolated solution.

    Every mesh but the last is solved to ``LOOSER`` times the case's tolerance. Where a solve fails, the first strategy takes over on the last.

    Args:
        case: A case with an ``interpolation``.
        coarser: The problem on coarser meshes, from the coarsest one.
        problem: Problem to solve.
        atol: Absolute tolerance of the residual norm.
        max_iterations: Newton iterations granted to each solve from an interpolated solution.

    Source: Trottenberg, Oosterlee & Schüller (2001), Multigrid, sec. 2.6 (full multigrid), with Newton for a cycle.
    """

    def __init__(
        self,
        case: Case,
        coarser: Sequence[Problem],
        problem: Problem,
        *,
        atol: float,
        max_iterations: int | None = None,
    ) -> None:
        if not coarser:
            raise ValueError("nested iteration needs the problem on at least one coarser mesh, got none")
        self.case, self.problems, self.atol, self.max_iterations = case, [*coarser, problem], atol, max_iterations

    def solve(self) -> SolveResult:
        """Solve on one mesh after the other; ``iterations`` are those of the last, ``transfer`` all that comes before it. Collective."""
        started = time.perf_counter()
        first, *others = self.problems
        tolerances = [*(LOOSER * self.case.rtol * reference_norm(problem) for problem in self.problems[:-1]), self.atol]
        solver = self.case.default_solver(first, tolerances[0])
        result = solver.solve()
        solver.destroy()
        source = first
        for problem, atol in zip(others, tolerances[1:], strict=True):
            if not result.converged:
                break
            interpolate(self.case, source, problem)
            reached = time.perf_counter() - started
            solver = self.case.solver(problem, atol, max_iterations=self.max_iterations)
            result = solver.solve()
            solver.destroy()
            source = problem
        if not result.converged:
            seconds = {"solve": time.perf_counter() - started}
            return solve_classically(
                self.case, self.problems[-1], self.atol, iterations=result.iterations, seconds=seconds
            )
        return dataclasses.replace(
            result, seconds={"transfer": reached, "inference": 0.0, "solve": time.perf_counter() - started - reached}
        )

    def destroy(self) -> None:
        """Nothing is kept."""


def interpolate(case: Case, source: Problem, target: Problem) -> None:
    """Put the solution on one mesh, and the Dirichlet values, into that on another mesh of the same domain. Collective."""
    nodes, wanted = NodeSet(source, case.fields), NodeSet(target, case.fields)
    if case.interpolation is None:
        raise ValueError(
            f"nested iteration needs an interpolation, the case '{case.name}' has none: leave bench.coarser at 0"
        )
    matrix = case.interpolation(source, target)
    given, found = matrix.createVecs()
    columns = []
    for values in nodes.gather(source.solution).T:
        given.array_w[:] = values
        matrix.mult(given, found)
        columns.append(found.array_r.copy())
    wanted.scatter(np.stack(columns, axis=1), target.solution)
    set_dirichlet(target)
    for item in (given, found, matrix):
        item.destroy()
