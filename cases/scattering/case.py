"""Scattering of a plane wave by a random penetrable body in the plane: sound, or an electric field. Complex PETSc."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, final

import numpy as np
import ufl
from mpi4py import MPI
from dolfinx import fem
from dolfinx.mesh import Mesh
from petsc4py import PETSc

from lrsa_coupled.cases.scattering.medium import RADIUS, Array, ScatteringParameters, contrast_at, draw_modes
from lrsa_coupled.cases.scattering.mesh import create_disc
from lrsa_coupled.cases.scattering.waves import OUTER, QUADRATURE, Electric, Sound
from lrsa_coupled.coupling.options import MUMPS
from lrsa_coupled.coupling.quantities import Quantity
from lrsa_coupled.coupling.scalars import check_scalars
from lrsa_coupled.interfaces import Case, Features, FixedMesh, Problem, Reuse, SolverFactory
from lrsa_coupled.schema import Field, Schema, Symmetry
from lrsa_coupled.solvers.interpolation import boundary_dofs
from lrsa_coupled.solvers.linear import LinearSolver
from lrsa_coupled.solvers.petsc import recycling

WAVE_NUMBERS = (3.0, 6.0)
"""Least and greatest wave number [1/L]."""

DISC_CONTRASTS = (0.2, 1.2)
"""Least and greatest contrast of a homogeneous disc."""

SHIFT = 0.5
"""Imaginary part of the squared wave number of the shifted Laplacian, relative to it."""

GMRES = {"ksp_type": "gmres", "ksp_gmres_restart": "300", "ksp_pc_side": "right"}
ILU = {"pc_type": "bjacobi", "sub_pc_type": "ilu", "sub_pc_factor_levels": "2"}
SCHWARZ = {"pc_type": "asm", "pc_asm_blocks": "8", "pc_asm_overlap": "4", "sub_pc_type": "lu"}
SOUND: Mapping[str, Mapping[str, str]] = {
    "mumps": MUMPS, "ilu": {**GMRES, **ILU}, "shifted-laplacian": {**GMRES, **ILU, "sub_pc_factor_levels": "4"},
}  # fmt: skip
ELECTRIC: Mapping[str, Mapping[str, str]] = {"mumps": MUMPS, "shifted-schwarz": {**GMRES, **SCHWARZ}}
"""Incomplete factorisations break down: the form has a large kernel, the gradients."""

SETUP_COST = {"mumps": 10.0, "ilu": 13.0, "shifted-laplacian": 30.0, "shifted-schwarz": 10.0}
"""Cost of a new preconditioner in iterations with it, measured at resolution 32 but for the last, a guess."""


@dataclass(frozen=True)
class ScatteringOptions:
    """Sound in P2 elements, or an electric field in the plane in Nédélec elements of a degree; the scatterer.

    ``smooth``: the logarithm of its squared index is a random field of the deviation ``strength`` times a window.
    ``disc``: homogeneous, of a known exact solution.
    """

    wave: Literal["sound", "electric"] = "sound"
    medium: Literal["smooth", "disc"] = "smooth"
    strength: float = 0.8
    degree: Literal[1, 2] = 2


@dataclass(frozen=True, eq=False, kw_only=True)
class ScatteringProblem(Problem):
    """With what changes from sample to sample, and the form of the matrix of the shifted Laplacian.

    ``contrast`` is discontinuous and quadratic; ``places`` are its degrees of freedom, slightly inside their cells.
    """

    wave_number: fem.Constant
    direction: fem.Constant
    contrast: fem.Function
    places: Array
    shifted: fem.Form


@final
class ScatteringCase(Case[ScatteringProblem]):
    """Scattered waves around a random penetrable body, a perfectly matched layer around them; needs complex PETSc.

    Quantities: the power of the scattered wave over that of the incident one through a unit of length (by the optical
    theorem), and the integral of the squared size of the scattered field over the unit disc.
    """

    resolution = 32
    rtol = 1e-8
    default_method = "mumps"
    default_options = ScatteringOptions()
    is_complex = True

    def __init__(self, options: ScatteringOptions | None = None) -> None:
        super().__init__(options)
        if not self.options.strength > 0.0:
            raise ValueError(f"options.strength must be positive, got {self.options.strength}")
        is_sound = self.options.wave == "sound"
        self.wave = Sound() if is_sound else Electric(self.options.degree)
        self._methods = SOUND if is_sound else ELECTRIC
        self.quantities = (
            Quantity("cross_section", "L", self._extinction, lambda value: value.imag),
            Quantity("energy_in_body", "L^2", _energy),
        )
        inputs, self.fields = (Field("contrast"), self.wave.incident), (self.wave.output,)
        self.schema = Schema("scattering", 2, inputs, ("wave_number",), self.fields,
                             symmetries=_symmetries(self.wave.output.components // 2))  # fmt: skip

    def sample(self, rng: np.random.Generator) -> ScatteringParameters:
        """Draw a wave number, a direction and a scatterer."""
        wave_number, direction = float(rng.uniform(*WAVE_NUMBERS)), float(rng.uniform(0.0, 2.0 * np.pi))
        if self.options.medium == "disc":
            return ScatteringParameters(wave_number, direction, contrast=float(rng.uniform(*DISC_CONTRASTS)))
        return ScatteringParameters(wave_number, direction, draw_modes(rng, self.options.strength))

    def mesh(self, comm: MPI.Comm, parameters: ScatteringParameters, resolution: int) -> Mesh:
        """Put ``resolution`` rings of triangles in the disc, the edge of the scatterer between two. Collective."""
        if resolution < 4 or resolution % 4:
            raise ValueError(f"the resolution of scattering must be a multiple of 4 rings, got {resolution}")
        curved = round(resolution * RADIUS / OUTER) if self.options.medium == "disc" else None
        return create_disc(comm, OUTER, resolution, curved_ring=curved)

    def problem(self, mesh: Mesh, parameters: ScatteringParameters) -> ScatteringProblem:
        """Set up the problem; ValueError without complex PETSc. Collective."""
        check_scalars(self)
        space, zero = self.wave.space(mesh), PETSc.ScalarType(0.0)
        wave_number, direction = fem.Constant(mesh, zero), fem.Constant(mesh, np.zeros(2, dtype=PETSc.ScalarType))
        contrast, solution = fem.Function(fem.functionspace(mesh, ("DG", 2))), fem.Function(space, name="scattered")
        trial, test, squared = ufl.TrialFunction(space), ufl.TestFunction(space), wave_number**2
        wave = self.wave.incident_expression(mesh, wave_number, direction)
        form = partial(self.wave.form, test=test, wave_number=wave_number)
        source = squared * contrast * ufl.inner(wave, test) * ufl.dx(metadata={"quadrature_degree": 6})
        on_edge = fem.Function(space)
        problem = ScatteringProblem(
            mesh=mesh, parameters=parameters, solution=solution, is_linear=True,
            residual=fem.form(form(solution, squared=squared * (1.0 + contrast)) - source),
            jacobian=fem.form(form(trial, squared=squared * (1.0 + contrast))),
            bcs=[fem.dirichletbc(on_edge, boundary_dofs(space))], node_space=self.wave.node_space(space),
            wave_number=wave_number, direction=direction, contrast=contrast, places=_inside_cells(contrast),
            shifted=fem.form(form(trial, squared=(1.0 + SHIFT * 1j) * squared * (1.0 + contrast))),
        )  # fmt: skip
        return self._update(problem, parameters)

    def _update(self, problem: ScatteringProblem, parameters: ScatteringParameters) -> ScatteringProblem:
        """Set wave and scatterer. Collective: no."""
        problem.wave_number.value = parameters.wave_number
        problem.direction.value[:] = np.cos(parameters.direction), np.sin(parameters.direction)
        problem.contrast.x.array[:] = contrast_at(parameters, problem.places)
        problem.solution.x.array[:] = 0.0
        return dataclasses.replace(problem, parameters=parameters)

    def features(self, problem: ScatteringProblem) -> Features:
        """Contrast and incident wave at the nodes, and the wave number."""
        owned, parameters = problem.node_space.dofmap.index_map.size_local, problem.parameters
        points = problem.node_space.tabulate_dof_coordinates()[:owned, :2]
        columns = [contrast_at(parameters, points), self.wave.incident_at(parameters, points)]
        return Features(np.column_stack(columns), np.array([parameters.wave_number]))

    def solver(self, problem: ScatteringProblem, atol: float, *, max_iterations: int | None = None) -> LinearSolver:
        """GMRES with a preconditioner made of the shifted Laplacian."""
        return self._make([*self._methods][-1], problem, atol)

    def methods(self) -> Mapping[str, SolverFactory]:
        """MUMPS; GMRES with incomplete factorisations of the matrix or the shifted Laplacian, or Schwarz' method."""
        return {name: partial(self._make, name) for name in self._methods}

    def _extinction(self, problem: ScatteringProblem) -> list[ufl.Form]:
        """Return what the incident wave loses, as an imaginary part."""
        k = problem.wave_number
        wave = self.wave.incident_expression(problem.mesh, k, problem.direction)
        return [k * problem.contrast * ufl.inner(problem.solution + wave, wave) * ufl.dx(metadata=QUADRATURE)]

    @property
    def fixed_mesh(self) -> FixedMesh[ScatteringProblem]:
        return FixedMesh(self._update, self._sequence)

    def _sequence(self, problem: ScatteringProblem, atol: float, *, method: str, reuse: Reuse) -> LinearSolver:
        """A reused preconditioner, of another wave number, goes with GMRES; GCRO-DR recycles."""
        options = GMRES if reuse.preconditioner else {}
        if reuse.recycle:
            options = {**options, **recycling(reuse.recycle)}
        cost = SETUP_COST[method] if reuse.preconditioner else None
        return self._make(method, problem, atol, options=options, setup_cost=cost)

    def _make(self, method: str, problem: ScatteringProblem, atol: float, *, options: Mapping[str, str] | None = None,
              setup_cost: float | None = None) -> LinearSolver:  # fmt: skip
        shifted = problem.shifted if method.startswith("shifted") else None
        options = {**self._methods[method], **(options or {})}
        return LinearSolver(problem, atol, options=options, setup_cost=setup_cost, preconditioner=shifted)


