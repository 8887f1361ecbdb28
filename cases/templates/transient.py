"""Reaction and diffusion, step by step: each sample is a time step, predicted from the state before it."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import ufl
from mpi4py import MPI  # before dolfinx
from dolfinx import fem
from dolfinx.mesh import Mesh, create_unit_square

from lrsa_coupled import Case, Features, Field, NumericalError, Problem, Schema
from lrsa_coupled.coupling.quantities import Quantity
from lrsa_coupled.coupling.residual import reference_norm, residual_norm
from lrsa_coupled.guess.extrapolated import ExtrapolatedGuess, step_target
from lrsa_coupled.guess.guarded import GuardedSolver
from lrsa_coupled.guess.policy import Always
from lrsa_coupled.interfaces import FixedMesh, SolverFactory, Trajectory
from lrsa_coupled.solvers.newton import NewtonSolver
from lrsa_coupled.solvers.transient import BDF2, EXTRAPOLATIONS, Evolution, TimeStepper

STEPS, TIME_STEP, DIFFUSIVITY = 10, 0.1, 0.01


@dataclass(frozen=True)
class Parameters:
    """A trajectory, numbers and tuples of numbers, and the step of it that is to be solved."""

    rate: float = field(metadata={"unit": "1 / t"})
    centre: tuple[float, float] = field(metadata={"unit": "L"})
    step: int = field(default=0, metadata={"unit": "1"})


@dataclass(frozen=True, eq=False, kw_only=True)
class Step(Problem):
    """The problem of a step, with the stepper behind it and the rate in its form."""

    stepper: TimeStepper
    rate: fem.Constant


class Front(Case[Step]):
    """du/dt - div(DIFFUSIVITY grad u) = rate u (1 - u) in the unit square, no flux through its boundary."""

    # What the operator sees at each node (inputs), of each sample (scalars), and predicts at each node (outputs): here
    # the change of the state in a step.
    schema = Schema("front", 2, (Field("state"),), ("rate",), (Field("concentration", relative_to="state"),))
    fields = schema.outputs  # all fields of the solution
    resolution = 32  # what mesh() is given unless --resolution says otherwise
    rtol = 1e-8  # of the residual norm, relative to that at zero
    default_method = "linear"  # one of methods()
    # For 'lrsa-coupled estimate': numbers that are asked of a solution, as UFL forms; at the end of a trajectory.
    quantities = (Quantity("total", "L^2", lambda p: [p.solution * ufl.dx]),)

    def sample(self, rng: np.random.Generator) -> Parameters:
        """Draw a trajectory, from rng alone."""
        x, y = rng.uniform(0.2, 0.8, 2).tolist()
        return Parameters(rng.uniform(1.0, 4.0), (x, y))

    def mesh(self, comm: MPI.Comm, parameters: Parameters, resolution: int) -> Mesh:
        """Make the mesh, one for all parameters."""
        return create_unit_square(comm, resolution, resolution)

    def problem(self, mesh: Mesh, parameters: Parameters) -> Step:
        """Set up the forms and solve the steps before this one; the unknown holds zeros."""
        space, rate = fem.functionspace(mesh, ("P", 1)), fem.Constant(mesh, parameters.rate)
        evolution = Evolution(
            space,
            mass=lambda w, v: w * v * ufl.dx,
            rate=lambda u, v, t: (DIFFUSIVITY * ufl.inner(ufl.grad(u), ufl.grad(v)) - rate * u * (1 - u) * v) * ufl.dx,
        )
        stepper = TimeStepper(evolution, BDF2)
        given = {f.name: getattr(stepper.problem, f.name) for f in dataclasses.fields(Problem)}
        return self._from_the_beginning(Step(**given, stepper=stepper, rate=rate), parameters)

    def features(self, problem: Step) -> Features:
        """Evaluate inputs and scalars; this rank has the first nodes, the others are copies of other ranks' nodes."""
        owned = problem.node_space.dofmap.index_map.size_local
        state = problem.stepper.history[0].x.array[:owned]
        return Features(np.array(state)[:, None], np.array([problem.parameters.rate]))

    def solver(self, problem: Step, atol: float, *, max_iterations: int | None = None) -> NewtonSolver:
        """Make the solver that begins with what is in the unknown; it solves one step after the other."""
        return NewtonSolver(problem, atol, max_iterations=max_iterations)

    def methods(self) -> Mapping[str, SolverFactory]:
        """List what you would do without a prediction: extrapolations of the last states."""
        return {name: partial(self._extrapolating, name) for name in EXTRAPOLATIONS}

    @property
    def fixed_mesh(self) -> FixedMesh[Step]:
        """How to go from problem to problem."""
        return FixedMesh(
            self._update, lambda problem, atol, *, method, reuse: self._extrapolating(method, problem, atol)
        )

    @property
    def trajectory(self) -> Trajectory[Step]:
        """How to go from step to step."""
        return Trajectory(STEPS, at_step, self._advance, lambda p, name: p.stepper.put(name), tuple(EXTRAPOLATIONS))

    def _extrapolating(self, name: str, problem: Step, atol: float) -> GuardedSolver:
        guess = ExtrapolatedGuess(name, self.trajectory)
        return GuardedSolver([], step_target(self.solver(problem, atol), problem, atol, guess), Always())

    def _advance(self, problem: Step) -> Step:
        """Take the solution for the state after the step; return the problem of the next one."""
        problem.stepper.advance()
        return dataclasses.replace(problem, parameters=at_step(problem.parameters, problem.parameters.step + 1))

    def _update(self, problem: Step, parameters: Parameters) -> Step:
        """Go to the next step of the same trajectory, or to any other one."""
        is_next = parameters == at_step(problem.parameters, problem.parameters.step + 1)
        if is_next and self._is_solved(problem):
            return self._advance(problem)
        return self._from_the_beginning(problem, parameters)

    def _is_solved(self, problem: Step) -> bool:
        found, norm = problem.solution.x.array.copy(), residual_norm(problem)
        atol = self.rtol * reference_norm(problem)  # leaves zeros in the unknown
        problem.solution.x.array[:] = found
        return norm <= 1.01 * atol

    def _from_the_beginning(self, problem: Step, parameters: Parameters) -> Step:
        problem = dataclasses.replace(problem, parameters=at_step(parameters, 0))
        problem.rate.value = parameters.rate
        initial = fem.Function(problem.node_space)
        initial.interpolate(lambda x: bump(parameters, x))
        problem.stepper.begin(initial.x.array, TIME_STEP)
        for step in range(parameters.step):
            result = self.default_solver(problem, self.rtol * reference_norm(problem)).solve_once()
            if not result.converged:
                raise NumericalError(f"step {step} failed: {result.reason}")
            problem = self._advance(problem)
        return problem


def at_step(parameters: Parameters, step: int) -> Parameters:
    """Return another step of the same trajectory."""
    return dataclasses.replace(parameters, step=step)


def bump(p: Parameters, x: np.ndarray) -> Any:
    """State at the beginning, at points x, one row a coordinate."""
    return np.exp(-50.0 * ((x[0] - p.centre[0]) ** 2 + (x[1] - p.centre[1]) ** 2))
