"""Losses of a prediction at the nodes that need no solution: its energy, and its residual in a dual norm.

The dual norm is ``|r|^2 = r.B r`` with B one V-cycle of multigrid for the H1 inner product of the solution's space,
made once for a mesh. Up to constants of the equation, not of the mesh, it is the error in the H1 norm, and in the
energy norm where there is an energy; for the Euclidean norm of the residual these constants grow without bound as the
mesh is refined. An unknown of several fields has no such product: there the norm is that of the predicted fields of the
Newton step from the prediction, in H1, which is their error up to terms of second order.

Source: Cao et al. (2025), Spectral-Refiner, for the dual norm; Shi et al. (2022), LordNet, for training without labels.

Shapes: N nodes that this rank owns, K outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, final

import numpy as np
import numpy.typing as npt
import torch
import ufl
from torch import Tensor
from torch.autograd.function import once_differentiable
from dolfinx import fem
from dolfinx.fem.petsc import assemble_matrix
from petsc4py import PETSc

from lrsa_coupled.coupling.derivatives import num_owned
from lrsa_coupled.coupling.differentiable import Differentiable
from lrsa_coupled.coupling.norms import component, jacobian
from lrsa_coupled.coupling.options import GAMG, MUMPS, default_options
from lrsa_coupled.coupling.transfer import NodeSet
from lrsa_coupled.interfaces import Problem
from lrsa_coupled.mpi import allreduce, collective_errors
from lrsa_coupled.schema import Field

PREFIX = "dual_"
HALVINGS = 20
"""Of a prediction whose loss is not finite, at most."""


@final
class PhysicsLoss:
    """Losses of predictions for a problem, and for those that ``FixedMesh.update`` makes of it, in float64.

    Where a loss is not finite, as the energy of an elastic body that is turned inside out, it is that of the prediction
    halved until it is: then its derivatives lead back to where it is defined.

    Both are shared numbers in the sense of ``differentiable.py``. A loss and its derivatives are computed at once: the
    problem may get other parameters before the backward pass. The solution of the problem is overwritten.

    Args:
        problem: A problem with nodes on its own mesh.
        outputs: The fields that are predicted, continuous Lagrange: the whole unknown, or of a mixed space those that
            determine the others, such as the velocity of an incompressible flow. The others enter the residual
            linearly, and are taken for zero.

    Raises:
        ValueError: For another unknown; on all ranks.

    Attributes:
        problem: The problem.
        nodes: Its nodes.

    Collective: all methods, making it too. The options prefix of V-cycle and solver is ``dual_``.
    """

    def __init__(self, problem: Problem, outputs: Sequence[Field]) -> None:
        self.problem, self.nodes = problem, NodeSet(problem, outputs)
        self._functions, self._shape = Differentiable(problem), (self.nodes.num_owned, self.nodes.num_values)
        predicted, sources = _sources(problem, self.nodes)
        self._predicted, self._sources = torch.from_numpy(predicted), torch.from_numpy(sources)
        self._is_free = torch.from_numpy(_is_free(problem))
        is_mixed = problem.solution.function_space.ufl_element().is_mixed
        self._dual: _VCycle | _NewtonStep = _NewtonStep(problem, outputs) if is_mixed else _VCycle(problem)
        self._zero = torch.zeros(num_owned(problem.solution), dtype=torch.float64)
        self._size, self._energy = 1.0, 0.0
        self.begin()

    def begin(self) -> None:
        """Measure the zero field, with its Dirichlet values, of a problem that has got other parameters."""
        self._size = float(self._norm(self._zero))
        self._energy = float(self._functions.energy(self._zero)) if self.problem.energy is not None else 0.0

    def residual(self, values_NK: Tensor) -> Tensor:
        """Return the dual norm of the residual of a prediction, that of the zero field being 1."""
        return self._loss(lambda u: self._norm(u) / self._size, values_NK)

    def energy(self, values_NK: Tensor) -> Tensor:
        """Return by how much the energy exceeds that of the zero field, in units of half its squared residual.

        It is about -1 at the solution. ValueError for a problem without an energy, or fields that are not predicted.
        """
        if not self._predicted.all():
            raise ValueError("the energy needs all fields of the unknown to be predicted")
        return self._loss(lambda u: 2.0 * (self._functions.energy(u) - self._energy) / self._size**2, values_NK)

    def sketch(self, start_NK: Tensor | None = None) -> Tensor:
        """Return a rough solution at the owned nodes ``(N, K)``: the best multiple of the V-cycle of the residual.

        Of a mixed space it is the first Newton iterate. It begins at zero, or at ``start_NK``. Its size is that of the
        solution, which a normaliser needs.
        """
        start = self._zero if start_NK is None else self._field(start_NK)
        if isinstance(self._dual, _NewtonStep):
            field = start - self._dual.step(self._rows(start))
        else:
            start = start.clone().requires_grad_()
            rows = self._rows(start)
            step = -self._dual.apply(rows.detach())
            along = torch.autograd.grad((rows * step).sum(), start)[0]
            decrease, curvature = (float(self._total(step * each)) for each in (-rows.detach(), along))
            field = start.detach() + step * (decrease / curvature if curvature > 0.0 else 1.0)
        values = torch.zeros(self._shape, dtype=torch.float64).flatten()
        return values.index_put((self._sources,), field[self._predicted]).view(self._shape)

    def destroy(self) -> None:
        """Free the PETSc objects."""
        self._functions.destroy()
        self._dual.destroy()

    def _loss(self, function: Callable[[Tensor], Tensor], values_NK: Tensor) -> Tensor:
        with collective_errors(self._functions.comm):
            if tuple(values_NK.shape) != self._shape:
                raise ValueError(f"expected values of shape {self._shape}, got {tuple(values_NK.shape)}")
        return _AtOnce.apply(_where_defined(function), self._field(values_NK))

    def _field(self, values_NK: Tensor) -> Tensor:
        values = values_NK.to("cpu", torch.float64).flatten()[self._sources]
        return self._zero.index_put((self._predicted,), values)

    def _rows(self, field: Tensor) -> Tensor:
        """Return the residual, zero where Dirichlet conditions hold."""
        return torch.where(self._is_free, self._functions.residual(field), 0.0)

    def _norm(self, field: Tensor) -> Tensor:
        rows = self._rows(field)
        if isinstance(self._dual, _NewtonStep):
            return _Step.apply(self._dual, rows.detach(), field)
        return torch.sqrt(self._total(rows * self._dual.apply(rows)))

    def _total(self, values: Tensor) -> Tensor:
        return self._functions.total(values.sum())


@final
class _VCycle:
    """One V-cycle of algebraic multigrid for ``grad u . grad v + u v / L^2``, L the size of the domain; symmetric."""

    def __init__(self, problem: Problem) -> None:
        self._matrix = _product(problem, [()], bcs=problem.bcs)
        self._pc = PETSc.PC().create(problem.mesh.comm)
        self._pc.setOptionsPrefix(PREFIX)
        self._pc.setOperators(self._matrix)
        with default_options(PREFIX, GAMG):
            self._pc.setFromOptions()
            self._pc.setUp()
        self._in, self._out = self._matrix.createVecs()

    def apply(self, rows: Tensor) -> Tensor:
        """Apply it to owned numbers."""
        return _Symmetric.apply(self._product, rows)

    def destroy(self) -> None:
        """Free the PETSc objects."""
        for item in (self._pc, self._matrix, self._in, self._out):
            item.destroy()

    def _product(self, rows: Tensor) -> Tensor:
        self._in.array_w[:] = rows.numpy()
        self._pc.apply(self._in, self._out)
        return torch.from_numpy(self._out.array_r.copy())


@final
class _NewtonStep:
    """The Newton step, by a factorisation at each prediction, and the H1 norm of the predicted fields in it."""

    def __init__(self, problem: Problem, outputs: Sequence[Field]) -> None:
        self._problem = problem
        self._product = _product(problem, [field.subspace for field in outputs])
        self._ksp = PETSc.KSP().create(problem.mesh.comm)
        self._ksp.setOptionsPrefix(PREFIX)
        self._in, self._out = self._product.createVecs()
        self._is_free = _is_free(problem)

    def step(self, rows: Tensor) -> Tensor:
        """Return what Newton's method subtracts from the prediction at which the residual has these owned rows."""
        matrix = jacobian(self._problem)
        self._ksp.setOperators(matrix)
        with default_options(PREFIX, MUMPS):
            self._ksp.setFromOptions()
            self._ksp.setUp()
        self._in.array_w[:] = rows.numpy()
        self._ksp.solve(self._in, self._out)
        self._ksp.reset()  # the factors are the largest part of what is kept of a problem
        matrix.destroy()
        return torch.from_numpy(self._out.array_r.copy())

    def norm(self, rows: Tensor) -> tuple[float, Tensor]:
        """Return the norm of the step, and its derivatives by the prediction but for terms of first order in it."""
        step = self.step(rows)
        self._in.array_w[:] = step.numpy()
        self._product.mult(self._in, self._out)
        norm = float(np.sqrt(max(self._in.dot(self._out), 0.0)))
        image = np.where(self._is_free, self._out.array_r, 0.0)
        return norm, torch.from_numpy(image / norm if norm > 0.0 else 0.0 * image)

    def destroy(self) -> None:
        """Free the PETSc objects."""
        for item in (self._ksp, self._product, self._in, self._out):
            item.destroy()


