"""Steady incompressible flow in a lid-driven cavity with an elliptic obstacle, Taylor-Hood P2-P1."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, final

import basix.ufl
import numpy as np
import numpy.typing as npt
import ufl
from mpi4py import MPI
from dolfinx import fem
from dolfinx.mesh import Mesh, exterior_facet_indices, locate_entities_boundary
from petsc4py import PETSc

from lrsa_coupled.cases.cavity.force import probe_points, work_on_obstacle
from lrsa_coupled.cases.cavity.mesh import cavity_mesh
from lrsa_coupled.config import NonNegativeFloat, PositiveFloat
from lrsa_coupled.coupling.options import QAMD
from lrsa_coupled.coupling.quantities import PointSampling, Probe, Quantity, quasi_random
from lrsa_coupled.interfaces import Case, Continuation, Features, Problem, Solver, SolverFactory
from lrsa_coupled.schema import Field, Schema
from lrsa_coupled.solvers.continuation import ContinuationSolver, StepControl
from lrsa_coupled.solvers.interpolation import interpolation_matrix
from lrsa_coupled.solvers.newton import NewtonSolver

Coordinates = npt.NDArray[np.float64]

START = 200.0
"""Reynolds number at which Newton converges from the zero guess."""

OUTSIDE_POLYGON = 0.05
"""More than a node at the obstacle can lie outside of a coarser mesh, whose boundary there is a polygon."""

TIGHT = StepControl(first_step=2.0, growth=1.2, few=3, extrapolate=False)
LOOSE = StepControl(first_step=1.35, growth=1.0, inner_rtol=0.5, max_inner=3, extrapolate=False, otherwise=TIGHT)


@dataclass(frozen=True)
class CavityOptions:
    """The Reynolds number is drawn log-uniform between these."""

    least_reynolds: float = 200.0
    largest_reynolds: float = 2500.0


@dataclass(frozen=True)
class CavityParameters:
    """Lengths in units of the side of the cavity, velocities in units of the mean lid speed.

    Below each corner the side walls slip along with the lid over the length ``corner_gap``, which regularises the
    singular corner in the same way on every mesh that resolves the gap. The lid moves with ``1 + sum_k lid[k] sin((k +
    1) pi x)``: the flow through both gaps is the same. ``semi_axes`` of zero stand for a cavity without obstacle.
    """

    reynolds: PositiveFloat = field(metadata={"unit": "1"})
    centre: tuple[float, float] = field(default=(0.5, 0.5), metadata={"unit": "L"})
    semi_axes: tuple[NonNegativeFloat, NonNegativeFloat] = field(default=(0.0, 0.0), metadata={"unit": "L"})
    angle: float = field(default=0.0, metadata={"unit": "rad"})
    lid: tuple[float, ...] = field(default=(0.0, 0.0, 0.0), metadata={"unit": "U"})
    corner_gap: PositiveFloat = field(default=0.0125, metadata={"unit": "L"})


def wall_speed(parameters: CavityParameters, x: Coordinates, y: Coordinates) -> Coordinates:
    """Return the horizontal speed of the side walls: over the corner gap a quadratic from the lid's to rest [U]."""
    s = (1.0 - y) / parameters.corner_gap
    return np.where(s < 1.0, lid_speed(parameters, x) * (1.0 - s) * (1.0 - 2.0 * s), 0.0)


def lid_speed(parameters: CavityParameters, x: Coordinates) -> Coordinates:
    """Return the speed of the lid at abscissae ``x`` [U]."""
    return 1.0 + np.sum([a * np.sin((k + 1) * np.pi * x) for k, a in enumerate(parameters.lid)], axis=0)


