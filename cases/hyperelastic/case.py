"""Large deformations of a neo-Hookean block of random stiffness, bent, twisted and stretched, P1 or P2 tetrahedra."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import ModuleType
from typing import final

import numpy as np
import numpy.typing as npt
import ufl
from mpi4py import MPI
from dolfinx import fem
from dolfinx.mesh import Mesh, locate_entities_boundary, meshtags
from petsc4py import PETSc

from lrsa_coupled.cases.hyperelastic.coarse import RTOL, CoarseModel, CoarseModelGuess
from lrsa_coupled.coupling.options import MUMPS
from lrsa_coupled.coupling.quantities import PointSampling, Quantity, quasi_random
from lrsa_coupled.coupling.residual import reference_norm
from lrsa_coupled.guess.guarded import GuardedSolver
from lrsa_coupled.guess.policy import Always
from lrsa_coupled.guess.target import CaseTarget
from lrsa_coupled.interfaces import Case, Continuation, Features, Problem, Solver, SolverFactory
from lrsa_coupled.meshing import gmsh_mesh
from lrsa_coupled.schema import Field, Matrix, Schema, Symmetry
from lrsa_coupled.solvers.continuation import ContinuationSolver, StepControl
from lrsa_coupled.solvers.interpolation import interpolation_matrix
from lrsa_coupled.solvers.newton import NewtonSolver
from lrsa_coupled.solvers.petsc import rigid_body_modes
from lrsa_coupled.solvers.relaxed import RelaxedSolver, Stage

Array = npt.NDArray[np.float64]

LENGTH = 3.0
"""Length of the block along x; its cross-section is the unit square around the x-axis."""

CORNERS = np.array([[0.0, -0.5, -0.5], [LENGTH, 0.5, 0.5]])

MODES = (5, 3, 3)
"""Cosines of the logarithm of the stiffness along x, y and z."""

BENDING, TORSION, AXIAL = 0.2, 0.6, (-0.01, 0.1)
"""Largest transverse traction, largest torsion either way, range of the axial traction."""

DIRECT_BELOW = 10_000
"""Unknowns up to which MUMPS takes less time than conjugate gradients with algebraic multigrid."""

GAMG = {"ksp_type": "cg", "ksp_rtol": "1e-3", "ksp_max_it": "200", "pc_type": "gamg", "pc_gamg_threshold": "0.01",
        "mg_levels_pc_type": "jacobi", "snes_max_linear_solve_fail": "1000"}  # fmt: skip
"""Conjugate gradients stop at negative curvature; the line search takes what they have reached (truncated Newton)."""

PEAK, QUADRATURE = 8, {"quadrature_degree": 4}
"""Power of the mean that stands for the largest stress; degree of the quadrature of what is no polynomial."""

REUSE_UP_TO = 12
"""Steps of conjugate gradients up to which the multigrid hierarchy is reused: a new one costs as much as 30 to 40."""

REUSE_BELOW = 0.01
"""Reduction of the residual norm in an iteration from which the stiffness matrix is reused, near the solution."""

STAGES = (Stage(value=0.3, rtol=0.1, max_iterations=4), Stage(value=0.1, rtol=0.1, max_iterations=3))
"""Volume ratios below which elements of a bad guess are let through each other, one after the other."""

TIGHT = StepControl(first_step=0.1, growth=1.2, few=4, extrapolate=False, min_step=1e-3)
LOOSE = StepControl(first_step=0.34, growth=1.0, inner_rtol=0.3, max_inner=6, extrapolate=False, otherwise=TIGHT)


def _reflection(matrix: Matrix, loads: Matrix) -> Symmetry:
    inputs = ((1, 0, 0, 0), *((0, *row) for row in matrix))
    return Symmetry(matrix, (0.0, 0.0, 0.0), inputs, (*loads, (0, 0, 0, -1)), matrix)


MIRROR = _reflection(((1, 0, 0), (0, -1, 0), (0, 0, 1)), ((1, 0, 0, 0), (0, -1, 0, 0), (0, 0, 1, 0)))
SWAP = _reflection(((1, 0, 0), (0, 0, 1), (0, 1, 0)), ((1, 0, 0, 0), (0, 0, 1, 0), (0, 1, 0, 0)))
"""The square cross-section mirrored at ``y = 0`` and at ``y = z``; a reflection turns the sense of the torsion."""


@dataclass(frozen=True)
class HyperelasticOptions:
    """Degree of the displacement, 1 or 2; Poisson's ratio."""

    degree: int = 1
    poisson: float = 0.3


