"""A case with known statistics: -u'' = exp(x + y) on the unit interval, x and y normal; a solve takes milliseconds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import final

import numpy as np
import ufl
from mpi4py import MPI
from dolfinx import fem
from dolfinx.mesh import Mesh, create_unit_interval

from lrsa_coupled import Case, Field, Problem
from lrsa_coupled.coupling.options import MUMPS
from lrsa_coupled.coupling.quantities import PointSampling, Quantity, quasi_random
from lrsa_coupled.interfaces import Features, FixedMesh, SolverFactory
from lrsa_coupled.schema import Schema
from lrsa_coupled.solvers.interpolation import boundary_dofs
from lrsa_coupled.solvers.linear import LinearSolver

DEVIATIONS = (0.5, 0.3)


def exact_mean(resolution: int) -> float:
    """Mean of the integral of the discrete solution."""
    return float(np.exp(0.5 * np.sum(np.square(DEVIATIONS)))) / 12.0 * (1.0 - 1.0 / resolution**2)


def exact_indices() -> list[tuple[float, float]]:
    """First-order and total Sobol index of both parameters."""
    a, b = (np.exp(np.square(deviation)) - 1.0 for deviation in DEVIATIONS)
    whole = a + b + a * b
    return [(one / whole, (one + a * b) / whole) for one in (a, b)]


@dataclass(frozen=True)
class RodParameters:
    """Two parts of the logarithm of the load."""

    x: float = field(metadata={"unit": "1"})
    y: float = field(metadata={"unit": "1"})


@dataclass(frozen=True, eq=False, kw_only=True)
class RodProblem(Problem):
    """With the load."""

    load: fem.Constant


def features_at(parameters: RodParameters, points: np.ndarray) -> Features:
    return Features(np.full((len(points), 1), np.exp(parameters.x + parameters.y)), np.zeros(0))


@final
class RodCase(Case[RodProblem]):
    """A rod, and the integral of its displacement."""

    rtol = 1e-10
    default_method = "mumps"
    resolution = 16
    fields = (Field("displacement"),)
    schema = Schema("rods", 1, (Field("load"),), (), fields)
    quantities = (
        Quantity("integral", "1", lambda p: [p.solution * ufl.dx]),
        Quantity("square", "1", lambda p: [p.solution**2 * ufl.dx]),
    )

    points = PointSampling(lambda _, count: quasi_random(count, 1), features_at, lambda _: 1.0)

    def sample(self, rng: np.random.Generator) -> RodParameters:
        return RodParameters(*(np.array(DEVIATIONS) * rng.standard_normal(2)).tolist())

    def mesh(self, comm: MPI.Comm, parameters: RodParameters, resolution: int) -> Mesh:
        if resolution < 4:
            raise ValueError(f"a rod has 4 elements at least, got {resolution}")
        return create_unit_interval(comm, resolution)

    def problem(self, mesh: Mesh, parameters: RodParameters) -> RodProblem:
        space = fem.functionspace(mesh, ("P", 1))
        solution, test = fem.Function(space, name="displacement"), ufl.TestFunction(space)
        load = fem.Constant(mesh, 0.0)
        residual = (ufl.inner(ufl.grad(solution), ufl.grad(test)) - load * test) * ufl.dx
        problem = RodProblem(
            load=load, mesh=mesh, parameters=parameters, solution=solution, residual=fem.form(residual),
            jacobian=fem.form(ufl.derivative(residual, solution)), node_space=space, is_linear=True,
            bcs=[fem.dirichletbc(0.0, boundary_dofs(space), space)],
        )  # fmt: skip
        return self._update(problem, parameters)

    def _update(self, problem: RodProblem, parameters: RodParameters) -> RodProblem:
        problem.load.value = np.exp(parameters.x + parameters.y)
        problem.solution.x.array[:] = 0.0
        return dataclasses.replace(problem, parameters=parameters)

    @property
    def fixed_mesh(self) -> FixedMesh[RodProblem]:
        return FixedMesh(self._update, lambda problem, atol, **_: self.solver(problem, atol))

    def features(self, problem: RodProblem) -> Features:
        owned = problem.node_space.dofmap.index_map.size_local
        return features_at(problem.parameters, np.zeros((owned, 1)))

    def solver(self, problem: RodProblem, atol: float, *, max_iterations: int | None = None) -> LinearSolver:
        return LinearSolver(problem, atol, options=MUMPS)

    def methods(self) -> Mapping[str, SolverFactory]:
        return {"mumps": partial(LinearSolver, options=MUMPS)}
