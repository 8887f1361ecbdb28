"""Heat in a random, time-dependent stirring flow, conductivity grows with temperature, P2 and BDF2 with large steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import final

import numpy as np
import numpy.typing as npt
import ufl
from mpi4py import MPI
from dolfinx import fem
from dolfinx.mesh import Mesh, create_unit_square

from lrsa_coupled.cases.convection.features import Defect, Flow, Nodes
from lrsa_coupled.cases.convection.stirring import ConvectionParameters, draw_trajectory
from lrsa_coupled.coupling.quantities import Quantity
from lrsa_coupled.coupling.residual import reference_norm, residual_norm
from lrsa_coupled.guess.extrapolated import ExtrapolatedGuess, step_target
from lrsa_coupled.guess.guarded import GuardedSolver
from lrsa_coupled.guess.policy import Always
from lrsa_coupled.interfaces import Case, Features, FixedMesh, Problem, Reuse, SequenceSolver, SolverFactory, Trajectory
from lrsa_coupled.schema import Field, Schema, Symmetry
from lrsa_coupled.solvers.interpolation import boundary_dofs
from lrsa_coupled.solvers.newton import NewtonSolver
from lrsa_coupled.solvers.transient import BDF2, KSP_GUESSES, Evolution, TimeStepper

Expr = ufl.core.expr.Expr

DIFFUSIVITY, GROWTH = 0.01, 1.0
"""Thermal diffusivity at zero temperature [L U], and how it grows: by the factor 1 + GROWTH (u / T)^2."""

PEAK = 16
"""Power of the mean that stands for the largest temperature: it is smooth and 10 % or so below."""

SETTLED = 1.01
"""A solution is the state after a step when its residual norm is at most this many times the tolerance."""

KRYLOV = {"ksp_type": "gmres", "ksp_rtol": "1e-2", "pc_type": "asm", "sub_pc_type": "ilu", "sub_pc_factor_levels": "1"}
"""Inner solver; on one rank the Schwarz method has one block. HISTORY.md compares it with others."""

REUSE_BELOW = 0.1
"""Reduction by an iteration after which Jacobian and factors are reused, see ``NewtonSolver``."""


@dataclass(frozen=True)
class ConvectionOptions:
    """``steps`` of the size ``time_step``, 0 for log-uniform in [0.03, 0.3], make a trajectory.

    Frequencies of the flow are uniform in ``slowest`` to ``fastest``. The operator sees ``model_cells`` cells a side at
    most.
    """

    time_step: float = 0.0
    slowest: float = 1.0
    fastest: float = 6.0
    steps: int = 25
    model_cells: int = 24


@dataclass(frozen=True, eq=False, kw_only=True)
class ConvectionProblem(Problem):
    """With the stepper behind it and what the features are made of."""

    flow: Flow
    stepper: TimeStepper
    defect: Defect


TURN = Symmetry(((0, -1), (1, 0)), (0.5, 0.5), inputs=((1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 0, -1), (0, 0, 1, 0)))
MIRROR = Symmetry(((-1, 0), (0, 1)), (0.5, 0.5), inputs=((1, 0, 0, 0), (0, 1, 0, 0), (0, 0, -1, 0), (0, 0, 0, 1)))


@final
class ConvectionCase(Case[ConvectionProblem]):
    """du/dt + w . grad u - div(k(u) grad u) = q in the unit square, u = 0 on its boundary, flow and sources random."""

    resolution = 24
    fields = (Field("correction"),)
    schema = Schema(
        name="convection",
        dim=2,
        inputs=(Field("defect"), Field("extrapolation", unit="T"), Field("velocity", 2, "U")),
        scalars=("log_step", "log_scale"),
        outputs=fields,
        symmetries=(TURN, MIRROR),
    )
    rtol = 1e-8
    default_options = ConvectionOptions()
    default_method = "linear"
    extrapolations = ("linear", "previous", "quadratic")
    quantities = (
        Quantity("mean_temperature", "T", lambda p: [p.solution * ufl.dx]),
        Quantity("peak_temperature", "T", lambda p: [_power(p, PEAK)], lambda value: value ** (1.0 / PEAK)),
        Quantity("heat_loss", "T U L", lambda p: [_heat_loss(p)]),
    )
    """After the step of the sample. ``peak_temperature``: its norm in L^PEAK; ``heat_loss``: what leaves through the
    walls in a unit of time."""

    def __init__(self, options: ConvectionOptions | None = None) -> None:
        super().__init__(options)
        o = self.options
        if o.steps < 1 or o.model_cells < 2 or o.time_step < 0.0 or not 0.0 <= o.slowest <= o.fastest:
            raise ValueError(
                f"options of convection: steps >= 1, model_cells >= 2, time_step >= 0, 0 <= slowest <= fastest, got {o}"
            )

    def sample(self, rng: np.random.Generator) -> ConvectionParameters:
        """Draw a trajectory."""
        o, time_step = self.options, float(np.exp(rng.uniform(np.log(0.03), np.log(0.3))))
        return draw_trajectory(rng, o.time_step or time_step, (o.slowest, o.fastest))

    def _at_step(self, parameters: ConvectionParameters, step: int) -> ConvectionParameters:
        return dataclasses.replace(parameters, step=step)

    def mesh(self, comm: MPI.Comm, parameters: ConvectionParameters, resolution: int) -> Mesh:
        """Divide the unit square into ``resolution`` squares a side, each of them into two triangles. Collective."""
        if resolution < 2:
            raise ValueError(f"the resolution of convection must be at least 2 cells a side, got {resolution}")
        return create_unit_square(comm, resolution, resolution)

    def problem(self, mesh: Mesh, parameters: ConvectionParameters) -> ConvectionProblem:
        """Set up stepper and forms, and solve the steps before. Collective."""
        stepper, flow = make_stepper(mesh, parameters)
        cells, step = self.options.model_cells, stepper.problem
        coarser = mesh.topology.index_map(2).size_global > 2 * cells**2
        seen = make_stepper(create_unit_square(mesh.comm, cells, cells), parameters) if coarser else (stepper, flow)
        nodes = Nodes(stepper, *seen)
        problem = ConvectionProblem(
            mesh=mesh, parameters=parameters, solution=step.solution, residual=step.residual, jacobian=step.jacobian,
            bcs=step.bcs, node_space=nodes.space, to_nodes=nodes.to_nodes, from_nodes=nodes.from_nodes, flow=flow,
            stepper=stepper, defect=Defect(nodes),
        )  # fmt: skip
        return self._replay(problem, parameters)

    def _update(self, problem: ConvectionProblem, parameters: ConvectionParameters) -> ConvectionProblem:
        """Go to the next step when the solution is the state before it, else solve all steps before. Collective."""
        last = problem.flow.parameters
        if parameters == self._at_step(last, last.step + 1) and self._settled(problem):
            problem = self._advance(problem)
            problem.defect.find(problem.flow.parameters)
            return problem
        return self._replay(problem, parameters)

    def _advance(self, problem: ConvectionProblem) -> ConvectionProblem:
        """Take the solution for the state after the step and return the problem of the next. Collective."""
        problem.flow.parameters = self._at_step(problem.flow.parameters, problem.flow.parameters.step + 1)
        problem.stepper.advance()
        problem.defect.forget()
        return dataclasses.replace(problem, parameters=problem.flow.parameters)

    @property
    def fixed_mesh(self) -> FixedMesh[ConvectionProblem]:
        return FixedMesh(self._update, self._sequence)

    @property
    def trajectory(self) -> Trajectory[ConvectionProblem]:
        return Trajectory(
            self.options.steps, self._at_step, self._advance, lambda p, name: p.stepper.put(name), self.extrapolations
        )

    def features(self, problem: ConvectionProblem) -> Features:
        """Defect of the extrapolation, that itself, velocity; logarithms of dt / d_0 and the scale. Collective."""
        z, nodes = problem.defect.find(problem.flow.parameters), problem.defect.nodes
        stepper, owned = nodes.stepper, nodes.space.dofmap.index_map.size_local
        scale = float(stepper.scale.value)
        columns = (z.x.array / scale, stepper.base.x.array, nodes.flow.velocity.x.array.reshape(-1, 2))
        nodal: npt.NDArray[np.float64] = np.column_stack([values[:owned] for values in columns])
        return Features(nodal, np.array([-np.log(float(stepper.weights[0].value)), np.log(scale)]))

    def solver(self, problem: Problem, atol: float, *, max_iterations: int | None = None) -> NewtonSolver:
        """Newton with GMRES and incomplete factors, which are reused near the solution."""
        return NewtonSolver(problem, atol, prefix="convection_", max_iterations=max_iterations, options=KRYLOV,
                            reuse_below=REUSE_BELOW)  # fmt: skip

    def methods(self) -> Mapping[str, SolverFactory]:
        """Extrapolations, and the first of them with PETSc's guesses for the linear systems."""
        return {name: partial(self._extrapolating, name) for name in (*self.extrapolations, *KSP_GUESSES)}

    def _sequence(self, problem: Problem, atol: float, *, method: str, reuse: Reuse) -> SequenceSolver:
        """The solver of a method; factors are reused near the solution only, no subspace is recycled."""
        return self._extrapolating(method, problem, atol)

    def _extrapolating(self, name: str, problem: Problem, atol: float) -> GuardedSolver:
        """Return the solver of steps that begin with an extrapolation, the first one for PETSc's guesses inside."""
        if name in self.extrapolations:
            newton = self.solver(problem, atol)
        else:
            options = {**KRYLOV, **KSP_GUESSES[name]}
            newton = NewtonSolver(problem, atol, prefix=f"convection_{name}_", options=options, reuse_below=REUSE_BELOW)
            name = self.extrapolations[0]
        guess = ExtrapolatedGuess(name, self.trajectory)
        return GuardedSolver([], step_target(newton, problem, atol, guess), Always())

    def _settled(self, problem: Problem) -> bool:
        """Return whether the solution solves its step to the tolerance of the case. Collective."""
        found, own = problem.solution.x.array.copy(), residual_norm(problem)
        reference = reference_norm(problem)
        problem.solution.x.array[:] = found
        return own <= SETTLED * self.rtol * reference

    def _replay(self, problem: ConvectionProblem, parameters: ConvectionParameters) -> ConvectionProblem:
        """Solve a trajectory up to a step. RuntimeError when one before it cannot be solved. Collective."""
        problem.flow.parameters = self._at_step(parameters, 0)
        problem = dataclasses.replace(problem, parameters=problem.flow.parameters)
        problem.stepper.begin(np.zeros_like(problem.solution.x.array), parameters.time_step)
        problem.defect.forget()
        solver = None
        for step in range(parameters.step):
            atol = self.rtol * reference_norm(problem)
            solver = solver or self._extrapolating(self.extrapolations[0], problem, atol)
            solver.update(problem, atol)
            result = solver.solve()
            if not result.converged:
                raise RuntimeError(f"step {step} of the trajectory failed: {result.reason}")
            problem = self._advance(problem)
        if solver is not None:
            solver.destroy()
        problem.defect.find(problem.flow.parameters)
        return problem


