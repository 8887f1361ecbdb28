"""Certificates: the error of a field is estimated, and corrected as far as the requested accuracy needs.

The norm is that of ``coupling/norms.py``; accuracy is relative to the norm of the delivered field. An estimate always
comes from the residual of the very field it is for.

**Linear problem with an energy.** Conjugate gradients from the prediction, until the estimate of
``certify/estimate.py`` for their present iterate is small enough; that iterate is delivered. The lower bound of the
error of the prediction is rigorous but for rounding, the estimate for the iterate is heuristic.

**Other problems.** Newton's method from the prediction, and simplified Newton steps, with the Jacobian K of before, to
measure: u is corrected by ``d = -K^-1 F(u)``, and ``d' = -K^-1 F(u + d)`` is the error of u + d but for a relative
error of the order of the contraction ``theta = |d'| / |d|``. The first such step contracts more than the others (twice
as much near the solution), as it begins where K is exact. Near the solution this is a theorem (Deuflhard 2011, section
2.1), farther away a heuristic: nothing is certified unless such steps contract well. Where they do not, the Jacobian is
assembled again; a step that fails the natural monotonicity test ``|d'| < (1 - s / 4) |d|`` is damped by s (section
3.3). With an energy the steps come from conjugate gradients, no more accurate than necessary; what one misses the next
one measures.

Where this cannot begin at the prediction, or does not converge from it, the case's own solver takes the first
iterations: its line search can do what the plain steps here cannot.

Source: Deuflhard (2011), Newton Methods for Nonlinear Problems, Springer.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final

from mpi4py import MPI
from petsc4py import PETSc

from lrsa_coupled.certify.estimate import Correction, Linearisation
from lrsa_coupled.coupling.failures import reason_of
from lrsa_coupled.coupling.norms import NoEstimate, Norm, set_solution, solution_vector
from lrsa_coupled.coupling.residual import residual_norm, set_dirichlet
from lrsa_coupled.interfaces import Case, Problem, SolveResult

ACCEPT = (1e-12, 1.0)
"""Least and greatest relative accuracy that may be requested."""

DAMPING = (1.0, 0.5, 0.25, 0.125)


@dataclass(frozen=True)
class Tolerances:
    """Of the algorithm above. Estimates have been seen to be too small by 1.37 (hyperelastic)."""

    margin: float = 1.5  # factor by which an estimate has to be below the requested accuracy
    contraction: float = 0.25  # of simplified Newton steps, up to which their Jacobian is used again
    first_contraction: float = 0.05  # of the first, up to which it certifies, as the others may contract much less
    rounding: float = 1e-12  # relative size of a correction that is rounding, and contracts no more
    min_cycles: int = 2  # steps of conjugate gradients after which their estimate is calibrated
    max_cycles: int = 200  # steps after which multigrid has failed
    measured: float = 0.1  # relative error of a step that measures the error
    corrected: float = 0.01  # relative error of a step that corrects it
    missed: float = 0.3  # share of the requested accuracy that a correcting step may miss
    approach: float = 0.01  # share of a prediction's residual norm, for the case's solver before the next attempt


TOLERANCES = Tolerances()


@dataclass(frozen=True)
class Certified:
    """What is known of the field in ``problem.solution``; a certificate that failed is a value.

    Args:
        certified: Whether the estimated error is within the requested accuracy.
        accept: Requested relative accuracy.
        norm: Name of the norm.
        error: Estimated norm of the error relative to that of the field; None when not certified.
        absolute: The same, not relative.
        prediction: Estimated error of the bare prediction, relative to the norm of the delivered field; None when not
            certified from it.
        linearisations: Jacobians assembled.
        iterations: Multigrid cycles, or solves with a factorisation.
        seconds: Wall time by stage: ``transfer``, ``inference``, ``estimate`` up to the first estimate, ``correct``
            after it, ``solve`` for the fall-back [s].
        reason: Why the prediction could not be certified.
        advice: What to try then.
        fallback: Result of the default solver where that took over; its field is certified then.
    """

    certified: bool
    accept: float
    norm: str = ""
    error: float | None = None
    absolute: float | None = None
    prediction: float | None = None
    linearisations: int = 0
    iterations: int = 0
    seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)
    reason: str = ""
    advice: str = ""
    fallback: SolveResult | None = None

    @property
    def delivered(self) -> bool:
        """Whether the solution holds a field that is certified or solved for."""
        return self.certified or (self.fallback is not None and self.fallback.converged)


def check_accept(accept: float) -> None:
    """Raise ValueError for an accuracy that cannot be requested. Collective: no."""
    if not ACCEPT[0] <= accept <= ACCEPT[1]:
        raise ValueError(
            f"the relative accuracy to accept must be between {ACCEPT[0]:g} and {ACCEPT[1]:g}, got {accept:g}"
        )


def certify(case: Case, problem: Problem, *, accept: float, max_linearisations: int) -> Certified:
    """Estimate the error of the field in ``problem.solution`` and correct it as far as needed. Collective.

    Where this fails, to the relative accuracy ``accept`` or with ``max_linearisations`` Jacobians of a nonlinear
    problem, the solution holds anything.
    """
    set_dirichlet(problem)
    run = _Run(case, problem, accept)
    result = run.attempt(max_linearisations)
    if not (result.certified or problem.is_linear) and run.approach(max_linearisations):
        result = run.attempt(max_linearisations)
    run.prediction.destroy()
    return dataclasses.replace(
        result, linearisations=run.linearisations, iterations=run.iterations, seconds=run.seconds()
    )


@final
class _Run:
    """An estimate under way, and its cost so far."""

    def __init__(self, case: Case, problem: Problem, accept: float) -> None:
        self.case, self.problem, self.accept = case, problem, accept
        self.prediction = solution_vector(problem)
        self.linearisations = self.iterations = 0
        self._started = time.perf_counter()
        self._first_estimate: float | None = None

    def seconds(self) -> dict[str, float]:
        """Return the time up to the first estimate and after it."""
        now = time.perf_counter()
        middle = self._first_estimate or now
        return {"estimate": middle - self._started, "correct": now - middle}

    def attempt(self, max_linearisations: int) -> Certified:
        """Estimate and correct from the present solution."""
        try:
            if self.problem.is_linear and self.problem.energy is not None:
                return self._conjugate_gradients()
            return self._newton(max_linearisations)
        except NoEstimate as why:
            return Certified(certified=False, accept=self.accept, reason=str(why))
        except PETSc.Error as error:
            return Certified(certified=False, accept=self.accept, reason=reason_of(error))

    def approach(self, max_iterations: int) -> bool:
        """Go from the prediction to where it can be estimated, by the case's own solver; False when that fails."""
        set_solution(self.problem, self.prediction)
        norm = residual_norm(self.problem)
        if not math.isfinite(norm):
            return False
        atol = TOLERANCES.approach * norm
        result = self.case.solver(self.problem, atol, max_iterations=max_iterations).solve_once()
        self.linearisations += result.iterations
        return result.converged

    def _conjugate_gradients(self) -> Certified:
        with self._linearised() as tangent:
            correction = self._measure(tangent)
            size = tangent.norm.of_solution(correction.x, correction.size)
            while not self._is_enough(correction.remaining, size):
                self._improve(correction)
                size = tangent.norm.of_solution(correction.x, correction.size)
            set_solution(self.problem, self.prediction + correction.x)
            return self._certified(tangent.norm, correction.remaining, size=size)

    def _newton(self, max_linearisations: int) -> Certified:
        """Take damped Newton steps, each followed by simplified ones while these contract."""
        for _ in range(max_linearisations):
            with self._linearised() as tangent:
                result = self._simplified_steps(tangent)
            if result is not None:
                return result
        raise NoEstimate(f"Newton's method needs more than {max_linearisations} Jacobians")

    def _simplified_steps(self, tangent: Linearisation) -> Certified | None:
        """Correct with one Jacobian; None where another one is needed."""
        limits = TOLERANCES
        origin = solution_vector(self.problem)
        correction, contraction, limit = self._measure(tangent), math.inf, 0.0
        while True:
            error = math.hypot(correction.size, correction.remaining)
            size = tangent.norm.of_solution(*self._distance(tangent.norm, origin))
            contracts = contraction <= limit or error <= limits.rounding * size
            if self._is_enough(error, size) and contracts:
                return self._certified(tangent.norm, error, size=size)
            while correction.remaining > max(limits.missed * self.accept * size, limits.corrected * correction.size):
                self._improve(correction)
            limit = limits.contraction if contraction < math.inf else limits.first_contraction
            before = correction.size
            correction, damping = self._advance(tangent, correction)
            contraction = correction.size / before
            if damping < 1.0 or contraction > limits.contraction:
                return None

    def _advance(self, tangent: Linearisation, correction: Correction) -> tuple[Correction, float]:
        """Add a correction to the solution, damped until the next one is smaller; return that and the damping."""
        origin = solution_vector(self.problem)
        for damping in DAMPING:
            set_solution(self.problem, origin + damping * correction.x)
            try:
                following = self._measure(tangent)
            except NoEstimate:
                continue
            if following.size < (1.0 - damping / 4.0) * correction.size:
                return following, damping
        raise NoEstimate("Newton's method does not contract")

    @contextmanager
    def _linearised(self) -> Iterator[Linearisation]:
        self.linearisations += 1
        tangent = Linearisation(self.problem, self.case.schema.outputs)
        try:
            yield tangent
        except NoEstimate:  # on all ranks, unlike other errors; to destroy is collective
            tangent.destroy()
            raise
        tangent.destroy()

    def _measure(self, tangent: Linearisation) -> Correction:
        """Return the correction of the present solution, to the accuracy of an estimate."""
        limits = TOLERANCES
        correction = tangent.correct()
        self.iterations += 1
        while correction.remaining > (
            limits.measured * correction.size if correction.steps >= limits.min_cycles else 0
        ):
            self._improve(correction)
        self._first_estimate = self._first_estimate or time.perf_counter()
        return correction

    def _improve(self, correction: Correction) -> None:
        if correction.steps >= TOLERANCES.max_cycles:
            raise NoEstimate(f"multigrid has not converged in {TOLERANCES.max_cycles} cycles")
        correction.improve()
        self.iterations += 1

    def _distance(self, norm: Norm, vector: PETSc.Vec) -> tuple[PETSc.Vec, float]:
        """Return the solution less a vector, and the norm of that."""
        difference = solution_vector(self.problem) - vector
        return difference, norm.of(difference)

    def _is_enough(self, error: float, size: float) -> bool:
        return TOLERANCES.margin * error <= self.accept * size

    def _certified(self, norm: Norm, error: float, *, size: float) -> Certified:
        """Return the certificate of the present solution; the error of the prediction is its distance from that."""
        distance = self._distance(norm, self.prediction)[1]
        relative = [value / size if size > 0.0 else 0.0 for value in (error, math.hypot(distance, error))]
        return Certified(True, self.accept, norm.name, relative[0], error, relative[1])