class _Step(torch.autograd.Function):
    """The norm of a Newton step."""

    @staticmethod
    def forward(ctx: Any, newton: _NewtonStep, rows: Tensor, field: Tensor) -> Tensor:
        norm, ctx.gradient = newton.norm(rows)
        return torch.tensor(norm, dtype=torch.float64)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, Tensor]:
        return None, None, gradient * ctx.gradient


class _Symmetric(torch.autograd.Function):
    """A symmetric linear map."""

    @staticmethod
    def forward(ctx: Any, product: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
        ctx.product = product
        return product(rows.detach())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        return None, ctx.product(gradient)


class _AtOnce(torch.autograd.Function):
    """A number whose derivatives are computed with it."""

    @staticmethod
    def forward(ctx: Any, function: Callable[[Tensor], Tensor], field: Tensor) -> Tensor:
        leaf = field.detach().requires_grad_(ctx.needs_input_grad[1])
        with torch.enable_grad():
            value = function(leaf)
            if leaf.requires_grad:
                (ctx.gradient,) = torch.autograd.grad(value, leaf)
        return value.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        return None, gradient * ctx.gradient


def _where_defined(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return the function of a field halved until it is finite there, as it is at zero; a shared number."""

    def value(field: Tensor) -> Tensor:
        found = function(field)
        for _ in range(HALVINGS):
            if torch.isfinite(found):
                break
            field = 0.5 * field
            found = function(field)
        return found

    return value


def _is_free(problem: Problem) -> npt.NDArray[np.bool_]:
    """Return which owned degrees of freedom no Dirichlet condition fixes. Collective: no."""
    free = np.ones(len(problem.solution.x.array), dtype=bool)
    for bc in problem.bcs:
        free[bc.dof_indices()[0]] = False
    return free[: num_owned(problem.solution)]


def _product(problem: Problem, parts: Sequence[Sequence[int]], bcs: Sequence[fem.DirichletBC] = ()) -> PETSc.Mat:
    """Assemble ``grad u . grad v + u v / L^2`` of parts of the unknown, L the size of the domain. Collective."""
    space = problem.solution.function_space
    points = problem.mesh.geometry.x
    ends = [points.max(axis=0, initial=-np.inf), -points.min(axis=0, initial=np.inf)]
    size = float(np.linalg.norm(np.sum(allreduce(problem.mesh.comm, np.array(ends), np.maximum), axis=0)))
    product = 0
    for path in parts:
        trial, test = (component(each(space), path) for each in (ufl.TrialFunction, ufl.TestFunction))
        product += ufl.inner(ufl.grad(trial), ufl.grad(test)) + ufl.inner(trial, test) / size**2
    matrix = assemble_matrix(fem.form(product * ufl.dx), bcs=list(bcs))
    matrix.assemble()
    return matrix


def _sources(problem: Problem, nodes: NodeSet) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
    """Return which owned degrees of freedom are predicted, and the place of each of these in the values at the nodes.

    They are found by two probes.
    """
    probe, shape = fem.Function(problem.solution.function_space), (nodes.num_owned, nodes.num_values)
    numbers = np.arange(nodes.num_owned * nodes.num_values, dtype=np.float64).reshape(shape)
    found = []
    for values in (numbers, np.cos(numbers)):
        probe.x.array[:] = -1.0
        nodes.scatter(values, probe)
        found.append(probe.x.array[: num_owned(probe)].copy())
    predicted = found[0] >= 0.0
    sources = np.rint(found[0][predicted]).astype(np.int64)
    is_mixed = problem.solution.function_space.ufl_element().is_mixed
    with collective_errors(problem.mesh.comm):
        copied = np.array_equal(np.cos(numbers).ravel()[sources], found[1][predicted])
        if not copied or not (is_mixed or predicted.all()):
            raise ValueError(
                "losses without labels need continuous Lagrange fields with nodes on their own mesh, the whole unknown "
                f"or some of a mixed space; got {problem.solution.function_space.ufl_element()}"
            )
    return predicted, sources
