"""Certificates of complex problems: Hermitian ones by conjugate gradients, others by Newton steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from petsc4py import PETSc

from lrsa_coupled.certify.certify import certify
from lrsa_coupled.certify.estimate import ConjugateGradients, Linearisation
from lrsa_coupled.coupling.norms import EnergyNorm, NoEstimate, Norm, make_norm, set_solution, solution_vector
from lrsa_coupled.coupling.residual import reference_norm
from lrsa_coupled.interfaces import Problem
from lrsa_coupled.schema import Field
from lrsa_coupled.solvers.linear import LinearSolver
from lrsa_coupled.solvers.newton import NewtonSolver
from tests.complex.problems import cubic, helmholtz, magnetic, plane_wave
from tests.complex.waves_case import WaveCase

OUTPUTS = (Field("u", 2),)


def disturbed(problem: Problem, size: float = 0.1) -> tuple[PETSc.Vec, Norm]:
    """Solve to rounding and add a complex wave of a relative size; return the solution and the norm there."""
    make = LinearSolver if problem.is_linear else NewtonSolver
    assert make(problem, 1e-12 * reference_norm(problem)).solve_once().converged
    truth, norm = solution_vector(problem), make_norm(problem, OUTPUTS)
    problem.solution.interpolate(lambda x: plane_wave(3 * x) * (1 - 2j))
    for bc in problem.bcs:
        problem.solution.x.array[bc.dof_indices()[0]] = 0.0
    problem.solution.x.scatter_forward()
    change = solution_vector(problem)
    change.scale(size * truth.norm() / change.norm())
    set_solution(problem, truth + change)
    return truth, norm


def test_the_energy_norm_is_that_of_the_hermitian_matrix() -> None:
    problem = magnetic()
    truth, norm = disturbed(problem)
    assert isinstance(norm, EnergyNorm)
    change = solution_vector(problem) - truth
    zero = change.duplicate()
    zero.set(0.0)
    product = (norm.matrix * change).dot(change)
    assert norm.of(change) == pytest.approx(np.sqrt(product.real)) and abs(product.imag) < 1e-12 * product.real
    turned = change * PETSc.ScalarType(np.exp(0.7j))
    assert norm.of(turned) == pytest.approx(norm.of(change))
    whole, size = truth + turned, norm.of_solution(zero, 0.0)
    assert norm.of_solution(turned, norm.of(turned)) == pytest.approx(norm.of(whole))
    assert size == pytest.approx(norm.of(truth))


def test_conjugate_gradients_bound_the_error_from_below() -> None:
    problem = magnetic()
    truth, norm = disturbed(problem)
    tangent, start = Linearisation(problem, OUTPUTS), solution_vector(problem)
    gradients = tangent.correct()
    assert isinstance(gradients, ConjugateGradients)
    errors = []
    for _ in range(6):
        errors.append(norm.of(truth - start - gradients.x))
        gradients.improve()
    for k in range(3):
        bound = float(np.sqrt(sum(gradients.terms[k:5])))
        assert bound <= errors[k] * (1 + 1e-10)
        assert bound > 0.9 * errors[k]
    tangent.destroy()


@pytest.mark.parametrize("make", [magnetic, helmholtz, cubic])
def test_certified_errors_are_true(make: Callable[[], Problem]) -> None:
    problem = make()
    truth, norm = disturbed(problem)
    result = certify(WaveCase(), problem, accept=1e-3, max_linearisations=5)
    assert result.certified and result.norm == norm.name
    error = norm.of(solution_vector(problem) - truth) / norm.of(truth)
    assert error <= 1e-3
    assert result.error is not None and error <= 1.5 * result.error + 1e-12
    assert result.prediction is not None and result.prediction > 10 * 1e-3


def test_an_energy_of_a_matrix_that_is_not_hermitian_gives_no_estimate() -> None:
    """Absorbing terms make a matrix complex symmetric: conjugate gradients would mislead."""
    problem = helmholtz()
    claimed = dataclasses.replace(problem, energy=magnetic().energy)
    problem.solution.interpolate(plane_wave)
    with pytest.raises(NoEstimate, match="not Hermitian"):
        make_norm(claimed, OUTPUTS)
    assert not certify(WaveCase(), claimed, accept=1e-3, max_linearisations=5).certified
