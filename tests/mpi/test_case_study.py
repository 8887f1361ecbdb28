"""A study of a case: the samples of ``generate``, each from the best guess so far; it goes on where it was stopped."""

from __future__ import annotations

import dataclasses
import logging
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ufl
from mpi4py import MPI

pytest.importorskip("dolfinx", reason="the study needs DOLFINx")

from dolfinx import fem
from dolfinx.mesh import create_unit_square

from lrsa_coupled.bench.experiments import study as compared
from lrsa_coupled.bench.html import page
from lrsa_coupled.bench.rows import Header, Results, Row, Seconds, read_rows, write_rows
from lrsa_coupled.bench.samples import Samples
from lrsa_coupled.catalog import load_case
from lrsa_coupled.config import BenchConfig, Config, GenerateConfig, ProblemConfig
from lrsa_coupled.coupling.residual import reference_norm
from lrsa_coupled.data.store import DataStore
from lrsa_coupled.generation.generate import generate
from lrsa_coupled.generation.plan import sample_parameters
from lrsa_coupled.generation.targets import Targets
from lrsa_coupled.guess.target import solve_from_zero
from lrsa_coupled.interfaces import Case, Features, Problem
from lrsa_coupled.mpi import share
from lrsa_coupled.schema import Field, Schema
from lrsa_coupled.solvers.newton import NewtonSolver
from lrsa_coupled.study.cases import CaseStudy
from lrsa_coupled.study.farm import generate_learning
from lrsa_coupled.study.study import Learning

COMM = MPI.COMM_WORLD
pytestmark = pytest.mark.two_ranks


@dataclass(frozen=True)
class Parameters:
    strength: float = field(metadata={"unit": "1"})


class Heat(Case):
    """Conductivity 1 + u^2 on a square; a new mesh for each sample."""

    schema = Schema("heat", 2, (Field("source"),), ("strength",), (Field("temperature"),))
    resolution, rtol, default_method = 8, 1e-9, "zero"
    fields = schema.outputs

    def sample(self, rng: np.random.Generator) -> Parameters:
        return Parameters(float(rng.uniform(5.0, 50.0)))

    def mesh(self, comm: MPI.Comm, parameters: Any, resolution: int) -> Any:
        return create_unit_square(comm, resolution, resolution)

    def problem(self, mesh: Any, parameters: Parameters) -> Problem:
        space = fem.functionspace(mesh, ("P", 1))
        u, v, f = fem.Function(space), ufl.TestFunction(space), fem.Function(space)
        f.interpolate(lambda x: parameters.strength * x[1])
        residual = ((1 + u**2) * ufl.inner(ufl.grad(u), ufl.grad(v)) - f * v) * ufl.dx
        bcs = [fem.dirichletbc(0.0, fem.locate_dofs_geometrical(space, lambda x: np.isclose(x[0], 0.0)), space)]
        return Problem(mesh=mesh, parameters=parameters, solution=u, bcs=bcs, node_space=space,
                       residual=fem.form(residual), jacobian=fem.form(ufl.derivative(residual, u)))  # fmt: skip

    def features(self, problem: Problem) -> Features:
        owned = problem.node_space.dofmap.index_map.size_local
        x = problem.node_space.tabulate_dof_coordinates()[:owned]
        return Features(problem.parameters.strength * x[:, 1:2], np.array([problem.parameters.strength]))

    def solver(self, problem: Problem, atol: float, *, max_iterations: int | None = None) -> NewtonSolver:
        return NewtonSolver(problem, atol, max_iterations=max_iterations)

    def methods(self) -> Mapping[str, Any]:
        return {"zero": self.solver}


def solved(case: Heat, folder: Path, samples: int) -> CaseStudy:
    config = Config(case="heat", problem=ProblemConfig(resolution=8), bench=BenchConfig(coarse_meshes=1))
    study = CaseStudy(case, config, Learning(str(folder), solves=samples, overhead=1e9), COMM)
    assert study.run() == "" and study.failed == 0
    return study


def test_a_study_makes_the_samples_of_generate_and_goes_on(shared_path: Path) -> None:
    case = Heat()
    config = Config(case="heat", generate=GenerateConfig(samples=5, ranks_per_sample=COMM.size))
    generate(case, config, shared_path / "farm", COMM)
    first = solved(case, shared_path / "study", 3)
    assert [decision.number for decision in first.learner.policy.decisions] == [1, 2, 3]
    second = solved(case, shared_path / "study", 5)
    assert len(second.learner.policy.decisions) == 2 and second.study.solves == 2
    assert len(second.study.on_mesh.solutions.combinations) == 5  # each sample has a mesh of its own, all the same
    farm, study = (share(COMM, lambda name=name: DataStore(shared_path / name)) for name in ("farm", "study"))
    assert farm.solved == study.solved == list(range(5))
    assert study.card.schema == case.schema and not share(COMM, study.verify)
    if COMM.rank == 0:
        for index in range(5):
            one, two = farm.read(index), study.read(index)
            assert one.parameters == two.parameters
            assert np.abs(one.arrays.outputs - two.arrays.outputs).max() < 1e-7


