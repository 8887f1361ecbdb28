"""The solve of one sample after the other by a group of ranks, with what is reused from one to the next."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import final

from mpi4py import MPI

from lrsa_coupled.config import Config
from lrsa_coupled.coupling.contract import problem_of, solver_of
from lrsa_coupled.coupling.quantities import Quantities
from lrsa_coupled.coupling.residual import reference_norm
from lrsa_coupled.data.format import SampleArrays, SampleRecord
from lrsa_coupled.generation.failures import numerical_failures, parameters_text, same_on_all_ranks
from lrsa_coupled.generation.plan import sample_parameters
from lrsa_coupled.generation.sample_arrays import SampleGatherer
from lrsa_coupled.generation.targets import sequence_of
from lrsa_coupled.guess.guarded import GuardedSolver
from lrsa_coupled.guess.policy import Always
from lrsa_coupled.guess.previous import PreviousGuess, ZeroGuess
from lrsa_coupled.guess.target import CaseTarget, SolverTarget, solve_from_zero
from lrsa_coupled.interfaces import Case, InitialGuess, NumericalError, Problem, Solver, SolveResult
from lrsa_coupled.mpi import agree, allreduce, collective_errors

type SolveBy = Callable[[Problem, float, SampleGatherer], SolveResult]
"""Solves a problem to an absolute tolerance; the gatherer is that of its mesh. Collective."""


@final
class SampleSolver:
    """Meshes, solves and gathers the samples of chains; reuse and the previous solution as guess are looked after here.

    A case on one mesh has its mesh, spaces and forms made once, whatever the settings. The ranks of ``comm`` share a
    sample. Collective: all methods.

    Args:
        case: Case of the samples.
        config: Settings of ``generate``, the problems and guesses.
        comm: Ranks that share a sample.
        solve_by: What solves instead of a method of the case.
    """

    def __init__(self, case: Case, config: Config, comm: MPI.Comm, *, solve_by: SolveBy | None = None) -> None:
        self.case, self.settings, self.comm, self._solve_by = case, config.generate, comm, solve_by
        self.policy = Always(config.guess.max_iterations)
        self._method = self.settings.method or case.default_method
        self._seed, self._resolution = config.problem.training_seed, config.problem.resolution or case.resolution
        self._previous = PreviousGuess()
        self._problem: Problem | None = None
        self._gatherer: SampleGatherer | None = None
        self._sequence: GuardedSolver | None = None
        self._quantities: Quantities | None = None
        self._numbers = "{}"

    def begin(self) -> None:
        """Begin a chain: forget all samples before, so that what follows depends on the chain alone."""
        if self._sequence is not None:
            self._sequence.destroy()
        self._sequence = None
        self._previous.forget()

    def solve(self, index: int, guesses: Sequence[InitialGuess]) -> SampleRecord | None:
        """Sample, mesh and solve; a numerical failure becomes a record with its reason. Returns None above rank 0.

        ``guesses`` are those of a sample for which nothing is reused. Any other exception goes on, see ``failures.py``;
        ValueError, on all ranks, when they draw different samples.
        """
        started, what = time.perf_counter(), f"sample {index} of '{self.case.name}'"
        with collective_errors(self.comm):
            parameters = sample_parameters(self.case, self._seed, index)
            text = parameters_text(parameters)
            same_on_all_ranks(self.comm, text, what=what)
        result, arrays, ended = self._outcome(parameters, guesses, what)
        seconds, numbers = ended - started, self._numbers
        status = "ok" if result.converged else "failed"
        rest = result.iterations, result.residual, seconds, arrays, numbers if result.converged else "{}"
        record = SampleRecord(index, status, result.reason, text, *rest)
        return record if self.comm.rank == 0 else None

    def _outcome(
        self, parameters: object, guesses: Sequence[InitialGuess], what: str
    ) -> tuple[SolveResult, SampleArrays | None, float]:
        """Return the result of a sample, of a solved one the arrays on rank 0, and the time at which it was solved."""
        try:
            with numerical_failures(self.comm, what):
                problem = self._set_up(parameters)
                result = self._solve(problem, guesses)
                ended = time.perf_counter()
                solved = allreduce(self.comm, result.converged, min)  # as all ranks see it
                arrays = self._gatherer_of(problem)(problem) if solved else None
                if solved and self.settings.quantities:
                    self._numbers = self._quantities_of(problem).text()
                return dataclasses.replace(result, converged=solved), arrays, ended
        except NumericalError as error:
            return SolveResult(False, str(error), "", 0, float("nan")), None, time.perf_counter()

    def _quantities_of(self, problem: Problem) -> Quantities:
        """Return the quantities of a problem, compiled once where there is one mesh."""
        if self._quantities is None or self.case.fixed_mesh is None:
            self._quantities = Quantities(self.case.quantities, problem)
        return self._quantities

    def _set_up(self, parameters: object) -> Problem:
        fixed = self.case.fixed_mesh
        if fixed is not None and self._problem is not None:
            return fixed.update(self._problem, parameters)
        problem = problem_of(self.case, self.comm, parameters, self._resolution)
        self._problem = None if fixed is None else problem
        return problem

    def _solve(self, problem: Problem, guesses: Sequence[InitialGuess]) -> SolveResult:
        case, settings = self.case, self.settings
        agree(self.comm)
        atol = case.rtol * reference_norm(problem)
        if self._solve_by is not None:
            return self._solve_by(problem, atol, self._gatherer_of(problem))
        if case.fixed_mesh is not None and settings.reuse != "nothing":
            solver = self._next(problem, atol)
        elif settings.guess == "previous":
            solver = self._guarded(self._previous, solver_of(case, self._method, problem, atol), problem, atol)
        else:
            target = CaseTarget(case, problem, atol, method=None if guesses else self._method)
            solver = GuardedSolver(guesses, target, self.policy)
        result = solver.solve()
        if solver is not self._sequence:
            solver.destroy()
        elif result.used_fallback:
            self.begin()  # what failed is not built upon
        if settings.guess == "previous" and result.converged:
            self._previous.remember(problem)
        return result

    def _next(self, problem: Problem, atol: float) -> GuardedSolver:
        """Return the solver of the chain for its next problem."""
        if self._sequence is not None:
            self._sequence.update(problem, atol)
            return self._sequence
        solver = sequence_of(self.case, self.settings, problem, atol)
        guess = self._previous if self.settings.guess == "previous" else ZeroGuess()
        self._sequence = self._guarded(guess, solver, problem, atol)
        return self._sequence

    def _guarded(self, guess: InitialGuess, solver: Solver, problem: Problem, atol: float) -> GuardedSolver:
        """Return the solver of a chain: a given one, the default method of the case where it fails."""
        target = SolverTarget(solver, problem, atol, partial(solve_from_zero, self.case))
        return GuardedSolver([guess], target, self.policy)

    def _gatherer_of(self, problem: Problem) -> SampleGatherer:
        """Return what gathers the arrays of the problem; for a mesh that stays it is made once."""
        if self._gatherer is None or self._gatherer.nodes.space is not problem.node_space:
            self._gatherer = SampleGatherer(self.case, problem)
        return self._gatherer
