"""Time stepping: theta and BDF2 schemes for M u' + F(u, t) = 0; each step is a problem for a Newton or linear solver.

A step from t_n to t_{n+1} = t_n + dt solves, with ``d`` and ``theta`` of the scheme,

    sum_j d_j M(u_{n+1-j}; v) / dt + theta F(u_{n+1}, t_{n+1}; v) + (1 - theta) F(u_n, t_n; v) = 0.

Source: Hairer & Wanner (1996), Solving Ordinary Differential Equations II, chapters III and V.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt
import ufl
from mpi4py import MPI
from dolfinx import default_scalar_type, fem
from dolfinx.mesh import Mesh

from lrsa_coupled.interfaces import Problem

Array = npt.NDArray[np.float64]
Rate = Callable[[ufl.core.expr.Expr, ufl.core.expr.Expr, fem.Constant], ufl.Form]

EXTRAPOLATIONS: Mapping[str, tuple[tuple[float, ...], ...]] = {
    "previous": ((1.0,),),
    "linear": ((1.0,), (2.0, -1.0)),
    "quadratic": ((1.0,), (2.0, -1.0), (3.0, -3.0, 1.0)),
}
"""Guesses of a step: weights of the last states, newest first, by how many states there are."""

KSP_GUESSES: Mapping[str, Mapping[str, str]] = {
    "fischer": {"ksp_guess_type": "fischer", "ksp_guess_fischer_model": "1,10"},
    "pod": {"ksp_guess_type": "pod", "ksp_guess_pod_size": "10"},
}
"""Options of PETSc's own guesses for the linear systems inside, from those solved before."""


@dataclass(frozen=True)
class Scheme:
    """A one-step or two-step scheme.

    Args:
        derivative: Weights d of u_{n+1}, u_n, u_{n-1} in dt u'.
        theta: Share of F at the end of the step.
    """

    derivative: tuple[float, float, float]
    theta: float = 1.0


BDF1 = Scheme((1.0, -1.0, 0.0))
BDF2 = Scheme((1.5, -2.0, 0.5))
"""Of second order; its first step is one of BDF1, whose error in a single step is of second order too."""


def theta_scheme(theta: float) -> Scheme:
    """Return the theta scheme: order 2 for 1/2 (Crank-Nicolson), else 1. ValueError outside [0, 1]."""
    if not 0.0 <= theta <= 1.0:
        raise ValueError(f"theta must be between 0 and 1, got {theta}")
    return Scheme((1.0, -1.0, 0.0), theta)


@dataclass(frozen=True, eq=False)
class Evolution:
    """The problem M u' + F(u, t) = 0.

    Args:
        space: Space of the state.
        mass: ``(w, v)`` to M(w; v), linear in w.
        rate: ``(u, v, t)`` to F(u, t; v). A scheme with theta below 1 evaluates it at two times: what depends on time
            is an expression in ``t``.
        bcs: Dirichlet conditions of the state.
        set_time: Brings coefficients and Dirichlet values that are no expressions in ``t`` to the end of a step.
    """

    space: fem.FunctionSpace
    mass: Callable[[ufl.core.expr.Expr, ufl.core.expr.Expr], ufl.Form]
    rate: Rate
    bcs: Sequence[fem.DirichletBC] = ()
    set_time: Callable[[float], None] | None = None