@dataclass(frozen=True)
class HyperelasticParameters:
    """Lengths in units of the width b of the block, stresses in units of the geometric mean E of Young's modulus.

    The modulus is ``exp(sum_jkl stiffness_jkl cos(j pi x / L) cos(k pi (y + 1/2)) cos(l pi (z + 1/2)))``, ``stiffness``
    in C order. The end at ``x = L`` carries the dead traction ``traction + torsion (0, -z, y)``.
    """

    stiffness: tuple[float, ...] = field(metadata={"unit": "1"})
    traction: tuple[float, float, float] = field(metadata={"unit": "E"})
    torsion: float = field(metadata={"unit": "E / b"})


@dataclass(frozen=True, eq=False, kw_only=True)
class HyperelasticProblem(Problem):
    """With what its parameters are written into: the modulus at the nodes, constants of the loads."""

    modulus: fem.Function
    traction: fem.Constant
    torsion: fem.Constant

    def updated(self, parameters: HyperelasticParameters) -> HyperelasticProblem:
        """Give the problem other parameters, in place, and zeros for the solution. Collective: no."""
        points = self.node_space.tabulate_dof_coordinates()
        self.modulus.x.array[:] = np.exp(log_stiffness(parameters, points))
        self.traction.value[:], self.torsion.value = parameters.traction, parameters.torsion
        self.solution.x.array[:] = 0.0
        return dataclasses.replace(self, parameters=parameters)


