"""The acceptance test: is a guess worth solving from? Decided from a few assemblies, before the solve."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from lrsa_coupled.coupling.norms import set_solution, solution_vector
from lrsa_coupled.coupling.residual import energy, residual_norm, residual_vector, set_dirichlet
from lrsa_coupled.interfaces import Problem


@dataclass(frozen=True)
class Acceptance:
    """Whether a guess may be used, and what was found, for people."""

    accepted: bool
    reason: str


def accept(problem: Problem) -> Acceptance:
    """Compare the guess in ``problem.solution`` with the zero guess: zeros but for the exact Dirichlet values.

    Of a minimisation problem the energy must be finite and below that of the zero guess. Where it is not, the guess is
    drawn back to a half and a quarter of the way from the zero guess, and accepted if that helps. The energy must then
    curve upwards along its gradient: where it does not, a Newton step need not lead down. A problem with a relaxation
    is taken at the start of its path. The residual norm of a linear problem without energy, Dirichlet rows left out,
    must not be above that of the zero guess. The guess of any other problem must be finite and no more: its residual
    says little, as the first Newton step removes what is rough, so that the monitor decides after it.

    Collective. Costs up to two assemblies of the residual and four of the energy. The guess is left as it was, but for
    drawing back; a rejected one leaves zeros. Its Dirichlet values must be exact.
    """
    guess = problem.solution.x.array.copy()
    if problem.energy is None:
        found = _by_residual(problem, guess) if problem.is_linear else _finite(problem, guess)
    elif problem.relaxation is None:
        found = _by_energy(problem, guess)
    else:
        problem.relaxation.set_value(problem.relaxation.start)
        found = _by_energy(problem, guess)
        problem.relaxation.set_value(problem.relaxation.target)
    if not found.accepted:
        problem.solution.x.array[:] = 0.0
    return found


def compare_norms(own: float, default: float, factor: float = 1.0) -> Acceptance:
    """Compare the residual norm of a guess with that of the default guess; not a number is rejected."""
    accepted = own <= factor * default
    text = f"residual norm {own:.3g}, that of the default guess {default:.3g}"
    return Acceptance(accepted, text if factor == 1.0 else f"{text}, {factor:.2g} times as much allowed")


def compare_energies(own: float, zero: float) -> Acceptance:
    """Compare the energy of a guess with that of the default guess; not a number is rejected."""
    return Acceptance(own < zero, f"energy {own:.4g}, that of the default guess {zero:.4g}")


def _by_residual(problem: Problem, guess: npt.NDArray[np.float64]) -> Acceptance:
    own = residual_norm(problem)
    _put_zero(problem)
    zero = residual_norm(problem)
    problem.solution.x.array[:] = guess
    return compare_norms(own, zero)


def _finite(problem: Problem, guess: npt.NDArray[np.float64]) -> Acceptance:
    finite = problem.mesh.comm.allreduce(bool(np.isfinite(guess).all()), op=MPI.LAND)
    return Acceptance(finite, "" if finite else "the guess is not finite")


def _by_energy(problem: Problem, guess: npt.NDArray[np.float64]) -> Acceptance:
    own = energy(problem)
    _put_zero(problem)
    zero_guess, zero, share = problem.solution.x.array.copy(), energy(problem), 1.0
    problem.solution.x.array[:] = guess
    for shorter in (0.5, 0.25):
        if own < zero:
            break
        share = shorter
        problem.solution.x.array[:] = zero_guess + share * (guess - zero_guess)
        own = energy(problem)
    drawn = "" if share == 1.0 else f", drawn back to {share:g} of itself"
    if not own < zero:
        what = "not defined" if own == math.inf else f"{own:.4g}"
        return Acceptance(False, f"the energy is {what}, that of the zero guess {zero:.4g}{drawn}")
    curvature = math.inf if problem.is_linear else _curvature(problem)
    if not curvature > 0.0:
        return Acceptance(False, f"the energy curves downwards along its gradient ({curvature:.2g}){drawn}")
    return Acceptance(True, compare_energies(own, zero).reason + drawn)


def _curvature(problem: Problem, probe: float = 1e-6) -> float:
    """Return the second derivative of the energy along its normalised gradient, by a difference of two gradients.

    The length of the difference is ``probe`` times that of the solution.
    """
    guess, gradient = solution_vector(problem), residual_vector(problem)
    length, curvature = gradient.norm(), math.inf
    if length > 0.0:
        step = probe * max(guess.norm(), 1e-12) / length
        here = problem.solution.x.array.copy()
        set_solution(problem, guess + step * gradient)
        change = residual_vector(problem)
        change.axpy(-1.0, gradient)
        curvature = change.dot(gradient).real / (step * length**2)
        change.destroy()
        problem.solution.x.array[:] = here
    guess.destroy()
    gradient.destroy()
    return curvature


def _put_zero(problem: Problem) -> None:
    problem.solution.x.array[:] = 0.0
    set_dirichlet(problem)
