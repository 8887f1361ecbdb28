"""Training data from a user's script, training on it, and the operator back in the script, without a case."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import ufl
from mpi4py import MPI

pytest.importorskip("dolfinx", reason="the collector needs DOLFINx")

from dolfinx import fem
from dolfinx.fem.petsc import NonlinearProblem
from dolfinx.mesh import create_unit_square, exterior_facet_indices

from lrsa_coupled.config import Config, LrsaConfig, TrainingConfig
from lrsa_coupled.data.store import DataStore
from lrsa_coupled.generation.collect import Collector
from lrsa_coupled.guess.attach import attach
from lrsa_coupled.guess.learned import LearnedGuess
from lrsa_coupled.mpi import share
from lrsa_coupled.study.study import Learning
from lrsa_coupled.training.loop import train

pytestmark = pytest.mark.two_ranks

COMM = MPI.COMM_WORLD


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(COMM.bcast(str(tmp_path_factory.mktemp("collect")) if COMM.rank == 0 else None))


class Script:
    """A user's script: nonlinear conduction with a source that moves, and a constant heat flux vector."""

    def __init__(self) -> None:
        mesh = create_unit_square(COMM, 8, 8)
        space = fem.functionspace(mesh, ("P", 1))
        self.u, self.f = fem.Function(space, name="temperature"), fem.Function(space)
        self.flux = fem.Constant(mesh, np.array([1.0, 0.5]))
        v = ufl.TestFunction(space)
        residual = (
            (1 + self.u**2) * ufl.inner(ufl.grad(self.u), ufl.grad(v)) - self.f * v - ufl.inner(self.flux, ufl.grad(v))
        ) * ufl.dx
        mesh.topology.create_connectivity(1, 2)
        bc = fem.dirichletbc(0.0, fem.locate_dofs_topological(space, 1, exterior_facet_indices(mesh.topology)), space)
        self.problem = NonlinearProblem(
            residual,
            self.u,
            bcs=[bc],
            petsc_options_prefix="conduction_",
            petsc_options={
                "ksp_type": "preonly",
                "pc_type": "lu",
                "pc_factor_mat_solver_type": "mumps",
                "snes_atol": 1e-10,
                "snes_linesearch_type": "none",
            },
        )
        self.inputs, self.scalars = {"source": self.f, "layers": lambda x: np.stack([x[0], x[1]])}, {"flux": self.flux}

    def set(self, number: int) -> None:
        rng = np.random.default_rng(number)
        a, b = rng.uniform(5.0, 15.0), rng.uniform(0.3, 0.7)
        self.f.interpolate(lambda x: a * np.exp(-10 * (x[0] - b) ** 2))
        self.flux.value[:] = rng.uniform(-1.0, 1.0, 2)
        self.u.x.array[:] = 0.0


def collect(script: Script, folder: Path, numbers: range) -> None:
    with Collector(folder, script.problem, name="conduction", inputs=script.inputs, scalars=script.scalars) as samples:
        for number in numbers:
            script.set(number)
            script.problem.solve()
            samples.add()


def test_collected_samples_hold_what_the_script_solved(folder: Path) -> None:
    script = Script()
    collect(script, folder, range(3))
    collect(script, folder, range(3, 5))
    script.problem.solver.setTolerances(max_it=0)
    collect(script, folder, range(5, 6))
    if COMM.rank == 0:
        store = DataStore(folder)
        assert store.solved == [0, 1, 2, 3, 4] and sorted(store.entries) == list(range(6)) and not store.verify()
        schema = store.card.schema
        assert [field.components for field in schema.inputs] == [1, 2] and schema.scalars == ("flux_0", "flux_1")
        assert schema.outputs[0].name == "temperature"
        arrays = store.read(4).arrays
        rng = np.random.default_rng(4)
        a, b = rng.uniform(5.0, 15.0), rng.uniform(0.3, 0.7)
        assert np.allclose(arrays.inputs[:, 0], a * np.exp(-10 * (arrays.points[:, 0] - b) ** 2), rtol=1e-5)
        assert np.allclose(arrays.inputs[:, 1:], arrays.points) and np.allclose(
            arrays.scalars, rng.uniform(-1.0, 1.0, 2)
        )
        assert np.abs(arrays.outputs).max() > 0.1 and not arrays.outputs[arrays.constrained[:, 0] == 1].any()


def test_quantities_are_kept_with_the_samples(folder: Path) -> None:
    """Of a collector and of what learns; numbers of the solution of that sample, the same on all ranks."""
    script = Script()
    forms, exact = {"mean": script.u * ufl.dx, "square": script.u**2 * ufl.dx}, []
    with Collector(folder / "own", script.problem, name="conduction", quantities=forms) as samples:
        for number in (0, 1):
            script.set(number)
            script.problem.solve()
            samples.add()
            exact.append(COMM.allreduce(fem.assemble_scalar(fem.form(forms["mean"]))))
    learning = Learning(str(folder / "learnt"), when="never", overhead=1e9)
    attached = attach(script.problem, learn=learning, quantities=forms)
    for number in (0, 1):
        script.set(number)
        script.problem.solve()
    assert attached is not None and attached.learner is not None
    attached.learner.study.close()
    if COMM.rank == 0:
        for name in ("own", "learnt"):
            kept = [json.loads(DataStore(folder / name).read(index).quantities) for index in (0, 1)]
            assert [each["mean"] for each in kept] == pytest.approx(exact, rel=1e-6) and kept[0]["square"] > 0.0
    other = Script()
    with pytest.raises(ValueError, match="got no learn: give a folder, too"):
        attach(other.problem, quantities={"mean": other.u * ufl.dx})


def test_another_data_set_is_not_added_to(folder: Path) -> None:
    script = Script()
    collect(script, folder, range(1))
    with pytest.raises(ValueError, match="holds a data set with name 'conduction' instead of 'other'"):
        Collector(folder, script.problem, name="other", inputs=script.inputs, scalars=script.scalars)
    with pytest.raises(ValueError, match="'pressure': .* has no part"):
        Collector(folder, script.problem, name="conduction", outputs={"pressure": (1,)})


def test_collect_train_attach(folder: Path) -> None:
    script = Script()
    collect(script, folder / "data", range(24))
    config = Config(
        operator=LrsaConfig(width=32, num_blocks=2, num_heads=2, num_latents=16),
        training=TrainingConfig(
            epochs=40, batch_size=4, num_points=81, learning_rate=3e-3, valid_fraction=0.1, device="cpu"
        ),
    )
    share(COMM, lambda: train(folder / "data", folder / "model", config))
    attached = attach(script.problem, LearnedGuess.load(folder / "model"), inputs=script.inputs, scalars=script.scalars)
    for number in range(100, 104):
        script.set(number)
        script.problem.solve()
        assert script.problem.solver.getConvergedReason() > 0
    first, second = attached.policy.decisions[:2]
    assert first.choice == "default" and second.choice == "learned"
    assert second.good or second.outcome.startswith(
        "abandoned"
    )  # used: it is better than zero; too expensive for so small a problem