@final
class HyperelasticCase(Case[HyperelasticProblem]):
    """A clamped neo-Hookean block of random stiffness, bent, twisted and stretched by dead loads at its end."""

    resolution = 9
    fields = (Field("displacement", 3, "b", relative_to="coarse_displacement"),)
    schema = Schema(
        name="hyperelastic",
        dim=3,
        inputs=(Field("log_stiffness"), Field("coarse_displacement", 3, "b")),
        scalars=("traction_x", "traction_y", "traction_z", "torsion"),
        outputs=fields,
        symmetries=(MIRROR, SWAP),
    )
    rtol = 1e-8
    default_method = "coarse-model"
    default_options = HyperelasticOptions()

    def __init__(self, options: HyperelasticOptions | None = None) -> None:
        super().__init__(options)
        self._meshes: dict[int, tuple[MPI.Comm, Mesh]] = {}
        self._coarse: CoarseModel | None = None
        self.points = PointSampling(
            lambda _, count: CORNERS[0] + np.ptp(CORNERS, axis=0) * quasi_random(count, 3),
            self._features_at, lambda _: LENGTH,
        )  # fmt: skip
        self.quantities = (
            Quantity("elongation", "b", lambda p: _at_end(p)[:1]),
            Quantity("deflection", "b", lambda p: _at_end(p)[1:], np.hypot),
            Quantity("clamp_moment", "E b^3", _clamp_moment, lambda *moment: float(np.linalg.norm(moment))),
            Quantity("strain_energy", "E b^3", lambda p: [self._stored(p) * ufl.dx(metadata=QUADRATURE)]),
            Quantity("peak_stress", "E", self._stress_power, lambda mean: mean ** (1.0 / PEAK)),
        )  # of the end, the mean; moment about the middle of the clamp; stress: Cauchy's, von Mises, norm in L^PEAK
        if self.options.degree not in (1, 2) or not -1.0 < self.options.poisson < 0.5:
            raise ValueError(f"options of hyperelastic: degree 1 or 2, poisson between -1 and 0.5, got {self.options}")

    def sample(self, rng: np.random.Generator) -> HyperelasticParameters:
        """Draw amplitudes that fall with the wave number, bending, torsion, tension or slight compression."""
        j, k, m = np.meshgrid(*[np.arange(count) for count in MODES], indexing="ij")
        deviations = 0.5 / (1.0 + (2.0 * j / LENGTH) ** 2 + k**2 + m**2)
        deviations[0, 0, 0] = 0.0
        bending, direction = BENDING * np.sqrt(rng.uniform()), rng.uniform(0.0, 2.0 * np.pi)
        axial = rng.uniform(*AXIAL)
        return HyperelasticParameters(
            stiffness=tuple((deviations * rng.standard_normal(MODES)).ravel().tolist()),
            traction=(float(axial), float(bending * np.cos(direction)), float(bending * np.sin(direction))),
            torsion=float(rng.uniform(-TORSION, TORSION)),
        )

    def mesh(self, comm: MPI.Comm, parameters: HyperelasticParameters, resolution: int) -> Mesh:
        """Mesh the block with unstructured tetrahedra, ``resolution`` to a width, the same for all parameters."""
        if resolution < 2:
            raise ValueError(f"the resolution of hyperelastic is at least 2 tetrahedra to a width, got {resolution}")

        def draw(gmsh: ModuleType) -> None:
            gmsh.model.occ.addBox(0.0, -0.5, -0.5, LENGTH, 1.0, 1.0)
            gmsh.model.occ.synchronize()
            for bound in ("Min", "Max"):
                gmsh.option.setNumber(f"Mesh.MeshSize{bound}", 1.0 / resolution)

        if resolution not in self._meshes or self._meshes[resolution][0] != comm:
            self._meshes[resolution] = (comm, gmsh_mesh(comm, draw, 3))
        return self._meshes[resolution][1]

    def problem(self, mesh: Mesh, parameters: HyperelasticParameters) -> HyperelasticProblem:
        """Set up energy, forms and the clamped end. Collective."""
        space = fem.functionspace(mesh, ("P", self.options.degree, (mesh.geometry.dim,)))
        node_space = fem.functionspace(mesh, ("P", self.options.degree))
        displacement, modulus = fem.Function(space, name="displacement"), fem.Function(node_space)
        traction, torsion = fem.Constant(mesh, np.zeros(3)), fem.Constant(mesh, 0.0)
        share, bound = fem.Constant(mesh, 1.0), fem.Constant(mesh, 0.0)
        stored = stored_energy(displacement, modulus, self.options.poisson, bound=bound)
        energy = potential(displacement, stored, traction, torsion, share=share)
        residual = ufl.derivative(energy, displacement, ufl.TestFunction(space))
        mesh.topology.create_connectivity(2, 3)
        clamped = locate_entities_boundary(mesh, 2, lambda x: np.isclose(x[0], 0.0))
        problem = HyperelasticProblem(
            mesh=mesh, parameters=parameters, solution=displacement, residual=fem.form(residual),
            jacobian=fem.form(ufl.derivative(residual, displacement)),
            bcs=[fem.dirichletbc(np.zeros(3), fem.locate_dofs_topological(space, 2, clamped), space)],
            node_space=node_space, energy=fem.form(energy),
            continuation=Continuation(partial(setattr, share, "value"), start=0.0, target=1.0),
            relaxation=Continuation(partial(setattr, bound, "value"), start=STAGES[0].value, target=0.0),
            modulus=modulus, traction=traction, torsion=torsion,
        )  # fmt: skip
        return problem.updated(parameters)

    def features(self, problem: Problem) -> Features:
        """Logarithm of the stiffness and displacement of the coarse model at the nodes; the loads. Collective: no."""
        parameters: HyperelasticParameters = problem.parameters
        return self._features_at(parameters, _owned_nodes(problem))

    def _features_at(self, parameters: HyperelasticParameters, points: Array) -> Features:
        nodal = np.column_stack([log_stiffness(parameters, points), self._coarse_at(parameters, points)])
        return Features(nodal, np.array([*parameters.traction, parameters.torsion]))

    def coarse_displacement(self, problem: Problem) -> Array:
        """Return the displacement of the coarse model at the owned nodes ``(N, 3)``. Collective: no."""
        return self._coarse_at(problem.parameters, _owned_nodes(problem))

    def _coarse_at(self, parameters: HyperelasticParameters, points: Array) -> Array:
        if self._coarse is None:
            make = HyperelasticCase(HyperelasticOptions(degree=2, poisson=self.options.poisson)).problem
            update = HyperelasticProblem.updated
            self._coarse = CoarseModel(CORNERS, make, update, lambda p: _stepped(LOOSE, p, RTOL * reference_norm(p)))
        return self._coarse.displacement(parameters, points)

    def _stored(self, problem: HyperelasticProblem, gradient: ufl.core.expr.Expr | None = None) -> ufl.core.expr.Expr:
        """Return the energy density of the solution, given its deformation gradient as a variable on request."""
        none = fem.Constant(problem.mesh, 0.0)
        return stored_energy(problem.solution, problem.modulus, self.options.poisson, bound=none, gradient=gradient)

    def _stress_power(self, problem: HyperelasticProblem) -> list[ufl.Form]:
        gradient = ufl.variable(ufl.Identity(3) + ufl.grad(problem.solution))
        kirchhoff = ufl.diff(self._stored(problem, gradient), gradient) * gradient.T
        deviator = ufl.dev(kirchhoff / ufl.det(gradient))
        von_mises = ufl.sqrt(1.5 * ufl.inner(deviator, deviator))
        return [von_mises**PEAK / LENGTH * ufl.dx(metadata=QUADRATURE)]

    def solver(self, problem: Problem, atol: float, *, max_iterations: int | None = None) -> Solver:
        """Newton, with MUMPS for few unknowns and CG with multigrid for many, which reuses matrices near the solution.

        Where elements of the guess are turned inside out or nearly so, they are let through each other first.
        """
        return RelaxedSolver(newton(problem, atol, max_iterations=max_iterations, reuse=True), STAGES)

    def methods(self) -> Mapping[str, SolverFactory]:
        """Newton from the coarse model, load steps with loose and with tight inner tolerance, Newton from zero."""
        loose, tight = partial(_stepped, LOOSE), partial(_stepped, TIGHT)
        return {
            "coarse-model": self._from_coarse_model,
            "load-steps-loose": loose,
            "load-steps-tight": tight,
            "zero": newton,
        }

    def _from_coarse_model(self, problem: Problem, atol: float) -> Solver:
        guess = CoarseModelGuess(self.schema.outputs, self.coarse_displacement)
        return GuardedSolver([guess], CaseTarget(self, problem, atol, method="load-steps-loose"), Always())

    @property
    def interpolation(self) -> Callable[[Problem, Problem], PETSc.Mat]:
        return lambda source, target: interpolation_matrix(source.node_space, target.node_space)


