"""Linear problems, and sequences of them, by PETSc KSP: MUMPS unless the options choose another solver."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

from dolfinx.fem import Form
from dolfinx.fem.petsc import assemble_matrix
from petsc4py import PETSc

from lrsa_coupled.coupling.compat import assemble_residual, assign, create_vector
from lrsa_coupled.coupling.failures import failure_of, reason_name
from lrsa_coupled.coupling.options import MUMPS, default_options
from lrsa_coupled.interfaces import Problem, SequenceSolver, SolveResult
from lrsa_coupled.solvers.petsc import advice

PREFIX = "linear_"


class LinearSolver(SequenceSolver):
    """KSP on an affine problem, from the values in ``problem.solution``.

    Solves for the correction of the guess, Dirichlet values included. Over a sequence of problems the KSP and its
    matrix stay, and with them what PETSc reuses for an unchanged nonzero pattern: symbolic factorisations,
    communication.

    Args:
        problem: Linear problem.
        atol: Absolute tolerance, in the norm the KSP monitors (``-linear_ksp_norm_type``).
        max_iterations: KSP iterations before the solve is given up; 1000 when None.
        options: Defaults of this solver under the prefix ``linear_`` instead of MUMPS; the command line wins.
        setup_cost: Cost of a new preconditioner in iterations: it is reused for the next problems of a sequence while
            it pays, see ``_Reuse``; None makes a new one for each.
        preconditioner: Form of the matrix of which the preconditioner is made; the Jacobian when None.

    Raises:
        ValueError: If the problem is not linear or ``atol`` not positive.
    """

    def __init__(self, problem: Problem, atol: float, *, max_iterations: int | None = None,
                 options: Mapping[str, str] | None = None, setup_cost: float | None = None,
                 preconditioner: Form | None = None) -> None:  # fmt: skip
        _check(problem, atol)
        self.problem = problem
        self._reuse = None if setup_cost is None else _Reuse(setup_cost)
        self.matrix = assemble_matrix(problem.jacobian, bcs=list(problem.bcs))
        self.matrix.assemble()
        self.residual = create_vector(problem.solution.function_space)
        self.correction = self.residual.duplicate()
        self._work = self.residual.duplicate()
        self.ksp = PETSc.KSP().create(problem.mesh.comm)
        self.ksp.setOptionsPrefix(PREFIX)
        # A reused preconditioner is of a matrix that no longer changes.
        self._form = preconditioner
        self._preconditioned = None if self._reuse is None and preconditioner is None else self.matrix.copy()
        self._update_preconditioner()
        self.ksp.setTolerances(rtol=1e-50, atol=atol, max_it=1000 if max_iterations is None else max_iterations)
        self._defaults = options or MUMPS
        with default_options(PREFIX, self._defaults):
            self.ksp.setFromOptions()
        self._max_iterations = self.ksp.max_it
        if self._preconditioned is not None:
            self.ksp.getPC().setUseAmat(False)  # or GAMG takes residuals with the new matrix: indefinite

    def update(self, problem: Problem, atol: float) -> None:
        """Go to the next problem of a sequence; ValueError if it is not linear or of another space. Collective."""
        _check(problem, atol)
        if problem.solution.function_space != self.problem.solution.function_space:
            raise ValueError("a sequence of problems needs one function space, got another one than before")
        self.problem = problem
        self.matrix.zeroEntries()
        assemble_matrix(self.matrix, problem.jacobian, bcs=list(problem.bcs))
        self.matrix.assemble()
        if not PETSc.Options(PREFIX).hasName("ksp_atol"):
            self.ksp.setTolerances(atol=atol)
        if self._reuse is None or not self._reuse.decide():
            self._update_preconditioner()

    def solve(self) -> SolveResult:
        started, problem, u = time.perf_counter(), self.problem, self.problem.solution
        assign(u, self._work)
        assemble_residual(u, problem.residual, problem.jacobian, bcs=problem.bcs, x=self._work, b=self.residual)
        self.residual.scale(-1.0)
        reason, converged = self._solve_linear()
        iterations = self.ksp.getIterationNumber()
        if self._reuse is not None:
            if self._reuse.active and not converged:
                self._reuse.failed()
                self._update_preconditioner()
                reason, converged = self._solve_linear()
                iterations += self.ksp.getIterationNumber()
            self._reuse.note(self.ksp.getIterationNumber())
        if converged:
            u.x.array[: self.correction.getLocalSize()] += self.correction.array_r
            u.x.scatter_forward()
            self.matrix.mult(self.correction, self._work)  # one product instead of an assembly: it is affine
            self.residual.axpy(-1.0, self._work)
        return SolveResult(converged, reason, "" if converged else advice(reason), iterations, self.residual.norm(),
                           {"solve": time.perf_counter() - started})  # fmt: skip

    def destroy(self) -> None:
        for item in (self.ksp, self.matrix, self._preconditioned, self.residual, self.correction, self._work):
            if item is not None:
                item.destroy()

    def _solve_linear(self) -> tuple[str, bool]:
        """Return the name of the converged reason or the number of PETSc's error, and whether the KSP converged."""
        limit = self._max_iterations if self._reuse is None else min(self._max_iterations, self._reuse.limit)
        self.ksp.setTolerances(max_it=limit)
        with default_options(PREFIX, self._defaults):  # the factorisation reads its own at the first use
            failure = failure_of(self.problem.mesh.comm, lambda: self.ksp.solve(self.residual, self.correction))
        if failure is not None:
            return failure, False
        number = self.ksp.getConvergedReason()
        return reason_name(PETSc.KSP.ConvergedReason, number), number > 0

    def _update_preconditioner(self) -> None:
        if self._form is not None and self._preconditioned is not None:
            self._preconditioned.zeroEntries()
            assemble_matrix(self._preconditioned, self._form, bcs=list(self.problem.bcs))
            self._preconditioned.assemble()
        elif self._preconditioned is not None:
            self.matrix.copy(self._preconditioned, PETSc.Mat.Structure.SAME_NONZERO_PATTERN)
        self.ksp.setOperators(self.matrix, self._preconditioned)


