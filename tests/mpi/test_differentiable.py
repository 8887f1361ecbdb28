"""Derivatives of finite element functions in torch: against differences, of second order, the same on all ranks."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import basix.ufl
import numpy as np
import pytest
import torch
import ufl
from mpi4py import MPI

pytest.importorskip("dolfinx", reason="the functions are finite element ones")

from torch import Tensor
from dolfinx import fem
from dolfinx.fem.petsc import LinearProblem, NonlinearProblem
from dolfinx.mesh import create_unit_square
from petsc4py import PETSc

from lrsa_coupled import Differentiable, NumericalError
from lrsa_coupled.cases.darcy.case import DarcyCase, darcy
from lrsa_coupled.cases.hyperelastic.case import HyperelasticCase
from lrsa_coupled.coupling.residual import reference_norm, set_dirichlet
from lrsa_coupled.generation.plan import sample_parameters

COMM = MPI.COMM_WORLD
NUMBERS = itertools.count()
LU = {"ksp_type": "preonly", "pc_type": "lu", "pc_factor_mat_solver_type": "mumps"}
NEWTON = LU | {"snes_rtol": 1e-13, "snes_atol": 1e-13, "snes_linesearch_type": "none"}


@dataclass
class Kind:
    """A problem, its torch functions, and a number of its solution."""

    problem: Any
    form: ufl.Form
    functions: Differentiable
    goal: ufl.Form
    coefficients: dict[str, Any] = field(default_factory=dict)


def inputs(mesh: Any) -> dict[str, Any]:
    conductivity = fem.Function(fem.functionspace(mesh, ("DG", 0)))
    conductivity.interpolate(lambda x: 1.0 + x[0] + x[1] ** 2)
    source = fem.Function(fem.functionspace(mesh, ("P", 1)))
    source.interpolate(lambda x: 1.0 + np.sin(3.0 * x[1]))
    return {"conductivity": conductivity, "source": source, "rate": fem.Constant(mesh, 0.7),
            "wind": fem.Constant(mesh, (0.4, -0.3))}  # fmt: skip


def edge(space: Any, value: float = 0.5) -> list[fem.DirichletBC]:
    return [fem.dirichletbc(value, fem.locate_dofs_geometrical(space, lambda x: np.isclose(x[0], 0.0)), space)]


def linear(comm: MPI.Comm, **options: Any) -> Kind:
    mesh = create_unit_square(comm, 3, 3)
    space, c = fem.functionspace(mesh, ("P", 1)), inputs(mesh)
    u, v, trial = fem.Function(space), ufl.TestFunction(space), ufl.TrialFunction(space)
    a = (c["conductivity"] * ufl.dot(ufl.grad(trial), ufl.grad(v)) + ufl.dot(c["wind"], ufl.grad(trial)) * v) * ufl.dx
    right = c["source"] * v * ufl.dx + c["rate"] * v * ufl.ds
    problem = LinearProblem(a, right, u=u, bcs=edge(space), petsc_options_prefix=f"linear{next(NUMBERS)}_",
                            petsc_options=options or LU)  # fmt: skip
    form = ufl.action(a, u) - right
    return Kind(problem, form, Differentiable(problem, form, coefficients=c), u**2 * ufl.dx + c["rate"] * u * ufl.ds, c)


def nonlinear(comm: MPI.Comm, **options: Any) -> Kind:
    mesh = create_unit_square(comm, 2, 2)
    space, c = fem.functionspace(mesh, ("P", 2)), inputs(mesh)
    u, v = fem.Function(space), ufl.TestFunction(space)
    form = (c["conductivity"] * (1.0 + u**2) * ufl.dot(ufl.grad(u), ufl.grad(v)) - c["source"] * v) * ufl.dx
    form += (c["rate"] * u**3 + ufl.dot(c["wind"], ufl.grad(u))) * v * ufl.dx
    problem = NonlinearProblem(form, u, bcs=edge(space), petsc_options_prefix=f"nonlinear{next(NUMBERS)}_",
                               petsc_options=NEWTON | options)  # fmt: skip
    return Kind(problem, form, Differentiable(problem, form, coefficients=c), u**3 * ufl.dx, c)


def mixed(comm: MPI.Comm) -> Kind:
    mesh = create_unit_square(comm, 2, 2)
    element = basix.ufl.mixed_element([basix.ufl.element("P", "triangle", 2, shape=(2,)),
                                       basix.ufl.element("P", "triangle", 1)])  # fmt: skip
    space, c = fem.functionspace(mesh, element), inputs(mesh)
    velocity = space.sub(0).collapse()[0]
    wall = fem.Function(velocity)
    wall.interpolate(lambda x: np.stack([x[1], 0.2 * np.ones_like(x[0])]))
    dofs = fem.locate_dofs_geometrical((space.sub(0), velocity), lambda x: np.isclose(x[0], 0.0))
    solution, (v, q) = fem.Function(space), ufl.TestFunctions(space)
    u, p = ufl.split(solution)
    form = (c["conductivity"] * ufl.inner(ufl.grad(u), ufl.grad(v)) + ufl.dot(ufl.grad(u) * u, v)) * ufl.dx
    form -= (p * ufl.div(v) + q * ufl.div(u) + ufl.dot(c["source"] * c["wind"] + c["rate"] * u, v)) * ufl.dx
    problem = NonlinearProblem(form, solution, bcs=[fem.dirichletbc(wall, dofs, space.sub(0))],
                               petsc_options_prefix=f"mixed{next(NUMBERS)}_", petsc_options=NEWTON)  # fmt: skip
    return Kind(problem, form, Differentiable(problem, form, coefficients=c), ufl.dot(u, u) * p * ufl.dx, c)


def minimised(comm: MPI.Comm) -> Kind:
    mesh = create_unit_square(comm, 2, 2)
    space, c = fem.functionspace(mesh, ("P", 2)), inputs(mesh)
    u = fem.Function(space)
    slope = 0.1 + ufl.dot(ufl.grad(u), ufl.grad(u)) + ufl.dot(c["wind"], c["wind"]) * u**2
    energy = (c["conductivity"] * slope**1.5 - c["source"] * u) * ufl.dx(degree=4) + c["rate"] * u**2 * ufl.ds
    form = ufl.derivative(energy, u)
    problem = NonlinearProblem(form, u, bcs=edge(space), petsc_options_prefix=f"energy{next(NUMBERS)}_",
                               petsc_options=NEWTON)  # fmt: skip
    return Kind(problem, form, Differentiable(problem, energy=energy, coefficients=c), u**3 * ufl.dx, c)


on_two = pytest.mark.two_ranks
KINDS = {"P1": linear, "P2": nonlinear, "mixed": mixed, "energy": minimised}


class Whole:
    """Owned numbers as a tensor of all numbers, the same on all ranks: what ``gradcheck`` can change one by one."""

    def __init__(self, kind: Kind) -> None:
        self.functions = kind.functions
        variables = {"": kind.problem.u} | kind.coefficients
        self.rows = {name: rows(v) for name, v in variables.items() if isinstance(v, fem.Function)}

    def of(self, name: str) -> Tensor:
        own = self.functions.values(name or None)
        return self.joined(name, own) if name in self.rows else own

    def joined(self, name: str, own: Tensor) -> Tensor:
        own_rows, count = self.rows[name]
        return self.functions.total(torch.zeros(count, dtype=torch.float64).index_add(0, own_rows, own))

    def share(self, name: str, whole: Tensor) -> Tensor:
        return self.functions.shared(whole)[self.rows[name][0]] if name in self.rows else whole


def rows(function: fem.Function) -> tuple[Tensor, int]:
    size, index_map = function.function_space.dofmap.index_map_bs, function.function_space.dofmap.index_map
    return torch.arange(*(size * each for each in index_map.local_range)), size * index_map.size_global


def perturbed(kind: Kind) -> list[Tensor]:
    """All inputs of a kind, the unknown, which violates its Dirichlet conditions, first."""
    whole, generator = Whole(kind), torch.Generator().manual_seed(0)
    kind.problem.solve()
    tensors = [whole.of(name) for name in ("", *kind.coefficients)]
    return [(each + 0.1 * torch.rand(each.shape, generator=generator)).requires_grad_() for each in tensors]


PARTED = [pytest.param(name, marks=[] if name == "mixed" else on_two) for name in KINDS]


@pytest.mark.parametrize("what", ["residual", "energy", "quantity", "solve"])
@pytest.mark.parametrize("name", PARTED)
def test_gradients(name: str, what: str) -> None:
    kind = KINDS[name](COMM)
    if what == "energy" and name != "energy":
        pytest.skip("has no energy")
    whole, functions = Whole(kind), kind.functions
    tensors, names = perturbed(kind), ("", *kind.coefficients)

    def function(*values: Tensor) -> Tensor:
        u, *rest = (whole.share(each, value) for each, value in zip(names, values, strict=True))
        given = dict(zip(kind.coefficients, rest, strict=True))
        if what == "quantity":
            return functions.quantity(kind.goal, u, **given)
        if what == "energy":
            return functions.energy(u, **given)
        return whole.joined(
            "", functions.residual(u, **given) if what == "residual" else functions.solve(**given) + 0 * u
        )

    torch.manual_seed(0)
    assert torch.autograd.gradcheck(
        function, tensors, fast_mode=COMM.size > 1 or name == "mixed", atol=1e-6, nondet_tol=1e-10
    )


def loss_of(kind: Kind, values: dict[str, Tensor]) -> Tensor:
    """A number of the solution, partly made in torch."""
    functions = kind.functions
    u = functions.solve(**values)
    return functions.quantity(kind.goal, u, **values) + functions.total((u**2).sum()) / 100.0


@pytest.mark.parametrize("name", PARTED)
def test_taylor_expansions(name: str) -> None:
    """What is left of a change of all coefficients after the first derivative is of second order."""
    kind = KINDS[name](COMM)
    base = {each: kind.functions.values(each).requires_grad_() for each in kind.coefficients}
    loss = loss_of(kind, base)
    directions = {each: torch.cos(value.detach() * 7.0) for each, value in base.items()}
    slope = 0.0
    for each, slopes in zip(base, torch.autograd.grad(loss, [*base.values()]), strict=True):
        part = (slopes * directions[each]).sum()
        slope += float(kind.functions.total(part) if isinstance(kind.coefficients[each], fem.Function) else part)
    left = []
    for step in (0.02, 0.01):
        moved = {each: value.detach() + step * directions[each] for each, value in base.items()}
        left.append(abs(float(loss_of(kind, moved).detach() - loss.detach()) - step * slope))
    assert np.log2(left[0] / left[1]) == pytest.approx(2.0, abs=0.1)


@pytest.mark.parametrize("name", ["P1", "P2", "mixed"])
def test_the_number_of_ranks_does_not_matter(name: str) -> None:
    found = []
    for comm in (COMM, MPI.COMM_SELF):
        kind = KINDS[name](comm)
        values = {each: kind.functions.values(each).requires_grad_() for each in kind.coefficients}
        loss = loss_of(kind, values)
        slopes = dict(zip(values, torch.autograd.grad(loss, [*values.values()]), strict=True))
        along = float(kind.functions.total((slopes["source"] * values["source"].detach()).sum()))
        found.append([float(loss.detach()), along, *slopes["wind"].tolist(), float(slopes["rate"])])
    assert found[0] == pytest.approx(found[1], rel=1e-9)


@on_two
def test_matrices_and_factorisations_are_reused() -> None:
    """Of two derivatives of one solve, and after a linear solve that has made them."""
    for make in (linear, nonlinear):
        kind = make(COMM)
        source = kind.functions.values("source").requires_grad_()
        u = kind.functions.solve(source=source)
        solved = kind.problem.A.stateGet()
        torch.autograd.grad(kind.functions.total(u.sum()), source, retain_graph=True)
        state = kind.problem.A.stateGet()
        assert (state == solved) == (make is linear)
        first = torch.autograd.grad(kind.functions.quantity(kind.goal, u), source, retain_graph=True)[0]
        assert kind.problem.A.stateGet() == state
        kind.functions.solve(source=2.0 * source.detach())  # elsewhere, and back
        again = torch.autograd.grad(kind.functions.quantity(kind.goal, u), source)[0]
        assert again.numpy() == pytest.approx(first.numpy(), rel=1e-10, abs=1e-13)


@on_two
def test_steps_in_time() -> None:
    """A loop in which each solve begins with the last solution, which is a coefficient, against differences."""
    mesh = create_unit_square(COMM, 3, 3)
    space = fem.functionspace(mesh, ("P", 1))
    u, before, v = fem.Function(space), fem.Function(space, name="before"), ufl.TestFunction(space)
    rate = fem.Constant(mesh, 1.0)
    form = ((u - before) * v + 0.1 * ufl.dot(ufl.grad(u), ufl.grad(v)) + 0.1 * rate * u**3 * v) * ufl.dx
    problem = NonlinearProblem(form, u, bcs=[], petsc_options_prefix="steps_", petsc_options=NEWTON)
    functions = Differentiable(problem, form, coefficients={"before": before, "rate": rate})
    start = fem.Function(space)
    start.interpolate(lambda x: np.cos(np.pi * x[0]))
    first = torch.tensor(start.x.array[: len(functions.values())])

    def final(scale: Tensor, number: Tensor) -> Tensor:
        state = functions.shared(scale) * first
        for _ in range(3):
            state = functions.solve(before=state, rate=number)
        return functions.total((state**2).sum())

    numbers = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (1.3, 0.8)]
    assert torch.autograd.gradcheck(final, numbers, atol=1e-6, nondet_tol=1e-10)


@on_two
def test_a_value_that_is_not_named_must_stay() -> None:
    kind = nonlinear(COMM)
    part = Differentiable(kind.problem, kind.form, coefficients={"rate": kind.coefficients["rate"]})
    rate = part.values("rate").requires_grad_()
    loss = part.total(part.solve(rate=rate).sum())
    kind.coefficients["wind"].value = (1.0, 1.0)
    with pytest.raises(RuntimeError, match="a Constant has changed since the forward pass: name it among"):
        loss.backward()


@on_two
def test_dirichlet_values_replace_those_given() -> None:
    kind = nonlinear(COMM)
    u = (kind.functions.values() + 3.0).requires_grad_()
    rows = kind.functions.residual(u).detach()
    fixed = np.flatnonzero(np.isclose(kind.problem.u.function_space.tabulate_dof_coordinates()[: len(u), 0], 0.0))
    assert rows[fixed].numpy() == pytest.approx(np.full(len(fixed), 2.5))
    corrected = u.detach().clone()
    corrected[fixed], rows[fixed] = 0.5, 0.0
    assert kind.functions.residual(corrected).numpy() == pytest.approx(rows.numpy(), abs=1e-14)
    assert not torch.autograd.grad(kind.functions.quantity(kind.goal, u), u)[0][fixed].any()


@on_two
def test_problems_of_cases() -> None:
    """The compiled residual and energy, a solver of the case, quantities that are functions of several numbers."""
    case: Any = HyperelasticCase()
    parameters = sample_parameters(case, 1, 0)
    problem = case.problem(case.mesh(COMM, parameters, 2), parameters)
    problem.solution.interpolate(lambda x: 0.02 * np.stack([x[0], x[0] * x[1], x[2] + x[0]]))
    set_dirichlet(problem)
    functions = Differentiable(problem)
    u = functions.values().requires_grad_()
    direction = torch.sin(5.0 * u.detach())
    deflection = next(each for each in case.quantities if each.name == "deflection")
    numbers: list[Callable[[Tensor], Tensor]] = [
        functions.energy, lambda values: functions.quantity(deflection, values),
        lambda values: functions.total((functions.residual(values) ** 2).sum()),
    ]  # fmt: skip
    for number in numbers:
        slope = functions.total((torch.autograd.grad(number(u), u)[0] * direction).sum())
        ends = [number(u.detach() + step * direction) for step in (1e-4, -1e-4)]
        assert float((ends[0] - ends[1]) / 2e-4) == pytest.approx(float(slope), rel=1e-6)
    functions.destroy()


@on_two
def test_a_problem_of_a_case_is_solved_by_its_solver() -> None:
    case: Any = DarcyCase()
    parameters = sample_parameters(case, 1, 0)
    problem = case.problem(case.mesh(COMM, parameters, 6), parameters)
    solver = case.default_solver(problem, 1e-13 * reference_norm(problem))
    form = darcy(problem.solution, problem.coefficient, fem.Constant(problem.mesh, 1.0))
    functions = Differentiable(problem, form, coefficients={"medium": problem.coefficient}, solver=solver)
    scale = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    medium = functions.values("medium")
    found = {each.name: each for each in case.quantities}

    def mean(factor: Tensor) -> Tensor:
        u = functions.solve(medium=functions.shared(factor) * medium)
        return functions.quantity(found["mean_pressure"], u)

    value = mean(scale)
    value.backward()
    assert scale.grad is not None
    assert float(scale.grad) == pytest.approx(-float(value.detach()), rel=1e-9)  # the pressure is inverse to the medium
    solver.destroy()
    with pytest.raises(ValueError, match="a Problem is solved by a Solver: give solver="):
        Differentiable(problem).solve()


@on_two
def test_options_of_the_adjoint_solve() -> None:
    kind = linear(COMM, ksp_type="gmres", pc_type="jacobi", ksp_rtol=1e-12)
    source = kind.functions.values("source").requires_grad_()
    exact = torch.autograd.grad(kind.functions.total(kind.functions.solve(source=source).sum()), source)[0]
    options = PETSc.Options(kind.problem.solver.getOptionsPrefix() + "adjoint_")
    for key, value, error in (("ksp_max_it", "1", NumericalError), ("pc_type", "lu", None)):
        options[key] = value
        functions = Differentiable(kind.problem, kind.form, coefficients=kind.coefficients)
        loss = functions.total(functions.solve(source=source).sum())
        if error is not None:
            with pytest.raises(error, match=r"the adjoint solve has failed .*linear\d+_adjoint_ksp_"):
                loss.backward()
        elif COMM.size == 1:
            assert torch.autograd.grad(loss, source)[0].numpy() == pytest.approx(exact.numpy(), rel=1e-9)
        options.delValue(key)


class Jacobi:
    """A preconditioner of a user that cannot be transposed."""

    def apply(self, pc: PETSc.PC, x: PETSc.Vec, y: PETSc.Vec) -> None:
        y.pointwiseDivide(x, pc.getOperators()[0].getDiagonal())


@on_two
def test_a_preconditioner_that_cannot_be_transposed_is_named() -> None:
    kind = linear(COMM, ksp_type="gmres", pc_type="python", ksp_rtol=1e-10)
    kind.problem.solver.getPC().setPythonContext(Jacobi())
    source = kind.functions.values("source").requires_grad_()
    loss = kind.functions.total(kind.functions.solve(source=source).sum())
    with pytest.raises(
        ValueError, match=r"'python' cannot be transposed .* give another one by -linear\d+_adjoint_pc_"
    ):
        loss.backward()


@on_two
def test_what_has_no_derivatives_is_refused() -> None:
    kind = nonlinear(COMM)
    form, u, c = kind.form, kind.problem.u, kind.coefficients
    value = fem.Function(u.function_space)
    with_value = form + value * ufl.TestFunction(u.function_space) * ufl.dx
    dofs = np.arange(1 if COMM.rank == 0 else 0, dtype=np.int32)
    bounded = NonlinearProblem(with_value, u, bcs=[fem.dirichletbc(value, dofs)], petsc_options_prefix="refused_")
    for wrong, text in (
        (lambda: Differentiable(kind.problem, fem.form(form)), "residual is a compiled form: give the UFL form"),
        (lambda: Differentiable(kind.problem, ufl.lhs(form)), "residual must be a UFL form of one test function"),
        (lambda: Differentiable(bounded, with_value, coefficients={"wall": value}), "'wall' is the value of a Diri"),
        (lambda: Differentiable(kind.problem, coefficients=c), "coefficients need the UFL form of the residual"),
        (lambda: Differentiable(kind.problem, form, coefficients={"u": u}), "'u' must be a Function or Constant in"),
        (lambda: Differentiable(kind.problem, form, coefficients={"new": value}), "'new' must be a Function or Const"),
        (lambda: Differentiable(kind.problem.solver), "expected a Problem, a LinearProblem or a NonlinearProblem, got"),
        (lambda: kind.functions.solve(sauce=torch.zeros(1)), "expected a coefficient, got 'sauce'.*source"),
        (lambda: kind.functions.solve(wind=torch.zeros(3)), r"'wind': expected a tensor of shape \(2,\), got \(3,\)"),
        (lambda: kind.functions.energy(kind.functions.values()), "the problem has no energy: give energy="),
        (lambda: Differentiable(linear(COMM).problem).residual(torch.zeros(0)), "a LinearProblem needs residual="),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=text):
            wrong()
    other = Differentiable(kind.problem, -form, coefficients=c)
    rate = other.values("rate").requires_grad_()
    with pytest.raises(
        ValueError, match="its derivative must be the Jacobian of the problem, got another form or sign"
    ):
        other.total(other.solve(rate=rate).sum()).backward()
    kind.problem.solver.setTolerances(max_it=1)
    with pytest.raises(NumericalError, match="failed: DIVERGED_MAX_IT; the option -[a-z0-9_]*snes_monitor"):
        kind.functions.solve(rate=torch.tensor(50.0))
