"""Darcy flow in the unit square through a random medium, P1: the benchmark of Li et al. (2021) and higher contrast."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Literal, final

import numpy as np
import numpy.typing as npt
import ufl
from mpi4py import MPI
from dolfinx import fem
from dolfinx.mesh import Mesh, create_unit_square
from petsc4py import PETSc

from lrsa_coupled.config import Natural, PositiveFloat
from lrsa_coupled.coupling.options import GAMG, MUMPS
from lrsa_coupled.coupling.quantities import PointSampling, Quantity
from lrsa_coupled.interfaces import Case, Features, FixedMesh, Pencil, Problem, Reuse, SolverFactory, Spectrum
from lrsa_coupled.schema import Field, Schema, Symmetry
from lrsa_coupled.solvers.eigen import pencil_modes
from lrsa_coupled.solvers.interpolation import boundary_dofs, constrain, interpolation_matrix
from lrsa_coupled.solvers.linear import LinearSolver
from lrsa_coupled.solvers.petsc import recycling

Array = npt.NDArray[np.float64]

LOW_MODES = 16
"""Modes a direction whose amplitudes are parameters of their own; the higher ones are drawn from a seed."""

ALL_MODES = 256
"""Modes a direction in all; those beyond carry a share of 2e-5 of the variance."""

GAMG_CG = {"ksp_type": "cg", "ksp_norm_type": "unpreconditioned", **GAMG}
"""With SOR as smoother: less time than PETSc's Chebyshev and, with a reused hierarchy, the same bits in each run."""

COARSE_CELLS = 40
"""Cells a side of the coarse mesh of ``prolongation``."""

TORSION = 0.03514425373878841
"""Integral of the solution of -Laplace u = 1 with zero boundary values: the torsion constant of the unit square / 4."""

CENTRE = (0.5, 0.5)
SWAP, TURN = Symmetry(((0, 1), (1, 0)), CENTRE), Symmetry(((-1, 0), (0, -1)), CENTRE)
"""Those of the square that the diagonals of the mesh have too: they take discrete solutions to discrete solutions."""

METHODS: Mapping[str, Mapping[str, str]] = {"gamg-cg": GAMG_CG, "mumps": MUMPS}
SETUP_COST = {"gamg-cg": 6.0, "mumps": 20.0}
"""Cost of a new preconditioner in iterations, measured at resolution 420."""


@dataclass(frozen=True)
class DarcyOptions:
    """A medium, seen by the operator on ``model_cells`` cells a side at most.

    ``binary``: 12 where the Gaussian field is positive, 3 elsewhere. ``log-normal``: its exponential, of unit variance
    in the logarithm. ``high-contrast``: binary, the contrast log-uniform in [10, 1e4].
    """

    medium: Literal["binary", "log-normal", "high-contrast"] = "binary"
    model_cells: int = 84


@dataclass(frozen=True)
class DarcyParameters:
    """The Gaussian field is ``sum_jk c_jk cos(j pi x) cos(k pi y)``, ``c_jk`` normal with ``deviations()[j, k]``.

    ``modes`` holds c_jk for j, k below ``LOW_MODES`` row by row; those up to ``ALL_MODES`` are drawn from
    ``roughness_seed``. ``low`` and ``high`` are the coefficients where the field is negative and positive, of no
    meaning for a log-normal medium.
    """

    modes: tuple[float, ...] = field(metadata={"unit": "1"})
    roughness_seed: Natural = field(metadata={"unit": "1"})
    low: PositiveFloat = field(default=3.0, metadata={"unit": "1"})
    high: PositiveFloat = field(default=12.0, metadata={"unit": "1"})


@dataclass(frozen=True, eq=False, kw_only=True)
class DarcyProblem(Problem):
    """With the coefficient, constant on each cell, and where local vertices and nodes lie on their grids."""

    coefficient: fem.Function
    vertices: Places
    nodes: Places


