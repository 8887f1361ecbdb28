"""A case of a user with complex fields, at smoke size: waves behind a penetrable disc, absorbing boundary."""

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
from dolfinx.mesh import Mesh, create_unit_square
from petsc4py import PETSc

from lrsa_coupled import Case, Field, Problem
from lrsa_coupled.interfaces import Features, FixedMesh, Reuse, SolverFactory
from lrsa_coupled.schema import Schema
from lrsa_coupled.solvers.linear import LinearSolver

GMRES = {"ksp_type": "gmres", "ksp_pc_side": "right", "ksp_gmres_restart": "200", "pc_type": "jacobi"}
WAVE_NUMBER = 6.0


@dataclass(frozen=True)
class WaveParameters:
    """Direction of the incoming wave, contrast of the disc."""

    angle: float = field(metadata={"unit": "rad"})
    contrast: float = field(metadata={"unit": "1"})


@dataclass(frozen=True, eq=False, kw_only=True)
class WaveProblem(Problem):
    """With the incoming wave and the contrast as functions."""

    incoming: fem.Function
    contrast: fem.Function


@final
class WaveCase(Case[WaveProblem]):
    """-Laplace u - k^2 (1 + c) u = k^2 c w for the scattered wave u of an incoming wave w."""

    rtol = 1e-8
    default_method = "mumps"
    is_complex = True
    resolution = 10
    fields = (Field("scattered", 2),)
    schema = Schema("waves", 2, (Field("incoming", 2), Field("contrast")), ("angle",), fields)

    def sample(self, rng: np.random.Generator) -> WaveParameters:
        return WaveParameters(float(rng.uniform(0.0, 1.0)), float(rng.uniform(0.3, 0.6)))

    def mesh(self, comm: MPI.Comm, parameters: WaveParameters, resolution: int) -> Mesh:
        return create_unit_square(comm, resolution, resolution)

    def problem(self, mesh: Mesh, parameters: WaveParameters) -> WaveProblem:
        space = fem.functionspace(mesh, ("P", 1))
        u, w, c = (fem.Function(space) for _ in range(3))
        v, k = ufl.TestFunction(space), WAVE_NUMBER
        residual = (ufl.inner(ufl.grad(u), ufl.grad(v)) - k**2 * ufl.inner((1 + c) * u + c * w, v)) * ufl.dx
        residual -= 1j * k * ufl.inner(u, v) * ufl.ds
        problem = WaveProblem(mesh=mesh, parameters=parameters, solution=u, residual=fem.form(residual), bcs=[],
                              jacobian=fem.form(ufl.derivative(residual, u)), node_space=space, is_linear=True,
                              incoming=w, contrast=c)  # fmt: skip
        return self._update(problem, parameters)

    def _update(self, problem: WaveProblem, parameters: WaveParameters) -> WaveProblem:
        direction = np.array([np.cos(parameters.angle), np.sin(parameters.angle)])
        problem.incoming.interpolate(lambda x: np.exp(1j * WAVE_NUMBER * (direction @ x[:2])))
        distance = partial(np.linalg.norm, axis=0)
        problem.contrast.interpolate(
            lambda x: parameters.contrast * (distance(x[:2] - 0.5) < 0.25).astype(PETSc.ScalarType)
        )
        problem.solution.x.array[:] = 0.0
        return dataclasses.replace(problem, parameters=parameters)

    def features(self, problem: WaveProblem) -> Features:
        owned = problem.node_space.dofmap.index_map.size_local
        wave, contrast = (f.x.array[:owned] for f in (problem.incoming, problem.contrast))
        return Features(np.column_stack([wave.real, wave.imag, contrast.real]), np.array([problem.parameters.angle]))

    def solver(self, problem: WaveProblem, atol: float, *, max_iterations: int | None = None) -> LinearSolver:
        return LinearSolver(problem, atol, options=GMRES)

    def methods(self) -> Mapping[str, SolverFactory]:
        return {"mumps": LinearSolver, "gmres": partial(LinearSolver, options=GMRES)}

    @property
    def fixed_mesh(self) -> FixedMesh[WaveProblem]:
        return FixedMesh(self._update, self._sequence)

    def _sequence(self, problem: WaveProblem, atol: float, *, method: str, reuse: Reuse) -> LinearSolver:
        return LinearSolver(problem, atol, options=GMRES if method == "gmres" else None)
