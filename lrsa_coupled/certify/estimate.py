"""Corrections of a field that know how far they are from the exact one.

Where K, the Jacobian of a problem with an energy, is positive definite (Hermitian if complex), a field with the
residual ``r = K e`` has the error ``|e|^2 = r.K^-1 r`` in the norm of K. Conjugate gradients for ``K x = r`` reduce it
by known amounts: with their steps ``alpha_j`` and the natural norms ``n_j = r_j.M^-1 r_j`` of their residuals, M the
preconditioner,

    |e - x_j|^2 - |e - x_k|^2 = t_j + ... + t_(k-1),   t_j = alpha_j n_j       (Hestenes & Stiefel 1952, theorem 6:1)

These sums are lower bounds of ``|e - x_j|^2`` (Gauss quadratures), up to rounding also in finite precision (Strakos &
Tichy 2002; 2005 with M). About the last iterate they show nothing. Its error is equivalent to its natural norm, at the
price of one multigrid cycle:

    n_k / lambda_max <= |e - x_k|^2 <= n_k / lambda_min    with the extreme eigenvalues of M^-1 K

If ``|e - x_j|^2 / n_j`` were the same at steps j and k, it would be ``(t_j + ... + t_(k-1)) / (n_j - n_k)``; the
largest of these over the last ``WINDOW`` steps estimates the factor. This is heuristic, and good where M brings the
eigenvalues together, as multigrid does. Before the first step the factor is taken to be 1.

Sources: Hestenes & Stiefel (1952), J. Res. NBS 49, 409-436; Strakos & Tichy (2002), ETNA 13, 56-80, and (2005), BIT 45,
789-817.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import final

from mpi4py import MPI
from petsc4py import PETSc

from lrsa_coupled.coupling.norms import EnergyNorm, NoEstimate, Norm, hermitian_product, jacobian, make_norm
from lrsa_coupled.coupling.options import GAMG, MUMPS, QAMD, default_options
from lrsa_coupled.coupling.residual import residual_vector
from lrsa_coupled.coupling.scalars import IS_COMPLEX
from lrsa_coupled.interfaces import Problem
from lrsa_coupled.schema import Field

PREFIX = "surrogate_"
"""Options prefix of the preconditioner or factorisation."""

WINDOW = 4
"""Steps over which the factor between error and natural norm is estimated."""


class Correction(ABC):
    """An approximate solution x of ``K x = residual``.

    Attributes:
        x: The approximation.
        size: Norm of x.
        remaining: Estimated norm of the error of x; infinite while nothing is known of it.
        steps: How often it has been improved.
    """

    def __init__(self, residual: PETSc.Vec) -> None:
        self.x = residual.duplicate()
        self.x.set(0.0)
        self.size, self.remaining, self.steps = 0.0, math.inf, 0

    @abstractmethod
    def improve(self) -> None:
        """Improve x. Collective."""


@final
class ConjugateGradients(Correction):
    """Conjugate gradients from zero, with the energy norm of their error; NoEstimate when K or M is not definite.

    The right-hand side is taken over.

    Attributes:
        terms: The t_j, one for each step.
        natural: The n_j, one more than steps.
    """

    def __init__(self, matrix: PETSc.Mat, pc: PETSc.PC, residual: PETSc.Vec) -> None:
        super().__init__(residual)
        self.terms: list[float] = []
        self.natural: list[float] = []
        self._matrix, self._pc, self._residual = matrix, pc, residual
        self._preconditioned, self._image = residual.duplicate(), residual.duplicate()
        self._precondition()
        self._direction = self._preconditioned.copy()

    def improve(self) -> None:
        natural = self.natural[-1]
        self.steps += 1
        if natural == 0.0:  # x is exact
            return
        self._matrix.mult(self._direction, self._image)
        curvature = hermitian_product(self._direction, self._image)
        if not curvature > 0.0:
            raise NoEstimate("the Jacobian is not positive definite")
        alpha = natural / curvature
        self.x.axpy(alpha, self._direction)
        self._residual.axpy(-alpha, self._image)
        self.terms.append(alpha * natural)
        self.size = math.sqrt(math.fsum(self.terms))
        self._precondition()
        self._direction.aypx(self.natural[-1] / natural, self._preconditioned)

    def _precondition(self) -> None:
        self._pc.apply(self._residual, self._preconditioned)
        natural = hermitian_product(self._residual, self._preconditioned, of="preconditioner")
        if not (natural >= 0.0 and math.isfinite(natural)):
            raise NoEstimate("the preconditioner is not positive definite")
        self.natural.append(natural)
        self.remaining = math.sqrt(self._factor() * natural) if natural > 0.0 else 0.0

    def _factor(self) -> float:
        """Return the estimated square of the error of x relative to its natural norm."""
        last, count = self.natural[-1], len(self.terms)
        earlier = [j for j in range(max(0, count - WINDOW), count) if self.natural[j] > last]
        factors = [math.fsum(self.terms[j:]) / (self.natural[j] - last) for j in earlier]
        return max(factors, default=math.inf if count else 1.0)


@final
class DirectSolution(Correction):
    """Correction by a factorisation, exact up to rounding from the beginning."""

    def __init__(self, norm: Norm, pc: PETSc.PC, residual: PETSc.Vec) -> None:
        super().__init__(residual)
        pc.apply(residual, self.x)
        residual.destroy()
        self.size, self.remaining, self.steps = norm.of(self.x), 0.0, 1

    def improve(self) -> None:
        self.steps += 1


@final
class Linearisation:
    """A problem linearised at its present solution, which satisfies the Dirichlet conditions. Collective.

    With an energy the corrections come from conjugate gradients with multigrid, otherwise from MUMPS; options with the
    prefix ``surrogate_`` choose another preconditioner. ``norm`` is that of the outputs at this solution.
    """

    def __init__(self, problem: Problem, outputs: Sequence[Field]) -> None:
        self._problem = problem
        self.norm = make_norm(problem, outputs)
        self._matrix = self.norm.matrix if isinstance(self.norm, EnergyNorm) else jacobian(problem)
        self._pc = PETSc.PC().create(problem.mesh.comm)
        self._pc.setOptionsPrefix(PREFIX)
        self._pc.setOperators(self._matrix)
        defaults = dict(GAMG if isinstance(self.norm, EnergyNorm) else MUMPS)
        if not isinstance(self.norm, EnergyNorm) and problem.mesh.topology.dim == 2:
            defaults |= QAMD
        if IS_COMPLEX and isinstance(self.norm, EnergyNorm) and self._matrix.copy().imagPart().norm() > 0.0:
            # PETSc transposes the smoothed interpolation of complex entries and does not conjugate it.
            defaults["pc_gamg_agg_nsmooths"] = "0"
        if PETSc.Options(PREFIX).hasName("pc_type"):
            defaults = {}  # a preconditioner that the user chose gets none of them
        with default_options(PREFIX, defaults):
            self._pc.setFromOptions()
            if isinstance(self.norm, EnergyNorm):
                self._set_coordinates()
            self._pc.setUp()

    def correct(self) -> Correction:
        """Return the correction of the present solution with the Jacobian as it was. Collective.

        NoEstimate if the residual is not finite.
        """
        residual = residual_vector(self._problem)
        residual.scale(-1.0)
        if not math.isfinite(residual.norm()):
            residual.destroy()
            raise NoEstimate("the residual is not finite")
        if isinstance(self.norm, EnergyNorm):
            return ConjugateGradients(self._matrix, self._pc, residual)
        return DirectSolution(self.norm, self._pc, residual)

    def destroy(self) -> None:
        """Free the PETSc objects. Collective."""
        self._pc.destroy()
        self._matrix.destroy()
        self.norm.destroy()

    def _set_coordinates(self) -> None:
        """Give multigrid the coordinates of a deformed body: its coarse spaces then have the rigid body modes."""
        space = self._problem.solution.function_space
        dim = space.mesh.geometry.dim
        if space.dofmap.bs == dim > 1:
            owned = space.dofmap.index_map.size_local
            displacement = self._problem.solution.x.array.real.reshape(-1, dim)[:owned]
            self._pc.setCoordinates(space.tabulate_dof_coordinates()[:owned, :dim] + displacement)
