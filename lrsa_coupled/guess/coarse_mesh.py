"""Nested iteration: the solution of a coarser mesh as initial guess (PETSc calls it grid sequencing)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import numpy as np
from mpi4py import MPI

from lrsa_coupled.coupling.residual import reference_norm, set_dirichlet
from lrsa_coupled.coupling.transfer import NodeSet
from lrsa_coupled.interfaces import Case, Guess, InitialGuess, Problem

LOOSER = 1e3
"""Tolerance of coarser meshes over the case's: cavity and hyperelastic are 5 % faster than with 1, fail with 1e5."""


@final
class CoarseMeshGuess(InitialGuess):
    """The default method on the coarsest mesh; from there, mesh by mesh, a solve from the interpolated solution.

    Args:
        case: A case with an ``interpolation``.
        resolutions: Those of the coarser meshes, from the coarsest one.
        max_iterations: Newton iterations allowed on each mesh after the coarsest, None for the solver's own limit.

    Raises:
        ValueError: If there is no coarser mesh, or the case has no interpolation.

    Source: Trottenberg, Oosterlee & Schüller (2001), Multigrid, sec. 2.6 (full multigrid), with Newton for a cycle.
    """

    def __init__(self, case: Case, resolutions: Sequence[int], *, max_iterations: int | None = None) -> None:
        if not resolutions:
            raise ValueError("nested iteration needs at least one coarser mesh, got none")
        if case.interpolation is None:
            text = f"nested iteration needs an interpolation, the case '{case.name}' has none"
            raise ValueError(f"{text}: leave bench.coarse_meshes unset")
        self.name = f"nested, {len(resolutions)} coarser mesh{'es' * (len(resolutions) > 1)}"
        self.case, self.resolutions, self.max_iterations = case, resolutions, max_iterations
        self._problem: Problem | None = None
        self._coarser: list[Problem] = []

    def prepare(self, problem: Problem) -> None:
        if self._problem is not problem:
            meshes = (self.case.mesh(problem.mesh.comm, problem.parameters, n) for n in self.resolutions)
            self._problem, self._coarser = problem, [self.case.problem(mesh, problem.parameters) for mesh in meshes]

    def put(self, problem: Problem) -> Guess:
        source = None
        self.prepare(problem)
        for coarse in self._coarser:
            atol = LOOSER * self.case.rtol * reference_norm(coarse)
            if source is None:
                solver = self.case.default_solver(coarse, atol)
            else:
                interpolate(self.case, source, coarse)
                solver = self.case.solver(coarse, atol, max_iterations=self.max_iterations)
            result = solver.solve_once()
            if not result.converged:
                return Guess(False, f"a coarser mesh is not solved: {result.reason}", iterations=result.iterations)
            source = coarse
        interpolate(self.case, self._coarser[-1], problem)
        return Guess()


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