@final
class CavityCase(Case[Problem]):
    """Steady Navier-Stokes in a lid-driven cavity with a random elliptic obstacle, random lid profile."""

    resolution = 32
    fields = (Field("velocity", 2, "U", subspace=(0,)), Field("pressure", 1, "rho U^2", subspace=(1,)))
    schema = Schema(
        name="cavity",
        dim=2,
        inputs=(
            Field("obstacle_level"), Field("lid_speed", unit="U"), Field("wall_layers", 5), Field("lid_corners", 4)
        ),
        scalars=("log_reynolds", "centre_x", "centre_y", "area_axis", "anisotropy_cos", "anisotropy_sin",
                 "lid_1", "lid_2", "lid_3"),
        outputs=fields[:1],  # Newton is linear in the pressure: its first iterate does not depend on the guess of it
    )  # fmt: skip
    rtol = 1e-8
    default_method = "continuation-loose"
    default_options = CavityOptions()
    quantities = (
        Quantity("kinetic_energy", "rho U^2 L^2", lambda p: [0.5 * ufl.inner(*2 * [_velocity(p)]) * ufl.dx]),
        Quantity("dissipation", "rho U^3 L", lambda p: [_dissipated(p) * ufl.dx]),
        Quantity("flow_rate", "U L", lambda p: [0.5 * abs(_velocity(p)[0]) * ufl.dx]),
        Quantity("force_x", "rho U^2 L", lambda p: [_force(p, lambda x, y: (1.0, 0.0))]),
        Quantity("force_y", "rho U^2 L", lambda p: [_force(p, lambda x, y: (0.0, 1.0))]),
        Quantity("torque", "rho U^2 L^2", lambda p: [_force(p, lambda x, y: (-y, x))]),
    )
    """``flow_rate``: what flows to either side through a vertical line, the mean over these; ``torque``: about the
    centre of the obstacle."""

    def __init__(self, options: CavityOptions | None = None) -> None:
        super().__init__(options)
        self.points = PointSampling(
            points_of, features_at, lambda p: 1.0 - np.pi * p.semi_axes[0] * p.semi_axes[1], probe=PROBE
        )
        if not START <= self.options.least_reynolds <= self.options.largest_reynolds:
            raise ValueError(f"options of cavity: {START:g} <= least_reynolds <= largest_reynolds, got {self.options}")

    def sample(self, rng: np.random.Generator) -> CavityParameters:
        """Draw an obstacle of semi-axes 0.05 to 0.15 in the middle, a lid profile, and the Reynolds number."""
        logarithms = np.log(self.options.least_reynolds), np.log(self.options.largest_reynolds)
        return CavityParameters(
            reynolds=float(np.exp(rng.uniform(*logarithms))),
            centre=tuple(rng.uniform(0.3, 0.7, 2).tolist()),
            semi_axes=tuple(rng.uniform(0.05, 0.15, 2).tolist()),
            angle=float(rng.uniform(0.0, np.pi)),
            lid=tuple((rng.uniform(-0.3, 0.3, 3)).tolist()),
        )

    def mesh(self, comm: MPI.Comm, parameters: CavityParameters, resolution: int) -> Mesh:
        """Mesh the cavity, ``resolution`` cells to a unit of length half-way between wall and interior. Collective."""
        return cavity_mesh(comm, parameters.centre, parameters.semi_axes, angle=parameters.angle, resolution=resolution)

    def problem(self, mesh: Mesh, parameters: CavityParameters) -> Problem:
        """Set up the mixed problem; the pressure is fixed to zero at the corner (0, 0). Collective."""
        cell = mesh.basix_cell()
        element = basix.ufl.mixed_element(
            [basix.ufl.element("P", cell, 2, shape=(2,)), basix.ufl.element("P", cell, 1)]
        )
        space = fem.functionspace(mesh, element)
        solution = fem.Function(space, name="solution")
        viscosity = fem.Constant(mesh, 1.0 / parameters.reynolds)
        residual = navier_stokes(solution, viscosity)

        def set_reynolds(value: float) -> None:
            viscosity.value = 1.0 / value

        return Problem(
            mesh=mesh,
            parameters=parameters,
            solution=solution,
            residual=fem.form(residual),
            jacobian=fem.form(ufl.derivative(residual, solution)),
            bcs=dirichlet_conditions(space, parameters),
            node_space=fem.functionspace(mesh, ("P", 2)),
            continuation=Continuation(set_reynolds, start=START, target=parameters.reynolds, logarithmic=True),
        )

    def features(self, problem: Problem) -> Features:
        """Level of the obstacle, speed of the lid above, layers exp(-d sqrt(Re) / 5) of walls and obstacle, corners.

        Of each corner of the lid the angle from the lid and the logarithm of the distance plus the corner gap: beyond
        the gap the velocity near a corner depends on the angle alone (Taylor, 1962).
        """
        owned = problem.node_space.dofmap.index_map.size_local
        return features_at(problem.parameters, problem.node_space.tabulate_dof_coordinates()[:owned, :2])

    def solver(self, problem: Problem, atol: float, *, max_iterations: int | None = None) -> Solver:
        """Newton with MUMPS."""
        return NewtonSolver(problem, atol, max_iterations=max_iterations, options=QAMD, reuse_below=0.1)

    def methods(self) -> Mapping[str, SolverFactory]:
        """Continuation in the Reynolds number with loose and with tight inner tolerance, and Newton from zero."""
        loose, tight = partial(_continued, LOOSE, 0.5), partial(_continued, TIGHT, None)
        return {"continuation-loose": loose, "continuation-tight": tight, "zero": partial(NewtonSolver, options=QAMD)}

    @property
    def interpolation(self) -> Callable[[Problem, Problem], PETSc.Mat]:
        """The polygon of a coarser mesh leaves out some of the nodes around the obstacle: it is continued to them."""
        return lambda source, target: interpolation_matrix(source.node_space, target.node_space, reach=OUTSIDE_POLYGON)


