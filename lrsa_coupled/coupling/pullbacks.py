"""Values of an equation and products of vectors with its transposed derivatives, at any values; no torch here."""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np
import ufl
from mpi4py import MPI
from dolfinx import fem
from petsc4py import PETSc

from lrsa_coupled.coupling.derivatives import (
    Array,
    Functional,
    UflFunctional,
    Variable,
    assemble_owned,
    check_form,
    num_owned,
    put,
)
from lrsa_coupled.coupling.equations import Equation
from lrsa_coupled.coupling.transfer import matrix_product
from lrsa_coupled.mpi import allreduce, collective_errors

AGREEMENT = 0.02
"""Relative difference between the Jacobian of a problem and the derivative of its residual that may be quadrature."""


@final
class System:
    """An equation at the values that its unknown and coefficients have now, and what was made there.

    Args:
        equation: The equation.
        coefficients: Those by which there may be derivatives.
        residual: UFL form of the residual; None of a problem that has the compiled one alone, without coefficients.

    Attributes:
        unknown: That of the equation.
        fixed: Owned degrees of freedom that Dirichlet conditions fix.
        form: UFL form of the residual, if any.
        residual: Compiled one, if any.
    """

    def __init__(self, equation: Equation, coefficients: Mapping[str, Variable], residual: ufl.Form | None) -> None:
        self.equation, self.unknown, self.comm = equation, equation.solution, equation.comm
        self.fixed = equation.constrained
        self.named = list(coefficients.values())
        self.form = residual
        self.residual = equation.residual
        self._direction: fem.Function | None = None
        self._along: UflFunctional | None = None
        if residual is not None:
            check_form("residual", residual, arguments=1)
            self._direction = fem.Function(residual.arguments()[0].ufl_function_space())
            self._along = UflFunctional(ufl.replace(residual, {residual.arguments()[0]: self._direction}), self.comm)
        self._matrix: PETSc.Mat | None = None
        self._made_at: tuple[int, ...] | None = None
        self._is_checked = False

    def jacobian(self) -> PETSc.Mat:
        """Return the Jacobian at the present values, assembled if it is not. Collective."""
        if self._matrix is None or not self._same(self._made_at, self._position()):
            self._matrix = self.equation.linearise()
            self._made_at = self._position()
        return self._matrix

    def solve(self) -> None:
        """Solve from the present values; NumericalError when that fails. Collective."""
        self.equation.solve()
        self._matrix = self.equation.solved_with
        self._made_at = self._position()

    def along(self, direction: Array) -> UflFunctional:
        """Return the product of the residual and a vector, as a functional of unknown and coefficients. Collective."""
        assert self._along is not None and self._direction is not None
        put(direction, self._direction)
        return self._along

    def check_jacobian(self, matrix: PETSc.Mat, direction: Array) -> None:
        """Compare the derivative of the residual and the Jacobian once; ValueError when they differ. Collective."""
        if self._is_checked or not allreduce(self.comm, bool(direction.any()), max):
            return
        own = self.along(direction).gradient(self.unknown)
        theirs = matrix_product(matrix, direction, transposed=True)
        own[self.fixed] = theirs[self.fixed] = 0.0
        parts = np.array([np.sum((own - theirs) ** 2), np.sum(theirs**2)])
        difference, size = allreduce(self.comm, parts, np.add)
        if not difference <= AGREEMENT**2 * size:
            raise ValueError("residual: its derivative must be the Jacobian of the problem, got another form or sign")
        self._is_checked = True

    def others(self, form: ufl.Form | None) -> list[Variable]:
        """Return what a form depends on besides the unknown and the named coefficients."""
        found: list[Any] = [] if form is None else [*form.coefficients(), *form.constants()]
        known = {id(self.unknown), *map(id, self.named), id(self._direction)}
        return [each for each in found if id(each) not in known]

    def _position(self) -> tuple[int, ...] | None:
        """Return marks of all that the Jacobian depends on; None where that is not known."""
        if self.form is None or self._matrix is None:
            return None
        return (_mark([self.unknown, *self.named, *self.others(self.form)]), self._matrix.stateGet())

    def _same(self, one: tuple[int, ...] | None, two: tuple[int, ...] | None) -> bool:
        return allreduce(self.comm, one is not None and one == two, min)


