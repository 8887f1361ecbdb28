"""What a guarded solver solves. The targets of a user's SNES or KSP are in ``petsc_targets.py``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import final

from lrsa_coupled.coupling.contract import expect, solved, solver_of
from lrsa_coupled.coupling.residual import reference_norm
from lrsa_coupled.guess.acceptance import Acceptance, accept
from lrsa_coupled.interfaces import Case, Problem, SequenceSolver, Solver, SolveResult, Unknown

Check = Callable[[int, float], bool]
"""Called with iterations and residual norm after each iteration; True ends the solve, unconverged."""


class Target(ABC):
    """A problem, and how to solve it from a guess and by default.

    Attributes:
        problem: Its solution holds the guess, and in the end the answer.
        in_script: Whether it stands in a user's program, which nothing that goes wrong in an attempt may reach.
    """

    problem: Unknown
    in_script: bool = False

    @abstractmethod
    def from_guess(self, check: Check | None, max_iterations: int | None) -> SolveResult:
        """Solve from what is in the solution; ``used_fallback`` when the solver has dropped it unused. Collective."""

    def deliver(self, result: SolveResult) -> SolveResult:
        """Hand over what a solve from a guess has found; the result, not converged where that fails. Collective."""
        return result

    @abstractmethod
    def by_default(self) -> SolveResult:
        """Solve as without a guess, whatever is in the solution. Collective."""

    @abstractmethod
    def accept(self) -> Acceptance:
        """Return whether the guess in the solution is worth solving from. Collective."""

    @abstractmethod
    def norms(self) -> tuple[float, float] | None:
        """Return the residual norms of the default guess and of the end of a solve; None if it calls no ``check``.

        The solution is left as it is. Collective.
        """

    def update(self, problem: Problem, atol: float) -> None:
        """Take over the next problem of a sequence. Collective."""
        raise ValueError(f"{type(self).__name__} is made for one solve and takes over no further problem")

    def monitor(self, check: Check) -> None:
        """Call ``check`` after each iteration of every solve, as far as the solver can. Collective: no."""

    def destroy(self) -> None:
        """Free the PETSc objects of the target. Collective."""


class _CaseTarget(Target):
    """A problem of a case."""

    def __init__(self, problem: Problem, atol: float) -> None:
        self.problem: Problem = problem
        self.atol = atol

    def accept(self) -> Acceptance:
        return accept(self.problem)

    def norms(self) -> tuple[float, float] | None:
        if self.problem.is_linear:
            return None
        guess = self.problem.solution.x.array.copy()
        norm = reference_norm(self.problem)
        self.problem.solution.x.array[:] = guess
        return norm, self.atol


@final
class CaseTarget(_CaseTarget):
    """A problem solved from a guess by ``Case.solver``, by default by a method of the case, None for its default."""

    def __init__(self, case: Case, problem: Problem, atol: float, *, method: str | None = None) -> None:
        super().__init__(problem, atol)
        self.case, self.method = case, method

    def from_guess(self, check: Check | None, max_iterations: int | None) -> SolveResult:
        made = self.case.solver(self.problem, self.atol, max_iterations=max_iterations)
        solver = expect(made, Solver, f"solver() of '{self.case.name}'")
        if check is not None:
            solver.monitor(check)
        return solved(solver)

    def by_default(self) -> SolveResult:
        return solve_from_zero(self.case, self.problem, self.atol, method=self.method)


@final
class SolverTarget(_CaseTarget):
    """A problem, often one of a sequence, and a solver that exists already, which is freed with the target.

    ``default`` solves the problem to an absolute tolerance without a guess.
    """

    def __init__(
        self, solver: Solver, problem: Problem, atol: float, default: Callable[[Problem, float], SolveResult]
    ) -> None:
        super().__init__(problem, atol)
        self.solver, self._default = solver, default
        self._check: Check | None = None
        self._limit: int | None = None
        solver.monitor(self._ends)

    def update(self, problem: Problem, atol: float) -> None:
        if not isinstance(self.solver, SequenceSolver):
            raise ValueError(f"{type(self.solver).__name__} solves one problem, not a sequence")
        self.problem, self.atol = problem, atol
        self.solver.update(problem, atol)

    def monitor(self, check: Check) -> None:
        self.solver.monitor(check)

    def from_guess(self, check: Check | None, max_iterations: int | None) -> SolveResult:
        self._check, self._limit = check, max_iterations
        result = self.solver.solve()
        self._check = self._limit = None
        return result

    def by_default(self) -> SolveResult:
        return self._default(self.problem, self.atol)

    def destroy(self) -> None:
        self.solver.destroy()

    def _ends(self, iteration: int, norm: float) -> bool:
        ended = self._check is not None and self._check(iteration, norm)
        return ended or (self._limit is not None and iteration >= self._limit and norm > self.atol)


def solve_from_zero(case: Case, problem: Problem, atol: float, *, method: str | None = None) -> SolveResult:
    """Solve by a method of the case, None for its default. Collective."""
    problem.solution.x.array[:] = 0.0
    return solved(solver_of(case, method or case.default_method, problem, atol))