@dataclass(frozen=True)
class Places:
    """Indices of points along x and y of a uniform grid with ``cells`` cells a side."""

    cells: int
    x: npt.NDArray[np.intp]
    y: npt.NDArray[np.intp]

    @classmethod
    def of(cls, space: fem.FunctionSpace) -> Places:
        """Return those of the local degrees of freedom of a P1 space on a uniform mesh of the unit square."""
        cells = round(np.sqrt(space.mesh.topology.index_map(2).size_global / 2))
        x, y = np.rint(space.tabulate_dof_coordinates()[:, :2].T * cells).astype(np.intp)
        return cls(cells, x, y)

    def field(self, parameters: DarcyParameters) -> Array:
        """Return the Gaussian field at the points."""
        return gaussian_field(parameters, self.cells)[self.x, self.y]


def deviations() -> Array:
    """Return the deviations ``(ALL_MODES, ALL_MODES)`` of the amplitudes: covariance (-Laplace + 9)^-2, Neumann.

    The constant mode is left out, as in the generator of the published data: on average a medium has equal parts of
    both coefficients.
    """
    j = np.arange(ALL_MODES)
    norms = np.where(j == 0, 1.0, np.sqrt(2.0))
    eigenvalues = np.pi**2 * (j[:, None] ** 2 + j**2) + 9.0
    result = np.outer(norms, norms) / eigenvalues
    result[0, 0] = 0.0
    return result


DEVIATIONS = deviations()
SCALE = float(np.sqrt((DEVIATIONS**2 / np.outer(*2 * [np.where(np.arange(ALL_MODES) == 0, 1.0, 2.0)])).sum()))
"""Root mean square of the field over the square and over all media."""


def gaussian_field(parameters: DarcyParameters, cells: int) -> Array:
    """Evaluate the Gaussian field on a grid, ``(cells + 1, cells + 1)``, indices along x and y."""
    if len(parameters.modes) != LOW_MODES**2:
        raise ValueError(f"modes must hold {LOW_MODES**2} amplitudes, got {len(parameters.modes)}")
    amplitudes = DEVIATIONS * np.random.default_rng(parameters.roughness_seed).standard_normal(DEVIATIONS.shape)
    amplitudes[:LOW_MODES, :LOW_MODES] = np.reshape(parameters.modes, (LOW_MODES, LOW_MODES))
    waves = _waves(cells)
    return waves @ amplitudes @ waves.T


@lru_cache(maxsize=4)
def _waves(cells: int) -> Array:
    return np.cos(np.pi * np.outer(np.arange(cells + 1) / cells, np.arange(ALL_MODES)))


