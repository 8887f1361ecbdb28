"""What keeps long runs going: kills, several processes, averages, early ends, learning rates, records."""

import dataclasses
import json
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from lrsa_coupled.data.store import DataStore
from lrsa_coupled.schema import Field
from lrsa_coupled.training import checkpoint, loop
from lrsa_coupled.training.loop import train
from lrsa_coupled.training.run import identity
from tests.helpers import ROOT, plain_environment
from tests.unit.test_training import CONFIG, NUM_SAMPLES, SCHEMA, last_weights, metrics, with_training, write

TRAIN = """
import json, pathlib, sys, torch
from lrsa_coupled.training.loop import train
from lrsa_coupled.training.group import torchrun_group
from tests.unit.test_training import with_training
torch.set_num_threads(1)
data, out, changes = sys.argv[1:]
train(pathlib.Path(data), pathlib.Path(out), with_training(**json.loads(changes)), group=torchrun_group())
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write(tmp_path_factory.mktemp("data"))


def environment():
    return plain_environment() | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}


def test_a_killed_run_ends_bit_for_bit_like_an_undisturbed_one(data, tmp_path):
    changes = {"epochs": 30, "save_every": 0.0, "ema": 0.99, "optimizer": "muon"}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    train(data, tmp_path / "whole", with_training(**changes))
    torch.set_num_threads(threads)
    command = [sys.executable, "-c", TRAIN, str(data), str(tmp_path / "parts"), json.dumps(changes)]
    process = subprocess.Popen(command, cwd=ROOT, env=environment())
    while process.poll() is None and not (tmp_path / "parts" / "last" / "state.json").exists():
        time.sleep(0.01)
    time.sleep(0.1)
    assert process.poll() is None
    process.kill()
    process.wait()
    subprocess.run(command, cwd=ROOT, env=environment(), check=True)
    assert last_weights(tmp_path / "parts") == last_weights(tmp_path / "whole")
    assert (tmp_path / "parts" / "model.safetensors").read_bytes() == (
        tmp_path / "whole" / "model.safetensors"
    ).read_bytes()
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")


def test_processes_of_torchrun_have_the_loss_curve_of_one(data, tmp_path):
    changes = {"gradient_weight": 0.5}
    train(data, tmp_path / "alone", with_training(**changes))
    (tmp_path / "train.py").write_text(TRAIN, encoding="utf-8")
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        str(tmp_path / "train.py"),
    ]
    subprocess.run(
        [*launcher, str(data), str(tmp_path / "group"), json.dumps(changes)],
        cwd=ROOT,
        env=environment(),
        check=True,
        capture_output=True,
    )
    one, two = ([line["loss"] for line in metrics(tmp_path / name)] for name in ("alone", "group"))
    assert len(one) == 4 and np.allclose(one, two, rtol=1e-4, atol=0.0)


@pytest.mark.parametrize("num_points", [40, None])
def test_micro_batches_add_up_to_the_batch(data, tmp_path, num_points):
    curves = []
    for size in (None, 1, 4):
        train(
            data, tmp_path / str(size), with_training(micro_batch_size=size, num_points=num_points, gradient_weight=0.5)
        )
        curves.append([line["loss"] for line in metrics(tmp_path / str(size))])
    assert np.allclose(curves[0], curves[1], rtol=1e-4, atol=0.0) and np.allclose(
        curves[0], curves[2], rtol=1e-4, atol=0.0
    )


def test_the_average_of_the_weights_is_kept(data, tmp_path, monkeypatch):
    seen, step = [], loop.take_step

    def recorded(run, batches, *, number):
        loss = step(run, batches, number=number)
        seen.append([weight.detach().clone() for weight in run.model.parameters()])
        first.append(run)
        return loss

    first = []
    monkeypatch.setattr(loop, "take_step", recorded)
    torch.manual_seed(0)
    train(data, tmp_path, with_training(ema=0.5, epochs=3, validate_every=1))
    expected = None
    for number, weights in enumerate(seen):
        decay = min(0.5, (1 + number) / (10 + number))
        start = initial(first[0]) if expected is None else expected
        expected = [decay * old + (1.0 - decay) * new for old, new in zip(start, weights, strict=True)]
    for found, wanted in zip(first[0].average.parameters(), expected, strict=True):
        assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-6)
    best, _ = checkpoint.load(tmp_path)
    lines = metrics(tmp_path)
    assert lines[-1]["valid_error"] == min(line["valid_error"] for line in lines)
    assert all(torch.equal(a, b) for a, b in zip(best.parameters(), first[0].average.parameters(), strict=True))


def test_the_last_epochs_run_in_full_precision(data, tmp_path, monkeypatch):
    formats, validate = [], loop.validate

    def recorded(run, samples, *, precision):
        formats.append(precision)
        return validate(run, samples, precision=precision)

    monkeypatch.setattr(loop, "validate", recorded)
    curves = {}
    for last in (0, 2):
        train(data, tmp_path / str(last), with_training(epochs=4, validate_every=1, precision="bf16", fp32_epochs=last))
        curves[last] = [line["loss"] for line in metrics(tmp_path / str(last))]
    assert curves[2][:2] == curves[0][:2] and curves[2][2] != curves[0][2]
    assert formats == ["bf16"] * 6 + ["fp32"] * 2


def initial(run):
    """Weights before the first step."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.config.training.seed)
        return [
            weight.detach() for weight in checkpoint.make_model(run.config.operator, run.dataset.schema).parameters()
        ]


