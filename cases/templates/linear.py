"""Diffusion through a random medium: linear, so that an operator pays as a surrogate or inside a Krylov solver."""

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
from lrsa_coupled.coupling.options import GAMG, MUMPS
from lrsa_coupled.coupling.quantities import Quantity
from lrsa_coupled.interfaces import SolverFactory
from lrsa_coupled.solvers.interpolation import boundary_dofs
from lrsa_coupled.solvers.linear import LinearSolver

MULTIGRID = {"ksp_type": "cg", "ksp_norm_type": "unpreconditioned", **GAMG}
WAVES = [(1, 0), (0, 1), (1, 1), (2, 0), (0, 2), (2, 1), (1, 2), (2, 2)]


@dataclass(frozen=True)
class Parameters:
    """What is drawn for a sample: numbers and tuples of numbers."""

    amplitudes: tuple[float, ...] = field(metadata={"unit": "1"})
    source: float = field(metadata={"unit": "p / L^2"})


def log_permeability(p: Parameters, x: np.ndarray) -> Any:
    """Logarithm of the permeability at points x, one row a coordinate."""
    terms = zip(p.amplitudes, WAVES, strict=True)
    return sum(a * np.cos(i * np.pi * x[0]) * np.cos(j * np.pi * x[1]) for a, (i, j) in terms)


class Medium(Case[Problem]):
    """-div(exp(log_permeability) grad p) = source in the unit square, p = 0 on its boundary."""

    # What the operator sees at each node (inputs), of each sample (scalars), and predicts at each node (outputs).
    schema = Schema("medium", 2, (Field("log_permeability"),), ("source",), (Field("pressure", unit="p"),))
    fields = schema.outputs  # all fields of the solution
    resolution = 64  # what mesh() is given unless --resolution says otherwise
    rtol = 1e-8  # of the residual norm, relative to that at zero
    default_method = "multigrid"  # one of methods()
    # For 'lrsa-coupled estimate': numbers that are asked of a solution, as UFL forms.
    quantities = (Quantity("mean_pressure", "p", lambda problem: [problem.solution * ufl.dx]),)

    def sample(self, rng: np.random.Generator) -> Parameters:
        """Draw a sample, from rng alone."""
        return Parameters(tuple(rng.normal(0.0, 0.7, len(WAVES)).tolist()), rng.uniform(0.5, 2.0))

    def mesh(self, comm: MPI.Comm, parameters: Parameters, resolution: int) -> Mesh:
        """Make the mesh; it may depend on the parameters."""
        return create_unit_square(comm, resolution, resolution)

    def problem(self, mesh: Mesh, parameters: Parameters) -> Problem:
        """Set up the forms; the unknown holds zeros."""
        space = fem.functionspace(mesh, ("P", 1))
        p, g, v = fem.Function(space), fem.Function(space), ufl.TestFunction(space)
        g.interpolate(lambda x: log_permeability(parameters, x))
        source = fem.Constant(mesh, parameters.source)  # a plain number would be compiled into the form
        residual = (ufl.exp(g) * ufl.inner(ufl.grad(p), ufl.grad(v)) - source * v) * ufl.dx
        return Problem(
            mesh=mesh, parameters=parameters, solution=p, bcs=[fem.dirichletbc(0.0, boundary_dofs(space), space)],
            node_space=space, residual=fem.form(residual), jacobian=fem.form(ufl.derivative(residual, p)),
            is_linear=True,
        )  # fmt: skip

    def features(self, problem: Problem) -> Features:
        """Evaluate inputs and scalars; this rank has the first nodes, the others are copies of other ranks' nodes."""
        owned = problem.node_space.dofmap.index_map.size_local
        x = problem.node_space.tabulate_dof_coordinates()[:owned].T
        return Features(log_permeability(problem.parameters, x)[:, None], np.array([problem.parameters.source]))

    def solver(self, problem: Problem, atol: float, *, max_iterations: int | None = None) -> LinearSolver:
        """Make the solver that begins with what is in the unknown; PETSc options: -linear_ksp_monitor and so on."""
        return LinearSolver(problem, atol, options=MULTIGRID)

    def methods(self) -> Mapping[str, SolverFactory]:
        """List what you would do without a prediction, the best you know; each begins with zeros."""
        return {"multigrid": self.solver, "mumps": partial(LinearSolver, options=MUMPS)}
