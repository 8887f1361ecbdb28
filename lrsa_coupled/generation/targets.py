"""The problems of a case one after the other as targets of guarded solves, with what is reused from one to the next."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

from lrsa_coupled.config import GenerateConfig
from lrsa_coupled.guess.target import CaseTarget, SolverTarget, Target, solve_from_zero
from lrsa_coupled.interfaces import Case, Problem, Reuse, SequenceSolver, SolveResult


@final
class Targets:
    """Makes the target of each problem; on one mesh the solver stays, with what ``generate.reuse`` says.

    Collective: all methods.
    """

    def __init__(self, case: Case, settings: GenerateConfig) -> None:
        self.case, self.settings = case, settings
        self._kept: SolverTarget | None = None

    @contextmanager
    def target(self, problem: Problem, atol: float) -> Iterator[Target]:
        """Have the target of a problem for one solve. A solver that has failed is not built upon."""
        if self.case.fixed_mesh is None or self.settings.reuse == "nothing":
            yield CaseTarget(self.case, problem, atol, method=self.settings.method)
            return
        try:
            yield self._next(problem, atol)
        except BaseException:
            self._kept = None  # its PETSc objects are left to the error on whichever ranks
            raise

    def destroy(self) -> None:
        """Free the solver that stays."""
        if self._kept is not None:
            self._kept.destroy()
        self._kept = None

    def _next(self, problem: Problem, atol: float) -> SolverTarget:
        if self._kept is None:
            solver = sequence_of(self.case, self.settings, problem, atol)
            self._kept = SolverTarget(solver, problem, atol, self._from_zero)
        else:
            self._kept.update(problem, atol)
        return self._kept

    def _from_zero(self, problem: Problem, atol: float) -> SolveResult:
        """Solve by the solver that stays, by the default method of the case where that does not converge."""
        assert self._kept is not None
        problem.solution.x.array[:] = 0.0
        result = self._kept.from_guess(None, None)
        if result.converged:
            return result
        self.destroy()
        return solve_from_zero(self.case, problem, atol)


def sequence_of(case: Case, settings: GenerateConfig, problem: Problem, atol: float) -> SequenceSolver:
    """Return the solver of a sequence of problems on one mesh that begins with ``problem``. Collective."""
    assert case.fixed_mesh is not None
    reuse = Reuse(settings.reuse == "preconditioner", settings.recycle)
    return case.fixed_mesh.sequence(problem, atol, method=settings.method or case.default_method, reuse=reuse)
