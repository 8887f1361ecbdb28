"""What ``lrsa-coupled check`` finds in sound cases and in cases with one mistake each."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ufl
from mpi4py import MPI
from dolfinx import fem, mesh as dmesh

from lrsa_coupled import Case, Continuation, Features, Field, Problem, Schema, catalog
from lrsa_coupled.config import Config
from lrsa_coupled.coupling.quantities import Quantity
from lrsa_coupled.generation.check import Finding, check_case
from lrsa_coupled.solvers.interpolation import boundary_dofs
from lrsa_coupled.solvers.newton import NewtonSolver

pytestmark = pytest.mark.two_ranks

COMM = MPI.COMM_WORLD


@dataclass(frozen=True)
class Strength:
    """Of the source, and the value at the boundary."""

    value: float = field(metadata={"unit": "1"})
    boundary: float = field(default=0.1, metadata={"unit": "1"})


class Reaction(Case):
    """-Laplace u + u^3 = strength x, u = 0.1 on the boundary; mistakes are made in subclasses."""

    schema = Schema("reaction", 2, (Field("source"),), ("strength",), (Field("u"),))
    resolution, rtol, default_method = 6, 1e-9, "newton"
    fields = schema.outputs
    is_linear = False

    def sample(self, rng: np.random.Generator) -> Strength:
        return Strength(float(rng.uniform(1.0, 9.0)))

    def mesh(self, comm: MPI.Comm, parameters: Strength, resolution: int) -> dmesh.Mesh:
        return dmesh.create_unit_square(comm, resolution, resolution)

    def potential(self, u: Any, strength: Any, x: Any) -> Any:
        return 0.5 * ufl.inner(ufl.grad(u), ufl.grad(u)) + 0.25 * u**4 - strength * x[0] * u

    def jacobian(self, residual: Any, u: Any) -> Any:
        return ufl.derivative(residual, u)

    def energy(self, potential: Any) -> Any:
        return potential

    def strength(self, mesh: dmesh.Mesh, parameters: Strength) -> Any:
        return fem.Constant(mesh, parameters.value)

    def problem(self, mesh: dmesh.Mesh, parameters: Strength) -> Problem:
        space = fem.functionspace(mesh, ("P", 1))
        u, x = fem.Function(space), ufl.SpatialCoordinate(mesh)
        potential = self.potential(u, self.strength(mesh, parameters), x) * ufl.dx
        residual = ufl.derivative(potential, u)
        return Problem(mesh=mesh, parameters=parameters, solution=u, node_space=space, residual=fem.form(residual),
                       jacobian=fem.form(self.jacobian(residual, u)), energy=fem.form(self.energy(potential)),
                       bcs=[fem.dirichletbc(parameters.boundary, boundary_dofs(space), space)],
                       is_linear=self.is_linear)  # fmt: skip

    def features(self, problem: Problem) -> Features:
        owned = problem.node_space.dofmap.index_map.size_local
        x = problem.node_space.tabulate_dof_coordinates()[:owned, :1]
        return Features(problem.parameters.value * x, np.array([problem.parameters.value]))

    def solver(self, problem: Problem, atol: float, *, max_iterations: int | None = None) -> NewtonSolver:
        return NewtonSolver(problem, atol, max_iterations=max_iterations)

    def methods(self) -> dict[str, Callable[..., NewtonSolver]]:
        return {"newton": self.solver}


class RandomSample(Reaction):
    def sample(self, rng: np.random.Generator) -> Strength:
        return Strength(float(np.random.default_rng().uniform(1.0, 9.0)))


class WrongJacobian(Reaction):
    def jacobian(self, residual: Any, u: Any) -> Any:
        return ufl.derivative(residual, u) + 10.0 * ufl.TrialFunction(_space(u)) * ufl.TestFunction(_space(u)) * ufl.dx


class Slight(Reaction):
    def jacobian(self, residual: Any, u: Any) -> Any:
        return 1.001 * ufl.derivative(residual, u)


class WrongEnergy(Reaction):
    def energy(self, potential: Any) -> Any:
        return 1.1 * potential


class PowerLaw(Reaction):
    """Of noise at the nodes, whose gradients are large, the other terms could not be seen."""

    resolution = 16

    def potential(self, u: Any, strength: Any, x: Any) -> Any:
        slope = ufl.inner(ufl.grad(u), ufl.grad(u))
        return super().potential(u, strength, x) + 0.25 * slope**2


class OtherRule(Reaction):
    def energy(self, potential: Any) -> Any:
        return ufl.Form([each.reconstruct(metadata={"quadrature_degree": 1}) for each in potential.integrals()])


class WrongLoad(PowerLaw):
    def energy(self, potential: Any) -> Any:
        (u,) = potential.coefficients()
        return potential + u * ufl.dx


class WrongMass(PowerLaw, WrongJacobian):
    pass


class NotAffine(Reaction):
    is_linear = True


class SaidNonlinear(Reaction):
    def potential(self, u: Any, strength: Any, x: Any) -> Any:
        return 0.5 * ufl.inner(ufl.grad(u), ufl.grad(u)) - strength * x[0] * u


class ConstantInput(Reaction):
    def features(self, problem: Problem) -> Features:
        return Features(np.ones_like(super().features(problem).nodal), np.array([problem.parameters.value]))


class WrongShape(Reaction):
    def features(self, problem: Problem) -> Features:
        return Features(super().features(problem).nodal[:, 0], np.array([problem.parameters.value]))


class Forgets(Reaction):
    def solver(self, problem: Problem, atol: float, *, max_iterations: int | None = None) -> NewtonSolver:
        problem.solution.x.array[:] = 0.0
        return NewtonSolver(problem, atol, max_iterations=max_iterations)


class Diverges(Reaction):
    def methods(self) -> dict[str, Callable[..., NewtonSolver]]:
        return {"newton": lambda problem, atol: NewtonSolver(problem, atol, max_iterations=1)}


class WrongDimension(Reaction):
    schema = dataclasses.replace(Reaction.schema, dim=3)


class NumberInForm(Reaction):
    def strength(self, mesh: dmesh.Mesh, parameters: Strength) -> Any:
        return parameters.value


class UnseenBoundary(Reaction):
    def sample(self, rng: np.random.Generator) -> Strength:
        return Strength(float(rng.uniform(1.0, 9.0)), float(rng.uniform(0.1, 0.5)))


class SeenBoundary(UnseenBoundary):
    schema = dataclasses.replace(Reaction.schema, scalars=("strength", "boundary"))

    def features(self, problem: Problem) -> Features:
        nodal = super().features(problem).nodal
        return Features(nodal, np.array([problem.parameters.value, problem.parameters.boundary]))


class ForgottenBoundary(SeenBoundary):
    def problem(self, mesh: dmesh.Mesh, parameters: Strength) -> Problem:
        problem = super().problem(mesh, dataclasses.replace(parameters, boundary=0.3))
        return dataclasses.replace(problem, parameters=parameters)


class NoNumber(Reaction):
    quantities = (Quantity("odd", "1", lambda problem: 3.0),)


class SolvedByZero(Reaction):
    """Zero is the solution."""

    def sample(self, rng: np.random.Generator) -> Strength:
        return Strength(0.0 * rng.uniform(), 0.0)


class WrongTarget(Reaction):
    """The path scales the source and ends at twice the problem's own."""

    def problem(self, mesh: dmesh.Mesh, parameters: Strength) -> Problem:
        problem, factor = super().problem(mesh, parameters), fem.Constant(mesh, 1.0)
        space, u = problem.node_space, problem.solution
        strength = self.strength(mesh, parameters)
        residual = ufl.derivative(self.potential(u, strength, factor * ufl.SpatialCoordinate(mesh)) * ufl.dx, u)

        def set_factor(value: float) -> None:
            factor.value = value

        path = Continuation(set_factor, start=0.5, target=2.0)
        return Problem(mesh=mesh, parameters=parameters, solution=u, node_space=space, residual=fem.form(residual),
                       jacobian=problem.jacobian, bcs=problem.bcs, continuation=path)  # fmt: skip


