"""What the operator sees of a step: the defect of its extrapolation, and the flow."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import ufl
from mpi4py import MPI
from dolfinx import fem
from dolfinx.fem.petsc import assemble_matrix
from petsc4py import PETSc

from lrsa_coupled.cases.convection.stirring import ConvectionParameters, Stirring, heating
from lrsa_coupled.coupling.compat import assemble_residual, assign, create_vector
from lrsa_coupled.coupling.options import MUMPS, default_options
from lrsa_coupled.solvers.interpolation import interpolation_matrix
from lrsa_coupled.solvers.transient import TimeStepper

MEAN_DIFFUSIVITY = 0.02
"""Diffusivity of the constant operator that smooths the defect [L U]."""


class Flow:
    """Velocity and heat source at the nodes, brought to a time."""

    def __init__(self, space: fem.FunctionSpace, parameters: ConvectionParameters) -> None:
        mesh = space.mesh
        self.velocity = fem.Function(fem.functionspace(mesh, ("P", 2, (2,))))
        self.source = fem.Function(space)
        self.parameters = parameters  # those of the present step
        self._points = space.tabulate_dof_coordinates().T
        self._stirring = Stirring(self.velocity.function_space.tabulate_dof_coordinates().T)

    def set_time(self, time: float) -> None:
        self.velocity.x.array[:] = self._stirring.velocity(self.parameters, time).ravel()
        self.source.x.array[:] = heating(self.parameters, time, self._points)


class Nodes:
    """Where the operator sees a problem: the nodes of the solution, or of a coarser mesh if that has fewer cells.

    Attributes:
        stepper, flow: Those of the nodes. On a coarser mesh they follow those of the solution: the features cost the
            same on any mesh.
        to_nodes, from_nodes: Interpolation, None when the nodes are those of the solution.
    """

    def __init__(self, fine: TimeStepper, stepper: TimeStepper, flow: Flow) -> None:
        self.fine, self.stepper, self.flow = fine, stepper, flow
        self.space, space = stepper.evolution.space, fine.evolution.space
        self.to_nodes, self.from_nodes = None, None
        if stepper is not fine:
            self.to_nodes = interpolation_matrix(space, self.space)
            self.from_nodes = interpolation_matrix(self.space, space)
            self._fine, self._coarse = self.to_nodes.createVecs()

    def follow(self, parameters: ConvectionParameters) -> None:
        """Go to the present step of the solution. Collective."""
        if self.stepper is not self.fine:
            self.flow.parameters = parameters
            self.stepper.follow(self.fine, self._restrict)

    def _restrict(self, function: fem.Function) -> npt.NDArray[np.float64]:
        assert self.to_nodes is not None
        self._fine.array_w[:] = function.x.array[: self._fine.getLocalSize()]
        self.to_nodes.mult(self._fine, self._coarse)
        return self._coarse.array_r


class Defect:
    """The smoothed residual of the extrapolation: z = -P^-1 r, P = d_0 M / dt + MEAN_DIFFUSIVITY K."""

    def __init__(self, nodes: Nodes) -> None:
        self.nodes, stepper = nodes, nodes.stepper
        problem, space = stepper.problem, stepper.evolution.space
        self._z, self._found = fem.Function(space), False
        u, v = ufl.TrialFunction(space), ufl.TestFunction(space)
        self._form = fem.form(
            (stepper.weights[0] * u * v + MEAN_DIFFUSIVITY * ufl.inner(ufl.grad(u), ufl.grad(v))) * ufl.dx
        )
        self._matrix = assemble_matrix(self._form, bcs=list(problem.bcs))
        self._matrix.assemble()
        self._weight = 0.0
        self._ksp = PETSc.KSP().create(space.mesh.comm)
        self._ksp.setOptionsPrefix("convection_defect_")
        self._residual, self._x = create_vector(space), create_vector(space)

    def forget(self) -> None:
        """Begin another step. Collective: no."""
        self._found = False

    def find(self, parameters: ConvectionParameters) -> fem.Function:
        """Return z. The first one of a step sets the scale of the unknown; the solution must hold zeros. Collective."""
        if not self._found:
            self.nodes.follow(parameters)
            self._factorise()
            p = self.nodes.stepper.problem
            assign(p.solution, self._x)
            assemble_residual(p.solution, p.residual, p.jacobian, bcs=p.bcs, x=self._x, b=self._residual)
            self._residual.scale(-1.0)
            with default_options("convection_defect_", MUMPS):
                self._ksp.solve(self._residual, self._x)
            assign(self._x, self._z)
            self._z.x.scatter_forward()
            scale = max(float(self._x.norm()) / np.sqrt(self._x.getSize()), np.finfo(float).tiny)
            self.nodes.stepper.scale.value = self.nodes.fine.scale.value = scale
            self._found = True
        return self._z

    def _factorise(self) -> None:
        stepper = self.nodes.stepper
        weight = float(stepper.weights[0].value)
        if weight != self._weight:
            self._matrix.zeroEntries()
            assemble_matrix(self._matrix, self._form, bcs=list(stepper.problem.bcs))
            self._matrix.assemble()
            self._ksp.setOperators(self._matrix)
            with default_options("convection_defect_", MUMPS):
                self._ksp.setFromOptions()
            self._weight = weight