def _velocity(problem: Problem) -> ufl.core.expr.Expr:
    return ufl.split(problem.solution)[0]


def _viscosity(problem: Problem) -> fem.Constant:
    return fem.Constant(problem.mesh, 1.0 / problem.parameters.reynolds)


def _dissipated(problem: Problem) -> ufl.core.expr.Expr:
    gradient = ufl.grad(_velocity(problem))
    return _viscosity(problem) * ufl.inner(gradient, gradient)


def _force(problem: Problem, motion: Callable[[Coordinates, Coordinates], tuple[Any, Any]]) -> ufl.Form:
    """Return the work of the fluid on a motion of the obstacle, given at coordinates from its centre. Collective.

    The residual is tested with a function that is the motion on the obstacle and vanishes at the other nodes: one order
    more accurate than the integral of the stress (Giles et al. 1997).
    """
    mesh, space, (x, y) = problem.mesh, problem.solution.function_space, problem.parameters.centre
    mesh.topology.create_connectivity(1, 2)
    at_walls = locate_entities_boundary(
        mesh, 1, lambda p: np.any([np.isclose(p[i], end) for i in (0, 1) for end in (0.0, 1.0)], axis=0)
    )
    facets = np.setdiff1d(exterior_facet_indices(mesh.topology), at_walls)
    velocity_space = space.sub(0).collapse()[0]
    moving, test = fem.Function(velocity_space), fem.Function(space)
    moving.interpolate(lambda p: np.stack(np.broadcast_arrays(*motion(p[0] - x, p[1] - y), p[0])[:2]))
    dofs, own = fem.locate_dofs_topological((space.sub(0), velocity_space), 1, facets)
    test.x.array[dofs] = moving.x.array[own]
    test.x.scatter_forward()
    form = navier_stokes(problem.solution, _viscosity(problem))
    return -ufl.replace(form, {form.arguments()[0]: test})


def features_at(p: CavityParameters, points: Coordinates) -> Features:
    """Return the features at points ``(num_points, 2)``."""
    (x, y), (a, b), level = points.T, p.semi_axes, _level(p, points.T)
    distance = (level - 1.0) * np.hypot(x - p.centre[0], y - p.centre[1]) / np.maximum(level, 1e-12)
    corners = [value for along in (x, 1.0 - x) for value in _corner_features(along, 1.0 - y, p.corner_gap)]
    layers = [np.exp(-d * np.sqrt(p.reynolds) / 5.0) for d in (1.0 - y, y, x, 1.0 - x, distance)]
    shape, turn = (a - b) / (a + b + 1e-12), 2.0 * p.angle
    anisotropy = shape * np.cos(turn), shape * np.sin(turn)
    nodal = np.column_stack([np.log(np.maximum(level, 0.5)), lid_speed(p, x), *layers, *corners])
    return Features(nodal, np.array([np.log(p.reynolds), *p.centre, np.sqrt(a * b), *anisotropy, *p.lid]))


