"""Training on a small data set with a known map: it learns, resumes exactly, and refuses what it cannot use."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch

from lrsa_coupled.config import Config, DataConfig, LrsaConfig, TrainingConfig
from lrsa_coupled.data.batches import BatchPlan, drawn_ahead, epoch_generator, training_batches
from lrsa_coupled.data.card import DataCard, create
from lrsa_coupled.data.dataset import PointDataset
from lrsa_coupled.data.format import SampleArrays, SampleRecord
from lrsa_coupled.data.shard import write_shard
from lrsa_coupled.data.store import DataStore
from lrsa_coupled.schema import Field, Schema
from lrsa_coupled.training import checkpoint, loop
from lrsa_coupled.training.evaluate import evaluate
from lrsa_coupled.training.group import ProcessGroup
from lrsa_coupled.training.loop import train
from lrsa_coupled.training.optimiser import make_schedules
from lrsa_coupled.training.resume import read_progress
from lrsa_coupled.training.run import prepare
from lrsa_coupled.training.step import objective

NUM_SAMPLES = 20
CONFIG = Config(
    operator=LrsaConfig(width=16, num_blocks=1, num_heads=2, num_latents=8),
    training=TrainingConfig(epochs=4, batch_size=6, num_points=40, validate_every=2, valid_fraction=0.2, device="cpu"),
)
SCHEMA = Schema("synthetic", 2, (Field("a"),), ("s",), (Field("u", 2, subspace=(0,)), Field("p", subspace=(1,))))


def sample(index):
    """Make one sample on a triangulated square: outputs are smooth functions of input, scalar and place."""
    rng = np.random.default_rng(index)
    n = 8 + index % 2
    axis = np.linspace(0.0, 1.0, n)
    points = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    node = np.arange(n * n).reshape(n, n)
    a, b, c, d = node[:-1, :-1].ravel(), node[1:, :-1].ravel(), node[:-1, 1:].ravel(), node[1:, 1:].ravel()
    scalar = rng.uniform(1.0, 2.0)
    values = rng.uniform(0.5, 1.0) + rng.uniform(-0.5, 0.5) * points[:, 0]
    wall = (points[:, 0] == 0.0) | (points[:, 0] == 1.0)
    return SampleArrays(
        points=points,
        mass=np.full(n * n, 1.0 / n**2),
        inputs=values[:, None].astype(np.float32),
        outputs=np.stack((scalar * values, values * points[:, 1], 2.0 + values + points[:, 0]), axis=1),
        boundary=wall.astype(np.uint8),
        constrained=np.repeat(wall[:, None], 3, axis=1).astype(np.uint8),
        cells=np.concatenate((np.stack((a, b, d), 1), np.stack((a, d, c), 1))).astype(np.int32),
        scalars=np.array([scalar]),
    )


def write(folder, count=NUM_SAMPLES, *, schema=SCHEMA, seed=0, seconds=0.1, **changes):
    """Write a data set; ``changes`` replace arrays of sample 3; sample 1 has failed."""
    create(folder, DataCard(schema, seed, 8))
    records = []
    for index in range(count):
        arrays = None if index == 1 else sample(index)
        if index == 3:
            arrays = dataclasses.replace(arrays, **changes)
        status = "failed" if arrays is None else "ok"
        records.append(
            SampleRecord(index, status, "text", "{}", iterations=3, residual=1e-9, seconds=seconds, arrays=arrays)
        )
    write_shard(folder, records)
    return folder


def with_training(**changes):
    return dataclasses.replace(CONFIG, training=dataclasses.replace(CONFIG.training, **changes))


def metrics(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def last_weights(folder):
    (path,) = (folder / "last").glob("state-*.safetensors")
    return path.read_bytes()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write(tmp_path_factory.mktemp("data"))


def test_a_set_larger_than_memory_trains_alike(data, tmp_path, caplog):
    small = dataclasses.replace(CONFIG, data=DataConfig(memory_gib=1e-5))
    whole = PointDataset(DataStore(data))
    tight = dataclasses.replace(
        CONFIG, data=DataConfig(memory_gib=16 * int(whole.sizes_S.sum()) / 2**30)
    )  # for all values, not the meshes
    memory = (config.data.memory_gib for config in (CONFIG, tight, small))
    assert [PointDataset(DataStore(data), memory_gib=limit).fits for limit in memory] == [True, False, False]
    one, two = train(data, tmp_path / "one", CONFIG), train(data, tmp_path / "two", small)
    assert one["best_error"] == two["best_error"]
    assert [record.message[:55] for record in caplog.records if record.levelname == "WARNING"] == [
        "the data set does not fit into data.memory_gib = 1e-05:"
    ]
    path = next((data / "shards").glob("*.h5"))
    shutil.copytree(data, tmp_path / "data")
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    (tmp_path / "data" / "shards" / path.name).write_bytes(bytes(raw))
    for config in (CONFIG, tight, small):
        with pytest.raises(ValueError, match=r"is damaged: (sample \d+|no sample) lost.* run generate again"):
            train(tmp_path / "data", tmp_path / "three", config)


def test_batches_drawn_ahead_are_the_same_and_errors_arrive(data):
    dataset = PointDataset(DataStore(data))

    def batches():
        generator = epoch_generator(0, 1)
        plan = BatchPlan(batch_size=3, num_points=7, with_cells=True)
        return (batch for (batch,) in training_batches(dataset, torch.arange(len(dataset)), plan, generator=generator))

    pairs = list(zip(batches(), drawn_ahead(batches()), strict=True))
    assert len(pairs) == len(dataset) // 3
    assert all(torch.equal(a.outputs_BNK, b.outputs_BNK) and torch.equal(a.points_BNd, b.points_BNd) for a, b in pairs)

    def failing():
        yield next(batches())
        raise ValueError("sample 7 is damaged")

    with pytest.raises(ValueError, match="sample 7"):
        list(drawn_ahead(failing()))
    abandoned = drawn_ahead(batches())
    next(abandoned)
    abandoned.close()


def test_outputs_fixed_by_dirichlet_conditions_count_in_the_loss_when_asked(data, tmp_path):
    dataset = PointDataset(DataStore(data))
    batch = dataset.whole(0)
    losses = []
    for fit in (False, True):
        run = prepare(dataset, with_training(fit_constrained=fit), tmp_path, group=ProcessGroup())
        losses.append(
            [
                objective(run, item, number=0).item()
                for item in (batch, dataclasses.replace(batch, free_BNK=0.0 * batch.free_BNK))
            ]
        )
    free, every = losses
    assert free[1] == 0.0 and every[1] == every[0] > free[0]


def test_without_a_compiler_the_setting_is_named(data, tmp_path, monkeypatch):
    def no_compiler(function):
        def call(*arguments):
            raise RuntimeError("InvalidCxxCompiler: no working C++ compiler\nand much more")

        return call

    monkeypatch.setattr(torch, "compile", no_compiler)
    message = (
        r"training.compile=true: torch cannot compile here \(InvalidCxxCompiler: no working C\+\+ compiler\); install"
    )
    with pytest.raises(ValueError, match=message):
        train(data, tmp_path, with_training(compile=True))


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_training_learns_the_map(data, tmp_path, optimizer):
    config = with_training(epochs=60, learning_rate=1e-2, optimizer=optimizer, validate_every=30, gradient_weight=0.1)
    summary = train(data, tmp_path, config)
    lines = metrics(tmp_path)
    assert [line["epoch"] for line in lines] == list(range(1, 61))
    assert lines[-1]["loss"] < lines[0]["loss"] / 5.0
    assert summary["best_error"] == min(line["valid_error"] for line in lines if "valid_error" in line)
    assert (summary["train_samples"], summary["valid_samples"]) == (15, 4)
    errors, worst = evaluate(tmp_path, data, config)
    assert errors["samples"] == NUM_SAMPLES - 1 and set(errors["fields"]) == {"u", "p"}
    for item, (name, norms) in zip(worst, errors["fields"].items(), strict=True):
        for statistics in norms.values():
            assert 0.0 < statistics["median"] <= statistics["p95"] <= statistics["worst"]
        assert norms["l2"]["mean"] == pytest.approx(summary["errors"][name], rel=0.7)
        assert (item.field.name, item.index, item.error) == (name, norms["l2"]["worst_sample"], norms["l2"]["worst"])
        exact = sample(item.index)
        assert np.allclose(item.points, exact.points) and np.array_equal(item.cells, exact.cells)
        wall = exact.constrained[:, 0] == 1
        assert np.array_equal(item.predicted[wall], item.exact[wall]) and not np.array_equal(item.predicted, item.exact)
    assert checkpoint.load(tmp_path)[1].errors == summary["errors"]
    assert json.loads((tmp_path / "config.json").read_text())["training"]["epochs"] == 60


@pytest.mark.parametrize("changes", [{"ema": 0.9}, {"optimizer": "muon", "gradient_weight": 0.5, "schedule": "cosine"}])
@pytest.mark.parametrize(("stop_at", "save_every"), [(4, 20.0), (5, 20.0), (5, 0.0)])
def test_an_interrupted_run_ends_bit_for_bit_like_an_uninterrupted_one(
    data, tmp_path, monkeypatch, changes, stop_at, save_every
):
    config = with_training(**changes, save_every=save_every)
    train(data, tmp_path / "whole", config)
    calls = iter(range(10**6))
    step = loop.take_step

    def stop(run, batches, *, number):
        if next(calls) == stop_at:
            raise KeyboardInterrupt
        return step(run, batches, number=number)

    monkeypatch.setattr(loop, "take_step", stop)
    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path / "parts", config)
    monkeypatch.setattr(loop, "take_step", step)
    assert bool(read_progress(tmp_path / "parts" / "last", {}).losses) == (save_every == 0.0)
    summary = train(data, tmp_path / "parts", config)
    assert (summary["epochs"], summary["steps"]) == (4, 4 * (summary["train_samples"] // config.training.batch_size))
    assert last_weights(tmp_path / "parts") == last_weights(tmp_path / "whole")
    assert (tmp_path / "parts" / "model.safetensors").read_bytes() == (
        tmp_path / "whole" / "model.safetensors"
    ).read_bytes()
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")


def test_a_finished_run_returns_at_once_and_another_one_is_refused(data, tmp_path, monkeypatch):
    summary = train(data, tmp_path, CONFIG)
    monkeypatch.setattr(loop, "prepare", None)
    assert train(data, tmp_path, CONFIG) == summary
    assert train(data, tmp_path, with_training(device="auto")) == summary
    with pytest.raises(ValueError, match=r"training.learning_rate = 0.001, now it is 0.01"):
        train(data, tmp_path, with_training(learning_rate=1e-2))
    other = write(tmp_path / "other", seed=5)
    with pytest.raises(ValueError, match=r"data.seed = 0, now it is 5"):
        train(other, tmp_path, CONFIG)
    with pytest.raises(ValueError, match=r"data.seed = 0, now it is 5"):  # what follows from the data is not named
        train(other, tmp_path, with_training(epochs=9))
    monkeypatch.undo()
    assert train(data, tmp_path, with_training(epochs=1), resume=False)["epochs"] == 1
    assert len(metrics(tmp_path)) == 1


def test_a_damaged_state_is_a_value_error(data, tmp_path):
    train(data, tmp_path, CONFIG)
    state = json.loads((tmp_path / "last" / "state.json").read_text())
    state["progress"] |= {"epoch": 2, "ended": False}
    (tmp_path / "last" / "state.json").write_text(json.dumps(state))
    (path,) = (tmp_path / "last").glob("state-*.safetensors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="damaged"):
        train(data, tmp_path, CONFIG)
    (tmp_path / "last" / "state.json").write_text("{")
    with pytest.raises(ValueError, match=r"state.json"):
        train(data, tmp_path, CONFIG)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(data, tmp_path, monkeypatch):
    step = loop.take_step

    def diverging(run, batches, *, number):
        loss = step(run, batches, number=number)
        return loss if number < 6 else torch.nan * loss

    monkeypatch.setattr(loop, "take_step", diverging)
    with pytest.raises(FloatingPointError, match=r"diverged.*epoch"):
        train(data, tmp_path, CONFIG)
    model, _ = checkpoint.load(tmp_path)
    assert all(torch.isfinite(weight).all() for weight in model.parameters())


def test_a_gradient_that_is_not_finite_stops_the_run(data, tmp_path):
    with pytest.raises(FloatingPointError, match=r"diverged.*epoch"):
        train(data, tmp_path, with_training(learning_rate=1e30, epochs=20))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"outputs": np.full((81, 3), np.nan)}, "sample 3: 'outputs' holds values that are not finite"),
        ({"inputs": np.zeros((5, 1), np.float32)}, r"sample 3: 'inputs' has shape \(5, 1\), expected \(81, 1\)"),
        ({"mass": np.zeros(81)}, "sample 3: it has no points or a mass that is not positive"),
        ({"cells": np.full((2, 3), 99, np.int32)}, "sample 3: 'cells' names nodes beyond"),
        ({"scalars": np.zeros(2)}, "sample 3: 'scalars'"),
    ],
)
def test_corrupt_samples_are_named(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        train(write(tmp_path / "data", **changes), tmp_path / "out", CONFIG)


def test_data_sets_that_cannot_be_used_are_refused(data, tmp_path):
    with pytest.raises(ValueError, match="at least 2 solved samples"):
        train(write(tmp_path / "one", 1), tmp_path / "out", CONFIG)
    create(tmp_path / "none", DataCard(SCHEMA, 0, 8))
    with pytest.raises(ValueError, match="holds no solved sample"):
        train(tmp_path / "none", tmp_path / "out", CONFIG)
    with pytest.raises(ValueError, match="of case 'synthetic', not of 'cavity'"):
        train(data, tmp_path / "out", dataclasses.replace(CONFIG, case="cavity"))
    train(data, tmp_path / "out", with_training(epochs=1))
    with pytest.raises(ValueError, match="name 'synthetic' instead of 'other'"):
        evaluate(tmp_path / "out", write(tmp_path / "other", schema=dataclasses.replace(SCHEMA, name="other")), CONFIG)
    cells = {"cells": np.zeros((1, 4), np.int32)}
    with pytest.raises(ValueError, match="cells of 4 vertices, expected the 3 of the others"):
        train(write(tmp_path / "mixed", **cells), tmp_path / "out2", CONFIG)


@pytest.mark.parametrize("changes", [{"epochs": 0}, {"seed": -1}, {"learning_rate": 0.0}, {"valid_fraction": 1.0}])
def test_impossible_settings_are_refused(changes):
    with pytest.raises(ValueError, match=f"TrainingConfig.{next(iter(changes))}': expected"):
        with_training(**changes)


def test_training_begins_with_another_model_when_asked(data, tmp_path):
    train(data, tmp_path / "first", CONFIG)
    again = with_training(initial=str(tmp_path / "first"), epochs=1, learning_rate=1e-12, validate_every=1)
    assert train(data, tmp_path / "second", again)["best_error"] == pytest.approx(
        min(m.get("valid_error", 9.0) for m in metrics(tmp_path / "first")), rel=1e-6
    )
    assert checkpoint.load(tmp_path / "second")[1].seconds > checkpoint.load(tmp_path / "first")[1].seconds > 0.0
    assert (
        train(
            data,
            tmp_path / "fourth",
            dataclasses.replace(again, operator=dataclasses.replace(CONFIG.operator, weight_std=None)),
        )["epochs"]
        == 1
    )
    with pytest.raises(ValueError, match="another operator: width = 16 instead of 8"):
        train(
            data, tmp_path / "third", dataclasses.replace(again, operator=dataclasses.replace(CONFIG.operator, width=8))
        )
    with pytest.raises(ValueError, match=r"nothing/model.json"):
        train(data, tmp_path / "third", with_training(initial=str(tmp_path / "nothing")))


def rates(schedule, *, num_steps, done=0):
    weight = torch.nn.Parameter(torch.ones(1))
    weight.grad = torch.zeros(1)
    optimiser, config = torch.optim.SGD([weight]), TrainingConfig(schedule=schedule, learning_rate=2.0)
    (schedule,) = make_schedules([optimiser], config, num_steps=num_steps, done=done)
    found = []
    for _ in range(done, num_steps):
        found.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    return found


@pytest.mark.parametrize("schedule", ["one-cycle", "cosine"])
def test_the_learning_rate_rises_once_and_falls(schedule):
    found = rates(schedule, num_steps=100)
    peak = int(np.argmax(found))
    assert found[peak] == 2.0 and peak == {"one-cycle": 30, "cosine": 5}[schedule]
    assert found[0] == pytest.approx(2.0 / 25.0) and found[-1] == pytest.approx(2.0 / 25e4)
    assert np.all(np.diff(found[: peak + 1]) > 0) and np.all(np.diff(found[peak:]) < 0)


@pytest.mark.parametrize("schedule", ["one-cycle", "cosine"])
@pytest.mark.parametrize("num_steps", [1, 2, 3, 17])
def test_the_learning_rate_goes_on_where_it_was(schedule, num_steps):
    found = rates(schedule, num_steps=num_steps)
    assert all(rates(schedule, num_steps=num_steps, done=done) == found[done:] for done in range(num_steps))
