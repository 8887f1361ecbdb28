"""Is a start worth solving from? Judged from a few assemblies, before the solve."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from mpi4py import MPI  # noqa: F401  (MPI is loaded before PETSc)
from dolfinx.fem import assemble_scalar

from lrsa_coupled.coupling.norms import set_solution, solution_vector
from lrsa_coupled.coupling.residual import residual_norm, residual_vector, set_dirichlet
from lrsa_coupled.interfaces import Problem

SHORTER = (0.5, 0.25)
"""Shares of the way from the cold start to which a start that does not lower the energy is drawn back."""

PROBE = 1e-6
"""Length of the difference that probes the curvature, relative to the start."""


@dataclass(frozen=True)
class Verdict:
    """Whether a start may be used, and why.

    Args:
        accepted: Whether it may.
        reason: What was found, for people.
    """

    accepted: bool
    reason: str


def judge(problem: Problem, max_residual: float) -> Verdict:
    """Compare the start in ``problem.solution`` with the cold one: zeros but for the exact Dirichlet values.

    A minimisation problem is judged by its energy, which must be finite and below that of the cold start; a start that is not is drawn back
    to the shares ``SHORTER`` of itself, and accepted where that helps. The energy must then curve upwards along its gradient: where it does
    not, a Newton step need not lead down. A problem with a relaxation is judged at its start. Any other problem is judged by the residual norm, Dirichlet
    rows left out.

    Collective. Costs two assemblies of the residual, or up to four of the energy and two of the residual. The start is left as it was, but for
    drawing back; a rejected one leaves zeros.

    Args:
        problem: Problem whose solution holds the start, Dirichlet values exact.
        max_residual: Largest ratio of the residual norms that is accepted.
    """
    start = problem.solution.x.array.copy()
    if problem.energy is None:
        verdict = _by_residual(problem, start, max_residual)
    elif problem.relaxation is None:
        verdict = _by_energy(problem, start)
    else:
        problem.relaxation.set_value(problem.relaxation.start)
        verdict = _by_energy(problem, start)
        problem.relaxation.set_value(problem.relaxation.target)
    if not verdict.accepted:
        problem.solution.x.array[:] = 0.0
    return verdict


def compare_norms(own: float, cold: float, max_residual: float) -> Verdict:
    """Judge a start by its residual norm and that of the cold start."""
    ratio = own / cold if cold > 0.0 else math.inf if own > 0.0 else 0.0
    accepted = ratio <= max_residual  # also False when the ratio is not a number
    return Verdict(
        accepted,
        f"residual norm {ratio:.2g} times that of the cold start" + ("" if accepted else f", {max_residual:g} allowed"),
    )


def energy(problem: Problem) -> float:
    """Return the energy at the solution, infinite where it is not defined. Collective."""
    with np.errstate(all="ignore"):
        value = problem.mesh.comm.allreduce(assemble_scalar(problem.energy))
    return value if math.isfinite(value) else math.inf


def _by_residual(problem: Problem, start: npt.NDArray[np.float64], max_residual: float) -> Verdict:
    own = residual_norm(problem)
    _put_cold(problem)
    cold = residual_norm(problem)
    problem.solution.x.array[:] = start
    return compare_norms(own, cold, max_residual)


def _by_energy(problem: Problem, start: npt.NDArray[np.float64]) -> Verdict:
    own = energy(problem)
    _put_cold(problem)
    cold_start = problem.solution.x.array.copy()
    cold, share = energy(problem), 1.0
    problem.solution.x.array[:] = start
    for shorter in SHORTER:
        if own < cold:
            break
        share = shorter
        problem.solution.x.array[:] = cold_start + share * (start - cold_start)
        own = energy(problem)
    if not own < cold:
        what = "not defined" if own == math.inf else f"{own:.4g}"
        return Verdict(
            False, f"the energy is {what}, that of the cold start {cold:.4g}, at {SHORTER[-1]:g} of the way too"
        )
    drawn = "" if share == 1.0 else f", drawn back to {share:g} of itself"
    curvature = math.inf if problem.is_linear else _curvature(problem)
    if not curvature > 0.0:
        return Verdict(False, f"the energy curves downwards along its gradient ({curvature:.2g}){drawn}")
    return Verdict(True, f"energy {own:.4g}, that of the cold start {cold:.4g}{drawn}")


def _curvature(problem: Problem) -> float:
    """Return the second derivative of the energy along its normalised gradient, by a difference of two gradients."""
    start, gradient = solution_vector(problem), residual_vector(problem)
    length, curvature = gradient.norm(), math.inf
    if length > 0.0:
        step = PROBE * max(start.norm(), 1e-12) / length
        here = problem.solution.x.array.copy()
        set_solution(problem, start + step * gradient)
        change = residual_vector(problem)
        change.axpy(-1.0, gradient)
        curvature = change.dot(gradient) / (step * length**2)
        change.destroy()
        problem.solution.x.array[:] = here
    start.destroy()
    gradient.destroy()
    return curvature


def _put_cold(problem: Problem) -> None:
    problem.solution.x.array[:] = 0.0
    set_dirichlet(problem)