def points_of(p: CavityParameters, count: int) -> Coordinates:
    """Return the first points of a quasi-random sequence that are not in the obstacle."""
    candidates = quasi_random(int(1.1 * count / (1.0 - np.pi * p.semi_axes[0] * p.semi_axes[1])) + 20, 2)
    return candidates[_level(p, candidates.T) > 1.0][:count]


PROBE = Probe(
    lambda p: probe_points(p.centre, p.semi_axes, p.angle),
    lambda p, velocity: work_on_obstacle(velocity, p.semi_axes, p.angle, reynolds=p.reynolds),
)
"""Force and torque on the obstacle."""


def _level(p: CavityParameters, at: Coordinates) -> Coordinates:
    """Return the level of the obstacle at points ``(2, num_points)``, 1 on its boundary."""
    (a, b), c, s = p.semi_axes, np.cos(p.angle), np.sin(p.angle)
    dx, dy = at[0] - p.centre[0], at[1] - p.centre[1]
    return np.hypot((c * dx + s * dy) / max(a, 1e-3), (c * dy - s * dx) / max(b, 1e-3))


def _corner_features(along: Coordinates, below: Coordinates, gap: float) -> tuple[Coordinates, Coordinates]:
    """Return the angle from the lid, zero at its very corner, and the logarithm of the distance plus the gap."""
    distance = np.hypot(along, below)
    return np.where(distance > 1e-9, np.arctan2(below, along), 0.0), np.log(distance + gap)


def _continued(control: StepControl, reuse_below: float | None, problem: Problem, atol: float) -> Solver:
    return ContinuationSolver(NewtonSolver(problem, atol, options=QAMD, reuse_below=reuse_below), control)


def navier_stokes(solution: fem.Function, viscosity: fem.Constant, force: ufl.core.expr.Expr | None = None) -> ufl.Form:
    """Return the residual of steady Navier-Stokes on a velocity-pressure space, ``force`` on the right-hand side."""
    velocity, pressure = ufl.split(solution)
    v, q = ufl.TestFunctions(solution.function_space)
    form = viscosity * ufl.inner(ufl.grad(velocity), ufl.grad(v)) + ufl.inner(ufl.dot(ufl.grad(velocity), velocity), v)
    form += -pressure * ufl.div(v) - q * ufl.div(velocity)
    return (form if force is None else form - ufl.inner(force, v)) * ufl.dx


def dirichlet_conditions(space: fem.FunctionSpace, parameters: CavityParameters) -> list[fem.DirichletBC]:
    """No slip on walls (see ``wall_speed``) and obstacle, the lid moves, the pressure at (0, 0) is zero. Collective."""
    mesh = space.mesh
    mesh.topology.create_connectivity(1, 2)
    velocity_space, pressure_space = space.sub(0).collapse()[0], space.sub(1).collapse()[0]
    at_lid = locate_entities_boundary(mesh, 1, lambda x: np.isclose(x[1], 1.0))
    walls = np.setdiff1d(exterior_facet_indices(mesh.topology), at_lid)
    resting, moving, zero = fem.Function(velocity_space), fem.Function(velocity_space), fem.Function(pressure_space)
    resting.interpolate(lambda x: np.stack([wall_speed(parameters, x[0], x[1]), np.zeros_like(x[0])]))
    moving.interpolate(lambda x: np.stack([lid_speed(parameters, x[0]), np.zeros_like(x[0])]))
    wall_dofs = fem.locate_dofs_topological((space.sub(0), velocity_space), 1, walls)
    lid_dofs = fem.locate_dofs_topological((space.sub(0), velocity_space), 1, at_lid)
    corner = fem.locate_dofs_geometrical(
        (space.sub(1), pressure_space), lambda x: np.isclose(x[0], 0.0) & np.isclose(x[1], 0.0)
    )
    return [
        fem.dirichletbc(resting, wall_dofs, space.sub(0)),
        fem.dirichletbc(moving, lid_dofs, space.sub(0)),
        fem.dirichletbc(zero, corner, space.sub(1)),
    ]
