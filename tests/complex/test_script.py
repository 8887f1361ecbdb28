"""Scripts with a complex unknown: collect, train, attach; elements; solvers that are passed by; wrong models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import ufl
from mpi4py import MPI
from dolfinx import fem
from dolfinx.fem.petsc import LinearProblem, NonlinearProblem
from dolfinx.mesh import create_unit_square
from petsc4py import PETSc

from lrsa_coupled import Collector, Differentiable, LearnedGuess, attach
from lrsa_coupled.config import Config, GuessConfig, load
from lrsa_coupled.coupling.script import unknown
from lrsa_coupled.coupling.transfer import NodeSet
from lrsa_coupled.data.store import DataStore
from lrsa_coupled.guess.policy import Adaptive, Always
from lrsa_coupled.mpi import share
from lrsa_coupled.schema import Field
from lrsa_coupled.training.loop import train
from tests.complex.problems import plane_wave

COMM = MPI.COMM_WORLD
TINY = ["operator.width=16", "operator.num_blocks=1", "operator.num_heads=2", "operator.num_latents=8",
        "training.epochs=30", "training.valid_fraction=0.25"]  # fmt: skip
GMRES = {"ksp_type": "gmres", "ksp_rtol": 1e-9, "pc_type": "bjacobi", "sub_pc_type": "ilu", "ksp_gmres_restart": 100}
DIRECT = {"ksp_type": "preonly", "pc_type": "lu", "pc_factor_mat_solver_type": "mumps"}


class Script:
    """-Laplace u - k^2 u + c u^3 = g with du/dn = i k u; c = 0 makes it linear."""

    def __init__(self) -> None:
        mesh = create_unit_square(COMM, 10, 10)
        self.space = fem.functionspace(mesh, ("P", 1))
        self.u = fem.Function(self.space, name="E")
        self.k = fem.Constant(mesh, PETSc.ScalarType(4.0 + 0.2j))
        self.source = fem.Function(self.space)
        self.source.interpolate(lambda x: np.exp(2j * x[0]) * (1.0 + x[1]))
        self.inputs, self.scalars = {"source": self.source}, {"k": self.k}

    def form(self, w: ufl.core.expr.Expr) -> ufl.Form:
        v = ufl.TestFunction(self.space)
        inner = ufl.inner(ufl.grad(w), ufl.grad(v)) - self.k**2 * ufl.inner(w, v)
        return inner * ufl.dx - 1j * ufl.real(self.k) * ufl.inner(w, v) * ufl.ds

    def linear(self, options: dict[str, object]) -> LinearProblem:
        right = ufl.inner(self.source, ufl.TestFunction(self.space)) * ufl.dx
        return LinearProblem(self.form(ufl.TrialFunction(self.space)), right, u=self.u, petsc_options=options,
                             petsc_options_prefix="complex_linear_")  # fmt: skip

    def nonlinear(self) -> NonlinearProblem:
        v = ufl.TestFunction(self.space)
        residual = self.form(self.u) + ufl.inner((3 + 1j) * self.u**3 - self.source, v) * ufl.dx
        return NonlinearProblem(residual, self.u, petsc_options=DIRECT | {"snes_rtol": 1e-9},
                                petsc_options_prefix="complex_newton_")  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six solves, collected, and an operator trained on them; the same folder on all ranks."""
    folder = COMM.bcast(tmp_path_factory.mktemp("script"), root=0)
    script = Script()
    problem = script.linear(GMRES)
    with Collector(folder / "data", problem, name="E", inputs=script.inputs, scalars=script.scalars) as collected:
        for value in np.linspace(3.0, 5.0, 6):
            script.k.value = value + 0.2j
            problem.solve()
            collected.add()
    share(COMM, lambda: train(folder / "data", folder / "model", load(Config(), assignments=TINY)))
    return folder / "model"


def test_samples_are_real_and_imaginary_parts(model: Path) -> None:
    data = DataStore(model.parent / "data")
    assert data.card.schema.inputs == (Field("source", 2),)
    assert data.card.schema.scalars == ("k_re", "k_im")
    assert data.card.schema.outputs == (Field("E", 2),)
    arrays = data.arrays(3)
    x, y = arrays.points.T
    exact = np.exp(2j * x) * (1.0 + y)
    assert np.allclose(arrays.inputs, np.column_stack([exact.real, exact.imag]), rtol=0, atol=1e-6)
    assert arrays.scalars == pytest.approx([4.2, 0.2])


@pytest.mark.parametrize("kind", ["linear", "nonlinear"])
def test_attached_solves_have_the_answer_of_the_script(model: Path, kind: str) -> None:
    script, plain = Script(), Script()
    mine, theirs = ((s.linear(GMRES) if kind == "linear" else s.nonlinear()) for s in (script, plain))
    guess = LearnedGuess.load(model, GuessConfig(max_ratio=1e9))
    attached = attach(mine, guess, inputs=script.inputs, scalars=script.scalars, policy=Always())
    assert attached is not None
    for value in (3.3, 4.1, 4.7):
        script.k.value = plain.k.value = value + 0.2j
        mine.solve()
        theirs.solve()
        size = np.abs(plain.u.x.array).max(initial=0.0)
        assert np.allclose(script.u.x.array, plain.u.x.array, rtol=0, atol=1e-6 * size)
    outcomes = [decision.outcome for decision in attached.policy.decisions]
    assert len(outcomes) == 3 and [d.choice for d in attached.policy.decisions] == ["learned"] * 3


