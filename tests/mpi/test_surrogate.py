"""Estimates against true errors, certificates, and what happens without one, at any number of ranks."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from mpi4py import MPI

pytest.importorskip("dolfinx", reason="the estimate needs DOLFINx")

import ufl
from dolfinx import fem
from dolfinx.mesh import create_unit_square, exterior_facet_indices
from petsc4py import PETSc

from lrsa_coupled import catalog
from lrsa_coupled.bench.answers import true_solution
from lrsa_coupled.certify.certify import Certified, certify
from lrsa_coupled.certify.estimate import ConjugateGradients, Linearisation
from lrsa_coupled.certify.surrogate import Surrogate
from lrsa_coupled.config import GuessConfig, LrsaConfig, TrainingConfig
from lrsa_coupled.coupling.norms import EnergyNorm, make_norm, set_solution, solution_vector
from lrsa_coupled.coupling.predictor import Predictor
from lrsa_coupled.coupling.residual import reference_norm, residual_norm, set_dirichlet
from lrsa_coupled.generation.plan import sample_parameters
from lrsa_coupled.guess.learned import LearnedGuess
from lrsa_coupled.interfaces import Case, Problem
from lrsa_coupled.training import checkpoint

pytestmark = pytest.mark.two_ranks

COMM = MPI.COMM_WORLD
RESOLUTIONS = {"darcy": 32, "hyperelastic": 3, "cavity": 8, "helmholtz": 6}
WAVES = {"smooth": 3.0, "rough": 12345.0}


def solved(name: str, comm: MPI.Comm = COMM, index: int = 2) -> tuple[Case, Problem, PETSc.Vec]:
    case = catalog.load_case(name)
    parameters = sample_parameters(case, 0, index)
    problem = case.problem(case.mesh(comm, parameters, RESOLUTIONS[name]), parameters)
    return case, problem, true_solution(case, problem)


def perturbed(case: Case, problem: Problem, truth: PETSc.Vec, *, shape: str, size: float) -> float:
    """Put the truth plus waves of a relative size, the same on any partition, into the solution; return that size."""
    set_solution(problem, truth)
    wave, norm = fem.Function(problem.solution.function_space), make_norm(problem, case.schema.outputs)
    subspace = case.schema.outputs[0].subspace
    part = wave.sub(subspace[0]) if subspace else wave
    factor = WAVES[shape]
    part.interpolate(
        lambda x: np.stack(
            [np.sin(factor * (x[0] + (2 + k) * x[1] + 3 * x[2]) + k) for k in range(case.schema.outputs[0].components)]
        )
    )
    for bc in problem.bcs:
        wave.x.array[bc.dof_indices()[0]] = 0.0
    wave.x.scatter_forward()
    change, zero = solution_vector(dataclasses.replace(problem, solution=wave)), truth.duplicate()
    zero.set(0.0)
    change.scale(size * norm.of_solution(zero, 0.0) / norm.of(change))
    change.axpy(1.0, truth)
    set_solution(problem, change)
    return error_of(case, problem, truth)


def error_of(case: Case, problem: Problem, truth: PETSc.Vec) -> float:
    """Relative error of the solution in the norm at the truth."""
    now, difference, zero = solution_vector(problem), truth.duplicate(), truth.duplicate()
    zero.set(0.0)
    difference.waxpy(-1.0, truth, now)
    set_solution(problem, truth)
    norm = make_norm(problem, case.schema.outputs)
    set_solution(problem, now)
    return norm.of(difference) / norm.of_solution(zero, 0.0)


@contextmanager
def options(values: dict[str, str]) -> Iterator[None]:
    database = PETSc.Options("surrogate_")
    for key, value in values.items():
        database[key] = value
    try:
        yield
    finally:
        for key in values:
            database.delValue(key)


@pytest.mark.parametrize("shape", list(WAVES))
def test_gauss_quadrature_is_a_lower_bound_and_the_natural_norm_tells_of_the_last_step(shape: str) -> None:
    case, problem, truth = solved("darcy")
    perturbed(case, problem, truth, shape=shape, size=0.1)
    tangent = Linearisation(problem, case.schema.outputs)
    start, gradients = solution_vector(problem), tangent.correct()
    assert isinstance(gradients, ConjugateGradients)
    errors, remaining = [], []
    for _ in range(10):
        difference = truth.copy()
        difference.axpy(-1.0, start)
        difference.axpy(-1.0, gradients.x)
        errors.append(tangent.norm.of(difference))
        remaining.append(gradients.remaining)
        gradients.improve()
    for k in range(7):
        bounds = np.sqrt(np.cumsum(gradients.terms[k : k + 3]))
        assert np.all(np.diff(bounds) > 0.0)
        assert bounds[-1] <= errors[k] * (1 + 1e-9)
        assert errors[k] <= 1.1 * bounds[1]
    indices = np.array(remaining) / np.array(errors)
    assert 0.5 < indices[0] < 2.0  # one multigrid cycle
    assert np.all((indices[2:] > 0.8) & (indices[2:] < 1.3))
    tangent.destroy()


@pytest.mark.parametrize("size", [0.05, 1e-3])
@pytest.mark.parametrize("shape", list(WAVES))
@pytest.mark.parametrize("name", ["darcy", "hyperelastic", "cavity"])
def test_estimates_fit_true_errors(name: str, shape: str, size: float) -> None:
    case, problem, truth = solved(name)
    for accept in (0.3, 1e-3, 1e-6):
        true_prediction = perturbed(case, problem, truth, shape=shape, size=size)
        assert true_prediction == pytest.approx(size)
        result = certify(case, problem, accept=accept, max_linearisations=8)
        assert result.certified, result
        true_error = error_of(case, problem, truth)
        assert true_error <= accept
        assert 0.5 <= result.error / true_error <= 3.0
        assert 0.8 <= result.prediction / true_prediction <= 1.2
        assert result.linearisations >= 1 and result.iterations >= 1 and set(result.seconds) == {"estimate", "correct"}
        check_distribution(problem)


def check_distribution(problem: Problem) -> None:
    """Ghosts are up to date, Dirichlet values exact."""
    array = problem.solution.x.array.copy()
    problem.solution.x.scatter_forward()
    assert np.array_equal(array, problem.solution.x.array)
    set_dirichlet(problem)
    assert np.array_equal(array, problem.solution.x.array)


DIRECT = {"pc_type": "lu", "pc_factor_mat_solver_type": "mumps"}


@pytest.mark.parametrize(
    ("name", "chosen"), [("darcy", {"pc_type": "jacobi"}), ("hyperelastic", DIRECT), ("cavity", {})]
)
def test_estimates_do_not_depend_on_the_ranks(name: str, chosen: dict[str, str]) -> None:
    """With preconditioners that do not; multigrid coarsens each part by itself."""
    numbers = []
    for comm in (COMM, MPI.COMM_SELF):
        case, problem, truth = solved(name, comm)
        perturbed(case, problem, truth, shape="smooth", size=0.05)
        with options(chosen):
            result = certify(case, problem, accept=1e-3, max_linearisations=8)
        assert result.certified, result
        numbers.append([result.error, result.absolute, result.prediction])
        assert len(set(COMM.allgather(tuple(numbers[0])))) == 1
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-8)


@pytest.mark.parametrize("name", list(RESOLUTIONS))
def test_an_exact_guess_is_certified_as_such(name: str) -> None:
    case, problem, truth = solved(name)
    set_solution(problem, truth)
    result = certify(case, problem, accept=1e-8, max_linearisations=8)
    assert result.certified, result
    assert result.linearisations == 1
    assert result.error < 1e-11 and result.prediction < 1e-11


def test_without_an_energy_a_linear_problem_is_corrected_at_once() -> None:
    case, problem, truth = solved("helmholtz")
    assert perturbed(case, problem, truth, shape="rough", size=0.5) == pytest.approx(0.5)
    result = certify(case, problem, accept=1e-6, max_linearisations=1)
    assert result.certified and result.norm == "H1 seminorm", result
    assert error_of(case, problem, truth) < 1e-11
    assert result.prediction == pytest.approx(0.5, rel=1e-6)


def quadratic(sign: float) -> Problem:
    """Minimise sign / 2 |grad u|^2 - f u, u = 1 + x^2 + y^2 on the boundary; a saddle for a negative sign."""
    mesh = create_unit_square(COMM, 8, 8)
    space = fem.functionspace(mesh, ("P", 2))
    u, exact = fem.Function(space), fem.Function(space)
    exact.interpolate(lambda x: 1 + x[0] ** 2 + x[1] ** 2)
    mesh.topology.create_connectivity(1, 2)
    bc = fem.dirichletbc(exact, fem.locate_dofs_topological(space, 1, exterior_facet_indices(mesh.topology)))
    energy = (sign / 2.0 * ufl.inner(ufl.grad(u), ufl.grad(u)) + 4.0 * sign * u) * ufl.dx
    residual = ufl.derivative(energy, u)
    return Problem(
        mesh=mesh,
        parameters=exact,
        solution=u,
        residual=fem.form(residual),
        jacobian=fem.form(ufl.derivative(residual, u)),
        bcs=[bc],
        node_space=space,
        is_linear=True,
        energy=fem.form(energy),
    )


def test_prescribed_values_count_in_the_norm_of_the_field() -> None:
    problem, case = quadratic(1.0), catalog.load_case("darcy")
    problem.solution.x.array[:] = problem.parameters.x.array
    norm, zero = EnergyNorm(problem), solution_vector(problem)
    zero.set(0.0)
    assert norm.of_solution(zero, 0.0) == pytest.approx(np.sqrt(8.0 / 3.0))
    problem.solution.x.array[:] = 0.0
    result = certify(case, problem, accept=1e-8, max_linearisations=1)
    assert result.certified
    assert result.absolute / result.error == pytest.approx(np.sqrt(8.0 / 3.0))
    assert np.abs(problem.solution.x.array - problem.parameters.x.array).max(initial=0.0) < 1e-7


def test_without_a_minimum_there_is_no_certificate() -> None:
    result = certify(catalog.load_case("darcy"), quadratic(-1.0), accept=0.1, max_linearisations=1)
    assert not result.certified and not result.delivered
    assert "not positive definite" in result.reason
    assert (result.error, result.absolute, result.prediction) == (None, None, None)


def untrained(case: Case, bias: float | None = None) -> LearnedGuess:
    """An untrained operator, whose outputs are all ``bias`` when that is given."""
    torch.manual_seed(0)
    operator = LrsaConfig(width=16, num_blocks=2, num_heads=2, num_latents=8)
    card = checkpoint.ModelCard(case.schema, 8, operator, TrainingConfig(), checkpoint.DataInfo(10, 0), {})
    model = checkpoint.make_model(operator, card.schema)
    sizes = (case.schema.num_inputs, case.schema.num_outputs)
    outputs = 0.01 * (torch.rand(100, sizes[1]) - 0.5)
    model.normaliser.fit(
        torch.rand(100, case.dim),
        torch.rand(100, sizes[0]),
        scalars_SG=torch.rand(10, len(case.schema.scalars)),
        outputs_TK=outputs,
    )
    if bias is not None:
        with torch.no_grad():
            model.head.weight.zero_()
            model.head.bias.fill_(bias)
    return LearnedGuess(Predictor(model.eval(), card, GuessConfig(max_ratio=1e6)))


def answer(name: str, accept: float, bias: float | None = None) -> tuple[Certified, float, float]:
    """Result, true error, and residual relative to the tolerance of the case."""
    case, problem, truth = solved(name)
    problem.solution.x.array[:] = 0.0
    result = Surrogate(case, untrained(case, bias), problem, accept=accept).solve()
    error, norm = error_of(case, problem, truth), residual_norm(problem)
    check_distribution(problem)
    return result, error, norm / (case.rtol * reference_norm(problem))


@pytest.mark.parametrize("accept", [0.1, 1e-4])
def test_the_worst_prediction_of_a_linear_problem_is_corrected(accept: float) -> None:
    result, error, _ = answer("darcy", accept)
    assert result.certified and result.delivered and result.fallback is None
    assert error <= accept
    assert result.prediction > 0.3
    assert set(result.seconds) == {"transfer", "inference", "estimate", "correct"}


@pytest.mark.parametrize(
    ("name", "bias"), [("darcy", float("nan")), ("hyperelastic", float("nan")), ("hyperelastic", -1e4), ("cavity", 1e5)]
)
def test_the_default_solve_delivers_after_a_hopeless_prediction(
    name: str, bias: float, caplog: pytest.LogCaptureFixture
) -> None:
    result, error, residual = answer(name, 1e-2, bias)
    assert result.certified and result.delivered
    assert result.fallback is not None and result.fallback.converged and result.fallback.used_fallback
    assert residual <= 1 + 1e-6
    assert error <= result.error * 3.0 + 1e-11 and result.error <= 1e-2
    assert result.reason and result.advice and result.prediction is None
    assert result.seconds["solve"] > 0.0
    assert "the default solver takes over" in caplog.text


def test_the_tolerance_of_the_case_is_that_of_the_default_solve() -> None:
    case = catalog.load_case("cavity", rtol=0.1)
    parameters = sample_parameters(case, 0, 2)
    problem = case.problem(case.mesh(COMM, parameters, 8), parameters)
    reference = reference_norm(problem)
    result = Surrogate(case, untrained(case, 1e5), problem, accept=1e-12).solve()
    assert result.fallback is not None and 1e-8 * reference < result.fallback.residual <= 0.1 * reference


@pytest.mark.parametrize("accept", [0.0, 1e-13, 1.5, float("nan")])
def test_accuracies_out_of_range_are_refused(accept: float) -> None:
    case = catalog.load_case("darcy")
    with pytest.raises(ValueError, match=f"between 1e-12 and 1, got {accept:g}"):
        Surrogate(case, untrained(case), quadratic(1.0), accept=accept)
