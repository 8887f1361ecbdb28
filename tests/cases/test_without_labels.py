"""Training without solutions: samples at the cost of the mesh, losses of the case, what may not be mixed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("mpi4py.MPI", reason="needs MPI")
pytest.importorskip("dolfinx", reason="needs DOLFINx")

from lrsa_coupled import cli, load_case
from lrsa_coupled.bench.methods import methods_of_data
from lrsa_coupled.config import Config
from lrsa_coupled.data.store import DataStore
from lrsa_coupled.generation.unsolved import REASON, SamplePhysics
from lrsa_coupled.mpi import world
from lrsa_coupled.training.checkpoint import load_card

TINY = ["training.epochs=6", "training.validate_every=2", "operator.width=16", "operator.num_latents=8"]


def run(verb: str, *arguments: object) -> int:
    return cli.main([verb, *map(str, arguments), "--quiet"])


def generate(folder: Path, case: str, resolution: int, *more: str) -> Path:
    samples = 12 if case == "darcy" else 2
    assert run("generate", case, "--samples", samples, "--resolution", resolution, "--out", folder, *more) == 0
    return folder


def train(data: Path, out: Path, *settings: str) -> int:
    return run("train", data, "--out", out, *(f"--set={each}" for each in (*TINY, *settings)))


@pytest.fixture(scope="module")
def unsolved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(tmp_path_factory.mktemp("data") / "unsolved", "darcy", 8, "--unsolved")


@pytest.fixture(scope="module")
def solved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(tmp_path_factory.mktemp("data") / "solved", "darcy", 8)


def test_samples_hold_all_but_the_solution(unsolved: Path, solved: Path) -> None:
    """Inputs and meshes are those of solved samples; outputs have the size of the solutions."""
    rough, exact = DataStore(unsolved), DataStore(solved)
    assert rough.solved == exact.solved == [*range(12)] and rough.card.is_unsolved and not exact.card.is_unsolved
    record, other = rough.read(3), exact.read(3)
    assert (record.reason, record.iterations, record.parameters) == (REASON, 0, other.parameters)
    assert record.arrays is not None and other.arrays is not None
    assert (record.arrays.inputs == other.arrays.inputs).all() and (record.arrays.points == other.arrays.points).all()
    assert 0.7 < abs(record.arrays.outputs).max() / abs(other.arrays.outputs).max() < 1.3


@pytest.mark.parametrize(("name", "resolution"), [("darcy", 8), ("hyperelastic", 2), ("cavity", 12)])
def test_solutions_have_no_residual(name: str, resolution: int, tmp_path: Path) -> None:
    """The nodes of a sample are found in the problem, whatever the order of either."""
    store, case = DataStore(generate(tmp_path / "data", name, resolution)), load_case(name)
    residual = SamplePhysics(case, store.card, by_energy=False)
    energy = residual if name == "cavity" else SamplePhysics(case, store.card, by_energy=True)
    for index in (1, 0):
        values: Any = torch.from_numpy(store.arrays(index).outputs)
        assert residual.error(index, values) < 1e-4
        assert name == "cavity" or residual.error(1 - index, values) > 1e-4  # on the same mesh
        values = (1.01 * values).requires_grad_()
        assert energy.error(index, values) > 1e-3
        (slope,) = torch.autograd.grad(energy.loss(index, values), values)
        assert float((slope * values.detach()).sum()) > 0.0


def test_solutions_of_some_samples_count_too(unsolved: Path, solved: Path, tmp_path: Path) -> None:
    """The relative error of a prediction that is 1 % too large is 1 %; beside an energy its square counts."""
    case, store, values = load_case("darcy"), DataStore(unsolved), DataStore(solved).arrays(3).outputs
    tensor: Any = torch.from_numpy(1.01 * values)
    for energy, error in ((False, 0.01), (True, 1e-4)):
        plain, both = (
            SamplePhysics(case, store.card, by_energy=energy, labels=each) for each in (None, DataStore(solved))
        )
        assert float(both.loss(3, tensor) - plain.loss(3, tensor)) == pytest.approx(error, rel=1e-6)
        assert float(both.loss(4, tensor) - plain.loss(4, tensor)) > 5.0 * error
    settings = ["training.loss=energy", f"training.labels={solved}"]
    assert train(unsolved, tmp_path / "model", *settings) == 0
    other = generate(tmp_path / "other", "darcy", 8, "--seed", "4")
    with pytest.raises(ValueError, match="other holds samples with another seed"):
        SamplePhysics(case, store.card, by_energy=True, labels=DataStore(other))


@pytest.mark.parametrize("loss", ["energy", "residual"])
def test_training(loss: str, unsolved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It lowers the residual, goes on where it was, and its models are evaluated like others."""
    assert train(unsolved, tmp_path / "model", f"training.loss={loss}", "training.learning_rate=0.01") == 0
    card = load_card(tmp_path / "model")
    assert card.errors["pressure"] < 0.75 and card.training.loss == loss
    printed = capsys.readouterr().out
    assert "residual" in printed and "--data" not in printed
    assert train(unsolved, tmp_path / "model", f"training.loss={loss}", "training.learning_rate=0.01") == 0


def test_what_needs_solutions_is_refused(
    unsolved: Path, solved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    data_set = ("darcy", "--samples", 12, "--resolution", 8, "--out")
    refused: tuple[tuple[Callable[[], int], str], ...] = (
        (lambda: train(unsolved, out), "holds samples without solutions: they are for training.loss=energy or resid"),
        (lambda: run("merge", unsolved, solved, "--out", out), "some of the data sets hold samples without solutions"),
        (lambda: run("generate", *data_set, unsolved), "holds a data set with samples without solutions; choose"),
        (lambda: run("generate", "convection", "--unsolved", "--out", out), "those of 'convection' are steps of time"),
        (lambda: run("train", solved, "--out", out, "--case", "darcy"), "--case has no effect with training.loss=data"),
        (lambda: train(solved, out, f"training.labels={solved}"), "training.labels has no effect with training.loss="),
    )
    for command, text in refused:
        capsys.readouterr()
        assert command() == 2
        assert text in capsys.readouterr().err
    with pytest.raises(ValueError, match="holds samples without solutions: they are no initial guesses"):
        methods_of_data(load_case("darcy"), Config(), unsolved, world())
    assert run("info", unsolved) == 0
    assert "12 samples, without solutions" in capsys.readouterr().out