def test_a_run_ends_early_when_validation_gets_no_better(data, tmp_path, monkeypatch):
    config = with_training(epochs=40, validate_every=2, patience=3, learning_rate=1e-30)
    summary = train(data, tmp_path, config)
    assert (summary["best_epoch"], summary["epochs"]) == (2, 8)
    monkeypatch.setattr(loop, "prepare", None)
    assert train(data, tmp_path, config) == summary


def test_the_card_tells_what_data_and_training_cost(data, tmp_path, monkeypatch):
    """The time is that of all parts of a run, as in its last metrics, though the best weights are from before."""
    folder = shutil.copytree(data, tmp_path / "data")
    (folder / "config.json").write_text(json.dumps({"generate": {"ranks_per_sample": 3}}))
    config = with_training(epochs=8, validate_every=2, learning_rate=1e-30)  # the first validation stays the best
    replace, calls = checkpoint.set_seconds, []

    def killed(*given):
        calls.append(given)
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "set_seconds", killed)
    with pytest.raises(KeyboardInterrupt):
        train(folder, tmp_path / "out", config)
    card = checkpoint.load(tmp_path / "out")[1]
    assert 0.0 < card.seconds < calls[0][1] and card.data.seconds == pytest.approx(NUM_SAMPLES * 0.1 * 3)
    weights = (tmp_path / "out" / "model.safetensors").read_bytes()
    monkeypatch.setattr(checkpoint, "set_seconds", replace)
    summary = train(folder, tmp_path / "out", config)
    last = json.loads((tmp_path / "out" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    card = checkpoint.load(tmp_path / "out")[1]
    assert (summary["best_epoch"], last["epoch"], card.ranks) == (2, 8, 1)
    assert card.seconds == last["seconds"] == round(summary["seconds"], 3)
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == weights


def test_a_run_goes_on_with_data_made_again_in_another_time(data, tmp_path, monkeypatch):
    about = DataStore(data).card
    before = json.dumps(identity(CONFIG, about, solved=[0, 2]))
    assert "seconds" not in before and set(json.loads(before)["data"]) == {
        "case",
        "seed",
        "resolution",
        "samples",
        "indices",
    }
    train(data, tmp_path / "out", with_training(epochs=4))
    slower = write(tmp_path / "data", seconds=7.0)
    monkeypatch.setattr(loop, "prepare", None)
    assert train(slower, tmp_path / "out", with_training(epochs=4))["epochs"] == 4


def test_tensorboard_gets_the_metrics(data, tmp_path):
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(data, tmp_path, with_training(tensorboard=True))
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert {"loss", "learning_rate", "seconds", "valid_error", "valid/u", "valid/p"} <= set(events.Tags()["scalars"])
    assert [event.value for event in events.Scalars("loss")] == pytest.approx(
        [line["loss"] for line in metrics(tmp_path)]
    )


def test_tensorboard_that_is_missing_is_named(data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match="needs the package tensorboard: pip install tensorboard"):
        train(data, tmp_path, with_training(tensorboard=True))


def test_what_the_first_of_two_trainings_cost_counts_on_all_its_ranks(data, tmp_path):
    train(data, tmp_path / "first", with_training(epochs=1))
    model, card = checkpoint.load(tmp_path / "first")
    checkpoint.save(tmp_path / "first", model, dataclasses.replace(card, ranks=3, seconds=1000.0))
    train(data, tmp_path / "second", with_training(epochs=1, initial=str(tmp_path / "first")))
    second = checkpoint.load(tmp_path / "second")[1]
    assert second.ranks == 1 and 3000.0 < second.seconds < 3600.0


@pytest.mark.parametrize(
    ("span", "precision", "warned"), [(True, "bf16", True), (True, "fp32", False), (False, "bf16", False)]
)
def test_a_basis_in_bfloat16_is_warned_of(tmp_path, caplog, span, precision, warned):
    schema = dataclasses.replace(SCHEMA, outputs=(Field("modes", 3, span=span),))
    train(
        write(tmp_path / "data", schema=schema),
        tmp_path / "model",
        with_training(epochs=1, precision=precision),
    )
    assert any("a basis is predicted" in record.message for record in caplog.records) == warned
