"""The certificate of a surrogate against the truth, and the time to an accuracy against the classical solver.

The ledger is a dictionary for JSON: what was measured as in ``bench/ledger.py``, and a list ``samples`` of those that the case's first strategy solves:

    index, unknowns, norm
    prediction     true error of the bare prediction; null when it was rejected
    surrogate      list over ``TARGETS`` of {"accept", "certified", "fallback", "error", "estimate", "prediction_estimate", "linearisations",
                   "iterations", "seconds"}
    classical      list over ``TARGETS`` of {"error", "seconds"}; null where no classical solve has such an error

Errors are relative, in the norm of the certificate at the true solution: the case's first strategy to its tolerance, then two Newton steps with MUMPS.
Estimates are null without a certificate, an error is null where nothing was delivered. Seconds are of the slowest rank, median of the repeats,
from the bare problem to the field; mesh and forms, the same for both, are not in them.

**Rival.** Of a linear problem with an energy the same conjugate gradients from zero, stopped by the same estimate. Of any other the case's first
strategy with the residual tolerance 1e-1, 1e-2, ... that serves best: the quickest of those whose true error is within the target. No user
could know that tolerance.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mpi4py import MPI
from petsc4py import PETSc

from lrsa_coupled.bench.effectivity import TARGETS
from lrsa_coupled.bench.ledger import measured_on
from lrsa_coupled.bench.strategies import load_guess
from lrsa_coupled.certify.certify import Certified, certify
from lrsa_coupled.certify.surrogate import Surrogate
from lrsa_coupled.config import Config
from lrsa_coupled.coupling.norms import jacobian, make_norm, set_solution, solution_vector
from lrsa_coupled.coupling.residual import reference_norm, residual_vector
from lrsa_coupled.generation.plan import sample_parameters
from lrsa_coupled.guess.learned import LearnedGuess
from lrsa_coupled.interfaces import Case, Problem
from lrsa_coupled.logs import progress
from lrsa_coupled.mpi import collective_errors

TOLERANCES = tuple(10.0**-k for k in range(1, 11))
"""Residual tolerances tried by the rival, relative to the residual of the zero start."""


def bench_surrogate(case: Case, config: Config, comm: MPI.Comm, *, model: Path) -> dict[str, Any]:
    """Measure the certificate on ``config.bench.samples`` samples never trained on. Collective.

    Returns:
        A ledger as described above.

    Raises:
        ValueError: If the seed is one that was trained on, or the model belongs to another case; on all ranks.
    """
    settings = config.bench
    with collective_errors(comm):
        guess = load_guess(case, config, model)
    resolution = config.problem.resolution or case.resolution

    def measure(index: int, repeats: int, targets: Sequence[float] = TARGETS) -> dict[str, Any] | None:
        gc.collect()  # meshes of earlier samples, whose communicators MPI counts
        parameters = sample_parameters(case, config.problem.test_seed, index)
        problem = case.problem(case.mesh(comm, parameters, resolution), parameters)
        sample = _measure(case, guess, problem, repeats=repeats, targets=targets)
        return None if sample is None else {"index": index, **sample}

    measure(settings.samples, 1, TARGETS[:1])  # not counted: compiles the forms, wakes torch
    found = [
        measure(index, settings.repeats)
        for index in progress(range(settings.samples), description=f"surrogate of {case.name}")
    ]
    return measured_on(case, config, comm) | {"samples": [sample for sample in found if sample is not None]}


def _measure(
    case: Case, guess: LearnedGuess, problem: Problem, *, repeats: int, targets: Sequence[float]
) -> dict[str, Any] | None:
    truth = true_solution(case, problem)
    if truth is None:
        return None
    norm, zero = make_norm(problem, case.schema.outputs), truth.duplicate()
    zero.set(0.0)
    scale = norm.of_solution(zero, 0.0)

    def error() -> float:
        difference = solution_vector(problem)
        difference.axpy(-1.0, truth)
        return norm.of(difference) / scale

    accepted = guess.put(problem).accepted
    record: dict[str, Any] = {
        "unknowns": truth.getSize(),
        "norm": norm.name,
        "prediction": error() if accepted else None,
    }
    record["surrogate"] = []
    for accept in targets:
        result, seconds = _timed(problem, lambda: Surrogate(case, guess, problem, accept=accept).solve(), repeats)
        record["surrogate"].append(
            _entry(result) | {"error": error() if result.delivered else None, "seconds": seconds}
        )
    solves = list(_classical(case, problem, error, repeats=repeats, targets=targets))
    record["classical"] = [_quickest([solve for solve in solves if solve["error"] <= accept]) for accept in targets]
    for item in (truth, zero, norm):
        item.destroy()
    return record


def true_solution(case: Case, problem: Problem) -> PETSc.Vec | None:
    """Solve a problem to rounding, by the first strategy and two Newton steps with MUMPS; None when the strategy fails.

    Collective; leaves the result in ``problem.solution``, too.
    """
    solver = case.default_solver(problem, case.rtol * reference_norm(problem))
    result = solver.solve()
    solver.destroy()
    if not result.converged:
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


def _entry(result: Certified) -> dict[str, Any]:
    return {
        "accept": result.accept,
        "certified": result.certified,
        "fallback": result.fallback is not None,
        "estimate": result.error,
        "prediction_estimate": result.prediction,
        "linearisations": result.linearisations,
        "iterations": result.iterations,
    }


def _classical(
    case: Case, problem: Problem, error: Callable[[], float], *, repeats: int, targets: Sequence[float]
) -> Iterator[dict[str, Any]]:
    """Yield error and seconds of the rival's solves, to ever smaller errors. Collective."""
    if _by_estimate(problem):
        for accept in targets:
            _, seconds = _timed(problem, lambda: certify(case, problem, accept=accept, max_linearisations=1), repeats)
            yield {"error": error(), "seconds": seconds}
        return
    make, reference = case.default_solver, reference_norm(problem)

    def solve(tolerance: float) -> bool:
        solver = make(problem, tolerance * reference)
        result = solver.solve()
        solver.destroy()
        return result.converged

    for tolerance in TOLERANCES:
        converged, seconds = _timed(problem, lambda: solve(tolerance), repeats)
        if converged:
            yield {"error": (reached := error()), "seconds": seconds}
            if reached <= targets[-1]:
                return


def _by_estimate(problem: Problem) -> bool:
    return problem.is_linear and problem.energy is not None


def _quickest(solves: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    return min(solves, key=lambda solve: solve["seconds"], default=None)


def _timed[T](problem: Problem, work: Callable[[], T], repeats: int) -> tuple[T, float]:
    """Do the work from a zero solution; its last value and the median time of the slowest rank [s]. Collective."""
    times = []
    for _ in range(repeats):
        problem.solution.x.array[:] = 0.0
        problem.mesh.comm.Barrier()
        started = time.perf_counter()
        value = work()
        times.append(problem.mesh.comm.allreduce(time.perf_counter() - started, op=MPI.MAX))
    return value, float(np.median(times))
