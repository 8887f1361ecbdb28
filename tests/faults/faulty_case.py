"""A user's case, each function of which can be made to fail on one rank: ``FAULT=place:rank:kind`` in the environment.

``FAULT_MARK`` names the file that is written when it does.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import numpy as np
import ufl
from mpi4py import MPI
from dolfinx import fem
from dolfinx.mesh import Mesh, create_unit_square, exterior_facet_indices

from lrsa_coupled import Case, Field, Problem, Schema, Solver, SolveResult
from lrsa_coupled.interfaces import Features, SolverFactory
from lrsa_coupled.solvers.newton import NewtonSolver


class OwnError(Exception):
    """An exception that takes more than its text."""

    def __init__(self, number: int, text: str) -> None:
        super().__init__(f"{number}: {text}")


KINDS: Mapping[str, Callable[[], BaseException]] = {
    "ValueError": lambda: ValueError("injected"),
    "OwnError": lambda: OwnError(3, "injected"),
    "NameError": lambda: NameError("injected"),
    "SystemExit": lambda: SystemExit(0),
    "KeyboardInterrupt": KeyboardInterrupt,
}


def fault(place: str) -> None:
    """Fail if it is the place and the rank to fail."""
    wanted, rank, kind = os.environ.get("FAULT", "nowhere:0:ValueError").split(":")
    if place == wanted and MPI.COMM_WORLD.rank == int(rank):
        Path(os.environ["FAULT_MARK"]).touch()
        raise KINDS[kind]()


@dataclass(frozen=True)
class Parameters:
    """Strength of the source."""

    strength: float = field(metadata={"unit": "1"})


@final
class FaultySolver(Solver):
    """Newton's method with callbacks in Python."""

    def __init__(self, problem: Problem, atol: float, max_iterations: int | None = None) -> None:
        fault("make")
        self._newton = NewtonSolver(problem, atol, max_iterations=max_iterations)
        snes = self._newton.snes
        vector, (residual, args, kwargs) = snes.getFunction()
        matrix, preconditioner, (jacobian, more, named) = snes.getJacobian()
        snes.setFunction(_faulty("residual", residual, args, kwargs), vector)
        snes.setJacobian(_faulty("jacobian", jacobian, more, named), matrix, preconditioner)
        snes.setMonitor(lambda *_: fault("monitor"))

    def solve(self) -> SolveResult:
        fault("solve")
        return self._newton.solve()

    def destroy(self) -> None:
        self._newton.destroy()


def _faulty(place: str, function: Callable[..., None], args: Any, kwargs: Any) -> Callable[..., None]:
    def call(*given: Any) -> None:
        fault(place)
        function(*given, *(args or ()), **(kwargs or {}))

    return call


@final
class FaultyCase(Case[Problem]):
    """-div((1 + u^2) grad u) = s in the unit square, u = 0 on its boundary."""

    resolution, rtol, default_method = 4, 1e-8, "newton"
    fields = (Field("u"),)
    schema = Schema("faulty", 2, (Field("source"),), ("strength",), fields)

    def sample(self, rng: np.random.Generator) -> Parameters:
        fault("sample")
        return Parameters(float(rng.uniform(0.5, 2.0)))

    def mesh(self, comm: MPI.Comm, parameters: Parameters, resolution: int) -> Mesh:
        fault("mesh")
        mesh = create_unit_square(comm, resolution, resolution)
        fault("meshed")
        return mesh

    def problem(self, mesh: Mesh, parameters: Parameters) -> Problem:
        fault("problem")
        space = fem.functionspace(mesh, ("P", 1))
        u, v = fem.Function(space), ufl.TestFunction(space)
        residual = ((1 + u**2) * ufl.inner(ufl.grad(u), ufl.grad(v)) - parameters.strength * v) * ufl.dx
        mesh.topology.create_connectivity(1, 2)
        edges = fem.locate_dofs_topological(space, 1, exterior_facet_indices(mesh.topology))
        return Problem(mesh=mesh, solution=u, bcs=[fem.dirichletbc(0.0, edges, space)], node_space=space,
                       parameters=parameters, residual=fem.form(residual),
                       jacobian=fem.form(ufl.derivative(residual, u)))  # fmt: skip

    def features(self, problem: Problem) -> Features:
        fault("features")
        nodes = problem.node_space.dofmap.index_map.size_local
        return Features(np.full((nodes, 1), problem.parameters.strength), np.array([problem.parameters.strength]))

    def solver(self, problem: Problem, atol: float, *, max_iterations: int | None = None) -> FaultySolver:
        return FaultySolver(problem, atol, max_iterations)

    def methods(self) -> Mapping[str, SolverFactory]:
        fault("methods")
        return {"newton": FaultySolver}
