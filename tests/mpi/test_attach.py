"""Two lines in a user's own script: LinearProblem, NonlinearProblem, bare SNES and KSP, and the options database."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import ufl
from mpi4py import MPI

pytest.importorskip("dolfinx", reason="the attachment needs DOLFINx")

from dolfinx import fem
from dolfinx.fem.petsc import LinearProblem, NonlinearProblem, assemble_matrix, assemble_vector, create_vector
from dolfinx.mesh import CellType, create_unit_square, exterior_facet_indices
from petsc4py import PETSc

from lrsa_coupled.config import GuessConfig, LrsaConfig, TrainingConfig
from lrsa_coupled.coupling.predictor import Predictor
from lrsa_coupled.coupling.script import Script as Signature, unknown
from lrsa_coupled.coupling.transfer import NodeSet
from lrsa_coupled.guess.attach import attach
from lrsa_coupled.guess.learned import LearnedGuess
from lrsa_coupled.guess.policy import Adaptive
from lrsa_coupled.guess.record import DEFAULT
from lrsa_coupled.mpi import share
from lrsa_coupled.schema import Field, Schema
from lrsa_coupled.training import checkpoint

COMM = MPI.COMM_WORLD
TIGHT = {"ksp_type": "cg", "pc_type": "jacobi", "ksp_rtol": 1e-10, "ksp_norm_type": "unpreconditioned"}
DIRECT = {"ksp_type": "preonly", "pc_type": "lu", "pc_factor_mat_solver_type": "mumps"}


class Script:
    """A script of a user: -div((1 + c u^2) grad u) = load * source, u = edge on the boundary; c = 0 makes it linear."""

    def __init__(self, cell: CellType = CellType.triangle) -> None:
        mesh = create_unit_square(COMM, 12, 12, cell)
        self.space = fem.functionspace(mesh, ("P", 2))
        self.source = fem.Function(fem.functionspace(mesh, ("P", 1)), name="source")
        self.source.interpolate(lambda x: 10.0 * np.sin(3 * x[0]) * x[1])
        self.load, self.u = fem.Constant(mesh, 2.0), fem.Function(self.space)
        mesh.topology.create_connectivity(1, 2)
        dofs = fem.locate_dofs_topological(self.space, 1, exterior_facet_indices(mesh.topology))
        edge = fem.Function(self.space)
        edge.interpolate(lambda x: 0.1 * x[0])
        self.bc = fem.dirichletbc(edge, dofs)
        self.v = ufl.TestFunction(self.space)
        self.inputs, self.scalars = {"source": self.source}, {"load": self.load}

    def linear(self, **options: object) -> LinearProblem:
        trial = ufl.TrialFunction(self.space)
        a = ufl.inner(ufl.grad(trial), ufl.grad(self.v)) * ufl.dx
        rhs = self.load * self.source * self.v * ufl.dx
        return LinearProblem(
            a, rhs, bcs=[self.bc], u=self.u, petsc_options_prefix="linear_script_", petsc_options=TIGHT | options
        )

    def nonlinear(self, **options: object) -> NonlinearProblem:
        flux = (1 + 5 * self.u**2) * ufl.inner(ufl.grad(self.u), ufl.grad(self.v))
        residual = (flux - self.load * self.source * self.v) * ufl.dx
        return NonlinearProblem(
            residual,
            self.u,
            bcs=[self.bc],
            petsc_options_prefix="newton_script_",
            petsc_options=DIRECT | {"snes_rtol": 1e-9, "snes_linesearch_type": "none"} | options,
        )


class Constant(torch.nn.Module):
    """Stands for an operator: outputs that were given beforehand at the nodes of this rank, in their order."""

    def __init__(self, model: torch.nn.Module, values: np.ndarray) -> None:
        super().__init__()
        self.normaliser, self.config, self.values = model.normaliser, model.config, torch.from_numpy(values)
        self.seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def encode(
        self, points: torch.Tensor, inputs: torch.Tensor, scalars: torch.Tensor, **others: object
    ) -> tuple[torch.Tensor, None]:
        self.seen.append((inputs.clone(), scalars.clone()))
        return self.values[None, :, None].float(), None


def guess_of(values: np.ndarray) -> LearnedGuess:
    predictor = untrained()
    predictor.model = Constant(predictor.model, values)
    return LearnedGuess(predictor)


def untrained() -> Predictor:
    operator = LrsaConfig(width=16, num_blocks=1, num_heads=2, num_latents=8)
    schema = Schema("script", 2, (Field("source"),), ("load",), (Field("u"),))
    card = checkpoint.ModelCard(schema, 12, operator, TrainingConfig(), checkpoint.DataInfo(10, 0), {})
    model = checkpoint.make_model(operator, schema)
    ones = torch.ones(50, 1)
    model.normaliser.fit(
        torch.rand(50, 2),
        5.0 * torch.randn(50, 1),
        scalars_SG=2.0 * ones + torch.randn(50, 1),
        outputs_TK=ones * torch.rand(50, 1),
    )
    return Predictor(model.eval(), card, GuessConfig(evaluate_at="nodes", max_ratio=1e9))


def solution(script: Script, problem: LinearProblem | NonlinearProblem) -> np.ndarray:
    """Solve without any guess; the solution at the owned degrees of freedom, with ghosts."""
    script.u.x.array[:] = 0.0
    problem.solve()
    assert problem.solver.getConvergedReason() > 0
    return script.u.x.array.copy()


def owned(script: Script, values: np.ndarray) -> np.ndarray:
    return values[: script.space.dofmap.index_map.size_local]


@pytest.mark.parametrize("kind", ["linear", "nonlinear"])
@pytest.mark.parametrize(("factor", "outcome"), [(1.0, "converged"), (-1e3, "bad"), (np.nan, "bad")])
def test_a_problem_solves_from_the_guess(kind: str, factor: float, outcome: str) -> None:
    script = Script()
    problem = getattr(script, kind)()
    truth = solution(script, problem)
    default = problem.solver.getIterationNumber()
    guess = guess_of(factor * owned(script, truth))
    attached = attach(problem, guess, inputs=script.inputs, scalars=script.scalars)
    iterations = []
    for _ in range(2):
        script.u.x.array[:] = 0.0
        assert problem.solve() is script.u
        iterations.append(problem.solver.getIterationNumber())
        assert problem.solver.getConvergedReason() > 0
        assert np.abs(script.u.x.array - truth).max(initial=0.0) < 1e-6
    first, second = attached.policy.decisions
    assert (first.choice, second.choice) == (DEFAULT, "learned")
    assert iterations[0] == default
    assert second.outcome.startswith("converged" if outcome == "converged" else ("rejected", "abandoned"))
    assert iterations[1] <= default // 2 if outcome == "converged" else iterations[1] == default
    inputs, scalars = guess.predictor.model.seen[0]
    expected = fem.Function(script.space)
    expected.interpolate(script.source)
    assert np.allclose(inputs[0, :, 0], owned(script, expected.x.array), atol=1e-5) and scalars.item() == 2.0
    attached.detach()
    script.u.x.array[:] = 0.0
    problem.solve()
    assert len(attached.policy.decisions) == 2 and problem.solver.getIterationNumber() == default


def test_on_quadrilaterals_every_node_is_evaluated() -> None:
    script, values = Script(CellType.quadrilateral), []
    problem, predictor = script.nonlinear(), untrained()
    what = unknown(script.u, [script.bc], predictor.card.schema.outputs)
    sources = {field: script.inputs[field.name] for field in predictor.card.schema.inputs}
    signature = Signature(
        "script", sources, script.scalars, outputs=predictor.card.schema.outputs, node_space=what.node_space
    )
    for evaluate_at in ("vertices", "nodes"):
        predictor.settings = GuessConfig(evaluate_at=evaluate_at, max_ratio=1e9)
        values.append(predictor.predict(signature, what, NodeSet(what, predictor.card.schema.outputs)).values)
    assert np.array_equal(*values) and COMM.allreduce(np.abs(values[0]).sum()) > 0.0
    attached = attach(problem, LearnedGuess(predictor), inputs=script.inputs, scalars=script.scalars)
    solution(script, problem)
    solution(script, problem)
    assert attached.policy.summary()


def test_scalars_are_read_at_the_moment_of_the_solve() -> None:
    script = Script()
    problem = script.linear()
    guess = guess_of(owned(script, solution(script, problem)))
    attach(problem, guess, inputs={"source": 2.0 * script.source}, scalars={"load": lambda: script.load.value + 1.0})
    for load in (2.0, 1.5):
        script.load.value = load
        problem.solve()
    inputs, scalars = guess.predictor.model.seen[0]
    assert scalars.item() == 2.5
    expected = fem.Function(script.space)
    expected.interpolate(script.source)
    assert np.allclose(inputs[0, :, 0], 2.0 * owned(script, expected.x.array), atol=1e-5)


def test_the_relative_tolerance_refers_to_the_own_guess() -> None:
    script = Script()
    problem = script.nonlinear(snes_rtol=1e-4)
    truth = solution(script, problem)
    near = truth * (1.0 + 1e-3 * np.sin(np.arange(truth.size)))
    attached = attach(problem, guess_of(owned(script, near)), inputs=script.inputs, scalars=script.scalars)
    before = problem.solver.getTolerances()
    for _ in range(2):
        script.u.x.array[:] = 0.0
        problem.solve()
    assert attached.policy.decisions[1].good
    assert problem.solver.getIterationNumber() <= 1
    assert problem.solver.getTolerances() == before


def test_bare_solvers() -> None:
    script = Script()
    problem = script.nonlinear()
    truth = solution(script, problem)
    default = problem.solver.getIterationNumber()
    x = create_vector(script.space)
    attached = attach(
        problem.solver,
        guess_of(owned(script, truth)),
        inputs=script.inputs,
        scalars=script.scalars,
        u=script.u,
        bcs=[script.bc],
    )
    for expected in (default, 1):  # the prediction is in single precision
        x.set(0.0)
        attached.solve(None, x)
        assert problem.solver.getIterationNumber() == expected
        assert np.abs(x.array_r - owned(script, truth)).max(initial=0.0) < 1e-6
    linear = script.linear()
    truth = solution(script, linear)
    ksp = linear.solver
    attached = attach(
        ksp, guess_of(owned(script, truth)), inputs=script.inputs, scalars=script.scalars, u=script.u, bcs=[script.bc]
    )
    matrix, b = assemble_matrix(linear.a, bcs=[script.bc]), assemble_vector(linear.L)
    matrix.assemble()
    fem.petsc.apply_lifting(b, [linear.a], bcs=[[script.bc]])
    b.ghostUpdate(PETSc.InsertMode.ADD, PETSc.ScatterMode.REVERSE)
    fem.petsc.set_bc(b, [script.bc])
    ksp.setOperators(matrix)
    iterations = []
    for _ in range(2):
        x.set(0.0)
        attached.solve(b, x)
        iterations.append(ksp.getIterationNumber())
        assert np.abs(x.array_r - owned(script, truth)).max(initial=0.0) < 1e-6
    assert iterations[1] < 0.6 * iterations[0] and not ksp.getInitialGuessNonzero()


def test_the_options_database_names_the_checkpoint_and_the_settings(tmp_path_factory: pytest.TempPathFactory) -> None:
    script = Script()
    problem = script.linear()
    assert attach(problem, inputs=script.inputs, scalars=script.scalars) is None
    folder = Path(COMM.bcast(str(tmp_path_factory.mktemp("model")) if COMM.rank == 0 else None))
    torch.manual_seed(0)
    card = untrained().card
    share(COMM, lambda: checkpoint.save(folder, checkpoint.make_model(card.operator, card.schema), card))
    options = PETSc.Options("linear_script_")
    options["lrsa_checkpoint"], options["lrsa_guess_budget"], options["lrsa_guess_patience"] = str(folder), 0.25, 7
    attached = attach(problem, inputs=script.inputs, scalars=script.scalars)
    assert (attached.policy.settings.budget, attached.policy.settings.patience) == (0.25, 7)
    for name in ("lrsa_checkpoint", "lrsa_guess_budget", "lrsa_guess_patience"):
        options.delValue(name)


def test_the_record_of_costs_is_on_disk_after_each_solve(tmp_path_factory: pytest.TempPathFactory) -> None:
    script = Script()
    problem = script.linear()
    truth = solution(script, problem)
    path = COMM.bcast(str(tmp_path_factory.mktemp("record") / "costs.json") if COMM.rank == 0 else None)
    policy = Adaptive(GuessConfig(record=path), ["learned"])
    attach(problem, guess_of(owned(script, truth)), inputs=script.inputs, scalars=script.scalars, policy=policy)
    for expected in ({DEFAULT}, {DEFAULT, "learned"}):
        problem.solve()
        COMM.Barrier()
        (times,) = json.loads(Path(path).read_text(encoding="utf-8")).values()
        assert set(times) == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": {}}, "inputs: the operator needs source; source not given"),
        ({"inputs": {"sorce": None}}, r"inputs: the operator knows no 'sorce' \(did you mean 'source'\?\)"),
        ({"scalars": {}}, "scalars: the operator needs load; load not given"),
        ({"scalars": {"load": "two"}}, "scalars: 'load' must be a number"),
        ({"scalars": {"load": float("nan")}}, "scalars: 'load' must be finite"),
    ],
)
def test_what_is_missing_is_named(changes: dict[str, object], message: str) -> None:
    script = Script()
    with pytest.raises(ValueError, match=message):
        attach(script.linear(), guess_of(np.zeros(1)), **{"inputs": script.inputs, "scalars": script.scalars} | changes)
    with pytest.raises(ValueError, match="bcs must be a list of DirichletBC, got Function"):
        attach(script.linear(), bcs=script.source, learn="none")
    with pytest.raises(ValueError, match="expected a LinearProblem"):
        attach(script, guess_of(np.zeros(1)), inputs=script.inputs, scalars=script.scalars)


def test_an_input_of_the_wrong_size_and_a_solver_without_unknown_are_refused() -> None:
    script = Script()
    with pytest.raises(ValueError, match="'source' has 1 components for the operator, got 2"):
        attach(
            script.linear(), guess_of(np.zeros(1)), inputs={"source": ufl.grad(script.source)}, scalars=script.scalars
        )
    problem = script.linear()
    with pytest.raises(ValueError, match="expected an unknown that is one Function"):
        attach(problem.solver, guess_of(np.zeros(1)), inputs=script.inputs, scalars=script.scalars)


def test_the_record_lives_across_attach_calls_and_the_options_count_for_what_is_given_by_hand() -> None:
    options, policies = PETSc.Options("newton_script_"), []
    options["lrsa_guess_patience"], options["lrsa_guess_max_ratio"] = 7, 9.0
    for _ in range(2):
        script = Script()
        problem = script.nonlinear()
        attached = attach(problem, guess_of(np.zeros(1)), inputs=script.inputs, scalars=script.scalars)
        policies.append(attached.policy)
        assert attached.guesses[0].predictor.settings.max_ratio == 9.0
    given = Adaptive(GuessConfig(budget=0.3), ["learned"])
    attach(problem, guess_of(np.zeros(1)), inputs=script.inputs, scalars=script.scalars, policy=given)
    for name in ("lrsa_guess_patience", "lrsa_guess_max_ratio"):
        options.delValue(name)
    assert policies[0] is policies[1] and policies[0].settings.patience == 7
    assert (given.settings.budget, given.settings.patience) == (0.3, 7)
