"""Heat conduction with a conductivity exp(u): Newton from zero fails on half of the samples, continuation on none.

Counted by ``lrsa-coupled check case.py --samples 8``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import ufl
from mpi4py import MPI  # before dolfinx
from dolfinx import fem
from dolfinx.mesh import Mesh, create_unit_square

from lrsa_coupled import Case, Continuation, Features, Field, Problem, Schema
from lrsa_coupled.coupling.quantities import Quantity
from lrsa_coupled.interfaces import SolverFactory
from lrsa_coupled.solvers.continuation import ContinuationSolver, StepControl
from lrsa_coupled.solvers.newton import NewtonSolver


@dataclass(frozen=True)
class Parameters:
    """What is drawn for a sample: numbers and tuples of numbers."""

    hot: float = field(metadata={"unit": "T"})
    strength: float = field(metadata={"unit": "T / L^2"})
    centre: tuple[float, float] = field(metadata={"unit": "L"})


def source(p: Parameters, x: np.ndarray) -> Any:
    """Heat source at points x, one row a coordinate."""
    return p.strength * np.exp(-20.0 * ((x[0] - p.centre[0]) ** 2 + (x[1] - p.centre[1]) ** 2))


class Conduction(Case[Problem]):
    """-div(exp(u) grad u) = source; u = hot on the left wall, 0 on the right one, no flux through the others."""

    # What the operator sees at each node (inputs), of each sample (scalars), and predicts at each node (outputs).
    schema = Schema("conduction", 2, (Field("source", unit="T / L^2"),), ("hot",), (Field("temperature", unit="T"),))
    fields = schema.outputs  # all fields of the solution
    resolution = 32  # what mesh() is given unless --resolution says otherwise
    rtol = 1e-9  # of the residual norm, relative to that at zero
    default_method = "continuation"  # one of methods()
    # For 'lrsa-coupled estimate': numbers that are asked of a solution, as UFL forms.
    quantities = (Quantity("mean_temperature", "T", lambda p: [p.solution * ufl.dx]),)

    def sample(self, rng: np.random.Generator) -> Parameters:
        """Draw a sample, from rng alone."""
        x, y = rng.uniform(0.2, 0.8, 2).tolist()
        return Parameters(rng.uniform(5.0, 8.0), rng.uniform(5.0, 50.0), (x, y))

    def mesh(self, comm: MPI.Comm, parameters: Parameters, resolution: int) -> Mesh:
        """Make the mesh; it may depend on the parameters."""
        return create_unit_square(comm, resolution, resolution)

    def problem(self, mesh: Mesh, parameters: Parameters) -> Problem:
        """Set up the forms; the unknown holds zeros."""
        space = fem.functionspace(mesh, ("P", 2))
        u, f, v = fem.Function(space), fem.Function(space), ufl.TestFunction(space)
        f.interpolate(lambda x: source(parameters, x))
        share = fem.Constant(mesh, 1.0)  # of the exponent: 0 is a linear problem, 1 the one to solve
        residual = (ufl.exp(share * u) * ufl.inner(ufl.grad(u), ufl.grad(v)) - f * v) * ufl.dx
        left = fem.locate_dofs_geometrical(space, lambda x: np.isclose(x[0], 0.0))
        right = fem.locate_dofs_geometrical(space, lambda x: np.isclose(x[0], 1.0))
        bcs = [fem.dirichletbc(parameters.hot, left, space), fem.dirichletbc(0.0, right, space)]

        def set_share(value: float) -> None:
            share.value = value

        return Problem(
            mesh=mesh, parameters=parameters, solution=u, bcs=bcs, node_space=space, residual=fem.form(residual),
            jacobian=fem.form(ufl.derivative(residual, u)), continuation=Continuation(set_share, start=0.0, target=1.0),
        )  # fmt: skip

    def features(self, problem: Problem) -> Features:
        """Evaluate inputs and scalars; this rank has the first nodes, the others are copies of other ranks' nodes."""
        owned = problem.node_space.dofmap.index_map.size_local
        x = problem.node_space.tabulate_dof_coordinates()[:owned].T
        return Features(source(problem.parameters, x)[:, None], np.array([problem.parameters.hot]))

    def solver(self, problem: Problem, atol: float, *, max_iterations: int | None = None) -> NewtonSolver:
        """Make the solver that begins with what is in the unknown; PETSc options: -newton_snes_monitor and so on."""
        return NewtonSolver(problem, atol, max_iterations=max_iterations)

    def methods(self) -> Mapping[str, SolverFactory]:
        """List what you would do without a prediction, the best you know; each begins with zeros."""
        return {"continuation": self.continuation, "zero": self.solver}

    def continuation(self, problem: Problem, atol: float) -> ContinuationSolver:
        """Walk along the path of the problem, by a quarter of it first."""
        return ContinuationSolver(self.solver(problem, atol), StepControl(first_step=0.25))