def _check(problem: Problem, atol: float) -> None:
    if not problem.is_linear:
        raise ValueError("LinearSolver needs a linear problem, got a nonlinear one; use NewtonSolver")
    if not atol > 0:
        raise ValueError(f"atol must be a positive number, got {atol}")


class _Reuse:
    """Decides by counts of iterations, the same in each run, how long a preconditioner is reused.

    It is until a solve takes more iterations than the mean over all solves with it, its set-up included. A reused one
    has twice the iterations of a new one, set-up included; when it needs more, a new one takes over. After one that did
    not pay even once the next trial waits for 1, 3, 7, ... problems.

    Attributes:
        active: Whether the present problem is solved with a reused preconditioner.
    """

    def __init__(self, setup_cost: float) -> None:
        self.active = False
        self._setup_cost = setup_cost
        self._spent: list[float] = []
        self._wait = self._pause = 0

    @property
    def limit(self) -> int:
        """Most iterations with a reused preconditioner."""
        return math.ceil(2.0 * (self._setup_cost + self._spent[0])) if self.active else 2**31 - 1

    def decide(self) -> bool:
        """Return whether the next problem reuses the preconditioner."""
        self.active = not self._pause and self._spent[-1] <= (self._setup_cost + sum(self._spent)) / len(self._spent)
        self._pause = max(self._pause - 1, 0)
        if not self.active:
            self._spent = []
        return self.active

    def note(self, iterations: int) -> None:
        """Record the iterations of the present problem."""
        self._spent.append(iterations)
        if len(self._spent) == 2:
            self._back_off(pays=iterations <= self._setup_cost + self._spent[0])

    def failed(self) -> None:
        """Record that the reused preconditioner has failed; the next ``note`` is of a new one."""
        if len(self._spent) == 1:
            self._back_off(pays=False)
        self.active, self._spent = False, []

    def _back_off(self, *, pays: bool) -> None:
        self._wait = 0 if pays else 2 * self._wait + 1
        self._pause = self._wait
