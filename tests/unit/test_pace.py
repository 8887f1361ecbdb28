"""What the schedule, the validations and the end of a training follow: steps, the clock, and signals."""

import dataclasses
import os
import signal
from types import SimpleNamespace

import numpy as np
import pytest

from lrsa_coupled import cli
from lrsa_coupled.training import checkpoint, loop, pace
from lrsa_coupled.training.group import ProcessGroup
from lrsa_coupled.training.loop import train
from lrsa_coupled.training.pace import VALIDATIONS, ClockPace
from tests.unit.test_training import CONFIG, last_weights, metrics, with_training, write


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write(tmp_path_factory.mktemp("data"))


def clock(monkeypatch, *, step, validation, seconds=100.0, behind=0.0):
    """Run a clock of ``seconds`` with steps and validations of known times; return ticks and times of validations."""
    now = SimpleNamespace(value=0.0)
    monkeypatch.setattr(pace, "time", SimpleNamespace(perf_counter=lambda: now.value))
    found, ticks, validations = ClockPace(seconds, begun=-behind, group=ProcessGroup(), device=None, stop=None), [], []
    for number in range(10**5):
        ticks.append(found.tick)
        now.value += step
        found.step(number + 1)
        if found.pauses:
            over = found.ends(number)
            assert over or found.validates(number)
            now.value += validation
            found.validated(validation)
            validations.append(now.value)
            if over:
                return ticks, validations
    raise AssertionError("the clock never ends")


@pytest.mark.parametrize(
    ("step", "validation", "behind"), [(0.01, 0.1, 0.0), (0.01, 0.1, 60.0), (1.0, 0.0, 0.0), (0.1, 4.0, 0.0)]
)
def test_a_run_by_the_clock_ends_in_time_with_all_of_its_schedule(monkeypatch, step, validation, behind):
    ticks, validations = clock(monkeypatch, step=step, validation=validation, behind=behind)
    assert 85.0 - behind <= validations[-1] <= 100.0 - behind + step
    assert ticks[0] == pytest.approx(100 * behind, abs=1) and np.all(np.diff(ticks) >= 0)
    assert ticks[-1] >= 9999 - 101 * step - 1  # the learning rate has come down
    assert len(validations) <= VALIDATIONS + 2 and len(validations) * validation <= 0.3 * 100.0


def test_a_step_longer_than_the_time_is_the_only_one(monkeypatch):
    ticks, validations = clock(monkeypatch, step=500.0, validation=1.0)
    assert len(ticks) == len(validations) == 1


def test_training_by_the_clock_learns_and_a_finished_run_returns_at_once(data, tmp_path, monkeypatch):
    config = with_training(minutes=0.05, learning_rate=1e-2, optimizer="muon")
    summary = train(data, tmp_path, config)
    lines = metrics(tmp_path)
    assert summary["epochs"] == len(lines) > 1 and "stopped" not in summary
    assert lines[-1]["learning_rate"] < 0.2 * max(line["learning_rate"] for line in lines)
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert checkpoint.load(tmp_path)[1].errors == summary["errors"]
    monkeypatch.setattr(loop, "prepare", None)
    assert train(data, tmp_path, config) == summary


def test_what_an_earlier_part_of_the_run_took_counts(data, tmp_path, monkeypatch):
    config = with_training(minutes=30.0)
    assert train(data, tmp_path, config, stop=lambda: "SIGTERM")["stopped"] == "SIGTERM"
    read = loop.read_progress
    monkeypatch.setattr(loop, "read_progress", lambda *given: dataclasses.replace(read(*given), seconds=1800.0))
    summary = train(data, tmp_path, config)
    assert summary["epochs"] == 1 and "stopped" not in summary  # one more step, and the validation


@pytest.mark.parametrize("at", [1, 4, 5, 12])
def test_a_run_that_a_signal_ends_goes_on_bit_for_bit(data, tmp_path, monkeypatch, at):
    """In the middle of an epoch of 2 steps, at its end, before the first model, and at the end of the run."""
    config = with_training(epochs=6)
    train(data, tmp_path / "whole", config)
    step, seen = loop.take_step, []

    def counted(run, batches, *, number):
        seen.append(number)
        return step(run, batches, number=number)

    monkeypatch.setattr(loop, "take_step", counted)
    summary = train(data, tmp_path / "parts", config, stop=lambda: "asked" if len(seen) == at else "")
    assert len(seen) == at and ("stopped" in summary) == (at < 12)
    assert (tmp_path / "parts" / "model.json").exists() == (at >= 4)
    assert "stopped" not in train(data, tmp_path / "parts", config)
    assert last_weights(tmp_path / "parts") == last_weights(tmp_path / "whole")
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")


def test_sigterm_ends_the_verb_with_3_and_the_same_command_goes_on(data, tmp_path, monkeypatch, capsys):
    step = loop.take_step

    def signalled(run, batches, *, number):
        if number == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(run, batches, number=number)

    values = dataclasses.asdict(CONFIG.operator) | {"weight_std": 0.02}
    pairs = [f"operator.{name}={str(value).lower()}" for name, value in values.items()]
    pairs += ["training.epochs=3", "training.batch_size=6", "training.num_points=40", "training.device=cpu"]
    command = [
        "train",
        str(data),
        "--out",
        str(tmp_path),
        "--quiet",
        *(word for pair in pairs for word in ("--set", pair)),
    ]
    monkeypatch.setattr(loop, "take_step", signalled)
    assert cli.main(command) == 3 and "stopped: SIGTERM" in capsys.readouterr().out
    monkeypatch.setattr(loop, "take_step", step)
    assert cli.main(command) == 0 and "epochs: 3" in capsys.readouterr().out


def test_epochs_in_full_precision_do_not_go_with_the_clock(data, tmp_path):
    with pytest.raises(ValueError, match="fp32_epochs counts epochs"):
        train(data, tmp_path, with_training(minutes=1.0, fp32_epochs=2))
