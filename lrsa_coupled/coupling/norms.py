"""The norm in which the error of a field is estimated, at the present solution of a problem.

A problem with an energy has the norm of its Jacobian K, ``|v|^2 = v.Kv``. Without one K may be neither symmetric nor
definite; there the norm is the H1 seminorm of the case's outputs, for Navier-Stokes the square root of the viscous
dissipation, but for a factor.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import final

import numpy as np
import ufl
from mpi4py import MPI
from dolfinx.fem import Function, assemble_scalar, form
from dolfinx.fem.petsc import assemble_matrix
from petsc4py import PETSc

from lrsa_coupled.coupling.compat import assign, create_vector
from lrsa_coupled.interfaces import Problem
from lrsa_coupled.schema import Field

HERMITIAN = 1e-6
"""Imaginary part of a product with a Hermitian matrix, relative to its real part, that may be rounding."""


class NoEstimate(Exception):  # noqa: N818 - nothing is wrong with the program
    """The error cannot be estimated at this field, for the reason in the text. Raised on all ranks."""


class Norm(ABC):
    """Norm of changes of a field, which are zero where Dirichlet conditions hold, and of the field itself."""

    name: str

    @abstractmethod
    def of(self, change: PETSc.Vec) -> float:
        """Return the norm of a change. Collective."""

    @abstractmethod
    def of_solution(self, change: PETSc.Vec, size: float) -> float:
        """Return the norm of the field at which this was made plus a change of the norm ``size``. Collective."""

    @abstractmethod
    def destroy(self) -> None:
        """Free the PETSc objects. Collective."""


@final
class EnergyNorm(Norm):
    """Norm of the Jacobian at the present solution; NoEstimate where that is not positive definite.

    Attributes:
        matrix: The Jacobian, with the rows and columns of the identity where Dirichlet conditions hold.
    """

    name = "energy norm"

    def __init__(self, problem: Problem) -> None:
        self.matrix = jacobian(problem)
        field = solution_vector(problem)
        self._image, self._product = field.duplicate(), field.duplicate()
        # Constrained values count in the norm of the field, and with prescribed values of zero either matrix will do.
        full = self.matrix if _is_zero_on_the_boundary(problem) else jacobian(problem, constrained=False)
        full.mult(field, self._image)
        self._square = hermitian_product(field, self._image)
        field.destroy()
        if full is not self.matrix:
            full.destroy()
        _root(self._square)  # refuses a Jacobian that is not finite before a preconditioner is made of it

    def of(self, change: PETSc.Vec) -> float:
        self.matrix.mult(change, self._product)
        return _root(hermitian_product(change, self._product))

    def of_solution(self, change: PETSc.Vec, size: float) -> float:
        return _root(self._square + 2.0 * change.dot(self._image).real + size**2)

    def destroy(self) -> None:
        for item in (self.matrix, self._image, self._product):
            item.destroy()


@final
class Seminorm(Norm):
    """H1 seminorm of the outputs of a case."""

    name = "H1 seminorm"

    def __init__(self, problem: Problem, outputs: Sequence[Field]) -> None:
        self._field = solution_vector(problem)
        self._function = Function(problem.solution.function_space)
        parts = [component(self._function, field.subspace) for field in outputs]
        square = sum(ufl.inner(ufl.grad(part), ufl.grad(part)) for part in parts)
        if isinstance(square, ufl.constantvalue.Zero):
            raise ValueError("the H1 seminorm of piecewise constant fields is zero: give the problem an energy")
        self._square = form(square * ufl.dx)

    def of(self, change: PETSc.Vec) -> float:
        assign(change, self._function)
        self._function.x.scatter_forward()
        return _root(self._function.function_space.mesh.comm.allreduce(assemble_scalar(self._square), op=MPI.SUM).real)

    def of_solution(self, change: PETSc.Vec, size: float) -> float:
        whole = self._field.copy()
        whole.axpy(1.0, change)
        result = self.of(whole)
        whole.destroy()
        return result

    def destroy(self) -> None:
        self._field.destroy()


def hermitian_product(vector: PETSc.Vec, image: PETSc.Vec, *, of: str = "Jacobian") -> float:
    """Return the product of a vector and its image by a Hermitian operator, which is real. Collective.

    NoEstimate where it is not.
    """
    product = vector.dot(image)
    if abs(product.imag) > HERMITIAN * abs(product.real):
        raise NoEstimate(f"the {of} is not Hermitian")
    return product.real


def make_norm(problem: Problem, outputs: Sequence[Field]) -> Norm:
    """Return the norm at the present solution, with its Dirichlet values; NoEstimate where it is none. Collective."""
    return EnergyNorm(problem) if problem.energy is not None else Seminorm(problem, outputs)


def jacobian(problem: Problem, *, constrained: bool = True) -> PETSc.Mat:
    """Assemble the Jacobian, without regard to Dirichlet conditions on request. Collective."""
    matrix = assemble_matrix(problem.jacobian, bcs=list(problem.bcs) if constrained else [])
    matrix.assemble()
    return matrix


def solution_vector(problem: Problem) -> PETSc.Vec:
    """Copy the solution into a vector. Collective."""
    vector = create_vector(problem.solution.function_space)
    assign(problem.solution, vector)
    return vector


def set_solution(problem: Problem, vector: PETSc.Vec) -> None:
    """Copy a vector into the solution, ghosts included. Collective."""
    assign(vector, problem.solution)
    problem.solution.x.scatter_forward()


def _is_zero_on_the_boundary(problem: Problem) -> bool:
    values = np.zeros_like(problem.solution.x.array)
    for bc in problem.bcs:
        bc.set(values)
    return not problem.mesh.comm.allreduce(bool(values.any()), op=MPI.LOR)


def component(function: Function | ufl.Argument, path: Sequence[int]) -> ufl.core.expr.Expr:
    """Return the part of a function, or of an argument, of a mixed space that a path leads to. Collective: no."""
    part = function
    for index in path:
        part = ufl.split(part)[index]
    return part


def _root(square: float) -> float:
    if not math.isfinite(square):
        raise NoEstimate("the field, its Jacobian or its correction is not finite")
    if square < 0.0:
        raise NoEstimate("the Jacobian is not positive definite")
    return math.sqrt(square)
