"""Losses without labels: equivalent to the error whatever the mesh, least at the solution, with exact derivatives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import ufl
from mpi4py import MPI

pytest.importorskip("dolfinx", reason="the losses are finite element ones")

from dolfinx import fem

from lrsa_coupled.cases.cavity.case import CavityCase
from lrsa_coupled.cases.darcy.case import DarcyCase
from lrsa_coupled.cases.hyperelastic.case import HyperelasticCase
from lrsa_coupled.coupling.norms import jacobian
from lrsa_coupled.coupling.physics_loss import PhysicsLoss
from lrsa_coupled.coupling.residual import reference_norm
from lrsa_coupled.coupling.transfer import NodeSet
from lrsa_coupled.generation.plan import sample_parameters
from lrsa_coupled.schema import Field

pytestmark = pytest.mark.two_ranks

COMM = MPI.COMM_WORLD


def problem_of(case: Any, resolution: int) -> Any:
    parameters = sample_parameters(case, 1, 0)
    return case.problem(case.mesh(COMM, parameters, resolution), parameters)


@pytest.mark.parametrize("resolution", [8, 32])
def test_the_residual_is_the_error_up_to_constants(resolution: int) -> None:
    """Of Darcy flow with coefficients of 3 and 12, for smooth and for rough errors: their energy norm, twice."""
    case = DarcyCase()
    problem = problem_of(case, resolution)
    assert case.default_solver(problem, 1e-13 * reference_norm(problem)).solve_once().converged
    nodes, matrix = NodeSet(problem, case.schema.outputs), jacobian(problem)
    solution, loss = torch.from_numpy(nodes.gather(problem.solution)), PhysicsLoss(problem, case.schema.outputs)
    x, y = nodes.points.T
    rough = np.random.default_rng(COMM.rank).standard_normal(nodes.num_owned)
    assert float(loss.residual(solution)) < 1e-8
    vector, image = matrix.createVecs()
    for shape in (x * (1 - x) * y * (1 - y), rough, np.sin(3 * np.pi * x) * np.sin(np.pi * y)):
        shape[nodes.constrained[:, 0]] = 0.0
        error = 1e-3 * torch.from_numpy(shape)[:, None]
        nodes.scatter(error.numpy(), problem.solution)
        vector.array_w[:] = problem.solution.x.array[: vector.getLocalSize()]
        matrix.mult(vector, image)
        numbers = np.array([float(loss.residual(solution + error)), loss._size, np.sqrt(vector.dot(image))])
        assert 1.2 < numbers[0] * numbers[1] / numbers[2] < 3.6  # of 3 and 12 the roots are 1.7 and 3.5
    loss.destroy()


@pytest.mark.parametrize("make", [DarcyCase, HyperelasticCase])
def test_derivatives(make: Any) -> None:
    """Of both losses, also when the problem has got other parameters before the backward pass."""
    case = make()
    problem = problem_of(case, 6 if make is DarcyCase else 2)
    loss = PhysicsLoss(problem, case.schema.outputs)
    sketch = loss.sketch()
    assert float((loss.residual if make is DarcyCase else loss.energy)(sketch)) < 0.9
    for function in (loss.residual, loss.energy):
        values = (0.5 * sketch).requires_grad_()
        direction = torch.cos(9.0 * torch.arange(values.numel()).view(values.shape)) * sketch.abs().max()
        slope = loss._functions.total((torch.autograd.grad(function(values), values)[0] * direction).sum())
        ends = [float(function(values.detach() + step * direction)) for step in (1e-5, -1e-5)]
        assert (ends[0] - ends[1]) / 2e-5 == pytest.approx(float(slope), rel=1e-5, abs=1e-8)
    if case.fixed_mesh is not None:
        values = (0.5 * sketch).requires_grad_()
        number = loss.residual(values)
        expected = torch.autograd.grad(number, values, retain_graph=True)[0]
        case.fixed_mesh.update(problem, sample_parameters(case, 1, 1))
        loss.begin()
        assert torch.equal(torch.autograd.grad(number, values)[0], expected)
        assert float(loss.residual(values.detach())) != float(number.detach())
    loss.destroy()


def test_the_energy_is_least_at_the_solution() -> None:
    case = DarcyCase()
    problem = problem_of(case, 8)
    assert case.default_solver(problem, 1e-13 * reference_norm(problem)).solve_once().converged
    solution = torch.from_numpy(NodeSet(problem, case.schema.outputs).gather(problem.solution)).requires_grad_()
    loss = PhysicsLoss(problem, case.schema.outputs)
    least = loss.energy(solution)
    assert not torch.autograd.grad(least, solution)[0].abs().max() > 1e-8
    around = [float(loss.energy(factor * solution.detach())) for factor in (0.95, 1.05)]
    assert min(around) > float(least.detach())
    assert float(loss.energy(torch.zeros_like(solution))) == pytest.approx(0.0, abs=1e-14)
    loss.destroy()


def test_a_body_turned_inside_out_has_losses() -> None:
    """Those of the prediction halved until the energy is defined; their derivatives are right."""
    case = HyperelasticCase()
    problem = problem_of(case, 3)
    loss = PhysicsLoss(problem, case.schema.outputs)
    rough = np.random.default_rng(COMM.rank).standard_normal((loss.nodes.num_owned, 3))
    for function in (loss.energy, loss.residual):
        values = torch.from_numpy(rough).requires_grad_()
        found = function(values)
        (slopes,) = torch.autograd.grad(found, values)
        square = float(loss._functions.total(slopes.square().sum()))
        step = 1e-7 * float(found.detach()) / square
        change = float(found.detach()) - float(function(values.detach() - step * slopes))
        assert np.isfinite(change) and change == pytest.approx(step * square, rel=1e-3)
    loss.destroy()


def test_of_a_mixed_space_the_residual_is_the_error_of_what_is_predicted() -> None:
    """In H1, whatever the others are; along the error it falls at that rate."""
    case = CavityCase()
    problem = problem_of(case, 8)
    assert case.default_solver(problem, 1e-13 * reference_norm(problem)).solve_once().converged
    nodes, outputs = NodeSet(problem, case.schema.outputs), case.schema.outputs
    solution, loss = torch.from_numpy(nodes.gather(problem.solution)), PhysicsLoss(problem, outputs)
    assert float(loss.residual(solution)) < 1e-9
    (x, y), size = nodes.points.T, float(np.sqrt(2.0))
    error = 1e-3 * np.column_stack([np.sin(3 * x) * y, np.cos(5 * y) * x])
    error[nodes.constrained[:, :2]] = 0.0
    problem.solution.x.array[:] = 0.0
    nodes.scatter(error, problem.solution)
    velocity = ufl.split(problem.solution)[0]
    square = (ufl.inner(ufl.grad(velocity), ufl.grad(velocity)) + ufl.inner(velocity, velocity) / size**2) * ufl.dx
    norm = np.sqrt(COMM.allreduce(fem.assemble_scalar(fem.form(square))))
    values = (solution + torch.from_numpy(error)).requires_grad_()
    number = loss.residual(values)
    slope = loss._functions.total((torch.autograd.grad(number, values)[0] * torch.from_numpy(error)).sum())
    assert float(number.detach()) * loss._size == pytest.approx(norm, rel=0.02)
    assert float(slope) == pytest.approx(float(number.detach()), rel=0.02)
    assert 0.1 < float(loss.residual(loss.sketch())) < 0.9
    with pytest.raises(ValueError, match="needs all fields of the unknown to be predicted"):
        loss.energy(solution)
    loss.destroy()


def test_what_has_no_such_losses_is_refused() -> None:
    case = HyperelasticCase()
    with pytest.raises(ValueError, match="the whole unknown or some of a mixed space; got"):
        PhysicsLoss(problem_of(case, 2), [Field("across", 1, subspace=(1,))])
    loss = PhysicsLoss(problem_of(case, 2), case.schema.outputs)
    with pytest.raises(ValueError, match="expected values of shape"):
        loss.residual(torch.zeros(3, 1))