@final
class TimeStepper:
    """Steps through an evolution; the forms are compiled once, for all steps and step sizes.

    The unknown of a step is the state itself, or with ``corrections`` the x of u_{n+1} = base + scale x, where ``base``
    is the linear extrapolation with the Dirichlet values of the new time and ``scale`` any number: the zero guess is
    then that extrapolation, and an operator that predicts x is asked for what extrapolation misses, in units in which
    it is of order one however small the step.

    Attributes:
        problem: Problem of the present step, to be solved from any guess; the same object for all steps.
        history: The last three states, newest first.
        known: How many of them there are.
        number: Steps taken since ``begin``.
        base, scale: See above; zero and one without corrections.
        weights: Coefficients d_j / dt, for forms of the case's own.
    """

    def __init__(
        self, evolution: Evolution, scheme: Scheme, *, corrections: bool = False, is_linear: bool = False
    ) -> None:
        self.evolution, self.scheme, self.corrections = evolution, scheme, corrections
        space, mesh = evolution.space, evolution.space.mesh
        self.history = [fem.Function(space) for _ in range(3)]
        self.base, self.scale = fem.Function(space), _constant(mesh, 1.0)
        self.weights = [_constant(mesh, 0.0) for _ in range(3)]
        self._times = [_constant(mesh, 0.0) for _ in range(2)]
        self.known, self.number, self._begun, self._step = 0, 0, 0.0, 0.0
        solution, test = fem.Function(space, name="solution"), ufl.TestFunction(space)
        state = self.base + self.scale * solution
        derivative = sum(
            (w * u for w, u in zip(self.weights[1:], self.history, strict=False)), start=self.weights[0] * state
        )
        form = evolution.mass(derivative, test) + scheme.theta * evolution.rate(state, test, self._times[0])
        if scheme.theta < 1.0:
            form += (1.0 - scheme.theta) * evolution.rate(self.history[0], test, self._times[1])
        self._values = [fem.Function(space) for _ in evolution.bcs]  # of the conditions on x
        bcs = list(evolution.bcs)
        if corrections:
            size, pairs = space.dofmap.bs, zip(self._values, bcs, strict=True)
            bcs = [fem.dirichletbc(value, bc.dof_indices()[0][::size] // size) for value, bc in pairs]
        jacobian = fem.form(ufl.derivative(form, solution))
        self.problem = Problem(mesh=mesh, parameters=None, solution=solution, residual=fem.form(form),
                               jacobian=jacobian, bcs=bcs, node_space=space, is_linear=is_linear)  # fmt: skip

    @property
    def time(self) -> float:
        """End of the present step."""
        return self._begun + (self.number + 1) * self._step

    def begin(self, initial: Array, step: float, *, begun: float = 0.0) -> None:
        """Begin a trajectory at the time ``begun`` with owned and ghost values of a state; the solution holds zeros.

        Collective. ValueError unless the step dt is positive.
        """
        if not step > 0.0:
            raise ValueError(f"the time step must be positive, got {step}")
        self.history[0].x.array[:] = initial
        self.known, self.number, self._begun, self._step = 1, 0, begun, step
        self._set_up()

    def advance(self) -> None:
        """Take the solution for the state after the step and go on; the solution holds zeros. Collective."""
        newest = self.state()
        for older, newer in ((2, 1), (1, 0)):  # values move: the forms hold the functions
            self.history[older].x.array[:] = self.history[newer].x.array
        self.history[0].x.array[:] = newest
        self.known, self.number = min(self.known + 1, 3), self.number + 1
        self._set_up()

    def follow(self, other: TimeStepper, transfer: Callable[[fem.Function], Array]) -> None:
        """Go to the step of a stepper of the same evolution on another mesh; the solution holds zeros. Collective.

        ``transfer`` gives values of a function of the other space at the owned degrees of freedom of this one.
        """
        for mine, theirs in zip(self.history[: other.known], other.history, strict=False):
            values = transfer(theirs)
            mine.x.array[: len(values)] = values
            mine.x.scatter_forward()
        self.known, self.number, self._begun, self._step = other.known, other.number, other._begun, other._step
        self._set_up()

    def state(self) -> Array:
        """Return the state that belongs to the solution, owned and ghost values. Collective: no."""
        return self.base.x.array + float(self.scale.value.real) * self.problem.solution.x.array

    def extrapolated(self, name: str) -> Array:
        """Return one of ``EXTRAPOLATIONS``, of lower order while states are too few, with ghosts. Collective: no."""
        weights = EXTRAPOLATIONS[name][min(self.known, len(EXTRAPOLATIONS[name])) - 1]
        states = zip(weights, self.history, strict=False)
        return sum((weight * state.x.array for weight, state in states), start=np.zeros_like(self.base.x.array))

    def put(self, name: str) -> None:
        """Put one of ``EXTRAPOLATIONS``, with the Dirichlet values, into the solution. Collective: no."""
        problem = self.problem
        problem.solution.x.array[:] = (self.extrapolated(name) - self.base.x.array) / float(self.scale.value.real)
        for bc in problem.bcs:
            bc.set(problem.solution.x.array)

    def _set_up(self) -> None:
        """Set times, weights, coefficients and base of the present step."""
        scheme = self.scheme if self.known > 1 or self.scheme.derivative[2] == 0.0 else BDF1
        for weight, d in zip(self.weights, scheme.derivative, strict=True):
            weight.value = d / self._step
        self._times[0].value, self._times[1].value = self.time, self.time - self._step
        if self.evolution.set_time is not None:
            self.evolution.set_time(self.time)
        self.problem.solution.x.array[:] = 0.0
        self.scale.value = 1.0
        if self.corrections:
            self.base.x.array[:] = self.extrapolated("linear")
            for bc in self.evolution.bcs:
                bc.set(self.base.x.array)


def _constant(mesh: Mesh, value: float) -> fem.Constant:
    return fem.Constant(mesh, default_scalar_type(value))