def potential(
    displacement: fem.Function, stored: ufl.core.expr.Expr, traction: fem.Constant, torsion: fem.Constant, *,
    share: fem.Constant,
) -> ufl.Form:  # fmt: skip
    """Return the stored energy of a density less the work of the loads, of which a ``share`` acts."""
    degree = displacement.function_space.element.basix_element.degree
    load, ds = _load(displacement, traction, torsion)
    dx = ufl.dx(metadata={"quadrature_degree": degree**2})
    return stored * dx - share * ufl.inner(load, displacement) * ds


def _load(
    displacement: fem.Function, traction: fem.Constant, torsion: fem.Constant
) -> tuple[ufl.core.expr.Expr, ufl.Measure]:
    """Return the traction with that of the torsion, and the measure of the end that carries it."""
    mesh = displacement.function_space.mesh
    facets = np.sort(locate_entities_boundary(mesh, 2, lambda x: np.isclose(x[0], LENGTH)))
    ds = ufl.Measure("ds", domain=mesh, subdomain_data=meshtags(mesh, 2, facets, np.ones_like(facets)))
    _, y, z = ufl.SpatialCoordinate(mesh)
    return traction + torsion * ufl.as_vector((0.0, -z, y)), ds(1)


def _at_end(problem: HyperelasticProblem) -> list[ufl.Form]:
    """Return the components of the mean displacement of the loaded end."""
    _, ds = _load(problem.solution, problem.traction, problem.torsion)
    return [problem.solution[i] * ds for i in range(3)]


