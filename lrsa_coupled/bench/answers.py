"""Answers of a surrogate and of its baseline to one sample, with their true errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from msgspec.structs import replace
from petsc4py import PETSc

from lrsa_coupled.bench.experiments.certificates import BASELINE, SURROGATE
from lrsa_coupled.bench.rows import Row, Seconds, Values
from lrsa_coupled.bench.samples import Samples, num_unknowns, solve, timed
from lrsa_coupled.certify.certify import Certified, certify
from lrsa_coupled.certify.surrogate import Surrogate
from lrsa_coupled.coupling.norms import jacobian, make_norm, set_solution, solution_vector
from lrsa_coupled.coupling.residual import reference_norm, residual_vector
from lrsa_coupled.guess.learned import LearnedGuess
from lrsa_coupled.interfaces import Case, Problem

TOLERANCES = tuple(10.0**-k for k in range(1, 11))
"""Residual tolerances tried by the baseline, relative to the residual of the zero guess."""


@dataclass(frozen=True)
class Answers:
    """The answers to one sample to several accuracies; none where the default solver fails."""

    samples: Samples
    guess: LearnedGuess
    index: int
    repeats: int
    targets: Sequence[float]

    def rows(self) -> list[Row]:
        """Answer and compare with the truth. Collective."""
        case, problem = self.samples.case, self.samples.problem(self.index)
        truth = true_solution(case, problem)
        if truth is None:
            return []
        norm, zero = make_norm(problem, case.schema.outputs), truth.duplicate()
        zero.set(0.0)
        scale = norm.of_solution(zero, 0.0)

        def error() -> float:
            difference = solution_vector(problem)
            difference.axpy(-1.0, truth)
            return norm.of(difference) / scale

        prediction = error() if self.guess.put(problem).accepted else None
        rows: list[Row] = []
        seen: Values = {"norm": norm.name, "prediction": prediction}
        for accept in self.targets:
            result, seconds = timed(problem, partial(self._answer, problem, accept), self.repeats)
            reached = error() if result.delivered else None
            values: Values = {"accept": accept, "error": reached, "estimate": result.error}
            values |= {"prediction_estimate": result.prediction, "linearisations": result.linearisations, **seen}
            row = self._row(SURROGATE, values, seconds, problem)
            own = {"solved": result.certified, "used_fallback": result.fallback is not None}
            rows.append(replace(row, iterations=result.iterations, **own))
        solves = list(self._baseline(problem, error))
        for accept in self.targets:
            enough = [pair for pair in solves if pair[0] <= accept]
            if enough:
                reached, seconds = min(enough, key=lambda pair: pair[1])
                rows.append(self._row(BASELINE, {"accept": accept, "error": reached}, seconds, problem))
        for item in (truth, zero, norm):
            item.destroy()
        return rows

    def _answer(self, problem: Problem, accept: float) -> Certified:
        return Surrogate(self.samples.case, self.guess, problem, accept=accept).solve()

    def _baseline(self, problem: Problem, error: Callable[[], float]) -> Iterator[tuple[float, float]]:
        """Yield true error and seconds of the baseline's solves, to ever smaller errors. Collective."""
        case = self.samples.case
        if problem.is_linear and problem.energy is not None:
            for accept in self.targets:
                certificate = partial(certify, case, problem, accept=accept, max_linearisations=1)
                _, seconds = timed(problem, certificate, self.repeats)
                yield error(), seconds
            return
        reference = reference_norm(problem)
        for tolerance in TOLERANCES:
            make = partial(case.default_solver, problem, tolerance * reference)
            result, seconds = timed(problem, partial(solve, make), self.repeats)
            if result.converged:
                reached = error()
                yield reached, seconds
                if reached <= self.targets[-1]:
                    return

    def _row(self, method: str, values: Values, seconds: float, problem: Problem) -> Row:
        times, unknowns = Seconds(total=seconds, solve=seconds), num_unknowns(problem)
        return Row(method=method, sample=self.index, seconds=times, solved=True, unknowns=unknowns, values=values)


def true_solution(case: Case, problem: Problem) -> PETSc.Vec | None:
    """Solve a problem to rounding, by the default solver and two Newton steps with MUMPS; None when the former fails.

    Collective; leaves the result in ``problem.solution``, too.
    """
    if not solve(partial(case.default_solver, problem, case.rtol * reference_norm(problem))).converged:
        return None
    for _ in range(2):
        matrix, residual, solution = jacobian(problem), residual_vector(problem), solution_vector(problem)
        pc = PETSc.PC().create(problem.mesh.comm)
        pc.setType("lu")
        pc.setFactorSolverType("mumps")
        pc.setOperators(matrix)
        correction = residual.duplicate()
        pc.apply(residual, correction)
        solution.axpy(-1.0, correction)
        set_solution(problem, solution)
        for item in (pc, matrix, residual, correction, solution):
            item.destroy()
    return solution_vector(problem)
