"""Problems with a complex unknown and a known solution, at any number of ranks."""

from __future__ import annotations

import numpy as np
import ufl
from mpi4py import MPI
from dolfinx import fem
from dolfinx.mesh import create_unit_square
from petsc4py import PETSc

from lrsa_coupled.interfaces import Problem
from lrsa_coupled.solvers.interpolation import boundary_dofs

COMM = MPI.COMM_WORLD
DIRECTION = np.array([0.6, 0.8])
WAVE_NUMBER = 5.0
POTENTIAL = (2.0, -1.0)
"""Constant vector potential A of ``magnetic``."""


def plane_wave(x: np.ndarray) -> np.ndarray:
    """Solve the Helmholtz equation: exp(i k d.x)."""
    return np.exp(1j * WAVE_NUMBER * (DIRECTION @ x[:2]))


def helmholtz(comm: MPI.Comm = COMM, cells: int = 12, degree: int = 2) -> Problem:
    """-Laplace u - k^2 u = 0 with the absorbing condition du/dn - i k u = g of a plane wave; complex symmetric."""
    mesh = create_unit_square(comm, cells, cells)
    space = fem.functionspace(mesh, ("P", degree))
    u, v = fem.Function(space), ufl.TestFunction(space)
    k, x, normal = WAVE_NUMBER, ufl.SpatialCoordinate(mesh), ufl.FacetNormal(mesh)
    direction = ufl.as_vector(DIRECTION.tolist())
    data = 1j * k * (ufl.dot(direction, normal) - 1.0) * ufl.exp(1j * k * ufl.dot(direction, x))
    residual = (ufl.inner(ufl.grad(u), ufl.grad(v)) - k**2 * ufl.inner(u, v)) * ufl.dx
    residual -= (1j * k * ufl.inner(u, v) + ufl.inner(data, v)) * ufl.ds
    return _problem(residual, u, [], is_linear=True)


def magnetic(comm: MPI.Comm = COMM, cells: int = 16, *, with_energy: bool = True) -> Problem:
    """-(grad - i A)^2 u = f with u = 0 on the boundary: Hermitian positive definite with complex entries."""
    mesh = create_unit_square(comm, cells, cells)
    space = fem.functionspace(mesh, ("P", 1))
    u, v = fem.Function(space), ufl.TestFunction(space)
    x, potential = ufl.SpatialCoordinate(mesh), ufl.as_vector(POTENTIAL)
    source = ufl.exp(3j * x[0]) * (1.0 + x[1])

    def covariant(w: ufl.core.expr.Expr) -> ufl.core.expr.Expr:
        return ufl.grad(w) - 1j * potential * w

    residual = (ufl.inner(covariant(u), covariant(v)) - ufl.inner(source, v)) * ufl.dx
    energy = (0.5 * ufl.inner(covariant(u), covariant(u)) - ufl.real(ufl.inner(source, u))) * ufl.dx
    bc = fem.dirichletbc(PETSc.ScalarType(0.0), boundary_dofs(space), space)
    return _problem(residual, u, [bc], is_linear=True, energy=fem.form(energy) if with_energy else None)


def cubic(comm: MPI.Comm = COMM, cells: int = 12) -> Problem:
    """-Laplace u + (1 + i) u^3 = f, holomorphic in u, with u = x + i y on the boundary."""
    mesh = create_unit_square(comm, cells, cells)
    space = fem.functionspace(mesh, ("P", 1))
    u, v = fem.Function(space), ufl.TestFunction(space)
    residual = (ufl.inner(ufl.grad(u), ufl.grad(v)) + (1 + 1j) * ufl.inner(u**3, v)) * ufl.dx
    residual -= ufl.inner(fem.Constant(mesh, PETSc.ScalarType(20 - 30j)), v) * ufl.dx
    boundary = fem.Function(space)
    boundary.interpolate(lambda x: x[0] + 1j * x[1])
    return _problem(residual, u, [fem.dirichletbc(boundary, boundary_dofs(space))])


def _problem(residual: ufl.Form, u: fem.Function, bcs: list[fem.DirichletBC], *, is_linear: bool = False,
             energy: fem.Form | None = None) -> Problem:  # fmt: skip
    space = u.function_space
    return Problem(mesh=space.mesh, parameters=None, solution=u, residual=fem.form(residual), bcs=bcs,
                   jacobian=fem.form(ufl.derivative(residual, u)), node_space=space, is_linear=is_linear,
                   energy=energy)  # fmt: skip
