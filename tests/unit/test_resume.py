"""The state of an unfinished run and its best checkpoint: what makes no sense is named, what cannot be read stays."""

from __future__ import annotations

import json
import shutil

import pytest

from lrsa_coupled.reading import sealed
from lrsa_coupled.training import loop
from lrsa_coupled.training.loop import train
from tests.unit.test_training import CONFIG, write


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A run that has ended; tests change copies of it."""
    folder = tmp_path_factory.mktemp("trained")
    train(data, folder, CONFIG)
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epoch": 10**9}, "epoch 1000000000 of 4"), ({"epoch": -1}, "epoch -1"), ({"ended": False}, "epoch 4 of 4"),
        ({"best_epoch": 9}, "the best 9"), ({"losses": "x"}, "losses"), ({"seconds": None}, "seconds"),
        ({"epoch": 2, "best_epoch": 2, "ended": False, "losses": [1.0] * 9}, "state-000002-000009"),
    ],
)  # fmt: skip
def test_a_state_that_makes_no_sense_is_a_value_error(data, trained, tmp_path, changes, message):
    shutil.copytree(trained, tmp_path / "run")
    path = tmp_path / "run" / "last" / "state.json"
    state = json.loads(path.read_text())
    state["progress"] |= changes
    path.write_text(sealed({name: value for name, value in state.items() if name != "digest"}))
    with pytest.raises(ValueError, match=message):
        train(data, tmp_path / "run", CONFIG)


def test_a_checkpoint_that_cannot_be_read_stays(data, tmp_path, monkeypatch):
    """It is not the best so far, as a damaged one, and not written again."""
    step = loop.take_step

    def killed(run, batches, *, number):
        if number == 7:
            raise InterruptedError
        return step(run, batches, number=number)

    monkeypatch.setattr(loop, "take_step", killed)
    with pytest.raises(InterruptedError):
        train(data, tmp_path, CONFIG)
    monkeypatch.undo()
    (tmp_path / "model.safetensors").rename(tmp_path / "kept")
    (tmp_path / "model.safetensors").symlink_to("model.safetensors")
    with pytest.raises(OSError, match=r"model\.safetensors"):
        train(data, tmp_path, CONFIG)
    assert (tmp_path / "model.safetensors").is_symlink()
    (tmp_path / "kept").replace(tmp_path / "model.safetensors")
    assert train(data, tmp_path, CONFIG)["epochs"] == 4
