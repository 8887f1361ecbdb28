"""The solve of one sample after the other by a group of ranks, with what is kept from one to the next."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import final

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from lrsa_coupled.config import Config
from lrsa_coupled.guess.fallback import solve_classically
from lrsa_coupled.generation.plan import sample_parameters
from lrsa_coupled.coupling.residual import reference_norm, set_dirichlet
from lrsa_coupled.generation.sample_arrays import SampleGatherer
from lrsa_coupled.data.format import SampleRecord
from lrsa_coupled.interfaces import (
    Case,
    Problem,
    Reuse,
    SequenceSolver,
    Solver,
    SolverFactory,
    SolveResult,
)


@final
class SampleSolver:
    """Meshes, solves and gathers the samples of chains; ``reuse``, ``recycle`` and ``guess = "previous"`` of the settings act here.

    A case with a ``fixed_mesh`` has its mesh, spaces and forms made once, whatever the settings. Collective: all methods, over ``comm``.

    Args:
        case: The case.
        config: Says how, in ``config.generate``.
        comm: The ranks that share a sample.
    """

    def __init__(self, case: Case, config: Config, comm: MPI.Comm) -> None:
        self.case, self.settings, self.comm = case, config.generate, comm
        self._seed, self._resolution = config.problem.training_seed, config.problem.resolution or case.resolution
        self._rtol = config.problem.rtol or case.rtol
        self._problem: Problem | None = None
        self._gatherer: SampleGatherer | None = None
        self._solver: SequenceSolver | None = None
        self._previous: npt.NDArray[np.float64] | None = None

    def begin(self) -> None:
        """Begin a chain: forget what its samples could take over from those before, so that they depend on the chain alone."""
        if self._solver is not None:
            self._solver.destroy()
        self._solver, self._previous = None, None

    def solve(self, index: int, make_solver: SolverFactory) -> SampleRecord | None:
        """Sample, mesh and solve; a failure becomes a record with its reason.

        Args:
            index: The sample.
            make_solver: Makes the solver of a sample for which nothing is kept.

        Returns:
            The sample, None above rank 0.
        """
        started = time.perf_counter()
        parameters = sample_parameters(self.case, self._seed, index)
        text = json.dumps(asdict(parameters))
        try:
            problem = self._set_up(parameters)
            result = self._solve(problem, make_solver)
            seconds = time.perf_counter() - started
            arrays = self._gatherer_of(problem)(problem) if result.converged else None
        except (ImportError, OSError, TypeError, ValueError):
            raise
        except (
            Exception
        ) as error:  # gmsh raises nothing more specific; a sample that cannot be made is recorded, not dropped
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            record = SampleRecord(index, "failed", reason, text, 0, float("nan"), time.perf_counter() - started, None)
            return record if self.comm.rank == 0 else None
        status = "ok" if result.converged else "failed"
        record = SampleRecord(index, status, result.reason, text, result.iterations, result.residual, seconds, arrays)
        return record if self.comm.rank == 0 else None

    def _set_up(self, parameters: object) -> Problem:
        if self._problem is not None:
            return self.case.fixed_mesh.update(self._problem, parameters)
        problem = self.case.problem(self.case.mesh(self.comm, parameters, self._resolution), parameters)
        self._problem = None if self.case.fixed_mesh is None else problem
        return problem

    def _solve(self, problem: Problem, make_solver: SolverFactory) -> SolveResult:
        atol = self._rtol * reference_norm(problem)
        if self._previous is not None:
            problem.solution.x.array[:] = self._previous
            set_dirichlet(problem)
        solver = self._make(problem, atol, make_solver)
        result = solver.solve()
        if solver is not self._solver:
            solver.destroy()
        elif not result.converged:
            self.begin()  # what failed is not built upon
            result = solve_classically(self.case, problem, atol, iterations=result.iterations, seconds=result.seconds)
        if self.settings.guess == "previous" and result.converged:
            self._previous = problem.solution.x.array.copy()
        return result

    def _make(self, problem: Problem, atol: float, make_solver: Callable[[Problem, float], Solver]) -> Solver:
        if self.settings.reuse == "nothing" or self.case.fixed_mesh is None:
            return make_solver(problem, atol)
        if self._solver is None:
            reuse = Reuse(self.settings.reuse == "preconditioner", self.settings.recycle or 0)
            method = self.settings.method or self.case.default_method
            self._solver = self.case.fixed_mesh.sequence(problem, atol, method=method, reuse=reuse)
        else:
            self._solver.update(problem, atol)
        return self._solver

    def _gatherer_of(self, problem: Problem) -> SampleGatherer:
        """Return what gathers the arrays of the problem; for a kept mesh it is made once."""
        if self._gatherer is None or self._gatherer.nodes.space is not problem.node_space:
            self._gatherer = SampleGatherer(self.case, problem)
        return self._gatherer