def _power(problem: ConvectionProblem, power: int) -> ufl.Form:
    return problem.solution**power * ufl.dx(metadata={"quadrature_degree": 2 * power})


def _heat_loss(problem: ConvectionProblem) -> ufl.Form:
    normal, u = ufl.FacetNormal(problem.mesh), problem.solution
    return -DIFFUSIVITY * (1.0 + GROWTH * u**2) * ufl.inner(ufl.grad(u), normal) * ufl.ds


def make_stepper(mesh: Mesh, parameters: ConvectionParameters) -> tuple[TimeStepper, Flow]:
    """Return the stepper on a mesh and the flow behind its forms. Collective."""
    space = fem.functionspace(mesh, ("P", 2))
    flow = Flow(space, parameters)
    bcs = [fem.dirichletbc(0.0, boundary_dofs(space), space)]
    evolution = Evolution(space, mass, partial(transport, flow.velocity, flow.source), bcs, flow.set_time)
    return TimeStepper(evolution, BDF2, corrections=True), flow


def mass(w: Expr, v: Expr) -> ufl.Form:
    """Return the L2 product."""
    return w * v * ufl.dx


def transport(velocity: Expr, source: Expr, u: Expr, v: Expr, time: fem.Constant) -> ufl.Form:
    """Return convection and diffusion less the source."""
    conductivity = DIFFUSIVITY * (1.0 + GROWTH * u**2)
    diffusion = conductivity * ufl.inner(ufl.grad(u), ufl.grad(v))
    return (ufl.inner(velocity, ufl.grad(u)) * v + diffusion - source * v) * ufl.dx