class Pullback(ABC):
    """One use of an equation in a graph: a value, and products with its transposed derivatives.

    Attributes:
        variables: What the value is a function of; set before ``run``, the unknown first if it is one.
    """

    def __init__(self, system: System, form: ufl.Form | None) -> None:
        self.system = system
        self.variables: list[Variable] = []
        self._others = system.others(form)
        self._kept: list[tuple[Variable, Array]] = []
        self._marks: list[int] = []

    def run(self, values: Sequence[Array]) -> Array:
        """Put values of ``variables`` into them and return that of the function there. Collective. Memory: copy."""
        system = self.system
        for variable, array in zip(self.variables, values, strict=True):
            put(array, variable)
        if any(each is system.unknown for each in self.variables):
            for bc in system.equation.bcs:
                bc.set(system.unknown.x.array)
        result = self._value(values)
        self._kept = [(each, values_of(each).copy()) for each in (system.unknown, *system.named)]
        self._marks = [_mark([each]) for each in self._others]
        return result

    def pull_back(self, gradient: Array, needed: Sequence[bool]) -> list[Array | None]:
        """Return ``gradient`` times the derivatives by those of ``variables`` that are needed, None of others.

        Goes back to where ``run`` was. RuntimeError when something else has changed since. Collective.
        """
        with collective_errors(self.system.comm):
            for each, mark in zip(self._others, self._marks, strict=True):
                if mark != _mark([each]):
                    name = f"the Function '{each.name}'" if isinstance(each, fem.Function) else "a Constant"
                    raise RuntimeError(f"{name} has changed since the forward pass: name it among the coefficients")
        for variable, array in self._kept:
            put(array, variable)
        wanted = [variable for variable, need in zip(self.variables, needed, strict=True) if need]
        found = iter(self._products(gradient, wanted))
        return [next(found) if need else None for need in needed]

    @abstractmethod
    def _value(self, values: Sequence[Array]) -> Array: ...

    @abstractmethod
    def _products(self, gradient: Array, wanted: Sequence[Variable]) -> list[Array]: ...

    def _free(self, values: Array) -> Array:
        """Return owned values with zeros where Dirichlet conditions hold. Memory: copy."""
        values = values.copy()
        values[self.system.fixed] = 0.0
        return values


@final
class ResidualPullback(Pullback):
    """The owned rows of the residual; of Dirichlet conditions the distance to their values."""

    def __init__(self, system: System) -> None:
        super().__init__(system, system.form)
        if system.residual is None:
            if system.form is None:
                raise ValueError("a LinearProblem needs residual=..., the UFL form action(a, u) - L")
            system.residual = fem.form(system.form)

    def _value(self, values: Sequence[Array]) -> Array:
        system, fixed = self.system, self.system.fixed
        rows = assemble_owned(system.residual)
        rows[fixed] = values[0][fixed] - system.unknown.x.array[fixed]
        return rows

    def _products(self, gradient: Array, wanted: Sequence[Variable]) -> list[Array]:
        system, free, found = self.system, self._free(gradient), []
        for each in wanted:
            if system.form is None:
                found.append(matrix_product(system.jacobian(), gradient, transposed=True))
                continue
            product = system.along(free).gradient(each)
            if each is system.unknown:
                product[system.fixed] = gradient[system.fixed]
            found.append(product)
        return found


@final
class NumberPullback(Pullback):
    """A number of the unknown, with its Dirichlet values, and of coefficients."""

    def __init__(self, system: System, functional: Functional) -> None:
        super().__init__(system, functional.form if isinstance(functional, UflFunctional) else system.form)
        self._functional = functional

    def _value(self, values: Sequence[Array]) -> Array:
        return np.array(self._functional.value())

    def _products(self, gradient: Array, wanted: Sequence[Variable]) -> list[Array]:
        found = [gradient * self._functional.gradient(each) for each in wanted]
        return [
            self._free(each) if variable is self.system.unknown else each
            for each, variable in zip(found, wanted, strict=True)
        ]


@final
class SolvePullback(Pullback):
    """The solution as a function of coefficients."""

    def __init__(self, system: System) -> None:
        super().__init__(system, system.form)

    def _value(self, values: Sequence[Array]) -> Array:
        self.system.solve()
        return values_of(self.system.unknown).copy()

    def _products(self, gradient: Array, wanted: Sequence[Variable]) -> list[Array]:
        system, matrix = self.system, self.system.jacobian()
        adjoint = system.equation.solve_transposed(matrix, self._free(gradient))
        system.check_jacobian(matrix, adjoint)
        return [-system.along(adjoint).gradient(each) for each in wanted]


def values_of(variable: Variable) -> Array:
    """Return the owned numbers of a function, or those of a constant. Memory: view."""
    return variable.x.array[: num_owned(variable)] if isinstance(variable, fem.Function) else variable.value


def _mark(variables: Sequence[Variable]) -> int:
    """Return a checksum of values, ghosts included."""
    mark = 0
    for each in variables:
        mark = zlib.crc32(np.ascontiguousarray(each.x.array if isinstance(each, fem.Function) else each.value), mark)
    return mark
