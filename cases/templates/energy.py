"""The p-Laplacian by minimisation, random values on the boundary: the energy is given, residual and Jacobian follow."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import ufl
from mpi4py import MPI  # before dolfinx
from dolfinx import fem
from dolfinx.mesh import Mesh, create_unit_square

from lrsa_coupled import Case, Features, Field, Problem, Schema
from lrsa_coupled.coupling.quantities import Quantity
from lrsa_coupled.interfaces import SolverFactory
from lrsa_coupled.solvers.interpolation import boundary_dofs
from lrsa_coupled.solvers.newton import NewtonSolver

P = 4.0
EPSILON = 1e-3
"""Regularisation: the conductivity stays above EPSILON^(P - 2)."""


@dataclass(frozen=True)
class Parameters:
    """What is drawn for a sample: numbers and tuples of numbers."""

    load: float = field(metadata={"unit": "1"})
    waves: tuple[float, ...] = field(metadata={"unit": "1"})


def edge(p: Parameters, x: np.ndarray) -> Any:
    """Values on the boundary, as a function of all points x, one row a coordinate."""
    angle = np.arctan2(x[1] - 0.5, x[0] - 0.5)
    return sum(a * np.cos((k // 2 + 1) * angle - 0.5 * np.pi * (k % 2)) for k, a in enumerate(p.waves))


class Membrane(Case[Problem]):
    """Minimise (EPSILON^2 + |grad u|^2)^(P/2) / P - load u, with u given on the boundary of the unit square."""

    # What the operator sees at each node (inputs), of each sample (scalars), and predicts at each node (outputs).
    schema = Schema("membrane", 2, (Field("edge"),), ("load",), (Field("height"),))
    fields = schema.outputs  # all fields of the solution
    resolution = 32  # what mesh() is given unless --resolution says otherwise
    rtol = 1e-9  # of the residual norm, relative to that at zero
    default_method = "newton"  # one of methods()
    # For 'lrsa-coupled estimate': numbers that are asked of a solution, as UFL forms.
    quantities = (Quantity("mean_height", "1", lambda p: [p.solution * ufl.dx]),)

    def sample(self, rng: np.random.Generator) -> Parameters:
        """Draw a sample, from rng alone."""
        return Parameters(rng.uniform(1.0, 10.0), tuple(rng.normal(0.0, 0.5, 6).tolist()))

    def mesh(self, comm: MPI.Comm, parameters: Parameters, resolution: int) -> Mesh:
        """Make the mesh; it may depend on the parameters."""
        return create_unit_square(comm, resolution, resolution)

    def problem(self, mesh: Mesh, parameters: Parameters) -> Problem:
        """Set up the forms; the unknown holds zeros."""
        space = fem.functionspace(mesh, ("P", 1))
        u, values = fem.Function(space), fem.Function(space)
        values.interpolate(lambda x: edge(parameters, x))
        load = fem.Constant(mesh, parameters.load)  # a plain number would be compiled into the form, for each sample
        slope = EPSILON**2 + ufl.inner(ufl.grad(u), ufl.grad(u))
        energy = (slope ** (P / 2) / P - load * u) * ufl.dx
        residual = ufl.derivative(energy, u)
        return Problem(
            mesh=mesh, parameters=parameters, solution=u, bcs=[fem.dirichletbc(values, boundary_dofs(space))],
            node_space=space, residual=fem.form(residual), jacobian=fem.form(ufl.derivative(residual, u)),
            energy=fem.form(energy),
        )  # fmt: skip

    def features(self, problem: Problem) -> Features:
        """Evaluate inputs and scalars; this rank has the first nodes, the others are copies of other ranks' nodes."""
        owned = problem.node_space.dofmap.index_map.size_local
        x = problem.node_space.tabulate_dof_coordinates()[:owned].T
        return Features(edge(problem.parameters, x)[:, None], np.array([problem.parameters.load]))

    def solver(self, problem: Problem, atol: float, *, max_iterations: int | None = None) -> NewtonSolver:
        """Make the solver that begins with what is in the unknown; its line search lowers the energy."""
        return NewtonSolver(problem, atol, max_iterations=max_iterations)

    def methods(self) -> Mapping[str, SolverFactory]:
        """List what you would do without a prediction, the best you know; each begins with zeros."""
        return {"newton": partial(self.solver, max_iterations=100)}
