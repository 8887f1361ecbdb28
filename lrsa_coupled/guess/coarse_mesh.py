"""Nested iteration: the solution of a coarser mesh as initial guess (PETSc calls it grid sequencing)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import numpy as np
from mpi4py import MPI

from lrsa_coupled.coupling.residual import reference_norm, set_dirichlet
from lrsa_coupled.coupling.transfer import NodeSet
from lrsa_coupled.guess.target import solve_from_zero
from lrsa_coupled.interfaces import Case, Guess, InitialGuess, Problem, SolveResult

LOOSER = 1e3
"""Tolerance of coarser meshes over the case's: cavity and hyperelastic are 5 % faster than with 1, fail with 1e5."""


@final
class CoarseMeshGuess(InitialGuess):
    """The default method on the coarsest mesh; from there, mesh by mesh, a solve from the interpolated solution.

    Where that fails, the default method solves on the same mesh; a mesh on which it fails, too, is left out.

    Args:
        case: A case with an ``interpolation``.
        resolutions: Those of the coarser meshes, from the coarsest one.
        max_iterations: Newton iterations allowed on each mesh after the coarsest, None for the solver's own limit.
        finer: The guess over all of these meshes but the coarsest, to set up what both need only once.

    Raises:
        ValueError: If there is no coarser mesh, or the case has no interpolation.

    Source: Trottenberg, Oosterlee & Schüller (2001), Multigrid, sec. 2.6 (full multigrid), with Newton for a cycle.
    """

    def __init__(self, case: Case, resolutions: Sequence[int], *, max_iterations: int | None = None,
                 finer: CoarseMeshGuess | None = None) -> None:  # fmt: skip
        if not resolutions:
            raise ValueError("nested iteration needs at least one coarser mesh, got none")
        if case.interpolation is None:
            text = f"nested iteration needs an interpolation, the case '{case.name}' has none"
            raise ValueError(f"{text}: leave bench.coarse_meshes unset")
        self.name = f"nested, {len(resolutions)} coarser mesh{'es' * (len(resolutions) > 1)}"
        self.case, self.resolutions, self.max_iterations, self.finer = case, resolutions, max_iterations, finer
        self._problem: Problem | None = None
        self._coarser: list[Problem] = []

    def prepare(self, problem: Problem) -> None:
        self.coarser(problem)

    def coarser(self, problem: Problem) -> list[Problem]:
        """Return the problem on the coarser meshes, set up once. Collective."""
        if self._problem is not problem:
            shared = [] if self.finer is None else self.finer.coarser(problem)
            own = self.resolutions[: len(self.resolutions) - len(shared)]
            meshes = (self.case.mesh(problem.mesh.comm, problem.parameters, n) for n in own)
            self._coarser = [*(self.case.problem(mesh, problem.parameters) for mesh in meshes), *shared]
            self._problem = problem
        return self._coarser

    def put(self, problem: Problem) -> Guess:
        source, reason, iterations = None, "", 0
        for coarse in self.coarser(problem):
            results = self._solved(coarse, source)
            iterations += sum(result.iterations for result in results)
            source, reason = (coarse, "") if results[-1].converged else (None, results[-1].reason)
        if source is None:
            return Guess(False, f"a coarser mesh is not solved: {reason}", iterations=iterations)
        interpolate(self.case, source, problem)
        return Guess()

    def _solved(self, coarse: Problem, source: Problem | None) -> list[SolveResult]:
        """Solve on a mesh from the solution on the one before; by the default method without one, or where it fails."""
        atol, found = LOOSER * self.case.rtol * reference_norm(coarse), []
        if source is not None:
            interpolate(self.case, source, coarse)
            found.append(self.case.solver(coarse, atol, max_iterations=self.max_iterations).solve_once())
        if not found or not found[0].converged:
            found.append(solve_from_zero(self.case, coarse, atol))
        return found


def interpolate(case: Case, source: Problem, target: Problem) -> None:
    """Put the solution on one mesh, and the Dirichlet values, into that on another of the same domain. Collective."""
    assert case.interpolation is not None
    nodes, wanted = NodeSet(source, case.fields), NodeSet(target, case.fields)
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
