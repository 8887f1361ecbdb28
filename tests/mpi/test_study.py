"""Learning beside a script: every solve is collected, answers stay, models are swapped in, failures reach nobody."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import ufl
from mpi4py import MPI

pytest.importorskip("dolfinx", reason="the study needs DOLFINx")

from dolfinx import fem
from dolfinx.fem.petsc import NonlinearProblem
from dolfinx.mesh import create_unit_square, exterior_facet_indices
from petsc4py import PETSc

from lrsa_coupled import Learning, attach
from lrsa_coupled.config import GuessConfig, LrsaConfig, TrainingConfig
from lrsa_coupled.data.store import DataStore
from lrsa_coupled.guess.policy import Always
from lrsa_coupled.mpi import share
from lrsa_coupled.study import economy, trainer
from lrsa_coupled.study.study import end_studies
from lrsa_coupled.training import checkpoint

COMM = MPI.COMM_WORLD
ALL = 1e9
"""Share of the time for collecting that lets every solve of these small problems be kept."""


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    yield COMM.bcast(str(tmp_path_factory.mktemp("study") / "data") if COMM.rank == 0 else None)
    end_studies()


class Script:
    """A user's script: nonlinear conduction with a source that moves, from zeros each time."""

    def __init__(self, cells: int = 8, power: int = 2) -> None:
        mesh = create_unit_square(COMM, cells, cells)
        self.space = space = fem.functionspace(mesh, ("P", 1))
        self.u, self.f = fem.Function(space, name="temperature"), fem.Function(space)
        self.rate, v = fem.Constant(mesh, 1.0), ufl.TestFunction(space)
        flux = (1 + self.rate * self.u**power) * ufl.inner(ufl.grad(self.u), ufl.grad(v))
        mesh.topology.create_connectivity(1, 2)
        dofs = fem.locate_dofs_topological(space, 1, exterior_facet_indices(mesh.topology))
        self.problem = NonlinearProblem(
            (flux - self.f * v) * ufl.dx,
            self.u,
            bcs=[fem.dirichletbc(0.0, dofs, space)],
            petsc_options_prefix="study_",
            petsc_options={"ksp_type": "preonly", "pc_type": "lu", "pc_factor_mat_solver_type": "mumps",
                           "snes_rtol": 1e-10},
        )  # fmt: skip
        self.inputs, self.scalars = {"source": self.f}, {"rate": self.rate}

    def solve(self, number: int) -> np.ndarray:
        rng = np.random.default_rng(number)
        strength, place, self.rate.value = rng.uniform(20.0, 60.0), rng.uniform(0.3, 0.7), rng.uniform(1.0, 3.0)
        self.f.interpolate(lambda x: strength * np.exp(-10 * (x[0] - place) ** 2))
        self.u.x.array[:] = 0.0
        self.problem.solve()
        assert self.problem.solver.getConvergedReason() > 0
        return self.u.x.array.copy()


def learn(script: Script, folder: str, **settings: object) -> object:
    learning = Learning(folder, **{"overhead": ALL, **settings})
    return attach(script.problem, inputs=script.inputs, scalars=script.scalars, learn=learning)


def stored(folder: str) -> DataStore:
    COMM.Barrier()
    return share(COMM, lambda: DataStore(Path(folder)))


@pytest.mark.two_ranks
def test_every_solve_is_a_sample_and_the_answers_are_the_script_s(folder: str) -> None:
    plain, script = Script(), Script()
    attached = learn(script, folder)
    for number in range(12):
        assert np.abs(plain.solve(number) - script.solve(number)).max(initial=0.0) < 1e-8
    attached.learner.study.close()
    store = stored(folder)
    assert store.solved == list(range(12)) and not store.verify()
    assert (store.card.schema.name, store.card.schema.scalars) == ("study", ("rate",))
    if COMM.rank == 0:
        arrays = DataStore(Path(folder)).arrays(7)
        assert arrays.scalars == pytest.approx(np.random.default_rng(7).uniform((20, 0.3, 1), (60, 0.7, 3))[2:])
    assert COMM.allreduce(np.abs(script.solve(7) - plain.solve(7)).max(initial=0.0), op=MPI.MAX) < 1e-8
    choices = [decision.choice for decision in attached.policy.decisions]
    assert choices[:2] == ["default", "default"]
    if COMM.rank == 0:
        assert "samples: 12 in" in attached.summary() and "models: none trained" in attached.summary()
    assert "against the own guess, learning took" in attached.summary()
    prospects = attached.policy.prospects
    assert prospects["regression"] < prospects["previous"] < prospects["default"] == 1.0


