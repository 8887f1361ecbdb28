"""Numbers of a solution with their exact derivatives, and owned parts of vectors; no torch here.

The derivatives are UFL's, with respect to functions and constants, compiled where they are first asked for. They have
the quadrature of the number itself, not that which would be chosen for them: they are those of what is computed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, final

import numpy as np
import numpy.typing as npt
import ufl
from ufl.algorithms import compute_form_data, expand_derivatives
from mpi4py import MPI
from dolfinx import fem, la

from lrsa_coupled.coupling.residual import energy
from lrsa_coupled.interfaces import Problem
from lrsa_coupled.mpi import agree, allreduce

type Array = npt.NDArray[np.float64]
type Variable = fem.Function | fem.Constant


class Functional(ABC):
    """A number of a solution and of coefficients as they are now, the same on all ranks."""

    @abstractmethod
    def value(self) -> float:
        """Return the number. Collective."""

    @abstractmethod
    def gradient(self, variable: Variable) -> Array:
        """Return the derivatives with respect to the owned numbers of a function, or to those of a constant.

        Dirichlet conditions do not count. Those of a constant are the same on all ranks. Collective.
        """


def check_form(what: str, form: Any, *, arguments: int = 0) -> None:
    """Raise ValueError, by the name ``what``, for what is no UFL form with this number of arguments."""
    wanted = "one test function and no trial function" if arguments else "no test function"
    if isinstance(form, fem.Form):
        raise ValueError(f"{what} is a compiled form: give the UFL form that fem.form(...) has taken")
    if not isinstance(form, ufl.Form):
        raise ValueError(f"{what} must be a UFL form of {wanted}, got {type(form).__name__}")
    if len(form.arguments()) != arguments:
        raise ValueError(f"{what} must be a UFL form of {wanted}, got one of {len(form.arguments())} arguments")


@final
class UflFunctional(Functional):
    """A functional that is a UFL form without arguments; ValueError, by the name ``what``, for another one."""

    def __init__(self, form: ufl.Form, comm: MPI.Comm, what: str = "a functional") -> None:
        check_form(what, form)
        self.form, self._comm = form, comm
        self._fixed: ufl.Form | None = None
        self._value: fem.Form | None = None
        self._gradients: dict[Variable, list[fem.Form | None]] = {}

    def value(self) -> float:
        if self._value is None:
            self._value = fem.form(self._with_quadrature())
        return allreduce(self._comm, float(fem.assemble_scalar(self._value).real), lambda one, two: one + two)

    def gradient(self, variable: Variable) -> Array:
        if variable not in self._gradients:
            self._gradients[variable] = [_compiled(form) for form in _derivatives(self._with_quadrature(), variable)]
        forms = self._gradients[variable]
        if isinstance(variable, fem.Function):
            return np.zeros(num_owned(variable)) if forms[0] is None else assemble_owned(forms[0])
        parts = np.array([0.0 if form is None else fem.assemble_scalar(form) for form in forms])
        return allreduce(self._comm, parts, np.add).reshape(variable.ufl_shape)

    def _with_quadrature(self) -> ufl.Form:
        if self._fixed is None:
            self._fixed = _with_quadrature(self.form)
        return self._fixed


@final
class Energy(Functional):
    """The compiled energy of a problem, whose derivative is the residual; of the solution alone."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem

    def value(self) -> float:
        return energy(self._problem)

    def gradient(self, variable: Variable) -> Array:
        assert variable is self._problem.solution
        return assemble_owned(self._problem.residual)


def num_owned(function: fem.Function) -> int:
    """Return the number of degrees of freedom that a rank owns. Collective: no."""
    dofmap = function.function_space.dofmap
    return int(dofmap.index_map.size_local * dofmap.index_map_bs)


def put(values: Array, variable: Variable) -> None:
    """Put owned numbers into a function, ghosts included, or those of a constant into it. Collective."""
    if isinstance(variable, fem.Function):
        agree(variable.function_space.mesh.comm)
        variable.x.array[: len(values)] = values
        variable.x.scatter_forward()
    else:
        variable.value = values


def assemble_owned(form: fem.Form) -> Array:
    """Assemble a vector and return its owned part. Collective."""
    vector = fem.assemble_vector(form)
    vector.scatter_reverse(la.InsertMode.add)
    dofmap = form.function_spaces[0].dofmap
    return vector.array[: dofmap.index_map.size_local * dofmap.index_map_bs].copy()


def _with_quadrature(form: ufl.Form) -> ufl.Form:
    """Return a form with the degrees of quadrature that FFCx would choose, the highest for all of one kind."""
    lowered = compute_form_data(
        form, do_apply_function_pullbacks=True, do_apply_integral_scaling=True, do_apply_geometry_lowering=True,
        preserve_geometry_types=(ufl.classes.Jacobian,), do_append_everywhere_integrals=False,
    )  # fmt: skip
    degrees: dict[str, int] = {}
    for data in lowered.integral_data:
        for each in data.integrals:
            degree = each.metadata()["estimated_polynomial_degree"]
            degrees[data.integral_type] = max(degree, degrees.get(data.integral_type, 0))
    return ufl.Form([
        each.reconstruct(metadata={"quadrature_degree": degrees[each.integral_type()]} | each.metadata())
        for each in form.integrals()
    ])  # fmt: skip


def _derivatives(form: ufl.Form, variable: Variable) -> list[ufl.Form]:
    """Return the derivative, a linear form, by a function, or one form for each number of a constant."""
    if isinstance(variable, fem.Function):
        return [ufl.derivative(form, variable)]
    symbol: Any = ufl.variable(variable)
    integrals = ufl.replace(form, {variable: symbol}).integrals()
    changes = [(each, ufl.diff(each.integrand(), symbol)) for each in integrals]
    return [
        ufl.Form([each.reconstruct(integrand=change[index] if index else change) for each, change in changes])
        for index in np.ndindex(variable.ufl_shape)
    ]


def _compiled(form: ufl.Form) -> fem.Form | None:
    """Compile a form, None when it vanishes."""
    expanded = expand_derivatives(form)
    return None if expanded.empty() else fem.form(expanded)