def _space(u: fem.Function) -> fem.FunctionSpace:
    return u.function_space


def findings(case: Case) -> list[Finding]:
    return [*check_case(case, Config(), COMM, samples=3)]


def test_a_sound_case_has_nothing_to_mend() -> None:
    found = findings(Reaction())
    assert {finding.level for finding in [*found, *findings(SeenBoundary())]} == {"ok"}
    texts = {finding.subject: finding.text for finding in found}
    assert texts["Jacobian"] == "Taylor remainder of order 2.0"
    assert texts["Dirichlet data"] == "24 degrees of freedom are fixed, 24 not to zero"
    assert texts["sample 0, newton"].endswith("49 nodes")


TEMPLATES = [str(catalog.templates()[name]) for name in ("energy", "transient")]


@pytest.mark.parametrize("name", ["darcy", "convection", *TEMPLATES], ids=lambda name: Path(name).stem)
def test_shipped_cases_have_no_errors(name: str) -> None:
    case = catalog.load_case(name)
    case.resolution = 8
    assert {finding.level for finding in findings(case)} == {"ok"}


@pytest.mark.parametrize(("case", "level", "subject", "text"), [
    (RandomSample(), "error", "3 samples", "draw from .* alone"),
    (WrongJacobian(), "error", "Jacobian", "is not the derivative of the residual"),
    (WrongEnergy(), "error", "energy", "its derivative is not the residual"),
    (OtherRule(), "advice", "energy", "as by quadrature of another degree"),
    (WrongLoad(), "error", "energy", "its derivative is not the residual"),
    (WrongMass(), "error", "Jacobian", "is not the derivative of the residual"),
    (NotAffine(), "error", "Jacobian", "is_linear=True, but the residual is not affine"),
    (SaidNonlinear(), "advice", "Jacobian", "is_linear=True"),
    (ConstantInput(), "advice", "features", "the same in all samples: source"),
    (WrongShape(), "error", "features", r"shape of nodal: expected \(\d+, 1\).* got \(\d+,\)"),
    (WrongDimension(), "error", "features", "has dim 3, the points of the mesh have 2"),
    (WrongTarget(), "error", "sample 0, continuation", "at its target, 2, the problem is not the one"),
    (SolvedByZero(), "error", "sample 0", "the residual at zero has the norm 0: rtol is relative to it"),
    (NumberInForm(), "advice", "forms", "3 compiled residuals of 3 samples"),
    (UnseenBoundary(), "error", "parameters", "'boundary' changes the problem, and no input and no scalar"),
    (ForgottenBoundary(), "advice", "parameters", "'boundary' changes inputs or scalars only"),
    (NoNumber(), "error", "quantity odd", "must make a list of UFL forms without test functions, got float"),
    (Slight(), "advice", "Jacobian", "by quadrature of another degree"),
    (Forgets(), "error", "sample 0, solver", "must begin with the values"),
    (Diverges(), "error", "sample 0, newton", "failed"),
], ids=lambda value: type(value).__name__ if isinstance(value, Case) else None)  # fmt: skip
def test_one_mistake_is_found(case: Case, level: str, subject: str, text: str) -> None:
    found = [finding for finding in findings(case) if finding.level != "ok" and finding.subject == subject]
    assert found and found[0].level == level
    assert re.search(text, found[0].text)