def _clamp_moment(problem: HyperelasticProblem) -> list[ufl.Form]:
    """Return the components of the moment of the loads on the deformed block, which the clamp carries."""
    traction, ds = _load(problem.solution, problem.traction, problem.torsion)
    moment = ufl.cross(ufl.SpatialCoordinate(problem.mesh) + problem.solution, traction)
    return [moment[i] * ds for i in range(3)]


def stored_energy(
    displacement: ufl.core.expr.Expr, modulus: ufl.core.expr.Expr, poisson: float, *, bound: fem.Constant,
    gradient: ufl.core.expr.Expr | None = None,
) -> ufl.core.expr.Expr:  # fmt: skip
    """Return the energy density of a compressible neo-Hookean solid; with the bound 0 not a number if inside out.

    Where the volume ratio is below the bound, its logarithm is replaced by the Taylor polynomial of degree two about
    the bound: any displacement then has an energy. ``gradient``: that of the deformation, where it is a variable.

    Source: Bonet & Wood (2008), eq. (6.27).
    """
    gradient = ufl.Identity(3) + ufl.grad(displacement) if gradient is None else gradient
    ratio = ufl.det(gradient)
    excess = (ratio - bound) / bound
    log_ratio = ufl.conditional(ufl.gt(ratio, bound), ufl.ln(ratio), ufl.ln(bound) + excess - excess**2 / 2.0)
    mu, lame = modulus / (2.0 * (1.0 + poisson)), modulus * poisson / ((1.0 + poisson) * (1.0 - 2.0 * poisson))
    return mu / 2.0 * (ufl.inner(gradient, gradient) - 3.0) - mu * log_ratio + lame / 2.0 * log_ratio**2


def log_stiffness(parameters: HyperelasticParameters, points: Array) -> Array:
    """Return the logarithm of Young's modulus at points ``(num_points, 3)``, in units of its geometric mean."""
    scaled = np.pi * (points / np.array([LENGTH, 1.0, 1.0]) + np.array([0.0, 0.5, 0.5]))
    x, y, z = (np.cos(np.outer(scaled[:, axis], np.arange(count))) for axis, count in enumerate(MODES))
    return np.einsum("jkl,nj,nk,nl->n", np.reshape(parameters.stiffness, MODES), x, y, z, optimize=True)


def newton(problem: Problem, atol: float, *, max_iterations: int | None = None, direct_below: int = DIRECT_BELOW,
           reuse: bool = False) -> NewtonSolver:  # fmt: skip
    """Make Newton's method with the linear solver that suits the number of unknowns; 50 iterations unless given."""
    dofmap = problem.solution.function_space.dofmap
    direct = dofmap.index_map.size_global * dofmap.bs < direct_below
    solver = NewtonSolver(
        problem, atol, max_iterations=50 if max_iterations is None else max_iterations,
        options=MUMPS if direct else GAMG, reuse_below=REUSE_BELOW if reuse else None,
        reuse_up_to=REUSE_UP_TO if reuse and not direct else None,
    )  # fmt: skip
    if not direct:
        solver.set_near_nullspace(rigid_body_modes)
    return solver


def _stepped(control: StepControl, problem: Problem, atol: float) -> Solver:
    return ContinuationSolver(newton(problem, atol), control)


def _owned_nodes(problem: Problem) -> Array:
    return problem.node_space.tabulate_dof_coordinates()[: problem.node_space.dofmap.index_map.size_local]
