"""Training, evaluation and operators in parts on a GPU that is not there; the rest is in tests/unit/test_devices.py."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from lrsa_coupled.config import LrsaConfig
from lrsa_coupled.data.dataset import PointDataset
from lrsa_coupled.data.store import DataStore
from lrsa_coupled.data.symmetries import SymmetryGroup
from lrsa_coupled.operators.precision import autocast
from lrsa_coupled.schema import Symmetry
from lrsa_coupled.training import checkpoint, evaluate as evaluation, loop
from lrsa_coupled.training.evaluate import evaluate
from lrsa_coupled.training.loop import train
from tests.devices import GPU, NUMBER, pretended_gpu
from tests.operators import VARIANTS
from tests.unit.test_devices import Alone, on_gpu
from tests.unit.test_training import SCHEMA, with_training, write

TRAININGS = {
    "plain": {"precision": "bf16"},
    "all nodes": {"num_points": None, "gradient_weight": 0.5},
    "muon": {"optimizer": "muon", "ema": 0.9, "gradient_weight": 0.5, "micro_batch_size": 2},
    "augmented": {
        "augment": True,
        "fit_constrained": True,
        "gradient_clip": 1.0,
        "fp32_epochs": 1,
        "precision": "bf16",
    },
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data with a symmetry, the third output a basis."""
    fields = (SCHEMA.outputs[0], dataclasses.replace(SCHEMA.outputs[1], span=True))
    mirror = Symmetry(points=((-1, 0), (0, 1)), outputs=((-1, 0, 0), (0, 1, 0), (0, 0, 1)), centre=(0.5, 0.5))
    schema = dataclasses.replace(SCHEMA, outputs=fields, symmetries=(mirror,))
    return write(tmp_path_factory.mktemp("data"), schema=schema)


@pytest.mark.parametrize("name", TRAININGS)
def test_training(name: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps, validations and states, up to what is written."""
    config = with_training(epochs=1, validate_every=1, save_every=0.0, **TRAININGS[name])
    apply = SymmetryGroup.apply
    monkeypatch.setattr(SymmetryGroup, "apply", lambda group, batch, element: apply(group, batch, element % len(group)))
    saved: list[str] = []
    dataset = PointDataset(DataStore(data))
    monkeypatch.setattr(loop, "PointDataset", lambda *_, **__: dataset)
    monkeypatch.setattr(loop, "sole_writer", lambda *_: nullcontext())  # what ranks agree on is a value
    monkeypatch.setattr(loop, "drawn_ahead", lambda batches: batches)  # the tensors know one thread
    monkeypatch.setattr(checkpoint, "set_seconds", lambda folder, seconds: saved.append(folder.name))
    with pretended_gpu("training.run"):
        summary = train(data, tmp_path / "model", config)
    assert summary["epochs"] == 1 and summary["best_error"] == NUMBER and saved == ["model"]
    assert (tmp_path / "model" / "model.json").exists() and (tmp_path / "model" / "last" / "state.json").exists()


def test_evaluation(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = with_training(epochs=1)
    train(data, tmp_path, config)
    dataset = PointDataset(DataStore(data))
    monkeypatch.setattr(evaluation, "PointDataset", lambda *_, **__: dataset)
    with pretended_gpu("training.evaluate"):
        summary, worst = evaluate(tmp_path, data, config)
    assert summary["samples"] == len(dataset) and {item.field.name for item in worst} == {"u", "p"}


@pytest.mark.parametrize("config", VARIANTS)
def test_operators_in_parts(config: LrsaConfig) -> None:
    with pretended_gpu():
        model, given = on_gpu(config)
        with autocast("bf16", GPU):
            for size, reducer in ((20, None), (None, Alone()), (20, Alone())):
                outputs, tokens = model.encode(*given, chunk_size=size, reducer=reducer)
                decoded = model.decode(*given[:3], tokens)
                (outputs + decoded).mean().backward()
                with torch.no_grad():
                    assert model(*given, chunk_size=size, reducer=reducer).device == GPU