@final
class DarcyCase(Case[DarcyProblem]):
    """-div(a grad u) = 1 in the unit square, u = 0 on its boundary, a random medium a."""

    resolution = 420
    fields = (Field("pressure"),)
    schema = Schema("darcy", 2, (Field("log_coefficient"),), (), fields, symmetries=(SWAP, TURN))
    rtol = 1e-10
    default_method = "gamg-cg"
    default_options = DarcyOptions()
    quantities = (
        Quantity("mean_pressure", "1", lambda p: [p.solution * ufl.dx]),
        Quantity("effective_permeability", "1", lambda p: [p.solution * ufl.dx], lambda mean: TORSION / mean),
        Quantity("outflow_right", "1", lambda p: [_outflow(p)]),
    )
    """``effective_permeability``: of the homogeneous medium with the same mean pressure. ``outflow_right``: the share
    of the source that leaves through the side ``x = 1``, a quarter in a homogeneous medium."""

    def __init__(self, options: DarcyOptions | None = None) -> None:
        super().__init__(options)
        if self.options.model_cells < 2:
            raise ValueError(f"options.model_cells must be at least 2, got {self.options.model_cells}")
        self.points = PointSampling(self._grid_points, self._features_at, lambda _: 1.0, mass=_mass)

    def sample(self, rng: np.random.Generator) -> DarcyParameters:
        """Draw the amplitudes of the Gaussian field, and the contrast where the medium asks for it."""
        modes = DEVIATIONS[:LOW_MODES, :LOW_MODES] * rng.standard_normal((LOW_MODES, LOW_MODES))
        parameters = DarcyParameters(tuple(modes.ravel().tolist()), int(rng.integers(2**31)))
        if self.options.medium == "high-contrast":
            return dataclasses.replace(parameters, low=1.0, high=float(10.0 ** rng.uniform(1.0, 4.0)))
        return parameters

    def mesh(self, comm: MPI.Comm, parameters: DarcyParameters, resolution: int) -> Mesh:
        """Divide the unit square into ``resolution`` squares a side, each of them into two triangles. Collective."""
        if resolution < 2:
            raise ValueError(f"the resolution of darcy must be at least 2 cells a side, got {resolution}")
        return create_unit_square(comm, resolution, resolution)

    def problem(self, mesh: Mesh, parameters: DarcyParameters) -> DarcyProblem:
        """Set up the problem; the operator has nodes on a coarser mesh when there are fewer of them. Collective."""
        space = fem.functionspace(mesh, ("P", 1))
        coefficient = fem.Function(fem.functionspace(mesh, ("DG", 0)))
        solution = fem.Function(space, name="pressure")
        source = fem.Constant(mesh, 1.0)
        residual = darcy(solution, coefficient, source)
        vertices, node_space, matrices = Places.of(space), space, {}
        if vertices.cells > self.options.model_cells:
            coarse = create_unit_square(mesh.comm, self.options.model_cells, self.options.model_cells)
            node_space = fem.functionspace(coarse, ("P", 1))
            matrices = {"to_nodes": interpolation_matrix(space, node_space),
                        "from_nodes": interpolation_matrix(node_space, space)}  # fmt: skip
        problem = DarcyProblem(
            mesh=mesh, parameters=parameters, solution=solution, residual=fem.form(residual),
            jacobian=fem.form(ufl.derivative(residual, solution)),
            bcs=[fem.dirichletbc(0.0, boundary_dofs(space), space)], node_space=node_space, **matrices, is_linear=True,
            energy=fem.form(potential(solution, coefficient, source)), coefficient=coefficient, vertices=vertices,
            nodes=Places.of(node_space),
        )  # fmt: skip
        return self._update(problem, parameters)

    def _update(self, problem: DarcyProblem, parameters: DarcyParameters) -> DarcyProblem:
        """Set the coefficient: on a cell, from the mean of the Gaussian field over its vertices. Collective: no."""
        in_cells = problem.vertices.field(parameters)[problem.solution.function_space.dofmap.list].mean(axis=1)
        problem.coefficient.x.array[:] = self._coefficient(parameters, in_cells)
        problem.solution.x.array[:] = 0.0
        return dataclasses.replace(problem, parameters=parameters)

    def features(self, problem: DarcyProblem) -> Features:
        """The logarithm of the coefficient at the nodes."""
        values = problem.nodes.field(problem.parameters)[: problem.node_space.dofmap.index_map.size_local]
        return self._features(problem.parameters, values)

    def _features(self, parameters: DarcyParameters, values: Array) -> Features:
        return Features(np.log(self._coefficient(parameters, values))[:, None], np.zeros(0))

    def _grid_points(self, parameters: DarcyParameters, count: int) -> Array:
        """Return the nodes of the operator's mesh, whatever the number: its convolution needs them all."""
        along = np.linspace(0.0, 1.0, self.options.model_cells + 1)
        return np.stack(np.meshgrid(along, along, indexing="ij"), axis=-1).reshape(-1, 2)

    def _features_at(self, parameters: DarcyParameters, points: Array) -> Features:
        return self._features(parameters, gaussian_field(parameters, self.options.model_cells).ravel())

    def solver(self, problem: DarcyProblem, atol: float, *, max_iterations: int | None = None) -> LinearSolver:
        """CG with GAMG."""
        return LinearSolver(problem, atol, options=GAMG_CG)

    def methods(self) -> Mapping[str, SolverFactory]:
        """CG with algebraic multigrid, and a sparse direct solver."""
        return {name: partial(LinearSolver, options=options) for name, options in METHODS.items()}

    def _sequence(self, problem: DarcyProblem, atol: float, *, method: str, reuse: Reuse) -> LinearSolver:
        """Multigrid reuses its interpolation; a reused factorisation preconditions CG, GCRO-DR recycles."""
        options = dict(METHODS[method])
        if method == "gamg-cg":
            options["pc_gamg_reuse_interpolation"] = "true"
        if reuse.preconditioner:
            options |= {"ksp_type": "cg", "ksp_norm_type": "unpreconditioned"}
        if reuse.recycle:
            options |= recycling(reuse.recycle)
        cost = SETUP_COST[method] if reuse.preconditioner else None
        return LinearSolver(problem, atol, options=options, setup_cost=cost)

    def _pencil(self, problem: DarcyProblem) -> Pencil:
        space = problem.solution.function_space
        trial, test = ufl.TrialFunction(space), ufl.TestFunction(space)
        stiffness = fem.form(problem.coefficient * ufl.inner(ufl.grad(trial), ufl.grad(test)) * ufl.dx)
        mass = fem.form(trial * test * ufl.dx)
        return Pencil(**problem.shared(), parameters=problem.parameters, stiffness=stiffness, mass=mass)

    def _prolongation(self, problem: DarcyProblem) -> PETSc.Mat:
        """From a mesh with ``COARSE_CELLS`` cells a side, at most half as many as the fine one. Collective."""
        fine, cells = problem.solution.function_space, min(COARSE_CELLS, problem.vertices.cells // 2)
        coarse = fem.functionspace(create_unit_square(fine.mesh.comm, cells, cells), ("P", 1))
        return constrain(interpolation_matrix(coarse, fine), boundary_dofs(coarse), boundary_dofs(fine))

    @property
    def fixed_mesh(self) -> FixedMesh[DarcyProblem]:
        return FixedMesh(self._update, self._sequence)

    @property
    def spectrum(self) -> Spectrum:
        """The matrix of the problem itself, and the mass matrix."""
        return Spectrum(self._pencil, pencil_modes, self._prolongation, inputs=("log_coefficient",), is_definite=True)

    def _coefficient(self, parameters: DarcyParameters, values: Array) -> Array:
        if self.options.medium == "log-normal":
            return np.exp(values / SCALE)
        return np.where(values >= 0.0, parameters.high, parameters.low)


def _mass(points: Array) -> Array:
    """Return the areas that belong to the nodes of a grid, in units of a cell."""
    return np.where(np.isclose(np.abs(points - 0.5), 0.5), 0.5, 1.0).prod(axis=1)


def _outflow(problem: DarcyProblem) -> ufl.Form:
    """Return the flow through the side x = 1, as the residual of a function that is 1 there. Collective.

    It is 1/2 at the corners, which belong to two sides: together the four sides lose what the source gives.
    """
    test = fem.Function(problem.solution.function_space)
    test.interpolate(lambda x: np.isclose(x[0], 1.0) * np.where(np.isclose(np.abs(x[1] - 0.5), 0.5), 0.5, 1.0))
    form = darcy(problem.solution, problem.coefficient, fem.Constant(problem.mesh, 1.0))
    return -ufl.replace(form, {form.arguments()[0]: test})


def darcy(pressure: fem.Function, coefficient: fem.Function, source: ufl.core.expr.Expr) -> ufl.Form:
    """Return the residual of Darcy's equation."""
    test = ufl.TestFunction(pressure.function_space)
    return (coefficient * ufl.inner(ufl.grad(pressure), ufl.grad(test)) - source * test) * ufl.dx


def potential(pressure: fem.Function, coefficient: fem.Function, source: ufl.core.expr.Expr) -> ufl.Form:
    """Return the energy that the solution makes least."""
    return (0.5 * coefficient * ufl.inner(ufl.grad(pressure), ufl.grad(pressure)) - source * pressure) * ufl.dx