@pytest.mark.two_ranks
def test_collecting_shrinks_after_many_solves_that_have_saved_nothing(folder: str) -> None:
    study = learn(Script(), folder, overhead=0.01).learner.study
    study.solving, study.spent = 100.0, 0.9
    assert study.affordable
    study.solves = 41
    if COMM.rank == 0:  # which decides
        study.spent = 1.9
        assert study.affordable  # a regression needs some samples
        study.log.count, study.spent = 32, 0.9
        assert not study.affordable
        study.saved = 2.0
        assert study.affordable


@pytest.mark.two_ranks
def test_a_second_run_goes_on_with_the_data(folder: str) -> None:
    first = learn(Script(), folder)
    script = Script()
    first = learn(script, folder)
    for number in range(8):
        script.solve(number)
    first.learner.study.close()
    script = Script()
    second = learn(script, folder)
    again = script.solve(3)
    assert len(second.learner.solutions.combinations) == 9
    assert second.policy.prospects["regression"] < 0.5
    weights = second.learner.solutions.weights["nearest"]
    assert np.flatnonzero(weights).tolist() == [3]
    nearest = second.learner.solutions.combined("nearest")
    assert np.abs(nearest - again[: len(nearest)]).max(initial=0.0) < 1e-6
    second.learner.study.close()
    assert stored(folder).solved == list(range(8))  # it is not kept again
    other = Script()
    with pytest.raises(ValueError, match="holds a data set with"):
        attach(other.problem, inputs=other.inputs, learn=folder)


@pytest.mark.two_ranks
def test_on_another_mesh_the_nearest_solution_is_interpolated(folder: str) -> None:
    for cells in (12, 14, 16):
        script = Script(cells)
        attached = learn(script, folder)
        for number in range(2):
            script.solve(number)
    study = attached.learner.study
    assert study.solves == 6 and "interpolated" in [guess.name for guess in attached.guesses]
    assert study._errors["interpolated"][-1] < np.log(0.05)  # the same problem on a mesh that is a little coarser
    study.close()
    assert stored(folder).solved == list(range(6))
    script = Script(18)
    attached = learn(script, folder)
    script.solve(1)
    assert attached.learner.study._errors["interpolated"] < [np.log(0.05)]


