"""A small case as a user writes it, into whose callbacks statements are put."""

from __future__ import annotations

from pathlib import Path

CASE = """
from dataclasses import dataclass, field

import numpy as np
import ufl
from dolfinx import fem
from dolfinx.mesh import create_unit_square, exterior_facet_indices

from lrsa_coupled import Case, Features, Field, NumericalError, Problem, Schema
from lrsa_coupled.solvers.linear import LinearSolver


@dataclass(frozen=True)
class Load:
    source: float = field(metadata={"unit": "1"})


class Plate(Case):
    schema = Schema("plate", 2, (Field("source"),), ("source",), (Field("u"),))
    fields = schema.outputs
    resolution, rtol, default_method = 4, 1e-9, "direct"

    def sample(self, rng):
        source = float(rng.uniform(1.0, 2.0))
        # sample
        return Load(source)

    def mesh(self, comm, parameters, resolution):
        # mesh
        return create_unit_square(comm, resolution, resolution)

    def problem(self, mesh, parameters):
        # problem
        space = fem.functionspace(mesh, ("P", 1))
        u, v = fem.Function(space), ufl.TestFunction(space)
        source = fem.Constant(mesh, parameters.source)
        residual = (ufl.inner(ufl.grad(u), ufl.grad(v)) - source * v) * ufl.dx
        mesh.topology.create_connectivity(1, 2)
        edge = fem.locate_dofs_topological(space, 1, exterior_facet_indices(mesh.topology))
        return Problem(mesh=mesh, parameters=parameters, solution=u, residual=fem.form(residual),
                       jacobian=fem.form(ufl.derivative(residual, u)), bcs=[fem.dirichletbc(0.0, edge, space)],
                       node_space=space, is_linear=True)

    def features(self, problem):
        nodes = problem.node_space.dofmap.index_map.size_local
        values, scalars = np.full((nodes, 1), problem.parameters.source), np.array([problem.parameters.source])
        # features
        return Features(values, scalars)

    def solver(self, problem, atol, *, max_iterations=None):
        # solver
        return LinearSolver(problem, atol)

    def methods(self):
        return {"direct": self.make}

    def make(self, problem, atol):
        # make
        return LinearSolver(problem, atol)
"""


def write_case(folder: Path, **statements: str) -> Path:
    """Write the case with a statement put into some of its callbacks; return its path."""
    text = CASE
    for name, statement in statements.items():
        assert f"        # {name}\n" in text
        text = text.replace(f"        # {name}\n", f"        {statement}\n")
    folder.mkdir(exist_ok=True)
    (folder / "case.py").write_text(text)
    return folder / "case.py"