def test_a_study_says_after_some_solves_what_is_to_be_expected(
    shared_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="lrsa_coupled.study.cases"):
        study = solved(Heat(), shared_path / "study", 14)
    assert len(study.setups) == 14
    found = [record.getMessage() for record in caplog.records if record.name == "lrsa_coupled.study.cases"]
    assert [text.split(":")[0] for text in found] == ["expected after 6 solves"] * (COMM.rank == 0)
    assert all("14 solves by the default method" in text and "besides for mesh" in text for text in found)


def test_a_farm_that_learns_makes_the_same_samples(shared_path: Path) -> None:
    case = Heat()
    config = Config(case="heat", generate=GenerateConfig(samples=6))
    generate(case, config, shared_path / "plain", COMM)
    learning = dataclasses.replace(config, generate=GenerateConfig(samples=4, guess="learning"))
    summary, text = generate_learning(case, learning, shared_path / "learning", COMM)
    assert (summary.made, summary.solved) == (4, 4) and "learning took" in text
    learning = dataclasses.replace(config, generate=GenerateConfig(samples=6, guess="learning"))
    summary, _ = generate_learning(case, learning, shared_path / "learning", COMM)
    assert (summary.made, summary.solved) == (2, 6)
    if COMM.rank == 0:
        plain, learned = (DataStore(shared_path / name) for name in ("plain", "learning"))
        for index in range(6):
            one, two = plain.read(index), learned.read(index)
            assert one.parameters == two.parameters and np.abs(one.arrays.outputs - two.arrays.outputs).max() < 1e-7
    with pytest.raises(ValueError, match="is for study.farm.generate_learning"):
        generate(case, learning, shared_path / "learning", COMM)


def test_on_one_mesh_the_solver_stays_from_solve_to_solve() -> None:
    case = load_case("darcy")
    targets, kept = Targets(case, GenerateConfig(reuse="setup")), []
    assert case.fixed_mesh is not None
    problem = case.problem(case.mesh(COMM, first := sample_parameters(case, 0, 0), 16), first)
    for index in range(3):
        if index:
            problem = case.fixed_mesh.update(problem, sample_parameters(case, 0, index))
        with targets.target(problem, atol := case.rtol * reference_norm(problem)) as target:
            assert target.by_default().converged
            kept.append(target)
        own = problem.solution.x.array.copy()
        assert solve_from_zero(case, problem, atol).converged
        assert np.abs(own - problem.solution.x.array).max(initial=0.0) < 1e-5 * np.abs(own).max(initial=1e-300)
    targets.destroy()
    assert kept[0] is kept[1] is kept[2]


def test_studies_are_compared_by_their_wall_time_from_nothing(shared_path: Path) -> None:
    config = Config(case="heat", bench=BenchConfig(samples=4, coarse_meshes=1))
    results = compared.run(Namespace(only=[]), Samples(Heat(), config, COMM))
    assert list(results.methods) == [compared.DEFAULT, compared.UNTRAINED, compared.STARTING]
    for rows in results.methods.values():
        assert len(rows) == 4 and all(row.solved for row in rows)
    for times in compared.elapsed(results).values():
        assert times[0] > 0.0 and np.all(np.diff(times) >= 0.0)
    assert "study of 4 solves" in compared.table(results)
    if COMM.rank == 0:
        write_rows(results, shared_path / "rows.jsonl")
        text = page([read_rows(shared_path / "rows.jsonl")])
        assert "Of 4 solves " in text and "Wall time of the study" in text and "ahead of default from" in text


def test_a_study_is_ahead_after_the_last_solve_at_which_it_was_not() -> None:
    times = {"default": [1.0, 2.0, 3.0, 4.0], "learning": [2.0, 1.5, 3.1, 3.2], "slow": [2.0, 3.0, 4.0, 5.0]}
    rows = [
        Row(method=name, sample=n, seconds=Seconds(total=1.0), solved=True, values={"elapsed": each})
        for name, curve in times.items()
        for n, each in enumerate(curve)
    ]
    table = compared.study_rows(Results.of(Header(study="study", case="heat"), rows))
    assert [row[-1] for row in table[1:]] == ["-", "solve 4", "-"]
    assert table[2][1:4] == ["3.2", "0.85", "1.25"]


def test_a_trajectory_is_refused(shared_path: Path) -> None:
    class Steps(Heat):
        trajectory = "not None"

    with pytest.raises(ValueError, match="samples that do not depend on each other"):
        CaseStudy(Steps(), dataclasses.replace(Config(), case="heat"), Learning(str(shared_path / "study")), COMM)