def test_a_model_is_swapped_in_between_two_solves(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The training is a copy of an operator that was made before."""
    made = COMM.bcast(str(tmp_path / "made"))
    script = Script()
    attached = learn(script, folder, solves=10**6)
    schema = attached.learner.seen.schema
    share(COMM, lambda: _save(Path(made), schema))

    def words(data: Path, out: Path, minutes: float, initial: Path | None) -> list[str]:
        return [sys.executable, "-c", f"import shutil; shutil.copytree({made!r}, {str(out)!r})"]

    monkeypatch.setattr(trainer, "command", words)
    monkeypatch.setattr(economy, "FIRST", 4)
    attached.learner.study._next, attached.learner.study.cores = 4, 1
    monkeypatch.setattr(economy, "worth_loading", lambda situation: True)
    monkeypatch.setattr(economy, "decide", lambda *_: economy.Verdict(5.0, 1.0, "as told"))
    with caplog.at_level(logging.INFO):
        for number in range(4):
            script.solve(number)
        share(COMM, lambda: attached.learner.study.trainer._process.wait(30.0))
        plain = Script()
        for number in range(4, 8):
            assert np.abs(plain.solve(number) - script.solve(number)).max(initial=0.0) < 1e-8
    assert attached.learner.study.model is not None
    assert [guess.name for guess in attached.guesses][-1] == "learned"
    assert "learned" in attached.policy.prospects
    if COMM.rank == 0:
        assert "learning: as told" in caplog.text and "validation error 0.2, is a guess from here on" in caplog.text
        assert "models: 5 s on 4 samples" in attached.summary()


def _save(folder: Path, schema: object) -> None:
    torch.manual_seed(0)
    operator = LrsaConfig(width=16, num_blocks=1, num_heads=2, num_latents=8)
    card = checkpoint.ModelCard(schema, 8, operator, TrainingConfig(), checkpoint.DataInfo(4, 0), {"temperature": 0.2})
    model = checkpoint.make_model(operator, schema)
    ones = torch.ones(50, 1)
    model.normaliser.fit(torch.rand(50, 2), 30 * torch.rand(50, 1), scalars_SG=2 * ones + torch.randn(50, 1),
                         outputs_TK=torch.rand(50, 1))  # fmt: skip
    checkpoint.save(folder, model, card)


@pytest.mark.two_ranks
def test_nothing_that_goes_wrong_reaches_the_script(
    folder: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plain, script = Script(), Script()
    attached = learn(script, folder)
    script.solve(0)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    if COMM.rank == 0:
        monkeypatch.setattr(attached.learner.study.log, "add", full)
    for number in range(1, 4):
        assert np.abs(plain.solve(number) - script.solve(number)).max(initial=0.0) < 1e-8
    assert attached.learner.broken is None and len(attached.learner.solutions.combinations) == 4
    if COMM.rank == COMM.size - 1:  # on one rank only
        monkeypatch.setattr(attached.learner.solutions, "_keep", full)
    for number in range(4, 7):
        assert np.abs(plain.solve(number) - script.solve(number)).max(initial=0.0) < 1e-8
    assert "No space left" in attached.learner.broken and attached.guesses == []
    if COMM.rank == 0:
        assert caplog.text.count("no longer collected") == 1 and caplog.text.count("learns no more") == 1


@pytest.mark.two_ranks
@pytest.mark.parametrize("method", ["choose", "note"])
def test_a_mistake_in_the_choice_of_guesses_on_one_rank_does_not_reach_the_script(
    method: str, folder: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def missing(*_: object) -> None:
        raise KeyError("previous")

    plain, script = Script(), Script()
    attached = learn(script, folder)
    if COMM.rank == COMM.size - 1:
        monkeypatch.setattr(attached.policy, method, missing)
    for number in range(3):
        assert np.abs(plain.solve(number) - script.solve(number)).max(initial=0.0) < 1e-8
    if COMM.rank == COMM.size - 1:
        assert caplog.text.count("the choice of a guess has failed, the own solve goes on: KeyError") == 3


@pytest.mark.two_ranks
def test_solves_shorter_than_what_collecting_takes_are_not_all_kept(folder: str) -> None:
    script = Script()
    attached = learn(script, folder, overhead=1e-9)
    for number in range(6):
        script.solve(number)
    assert attached.guesses == [] and len(attached.policy.decisions) == 6
    attached.learner.study.close()
    assert len(stored(folder).solved) < 6


@pytest.mark.two_ranks
def test_the_options_database_names_the_folder_and_the_settings(folder: str) -> None:
    script, options = Script(), PETSc.Options("study_")
    given = {"lrsa_learn": folder, "lrsa_learn_solves": "500", "lrsa_learn_when": "never"}
    for name, value in given.items():
        options[name] = value
    attached = attach(script.problem, inputs=script.inputs, scalars=script.scalars)
    options["lrsa_learn_when"] = "sometimes"
    with pytest.raises(ValueError, match="'lrsa_learn_when': expected one of beside, at_end, never"):
        attach(script.problem, inputs=script.inputs, scalars=script.scalars)
    for name in given:
        options.delValue(name)
    learning = attached.learner.study.learning
    assert (learning.folder, learning.solves, learning.when) == (folder, 500, "never")
    with pytest.raises(ValueError, match="learn needs the adaptive policy, got Always"):
        attach(script.problem, inputs=script.inputs, scalars=script.scalars, learn=folder, policy=Always())
    with pytest.raises(ValueError, match="expected a folder"):
        attach(script.problem, inputs=script.inputs, scalars=script.scalars, learn="")


@pytest.mark.two_ranks
def test_settings_of_the_guess_count_and_a_model_given_by_hand_is_the_first_one(folder: str, tmp_path: Path) -> None:
    script = Script()
    schema = learn(script, folder).learner.seen.schema
    made = Path(COMM.bcast(str(tmp_path / "made")))
    share(COMM, lambda: _save(made, schema))
    from lrsa_coupled import LearnedGuess

    guess = LearnedGuess.load(made, GuessConfig(max_ratio=7.0))
    attached = attach(script.problem, guess, inputs=script.inputs, scalars=script.scalars, learn=folder)
    script.solve(0)
    assert attached.guesses[-1].predictor.settings.max_ratio == 7.0


@pytest.mark.skipif(COMM.size > 1, reason="starts a process of its own")
def test_without_a_model_there_is_no_torch_and_the_end_is_silent(tmp_path: Path) -> None:
    """The script changes its folder, and closes the stream of its log before its end."""
    shutil.copy(__file__, tmp_path / "script.py")
    text = (tmp_path / "script.py").read_text(encoding="utf-8")
    start, end = text.index("class Script:"), text.index("def learn(")
    code = "import sys\nimport numpy as np\nimport ufl\nfrom mpi4py import MPI\nfrom dolfinx import fem\n"
    code += "from dolfinx.fem.petsc import NonlinearProblem\nfrom lrsa_coupled import attach\n"
    code += "from dolfinx.mesh import create_unit_square, exterior_facet_indices\nCOMM = MPI.COMM_WORLD\n"
    code += "import io, logging, os\nstream = io.StringIO()\nlogging.basicConfig(level=logging.INFO, stream=stream)\n"
    code += f"{text[start:end]}\nscript = Script()\n"
    code += "from lrsa_coupled import Learning\nlearning = Learning('data', overhead=1e9)\n"
    code += "attach(script.problem, inputs=script.inputs, scalars=script.scalars, learn=learning)\nos.chdir('/')\n"
    code += "for number in range(3):\n    script.solve(number)\nprint('torch' in sys.modules)\nstream.close()\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert (done.stdout.strip(), done.stderr) == ("False", "")
    assert DataStore(tmp_path / "data").solved  # at exit the data set is put in order


@pytest.mark.two_ranks
def test_an_attempt_leaves_the_symbolic_factorisation_of_the_user_s_solver(folder: str) -> None:
    script = Script()
    attached = learn(script, folder)
    PETSc.Log.begin()
    for number in range(3):
        script.solve(number)
    before = PETSc.Log.Event("MatLUFactorSym").getPerfInfo()["count"]
    attached.policy.prospects = {"previous": 0.01, "default": 1.0}
    attached.policy.forget("previous")
    script.solve(3)
    assert attached.policy.decisions[-1].choice == "previous"
    assert PETSc.Log.Event("MatLUFactorSym").getPerfInfo()["count"] == before


@pytest.mark.two_ranks
def test_what_changes_and_is_not_named_is_said_once(folder: str, caplog: pytest.LogCaptureFixture) -> None:
    """Functions, Constants and Dirichlet values; not what a named expression is made of."""
    for inputs, scalars, forgotten in (
        ({}, {}, ["the function 'f'", "a Constant, 1. at first and now"]),
        ({"product": True}, {}, []),
        ({}, {"rate": True}, ["the function 'f'"]),
    ):
        script = Script()
        found = {"product": script.rate * script.f} if inputs else {}
        learn = Learning(f"{folder}{len(inputs)}{len(scalars)}", overhead=ALL)
        attach(script.problem, inputs=found, scalars={"rate": script.rate} if scalars else {}, learn=learn)
        with caplog.at_level(logging.WARNING):
            for number in range(4):
                script.solve(number)
        if COMM.rank == 0:
            said = [each.message for each in caplog.records if "changes from solve to solve" in each.message]
            assert len(said) == len(forgotten) and all(map(str.startswith, sorted(said)[::-1], forgotten)), said
        caplog.clear()
        end_studies()