def _energy(problem: ScatteringProblem) -> list[ufl.Form]:
    x = ufl.SpatialCoordinate(problem.mesh)
    in_body = ufl.conditional(ufl.lt(ufl.real(ufl.dot(x, x)), RADIUS**2), 1.0, 0.0)
    return [in_body * ufl.inner(problem.solution, problem.solution) * ufl.dx(metadata=QUADRATURE)]


def _inside_cells(function: fem.Function) -> Array:
    """Return points at the degrees of freedom of a discontinuous function, moved off the edges of their cells."""
    space = function.function_space
    points, cells = space.tabulate_dof_coordinates()[:, :2].copy(), space.dofmap.list
    points[cells] += 1e-6 * (points[cells].mean(axis=1, keepdims=True) - points[cells])
    return points


def _symmetries(components: int) -> tuple[Symmetry, ...]:
    """Generate those of the disc that a quarter turn and a reflection make, and those of the phase: times i."""
    turn, reflection, unit = np.array([[0, -1], [1, 0]]), np.array([[1, 0], [0, -1]]), np.eye(2, dtype=int)
    phase = np.kron(turn, np.eye(components, dtype=int))
    waves = [np.eye(2, dtype=int)] * 2 if components == 1 else [np.kron(unit, turn), -np.kron(unit, reflection)]
    pairs = zip((turn, reflection, unit), (*waves, phase), strict=True)
    return tuple(Symmetry(_rows(points), (0.0, 0.0), inputs=_rows(_with_one(wave)), outputs=_rows(wave))
                 for points, wave in pairs)  # fmt: skip


def _with_one(matrix: Any) -> Any:
    """Put a 1 before a matrix on the diagonal: the contrast stays as it is."""
    result = np.eye(len(matrix) + 1, dtype=int)
    result[1:, 1:] = matrix
    return result


def _rows(matrix: Any) -> tuple[tuple[int, ...], ...]:
    return tuple(map(tuple, matrix.tolist()))