class Exact(torch.nn.Module):
    """Stands for an operator: columns that were given beforehand at the nodes of this rank."""

    def __init__(self, model: torch.nn.Module, columns: np.ndarray) -> None:
        super().__init__()
        self.normaliser, self.config, self.columns = model.normaliser, model.config, torch.from_numpy(columns)

    def encode(self, *arrays: torch.Tensor, **others: object) -> tuple[torch.Tensor, None]:
        return self.columns[None].float(), None


@pytest.mark.parametrize("kind", ["linear", "nonlinear"])
def test_a_good_guess_saves_iterations(model: Path, kind: str) -> None:
    script = Script()
    problem = script.linear(GMRES) if kind == "linear" else script.nonlinear()
    problem.solve()
    cold = problem.solver.getIterationNumber()
    columns = NodeSet(unknown(script.u, [], (Field("E", 2),)), (Field("E", 2),)).gather(script.u)
    script.u.x.array[:] = 0.0
    guess = LearnedGuess.load(model, GuessConfig(max_ratio=1e9, evaluate_at="nodes"))
    guess.predictor.model = Exact(guess.predictor.model, columns)
    policy = Adaptive(GuessConfig(max_distance=1e9), ["learned"], guess_first=True)
    attached = attach(problem, guess, inputs=script.inputs, scalars=script.scalars, policy=policy)
    assert attached is not None
    problem.solve()
    (decision,) = attached.policy.decisions
    assert decision.outcome == "converged"
    assert problem.solver.getIterationNumber() < 0.5 * cold  # the own solver has the answer checked


def test_direct_solvers_are_passed_by(model: Path) -> None:
    script = Script()
    problem = script.linear(DIRECT)
    attached = attach(problem, LearnedGuess.load(model), inputs=script.inputs, scalars=script.scalars)
    problem.solve()
    problem.solve()
    assert attached is not None and attached.passed_by is not None and "preonly" in attached.passed_by
    assert [decision.choice for decision in attached.policy.decisions] == ["default", "default"]


def test_derivatives_in_torch_are_of_real_problems() -> None:
    with pytest.raises(ValueError, match="derivatives in torch need PETSc with real scalars, this one has complex"):
        Differentiable(Script().nonlinear())


def test_a_model_of_real_fields_is_refused_with_its_components(model: Path) -> None:
    from tests.learned import operator

    folder = operator(model.parent / "real", Field("E"), inputs=("source",), case="E")
    script = Script()
    problem, guess = script.linear(GMRES), LearnedGuess.load(folder)
    with pytest.raises(ValueError, match="'source' has 1 components for the operator, got 2"):
        attach(problem, guess, inputs=script.inputs)
    with pytest.raises(ValueError, match="'E' has 1 components, its space has 2"):
        attach(problem, guess, inputs={"source": lambda x: 1.0 + x[:1]})


@pytest.mark.parametrize(
    "element", [("P", 1), ("P", 2), ("P", 2, (2,)), ("DG", 0), ("DG", 1), ("N1curl", 1), ("RT", 1)]
)
def test_round_trips(element: tuple) -> None:
    u = fem.Function(fem.functionspace(create_unit_square(COMM, 5, 4), element), name="u")
    if u.function_space.value_shape:
        u.interpolate(lambda x: np.stack([plane_wave(x), 1j * x[1] + 0.5]))
    else:
        u.interpolate(plane_wave)
    before = u.x.array.copy()
    size = int(np.prod(u.function_space.value_shape))
    what = unknown(u, [], (Field("u", 2 * size),))
    nodes = NodeSet(what, (Field("u", 2 * size),))
    values = nodes.gather(u)
    assert values.shape[1] == 2 * size and values.dtype == np.float64
    u.x.array[:] = 0.0
    nodes.scatter(values, u)
    assert np.allclose(u.x.array, before, rtol=0, atol=1e-12)


def test_the_guess_has_complex_dirichlet_values() -> None:
    space = fem.functionspace(create_unit_square(COMM, 4, 4), ("P", 1))
    u, edge = fem.Function(space, name="u"), fem.Function(space)
    edge.interpolate(plane_wave)
    dofs = fem.locate_dofs_geometrical(space, lambda x: np.isclose(x[0], 0.0))
    nodes = NodeSet(unknown(u, [fem.dirichletbc(edge, dofs)], (Field("u", 2),)), (Field("u", 2),))
    fixed = nodes.constrained.all(axis=1)
    assert np.array_equal(fixed, np.isclose(nodes.points[:, 0], 0.0))
    exact = plane_wave(nodes.points[fixed].T)
    assert np.allclose(nodes.dirichlet_values()[fixed], np.column_stack([exact.real, exact.imag]), atol=1e-13)
