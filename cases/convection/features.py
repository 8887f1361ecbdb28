"""What the operator is told of a step: the defect of its extrapolation, and the flow."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import ufl
from mpi4py import MPI  # noqa: F401  (MPI is loaded before PETSc)
from dolfinx import fem
from dolfinx.fem.petsc import assemble_matrix, assemble_residual, assign, create_vector
from dolfinx.mesh import create_unit_square
from petsc4py import PETSc
from solvers.interpolation import interpolation_matrix
from solvers.petsc import MUMPS, default_options
from solvers.transient import TimeStepper

from cases.convection.stirring import ConvectionParameters, Stirring, heating

MEAN_DIFFUSIVITY = 0.02
"""Diffusivity of the constant operator that smooths the defect [L U]."""


class Flow:
    """Velocity and heat source at the nodes, brought to a time; ``parameters`` are those of the present step."""

    def __init__(self, space: fem.FunctionSpace) -> None:
        mesh = space.mesh
        self.velocity = fem.Function(fem.functionspace(mesh, ("P", 2, (2,))))
        self.source = fem.Function(space)
        self.parameters: ConvectionParameters | None = None
        self._points = space.tabulate_dof_coordinates().T
        self._stirring = Stirring(self.velocity.function_space.tabulate_dof_coordinates().T)

    def set_time(self, time: float) -> None:
        self.velocity.x.array[:] = self._stirring.velocity(self.parameters, time).ravel()
        self.source.x.array[:] = heating(self.parameters, time, self._points)


class Defect:
    """The residual of the extrapolation, smoothed: z = -P^-1 r with P = d_0 M / dt + MEAN_DIFFUSIVITY K, factorised once a step size.

    Attributes:
        values: z at owned and ghost nodes; None until it is asked for in a step.
    """

    def __init__(self, stepper: TimeStepper) -> None:
        problem, space = stepper.problem, stepper.evolution.space
        self.stepper = stepper
        self.values: fem.Function | None = None
        self._z = fem.Function(space)
        u, v = ufl.TrialFunction(space), ufl.TestFunction(space)
        self._form = fem.form((stepper.weights[0] * u * v + MEAN_DIFFUSIVITY * ufl.inner(ufl.grad(u), ufl.grad(v))) * ufl.dx)
        self._matrix = assemble_matrix(self._form, bcs=list(problem.bcs))
        self._matrix.assemble()
        self._weight = 0.0
        self._ksp = PETSc.KSP().create(space.mesh.comm)
        self._ksp.setOptionsPrefix("convection_defect_")
        self._residual, self._x = create_vector(space), create_vector(space)

    def forget(self) -> None:
        """Begin another step. Collective: no."""
        self.values = None

    def find(self) -> fem.Function:
        """Return z, and set the scale of the stepper to its root mean square when it is made anew: the solution must hold zeros then. Collective."""
        if self.values is None:
            self._factorise()
            p = self.stepper.problem
            assign(p.solution, self._x)
            assemble_residual(None, self._x, self._residual, p.solution, p.residual, p.jacobian, list(p.bcs))
            self._residual.scale(-1.0)
            with default_options("convection_defect_", MUMPS):
                self._ksp.solve(self._residual, self._x)
            self.values = self._z
            assign(self._x, self._z)
            self._z.x.scatter_forward()
            self.stepper.scale.value = max(float(self._x.norm()) / np.sqrt(self._x.getSize()), np.finfo(float).tiny)
        return self.values

    def _factorise(self) -> None:
        weight = float(self.stepper.weights[0].value)
        if weight != self._weight:
            self._matrix.zeroEntries()
            assemble_matrix(self._matrix, self._form, bcs=list(self.stepper.problem.bcs))
            self._matrix.assemble()
            self._ksp.setOperators(self._matrix)
            with default_options("convection_defect_", MUMPS):
                self._ksp.setFromOptions()
            self._weight = weight


class Nodes:
    """The nodes at which the operator sees a problem: those of the solution, or of a coarser mesh when there are fewer cells.

    Attributes:
        space: Their space.
        to_nodes, from_nodes: Interpolation, None when the nodes are those of the solution.
    """

    def __init__(self, space: fem.FunctionSpace, model_cells: int) -> None:
        self.space, self.to_nodes, self.from_nodes = space, None, None
        comm = space.mesh.comm
        if space.mesh.topology.index_map(2).size_global > 2 * model_cells**2:
            self.space = fem.functionspace(create_unit_square(comm, model_cells, model_cells), ("P", 2))
            self.to_nodes, self.from_nodes = interpolation_matrix(space, self.space), interpolation_matrix(self.space, space)
        self._owned = self.space.dofmap.index_map.size_local
        self._stirring = Stirring(self.space.tabulate_dof_coordinates()[: self._owned].T)
        self._fine, self._coarse = (None, None) if self.to_nodes is None else self.to_nodes.createVecs()

    def values(self, function: fem.Function) -> npt.NDArray[np.float64]:
        """Return the values of a function of the solution's space at the owned nodes ``(num_owned,)``. Collective."""
        if self.to_nodes is None:
            return function.x.array[: self._owned]
        self._fine.array_w[:] = function.x.array[: self._fine.getLocalSize()]
        self.to_nodes.mult(self._fine, self._coarse)
        return self._coarse.array_r.copy()

    def velocity(self, parameters: ConvectionParameters, time: float) -> npt.NDArray[np.float64]:
        """Return the velocity at the owned nodes ``(num_owned, 2)``. Collective: no."""
        return self._stirring.velocity(parameters, time)
