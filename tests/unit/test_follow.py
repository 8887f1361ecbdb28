"""Trainings beside a data set that grows: when, from which weights, and what is left of those that do not end."""

import logging
import os
import signal
import subprocess
import sys
import time

import pytest

from lrsa_coupled import cli
from lrsa_coupled.data.card import DataCard, create
from lrsa_coupled.data.format import SampleRecord
from lrsa_coupled.data.models import model_path, newest_model
from lrsa_coupled.data.shard import write_shard
from lrsa_coupled.files import temporary_path
from lrsa_coupled.training import checkpoint, follow as following, loop
from lrsa_coupled.training.follow import follow
from tests.helpers import ROOT, plain_environment
from tests.unit.test_training import SCHEMA, sample, with_training


def grow(folder, indices):
    """Add samples, each in a shard of its own."""
    create(folder, DataCard(SCHEMA, 0, 8))
    for index in indices:
        write_shard(folder, [SampleRecord(index, "ok", "", "{}", 3, 1e-9, 0.1, sample(index))])


def configured(calls):
    def configure(store, newest):
        calls.append((len(store.solved), newest))
        initial = None if newest is None else str(newest)
        return with_training(epochs=2, validate_every=1, initial=initial)

    return configure


def reasons(pauses, *actions):
    """Return what is asked whether to end: between two looks at the data the next action happens."""
    todo = list(actions)

    def pause(seconds):
        if todo:
            todo.pop(0)()
        else:
            pauses.append("enough")

    return pause, lambda: "".join(pauses)


def test_a_model_at_each_doubling_from_the_last_weights(tmp_path, monkeypatch):
    data, calls = tmp_path / "data", []
    pause, stop = reasons([], *(lambda many=many: grow(data, many) for many in (range(7), [7], range(8, 15), [15])))
    monkeypatch.setattr(following.time, "sleep", pause)
    made = [(path, summary["train_samples"] + summary["valid_samples"])
            for path, summary in follow(data, configured(calls), stop=stop, first=8)]  # fmt: skip
    assert made == [(model_path(data, 8), 8), (model_path(data, 16), 16)]
    assert calls == [(8, None), (16, model_path(data, 8))]
    assert newest_model(data) == model_path(data, 16) and checkpoint.load(newest_model(data))
    assert sorted(path.name for path in (data / "models").iterdir()) == ["000008", "000016"]
    later = []
    grow(data, range(16, 40))
    pause, stop = reasons([])
    monkeypatch.setattr(following.time, "sleep", pause)
    assert [path.name for path, _ in follow(data, configured(later), stop=stop, first=8)] == ["000040"]
    assert later == [(40, model_path(data, 16))]


def test_what_does_not_end_leaves_no_model(tmp_path, monkeypatch, caplog):
    data = tmp_path / "data"
    grow(data, range(8))
    step, asked = loop.take_step, []

    def asks(run, batches, *, number):
        asked.append("SIGTERM")
        return step(run, batches, number=number)

    monkeypatch.setattr(loop, "take_step", asks)
    assert list(follow(data, configured([]), stop=lambda: "".join(asked), first=8)) == []
    assert newest_model(data) is None and not (data / "models").exists()

    def diverges(run, batches, *, number):
        return step(run, batches, number=number) * float("nan")

    monkeypatch.setattr(loop, "take_step", diverges)
    pause, stop = reasons([])
    monkeypatch.setattr(following.time, "sleep", pause)
    with caplog.at_level(logging.WARNING):
        assert list(follow(data, configured([]), stop=stop, first=8)) == []
    assert "training diverged" in caplog.text and "at twice as many samples" in caplog.text


def test_what_a_killed_training_has_left_is_removed(tmp_path):
    data = tmp_path / "data"
    with temporary_path(model_path(data, 8)) as path:
        name = f"{path.name.rpartition('~')[0]}~4194304.tmp"  # of no process
        mine = path.name
    for each in (name, mine):
        (data / "models" / each).mkdir(parents=True)
        (data / "models" / each / "config.json").write_text("{}")
    assert list(follow(data, configured([]), stop=lambda: "at once", first=8)) == []
    assert [path.name for path in (data / "models").iterdir()] == [mine]
    assert newest_model(data) is None


def test_the_verb_follows_until_a_signal(tmp_path, monkeypatch, capsys):
    grow(tmp_path / "data", range(4))
    monkeypatch.setattr(following.time, "sleep", lambda seconds: os.kill(os.getpid(), signal.SIGTERM))
    assert cli.main(["train", str(tmp_path / "data"), "--follow", "--quiet"]) == 0
    assert capsys.readouterr().err == ""


def test_the_verb_ends_with_the_process_that_started_it(tmp_path):
    grow(tmp_path / "data", range(4))
    verb = "import sys; from lrsa_coupled.cli import main; sys.exit(main())"
    parent = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {verb!r}, *sys.argv[1:]], stdout=subprocess.PIPE, text=True)
print(child.pid, child.stdout.readline())
"""
    command = [sys.executable, "-c", parent, "train", str(tmp_path / "data"), "--follow", "--quiet"]
    done = subprocess.run(command, env=plain_environment(), cwd=ROOT, check=True, capture_output=True, text=True)
    number, _, line = done.stdout.partition(" ")
    assert line.startswith(f"following {tmp_path / 'data'}")
    for _ in range(200):
        try:
            os.kill(int(number), 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    os.kill(int(number), signal.SIGKILL)
    raise AssertionError("the follower outlives its parent")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "train needs --out DIR, or --follow"),
        (("--follow", "--out", "model"), "train needs --out DIR, or --follow"),
        (("--follow", "--no-resume"), "--no-resume has no effect with --follow"),
    ],
)
def test_one_of_a_folder_and_following(tmp_path, arguments, message, capsys):
    assert cli.main(["train", str(tmp_path), *arguments]) == 2
    assert message in capsys.readouterr().err
