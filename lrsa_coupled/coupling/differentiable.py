"""Finite element residuals, energies, solves and quantities as functions of torch.

The derivatives are those of the discrete problem, by UFL and one adjoint solve. **Ranks.** A tensor is either *owned*,
the numbers that a rank owns of a function, in the order of ``Function.x.array``, or *shared*, the same on all ranks,
such as an energy or a ``Constant``. A loss is shared, and every rank calls its ``backward()`` at the same place; then
every rank has the derivatives with respect to its owned numbers, and all have the same ones with respect to shared
ones. ``total`` makes a shared number of owned ones. Where a shared number enters arithmetic with owned ones, as
weights of a network do, it goes through ``shared`` first. Optimisers with inner products of all parameters, such as
``torch.optim.LBFGS``, need shared ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import numpy as np
import torch
import ufl
from torch import Tensor
from torch.autograd.function import once_differentiable
from mpi4py import MPI
from dolfinx import fem

from lrsa_coupled.coupling.compat import is_value_of
from lrsa_coupled.coupling.derivatives import Energy, Functional, UflFunctional, Variable, num_owned
from lrsa_coupled.coupling.equations import Equation, equation_of
from lrsa_coupled.coupling.pullbacks import (
    NumberPullback,
    Pullback,
    ResidualPullback,
    SolvePullback,
    System,
    values_of,
)
from lrsa_coupled.coupling.quantities import Quantity, forms_of, number_of
from lrsa_coupled.coupling.script import named
from lrsa_coupled.interfaces import Problem, Solver
from lrsa_coupled.mpi import allreduce, collective_errors
from lrsa_coupled.settings import nearest


@final
class Differentiable:
    """A problem of one function, real, as torch functions of its unknown and of named coefficients, in float64.

    Its methods put what they are given into the functions and constants and leave it there; coefficients that are not
    given keep their values. Dirichlet values replace those of an unknown that is given. Matrices are made at the first
    use, and assembled and factorised again only where a value has changed. Tensors of other types and devices are
    converted; there are no second derivatives. All methods are collective, backward passes too.

    Args:
        problem: A ``Problem``, ``LinearProblem`` or ``NonlinearProblem``.
        residual: UFL form of the residual, such as what a ``NonlinearProblem`` is made of, or ``action(a, u) - L`` of a
            ``LinearProblem``; the derivative of ``energy`` when None. A ``Problem`` or ``NonlinearProblem`` without
            coefficients needs none.
        coefficients: Functions and constants of these forms, by the names that the methods know them by.
        energy: UFL form of the potential; that of a ``Problem`` when None.
        solver: Solver of a ``Problem``, for ``solve``.

    Raises:
        ValueError: For complex or several unknowns, bounds, a coefficient in a Dirichlet condition or in no form.
    """

    def __init__(self, problem: Any, residual: ufl.Form | None = None, *, energy: ufl.Form | None = None,
                 coefficients: Mapping[str, Variable] | None = None, solver: Solver | None = None) -> None:  # fmt: skip
        self._equation = equation_of(problem, solver)
        self._problem, self.comm, self._unknown = problem, self._equation.comm, self._equation.solution
        self.coefficients = dict(named("coefficients", coefficients))
        self._energy: Functional | None = None
        if energy is not None:
            self._energy = UflFunctional(energy, self.comm, "energy")
            residual = ufl.derivative(energy, self._unknown) if residual is None else residual
        elif isinstance(problem, Problem) and problem.energy is not None:
            self._energy = Energy(problem)
        self._system = System(self._equation, self.coefficients, residual)
        self._quantities: dict[Any, list[UflFunctional]] = {}
        self._differentiated: set[str] = set()  # coefficients that a call had with derivatives
        _check(self._equation, self.coefficients, [form for form in (residual, energy) if form is not None])

    def values(self, name: str | None = None) -> Tensor:
        """Return the present values of a coefficient, of the unknown when None: owned ones, or those of a constant.

        Memory: copy.
        """
        variable = self._unknown if name is None else self.coefficients[name]
        return torch.from_numpy(values_of(variable).copy())

    def residual(self, u: Tensor, /, **coefficients: Tensor) -> Tensor:
        """Return the owned rows of the residual at ``u``; of Dirichlet conditions the distance to their values."""
        return self._call(ResidualPullback(self._system), u, coefficients)

    def energy(self, u: Tensor, /, **coefficients: Tensor) -> Tensor:
        """Return the energy at ``u``, a shared number; infinite where it is not defined."""
        if self._energy is None:
            raise ValueError("the problem has no energy: give energy=..., the UFL form of its potential")
        if coefficients and isinstance(self._energy, Energy):
            raise ValueError("the compiled energy of a Problem has no derivatives by coefficients: give energy=...")
        return self._call(NumberPullback(self._system, self._energy), u, coefficients)

    def quantity(self, quantity: Quantity | ufl.Form, u: Tensor, /, **coefficients: Tensor) -> Tensor:
        """Return a number of ``u``, a shared one: a UFL form without arguments, or a ``Quantity`` of a ``Problem``.

        ``Quantity.of`` is differentiated by differences of fourth order. ValueError where ``u`` was solved for with
        derivatives by a coefficient of the form that is not given here: ``quantity(k * u * dx, solve(k=k), k=k)``.
        """
        forms = self._forms(quantity)
        with collective_errors(self.comm):
            for name in sorted(self._differentiated - {*coefficients}) if u.grad_fn is not None else ():
                if any(_depends_on(form, self.coefficients[name]) for form in forms):
                    text = f"the quantity depends on '{name}', too, whose derivatives would be incomplete"
                    raise ValueError(f"{text}: quantity(form, u, {name}=...)")
        if quantity not in self._quantities:
            self._quantities[quantity] = [UflFunctional(form, self.comm, "a quantity") for form in forms]
        functionals = self._quantities[quantity]
        numbers = [self._call(NumberPullback(self._system, each), u, coefficients) for each in functionals]
        if not isinstance(quantity, Quantity) or quantity.of is None:
            return numbers[0]
        of: Tensor = _Of.apply(lambda values: number_of(quantity, values), *numbers)
        return of

    def solve(self, **coefficients: Tensor) -> Tensor:
        """Solve from the present values of the unknown and return the owned ones of the solution.

        The derivatives are by one solve with the transposed Jacobian at the solution, with the preconditioner of the
        problem's own solver, by the KSP ``<prefix>adjoint_``. They are as exact as solution and Jacobian: give the
        forms a ``quadrature_degree`` where they are no polynomials, or the Jacobian has another one than the residual.

        Raises:
            NumericalError: When this solve, or in the backward pass the adjoint one, fails; on all ranks.
            ValueError: In the backward pass, when the residual is not that of the problem.
        """
        return self._call(SolvePullback(self._system), None, coefficients)

    def total(self, values: Tensor) -> Tensor:
        """Return the sum of what each rank gives, a shared tensor of the same shape."""
        total: Tensor = _Total.apply(self.comm, values)
        return total

    def shared(self, values: Tensor) -> Tensor:
        """Return a shared tensor as it is, for arithmetic with owned ones: its derivatives are summed over ranks."""
        shared: Tensor = _Shared.apply(self.comm, values)
        return shared

    def destroy(self) -> None:
        """Free the PETSc objects made here, not those of the problem."""
        self._equation.destroy()

    def _forms(self, quantity: Quantity | ufl.Form) -> Sequence[ufl.Form]:
        if isinstance(quantity, Quantity):
            if not isinstance(self._problem, Problem):
                raise ValueError(f"'{quantity.name}' is a quantity of a Problem: give the UFL form itself")
            return forms_of(quantity, self._problem)
        return [quantity]

    def _call(self, call: Pullback, u: Tensor | None, coefficients: Mapping[str, Tensor]) -> Tensor:
        with collective_errors(self.comm):
            given = {} if u is None else {"the unknown": (self._unknown, u)}
            for name, values in coefficients.items():
                if name not in self.coefficients:
                    raise ValueError(f"expected a coefficient, got '{name}'{nearest(name, [*self.coefficients])}")
                given[f"'{name}'"] = self.coefficients[name], values
                if isinstance(values, Tensor) and values.requires_grad:
                    self._differentiated.add(name)
            tensors = [_tensor(name, *item) for name, item in given.items()]
        call.variables = [variable for variable, _ in given.values()]
        result: Tensor = _Node.apply(call, *tensors)
        return result


def _depends_on(form: ufl.Form, variable: Variable) -> bool:
    return any(each is variable for each in (*form.coefficients(), *form.constants()))


class _Node(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: Pullback, *values: Tensor) -> Tensor:
        ctx.call = call
        return torch.from_numpy(call.run([each.detach().numpy() for each in values]))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        found = ctx.call.pull_back(gradient.numpy(), ctx.needs_input_grad[1:])
        return None, *(None if each is None else torch.from_numpy(np.asarray(each)) for each in found)


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, comm: MPI.Comm, values: Tensor) -> Tensor:
        return _summed(comm, values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        return None, gradient


class _Shared(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, comm: MPI.Comm, values: Tensor) -> Tensor:
        ctx.comm = comm
        return values.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        return None, _summed(ctx.comm, gradient)


class _Of(torch.autograd.Function):
    """A function of numbers that knows nothing of torch."""

    @staticmethod
    def forward(ctx: Any, function: Callable[[Sequence[float]], float], *numbers: Tensor) -> Tensor:
        ctx.function, ctx.numbers = function, np.array([float(each) for each in numbers])
        return torch.tensor(function(ctx.numbers.tolist()), dtype=torch.float64)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        numbers, slopes = ctx.numbers, []
        step = 1e-3 * (np.abs(numbers).max() or 1.0)
        for unit in np.eye(len(numbers)):
            one, two, three, four = (ctx.function((numbers + k * step * unit).tolist()) for k in (-2, -1, 1, 2))
            slopes.append((one - 8.0 * two + 8.0 * three - four) / (12.0 * step))
        return None, *(gradient * slope for slope in slopes)


def _check(equation: Equation, coefficients: Mapping[str, Variable], forms: Sequence[ufl.Form]) -> None:
    if coefficients and not forms:
        raise ValueError("coefficients need the UFL form of the residual: give residual=...")
    for form in forms:
        if equation.solution not in form.coefficients():
            raise ValueError("residual and energy must be forms of the unknown of the problem, got others")
    known = [each for form in forms for each in (*form.coefficients(), *form.constants())]
    for name, variable in coefficients.items():
        if any(is_value_of(bc, variable) for bc in equation.bcs):
            raise ValueError(f"'{name}' is the value of a Dirichlet condition: there are no derivatives by those")
        if variable is equation.solution or not any(each is variable for each in known):
            raise ValueError(f"'{name}' must be a Function or Constant in residual or energy, not the unknown")


def _tensor(name: str, variable: Variable, values: Any) -> Tensor:
    tensor = torch.as_tensor(values, dtype=torch.float64, device="cpu")
    shape = (num_owned(variable),) if isinstance(variable, fem.Function) else variable.ufl_shape
    if tensor.shape != shape:
        raise ValueError(f"{name}: expected a tensor of shape {shape}, got {tuple(tensor.shape)}")
    return tensor


def _summed(comm: MPI.Comm, values: Tensor) -> Tensor:
    return torch.tensor(np.asarray(allreduce(comm, values.detach().cpu().numpy(), np.add))).to(values)
