"""Contract of a linear case with a spectrum that preconditioners live by; imports neither torch nor dolfinx."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from lrsa_coupled.interfaces import FixedMeshCase, Unknown

if TYPE_CHECKING:
    from dolfinx.fem import Form
    from petsc4py import PETSc

Eigensolver = Literal["krylov-schur", "lobpcg"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Pencil(Unknown):
    """The symmetric positive definite pair ``stiffness x = lambda mass x`` of a problem, on its free degrees of freedom.

    Args:
        parameters: The case's parameters.
        stiffness: Compiled bilinear form on a scalar space.
        mass: The same.
    """

    parameters: Any
    stiffness: Form
    mass: Form


@dataclass(frozen=True)
class Modes:
    """Lowest eigenpairs of a pencil, in ascending order.

    Args:
        values: Eigenvalues ``(m,)``, the same on all ranks.
        vectors: Owned rows of the eigenvectors ``(num_owned, m)``, orthonormal in the mass matrix.
        converged: Whether all that were asked for met the tolerance; fewer are returned otherwise.
        reason: Name of the converged or diverged reason of the eigensolver.
        iterations: Outer iterations.
        residual: Largest norm of the residual relative to that of lambda x.
        seconds: Wall time, set-up included [s].
    """

    values: npt.NDArray[np.float64]
    vectors: npt.NDArray[np.float64]
    converged: bool
    reason: str
    iterations: int
    residual: float
    seconds: float


class SpectralCase(FixedMeshCase):
    """A family of linear problems A = P - s B, s >= 0 a number, with a symmetric positive definite pencil (P, B).

    With ``num_modes`` above 0 it is the family of the lowest modes of the pencil instead: its problems are pencils whose solution has a
    component a mode, and its one output is a basis of which the span counts.

    Attributes:
        num_modes: Modes that are the solution, 0 for the linear problem.
        is_definite: Whether s is 0, A is P.
    """

    num_modes: int = 0
    is_definite: bool = False

    @abstractmethod
    def pencil(self, problem: Unknown) -> Pencil:
        """Return the pencil of a problem, on the same mesh; the solution is that of ``problem``. Collective."""

    @abstractmethod
    def modes(self, pencil: Pencil, count: int, *, eigensolver: Eigensolver = "krylov-schur", rtol: float = 1e-8,
              initial: npt.NDArray[np.float64] | None = None) -> Modes:  # fmt: skip
        """Find the lowest modes, zero where a Dirichlet condition holds; ``initial`` as of ``vectors`` to begin with. Collective."""

    @abstractmethod
    def prolongation(self, problem: Unknown) -> PETSc.Mat:
        """Make the prolongation to the problem's mesh from the free degrees of freedom of a coarse one that resolves the lowest modes. Collective."""
