"""Waves in a box with soft walls and a heterogeneous medium: the indefinite Helmholtz equation, P1, in 2-D and 3-D."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import final

import numpy as np
import numpy.typing as npt
import ufl
from mpi4py import MPI
from dolfinx import fem
from dolfinx.mesh import Mesh, create_unit_cube, create_unit_square
from petsc4py import PETSc

from lrsa_coupled.coupling.options import GAMG, MUMPS
from lrsa_coupled.coupling.quantities import Quantity
from lrsa_coupled.interfaces import Case, Features, FixedMesh, Pencil, Problem, Reuse, SolverFactory, Spectrum
from lrsa_coupled.schema import Field, Schema, Symmetry
from lrsa_coupled.solvers.eigen import pencil_modes
from lrsa_coupled.solvers.interpolation import boundary_dofs, constrain, interpolation_matrix, set_two_grid
from lrsa_coupled.solvers.linear import LinearSolver
from lrsa_coupled.solvers.petsc import recycling

Array = npt.NDArray[np.float64]

COARSE_CELLS = 8
"""Cells of the coarse mesh to a wavelength at unit slowness; it has at most half as many a side as the fine mesh."""

NUM_MODES = {2: 12, 3: 6}
"""Modes a direction of the medium, by dimension."""

SOURCE_WIDTH = 0.1
"""Length over which the source falls to 1/e, in units of the side."""

GMRES = {"ksp_type": "gmres", "ksp_gmres_restart": "300", "ksp_pc_side": "right"}
COARSE_LU = {"pc_gamg_coarse_eq_limit": "4000", "mg_coarse_pc_type": "lu",
             "mg_coarse_pc_factor_mat_solver_type": "mumps"}  # fmt: skip
METHODS: Mapping[str, Mapping[str, str]] = {"mumps": MUMPS, "gamg": {**GMRES, **GAMG, **COARSE_LU}, "two-grid": GMRES}
SETUP_COST = {"mumps": 40.0, "gamg": 20.0, "two-grid": 5.0}
"""Cost of a new preconditioner in iterations with it, measured at the resolutions of the case."""


@dataclass(frozen=True)
class HelmholtzOptions:
    """Dimension 2 or 3; wave number, 0 for 20 pi in 2-D and 16 in 3-D; deviation of the logarithm of the medium."""

    dim: int = 3
    wave_number: float = 0.0
    heterogeneity: float = 0.2


@dataclass(frozen=True)
class HelmholtzParameters:
    """The squared slowness is ``exp(sum_jk.. medium_jk.. cos(j pi x) cos(k pi y) ..)``, ``medium`` in C order."""

    medium: tuple[float, ...] = field(metadata={"unit": "1"})
    source: tuple[float, ...] = field(metadata={"unit": "L"})


@dataclass(frozen=True, eq=False, kw_only=True)
class HelmholtzProblem(Problem):
    """With the squared slowness, constant on each cell, the source, and the coordinates of all local nodes."""

    slowness: fem.Function
    source: fem.Function
    grid: Grid


class Grid:
    """Points ``(num_points, dim)`` with few distinct values of each coordinate; sums of cosines are taken on those."""

    def __init__(self, points: Array, num_modes: int) -> None:
        self.points = points
        distinct, places = zip(*(np.unique(np.round(x, 12), return_inverse=True) for x in points.T), strict=True)
        self._places = places
        self._waves = [np.cos(np.pi * np.outer(np.arange(num_modes), x)) for x in distinct]

    def sum(self, amplitudes: tuple[float, ...]) -> Array:
        """Return ``sum_jk.. a_jk.. cos(j pi x) cos(k pi y) ..`` at the points, the amplitudes in C order."""
        values = np.reshape(amplitudes, [len(waves) for waves in self._waves])
        for waves in self._waves:
            values = np.tensordot(values, waves, (0, 0))
        return values[self._places]


@final
class HelmholtzCase(Case[HelmholtzProblem]):
    """-Laplace u - k^2 n u = f in the unit square or cube, u = 0 on its boundary, squared slowness n and f random."""

    rtol = 1e-8
    default_method = "mumps"
    default_options = HelmholtzOptions()
    quantities = (
        Quantity("energy", "1", lambda p: [p.solution**2 * ufl.dx]),
        Quantity("energy_in_box", "1", lambda p: [_in_box(p) * p.solution**2 * ufl.dx]),
    )
    """Integrals of the squared pressure; the box is ``1/4 < x < 1/2`` in every direction."""

    def __init__(self, options: HelmholtzOptions | None = None) -> None:
        super().__init__(options)
        if self.options.dim not in (2, 3) or not min(self.options.wave_number, self.options.heterogeneity) >= 0.0:
            raise ValueError(
                f"options of helmholtz: dim is 2 or 3, wave_number and heterogeneity at least 0, got {self.options}"
            )
        dim = self.options.dim
        self.resolution = 200 if dim == 2 else 40
        self.wave_number = self.options.wave_number or (20.0 * np.pi if dim == 2 else 16.0)
        inputs, self.fields = (Field("log_slowness"), Field("source")), (Field("pressure"),)
        self.schema = Schema("helmholtz", dim, inputs, (), self.fields, symmetries=_symmetries(dim))

    def sample(self, rng: np.random.Generator) -> HelmholtzParameters:
        """Draw amplitudes of covariance (-Laplace + 25)^-3, scaled to the heterogeneity, without mean, and a source."""
        j, shape = np.arange(NUM_MODES[self.dim]), (NUM_MODES[self.dim],) * self.dim
        squares = sum(np.meshgrid(*[j**2] * self.dim, indexing="ij"))
        norms = np.sqrt(2.0) ** sum(np.meshgrid(*[j > 0] * self.dim, indexing="ij"))
        deviations = (np.pi**2 * squares + 25.0) ** -1.5
        deviations[(0,) * self.dim] = 0.0
        deviations *= self.options.heterogeneity / np.linalg.norm(deviations)
        amplitudes = norms * deviations * rng.standard_normal(shape)
        return HelmholtzParameters(tuple(amplitudes.ravel().tolist()), tuple(rng.uniform(0.2, 0.8, self.dim).tolist()))

    def mesh(self, comm: MPI.Comm, parameters: HelmholtzParameters, resolution: int) -> Mesh:
        """Divide each side by ``resolution`` and the squares or cubes into simplices. Collective."""
        if resolution < 4:
            raise ValueError(f"the resolution of helmholtz must be at least 4 cells a side, got {resolution}")
        if self.dim == 2:
            return create_unit_square(comm, resolution, resolution)
        return create_unit_cube(comm, resolution, resolution, resolution)

    def problem(self, mesh: Mesh, parameters: HelmholtzParameters) -> HelmholtzProblem:
        space = fem.functionspace(mesh, ("P", 1))
        slowness, source = fem.Function(fem.functionspace(mesh, ("DG", 0))), fem.Function(space)
        grid = Grid(space.tabulate_dof_coordinates()[:, : self.dim], NUM_MODES[self.dim])
        solution = fem.Function(space, name="pressure")
        residual = helmholtz(solution, self.wave_number**2 * slowness, source)
        problem = HelmholtzProblem(
            mesh=mesh, parameters=parameters, solution=solution, residual=fem.form(residual),
            jacobian=fem.form(ufl.derivative(residual, solution)),
            bcs=[fem.dirichletbc(0.0, boundary_dofs(space), space)], node_space=space, is_linear=True,
            slowness=slowness, source=source, grid=grid,
        )  # fmt: skip
        return self._update(problem, parameters)

    def _update(self, problem: HelmholtzProblem, parameters: HelmholtzParameters) -> HelmholtzProblem:
        """Set medium and source; the medium of a cell is the mean over its vertices. Collective: no."""
        at_nodes = np.exp(problem.grid.sum(parameters.medium))
        problem.slowness.x.array[:] = at_nodes[problem.node_space.dofmap.list].mean(axis=1)
        distance = np.linalg.norm(problem.grid.points - np.array(parameters.source), axis=1)
        problem.source.x.array[:] = np.exp(-((distance / SOURCE_WIDTH) ** 2))
        problem.solution.x.array[:] = 0.0
        return dataclasses.replace(problem, parameters=parameters)

    def features(self, problem: HelmholtzProblem) -> Features:
        """Logarithm of the squared slowness and source at the nodes."""
        owned = problem.node_space.dofmap.index_map.size_local
        columns = [problem.grid.sum(problem.parameters.medium), problem.source.x.array]
        return Features(np.column_stack(columns)[:owned], np.zeros(0))

    def solver(self, problem: HelmholtzProblem, atol: float, *, max_iterations: int | None = None) -> LinearSolver:
        """MUMPS."""
        return LinearSolver(problem, atol)

    def methods(self) -> Mapping[str, SolverFactory]:
        """MUMPS; GMRES with multigrid, algebraic with a coarsest grid that resolves the waves, or on two grids."""
        return {name: partial(self._make, name) for name in METHODS}

    def _sequence(self, problem: HelmholtzProblem, atol: float, *, method: str, reuse: Reuse) -> LinearSolver:
        """Multigrid reuses its interpolation; a reused factorisation preconditions GMRES, GCRO-DR recycles."""
        options = {"pc_gamg_reuse_interpolation": "true"} if method == "gamg" else {}
        if reuse.preconditioner:
            options |= GMRES
        if reuse.recycle:
            options |= recycling(reuse.recycle)
        cost = SETUP_COST[method] if reuse.preconditioner else None
        return self._make(method, problem, atol, options=options, setup_cost=cost)

    def _make(self, method: str, problem: HelmholtzProblem, atol: float, *, options: Mapping[str, str] | None = None,
              setup_cost: float | None = None) -> LinearSolver:  # fmt: skip
        solver = LinearSolver(problem, atol, options={**METHODS[method], **(options or {})}, setup_cost=setup_cost)
        if method == "two-grid":
            set_two_grid(solver.ksp.getPC(), self._prolongation(problem))
        return solver

    def _pencil(self, problem: HelmholtzProblem) -> Pencil:
        trial, test = ufl.TrialFunction(problem.node_space), ufl.TestFunction(problem.node_space)
        stiffness, mass = ufl.inner(ufl.grad(trial), ufl.grad(test)) * ufl.dx, problem.slowness * trial * test * ufl.dx
        return Pencil(
            **problem.shared(), parameters=problem.parameters, stiffness=fem.form(stiffness), mass=fem.form(mass)
        )

    @property
    def fixed_mesh(self) -> FixedMesh[HelmholtzProblem]:
        return FixedMesh(self._update, self._sequence)

    @property
    def spectrum(self) -> Spectrum:
        """The stiffness matrix, and the mass matrix weighted by the squared slowness."""
        return Spectrum(self._pencil, pencil_modes, self._prolongation, inputs=("log_slowness",))

    def _prolongation(self, problem: HelmholtzProblem) -> PETSc.Mat:
        """From a coarse mesh with ``COARSE_CELLS`` cells a wavelength, see ``solvers/interpolation.py``. Collective."""
        fine = problem.solution.function_space
        cells = round((fine.mesh.topology.index_map(self.dim).size_global / math.factorial(self.dim)) ** (1 / self.dim))
        resolution = min(math.ceil(COARSE_CELLS * self.wave_number / (2.0 * np.pi)), (cells + 1) // 2)
        coarse = fem.functionspace(self.mesh(fine.mesh.comm, problem.parameters, resolution), ("P", 1))
        return constrain(interpolation_matrix(coarse, fine), boundary_dofs(coarse), boundary_dofs(fine))


def _symmetries(dim: int) -> tuple[Symmetry, ...]:
    """Generate those of the box: the reflection of x, the turns that swap x with another coordinate and its sign."""
    unit = np.eye(dim, dtype=int)
    matrices = [unit - 2 * np.outer(unit[0], unit[0])]
    for other in range(1, dim):
        turn = unit.copy()
        turn[[0, other]] = unit[other], -unit[0]
        matrices.append(turn)
    return tuple(Symmetry(tuple(tuple(int(v) for v in row) for row in matrix), (0.5,) * dim) for matrix in matrices)


def _in_box(problem: HelmholtzProblem) -> ufl.core.expr.Expr:
    x = ufl.SpatialCoordinate(problem.mesh)
    inside = [ufl.And(ufl.gt(each, 0.25), ufl.lt(each, 0.5)) for each in x]
    return ufl.conditional(functools.reduce(ufl.And, inside), 1.0, 0.0)


def helmholtz(solution: fem.Function, squared_wave_number: ufl.core.expr.Expr, source: ufl.core.expr.Expr) -> ufl.Form:
    """Return the residual of the Helmholtz equation."""
    test = ufl.TestFunction(solution.function_space)
    return (
        ufl.inner(ufl.grad(solution), ufl.grad(test)) - squared_wave_number * solution * test - source * test
    ) * ufl.dx
