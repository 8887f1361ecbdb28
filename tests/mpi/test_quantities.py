"""Quantities of interest: of the cases against exact values, on any number of ranks; what is no quantity is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mpi4py import MPI

pytest.importorskip("dolfinx", reason="quantities are assembled by DOLFINx")

import ufl

from lrsa_coupled.cases.cavity.case import CavityCase, CavityParameters
from lrsa_coupled.cases.convection.case import DIFFUSIVITY, PEAK, ConvectionCase
from lrsa_coupled.cases.darcy.case import DarcyCase
from lrsa_coupled.cases.helmholtz.case import HelmholtzCase, HelmholtzOptions
from lrsa_coupled.cases.hyperelastic.case import LENGTH, MODES, HyperelasticCase, HyperelasticParameters
from lrsa_coupled.config import Config, load
from lrsa_coupled.coupling.quantities import Quantities, Quantity, choose, evaluate
from lrsa_coupled.coupling.residual import reference_norm
from lrsa_coupled.data.statistics import counted, quantity_statistics
from lrsa_coupled.data.store import DataStore
from lrsa_coupled.generation.generate import generate
from lrsa_coupled.generation.plan import sample_parameters
from lrsa_coupled.interfaces import Case, Problem
from tests.mpi.test_differentiable import linear
from tests.rods import RodCase

pytestmark = pytest.mark.two_ranks

COMM = MPI.COMM_WORLD


def solved(case: Case, comm: MPI.Comm, resolution: int) -> Problem:
    parameters = sample_parameters(case, 1, 0)
    problem = case.problem(case.mesh(comm, parameters, resolution), parameters)
    assert case.default_solver(problem, case.rtol * reference_norm(problem)).solve_once().converged
    return problem


def set_up(case: Case, parameters: object, resolution: int) -> Problem:
    return case.problem(case.mesh(COMM, parameters, resolution), parameters)


@pytest.mark.parametrize("semi_axes", [(0.0, 0.0), (0.15, 0.1)])
def test_cavity(semi_axes: tuple[float, float]) -> None:
    """Plane Poiseuille flow u = c y^2, p = 2 c x / Re solves the equations, in the discrete space, too."""
    case, c = CavityCase(), 0.7
    problem = set_up(case, CavityParameters(reynolds=50.0, centre=(0.4, 0.6), semi_axes=semi_axes), 8)
    velocity, pressure = (problem.solution.sub(i) for i in (0, 1))
    velocity.interpolate(lambda x: np.stack([c * x[1] ** 2, np.zeros_like(x[0])]))
    pressure.interpolate(lambda x: 2.0 * c / 50.0 * x[0])
    problem.solution.x.scatter_forward()
    found = evaluate(case.quantities, problem)
    assert [found["force_x"], found["force_y"]] == pytest.approx([0.0, 0.0], abs=1e-14)
    one = Quantity("area", "L^2", lambda p: [1.0 * ufl.dx(domain=p.mesh)])
    hole = 1.0 - evaluate([one], problem)["area"]
    # by the divergence theorem over the obstacle, of which the torque turns clockwise
    assert found["torque"] == pytest.approx(-2.0 * c / 50.0 * 0.6 * hole, rel=1e-10, abs=1e-14)
    if semi_axes[0] == 0.0:
        exact = [0.1 * c**2, 4.0 / 3.0 * c**2 / 50.0, c / 6.0]
        assert [found[name] for name in ("kinetic_energy", "dissipation", "flow_rate")] == pytest.approx(exact)


def test_darcy_of_a_constant_medium() -> None:
    """The mean pressure is short of the exact one by the order of the elements; compiled forms follow an update."""
    case, errors = DarcyCase(), []
    for resolution in (8, 16):
        random = sample_parameters(case, 0, 0)
        problem = set_up(case, random, resolution)
        quantities = Quantities(case.quantities, problem)
        assert case.fixed_mesh is not None
        problem = case.fixed_mesh.update(problem, dataclasses.replace(random, low=3.0, high=3.0))
        assert case.default_solver(problem, 1e-13).solve_once().converged
        found = quantities()
        assert found["outflow_right"] == pytest.approx(0.25, rel=1e-9)
        errors.append(found["effective_permeability"] / 3.0 - 1.0)
    assert np.log2(errors[0] / errors[1]) == pytest.approx(2.0, abs=0.1)


def test_hyperelastic() -> None:
    """Of a homogeneous block that is stretched and sheared by an affine map."""
    case = HyperelasticCase()
    parameters = HyperelasticParameters((0.0,) * int(np.prod(MODES)), (0.0, 0.02, 0.0), 0.0)
    problem = set_up(case, parameters, 2)
    gradient = np.array([[0.1, 0.0, 0.0], [0.05, -0.02, 0.0], [-0.03, 0.0, -0.02]])
    problem.solution.interpolate(lambda x: gradient @ x)
    problem.solution.x.scatter_forward()
    deformation = np.eye(3) + gradient
    ratio, mu, lame = np.linalg.det(deformation), 1.0 / 2.6, 0.3 / (1.3 * 0.4)
    stored = mu / 2 * (np.sum(deformation**2) - 3.0) - mu * np.log(ratio) + lame / 2 * np.log(ratio) ** 2
    stress = (mu * (deformation @ deformation.T - np.eye(3)) + lame * np.log(ratio) * np.eye(3)) / ratio
    deviator = stress - np.trace(stress) / 3.0 * np.eye(3)
    found = evaluate(case.quantities, problem)
    assert found == pytest.approx(
        {
            "elongation": 0.1 * LENGTH,
            "deflection": np.hypot(0.05, 0.03) * LENGTH,
            "clamp_moment": np.hypot(1.1 * LENGTH * 0.02, 0.03 * LENGTH * 0.02),
            "strain_energy": stored * LENGTH,
            "peak_stress": np.sqrt(1.5 * np.sum(deviator**2)),
        }
    )


def test_helmholtz_and_convection() -> None:
    case = HelmholtzCase(HelmholtzOptions(dim=2))
    problem = set_up(case, sample_parameters(case, 0, 0), 8)
    problem.solution.interpolate(lambda x: x[0])
    in_box = (0.5**3 - 0.25**3) / 3.0 * 0.25
    assert evaluate(case.quantities, problem) == pytest.approx({"energy": 1.0 / 3.0, "energy_in_box": in_box})
    heat = ConvectionCase()
    problem = set_up(heat, sample_parameters(heat, 0, 0), 4)
    problem.solution.interpolate(lambda x: x[0])
    exact = {"mean_temperature": 0.5, "peak_temperature": (PEAK + 1.0) ** (-1.0 / PEAK), "heat_loss": -DIFFUSIVITY}
    assert evaluate(heat.quantities, problem) == pytest.approx(exact)


@pytest.mark.parametrize(("make", "resolution"), [(CavityCase, 6), (DarcyCase, 12), (HyperelasticCase, 3)])
def test_the_number_of_ranks_does_not_matter(make: type[Case], resolution: int) -> None:
    case = make()
    found = [evaluate(case.quantities, solved(case, comm, resolution)) for comm in (COMM, MPI.COMM_SELF)]
    assert found[0] == pytest.approx(found[1], rel=1e-5)  # the tolerance of the solves
    assert set(found[0]) == {quantity.name for quantity in case.quantities}


def test_quantities_are_kept_with_the_samples_of_a_data_set(shared_path: Path) -> None:
    case, config = RodCase(), load(Config(), assignments=["generate.quantities=true", "generate.samples=3"])
    generate(case, config, shared_path, COMM)
    if COMM.rank == 0:
        store = DataStore(shared_path)
        records = [store.read(index) for index in store.solved]
        for record in records:
            load_now = np.exp(sum(json.loads(record.parameters).values()))
            kept = json.loads(record.quantities)
            assert kept["integral"] == pytest.approx(load_now / 12.0 * (1.0 - 1.0 / 16**2))
            assert set(kept) == {"integral", "square"}
        integral, _ = quantity_statistics(store, counted(store))
        values = [json.loads(record.quantities)["integral"] for record in records]
        assert (integral.name, integral.mean) == ("integral", pytest.approx(np.mean(values)))


def test_what_is_no_quantity_is_refused() -> None:
    case = DarcyCase()
    problem = set_up(case, sample_parameters(case, 0, 0), 4)
    test = ufl.TestFunction(problem.solution.function_space)
    for wrong in (lambda p: [], lambda p: [test * ufl.dx], lambda p: [1.0]):
        with pytest.raises(
            ValueError,
            match=r"quantity 'wrong' .* test function",
        ):
            evaluate([Quantity("wrong", "1", wrong)], problem)
    with pytest.raises(ValueError, match="quantity 'two' has 2 functionals: 'of' must make a number of them"):
        evaluate([Quantity("two", "1", lambda p: [p.solution * ufl.dx] * 2)], problem)
    with pytest.raises(ValueError, match=r"'darcy' has no quantity 'mean_presure' .did you mean"):
        choose(case.quantities, ["mean_presure"], of="darcy")
    with pytest.raises(ValueError, match="'own' has no quantities"):
        choose([], [], of="own")
    assert choose(case.quantities, [], of="darcy") == case.quantities
    assert [q.name for q in choose(case.quantities, ["outflow_right"] * 2, of="darcy")] == ["outflow_right"]


def test_a_quantity_of_a_coefficient_that_was_solved_with_needs_it() -> None:
    """Its derivative would lack that part; given, it has it, against a difference."""
    kind = linear(COMM)
    functions, source = kind.functions, kind.functions.values("source").requires_grad_()
    goal = kind.coefficients["source"] * kind.problem.u * ufl.dx
    u = functions.solve(source=source)
    with pytest.raises(ValueError, match=r"depends on 'source', too, .*: quantity\(form, u, source=...\)"):
        functions.quantity(goal, u)
    (slope,) = torch.autograd.grad(functions.quantity(goal, u, source=source), source)
    ends = []
    for factor in (1.001, 0.999):
        moved = factor * source.detach()
        ends.append(float(functions.quantity(goal, functions.solve(source=moved), source=moved)))
    along = float(functions.total((slope * source.detach()).sum()))
    assert along == pytest.approx((ends[0] - ends[1]) / 0.002, rel=1e-5)
