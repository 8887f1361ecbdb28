"""The settings of a training that nobody has chosen, and what goes before them."""

import dataclasses
from pathlib import Path

import pytest

from lrsa_coupled import config as configuration
from lrsa_coupled.cli.train import train_config
from lrsa_coupled.config import Config, LrsaConfig, TrainingConfig
from lrsa_coupled.data.store import DataStore
from lrsa_coupled.schema import Symmetry
from lrsa_coupled.training import recipe as recipes
from lrsa_coupled.training.loop import train
from lrsa_coupled.training.recipe import DataFacts, recipe
from tests.unit.test_training import CONFIG, SCHEMA, with_training, write


def given(data, *settings, **changes):
    """The arguments of ``train`` as the command line gives them."""
    values = {"verb": "train", "data": data, "config": [], "set": list(settings), "preset": None} | changes
    return type("Arguments", (), values)()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write(tmp_path / "data")


def test_settings_that_are_given_go_before_the_recipe(data, tmp_path):
    settings = ["training.optimizer=adamw", "training.epochs=7", "operator.width=24"]
    config = train_config(given(data, *settings), DataStore(data))
    assert (config.training.optimizer, config.training.epochs, config.operator.width) == ("adamw", 7, 24)
    assert config.operator.score_gain == 3.0 and config.training.gradient_weight == 0.3
    made = dataclasses.replace(
        Config(), operator=LrsaConfig(width=40), training=TrainingConfig(gradient_weight=0.7), options={"a": 1}
    )
    configuration.save(made, data)  # as generate does for a case of one's own
    config = train_config(given(data), DataStore(data))
    assert (config.operator.width, config.training.gradient_weight, config.options) == (40, 0.7, {"a": 1})
    assert config.operator.score_gain == 3.0
    configuration.save(dataclasses.replace(made, operator=configuration.of_kind(LrsaConfig(), "flare")), data)
    assert train_config(given(data), DataStore(data)).operator.kind == "flare"


def test_the_operator_is_that_of_the_model_to_begin_with(data, tmp_path):
    train(data, tmp_path / "first", with_training(epochs=1))
    first = f"training.initial={tmp_path / 'first'}"
    assert train_config(given(data, first), DataStore(data)).operator == CONFIG.operator
    config = train_config(given(data), DataStore(data), initial=tmp_path / "first", minutes=0.5)
    assert config.operator == CONFIG.operator and config.training.minutes == 0.5
    assert config.training.initial == str(tmp_path / "first")


@pytest.mark.parametrize("bf16", [True, False])
def test_the_recipe_knows_machine_cells_and_symmetries(monkeypatch, bf16):
    monkeypatch.setattr(recipes, "cpu_has_bf16", lambda: bf16)
    monkeypatch.setattr(recipes, "choose_device", lambda name: __import__("torch").device("cpu"))
    facts = DataFacts(SCHEMA, 100, has_simplices=True)
    training = recipe(facts, minutes=1.0).training
    assert (training.precision, training.optimizer) == ("bf16" if bf16 else "fp32", "muon")
    assert training.gradient_weight > 0.0 and not training.augment
    assert recipe(dataclasses.replace(facts, has_simplices=False), minutes=1.0).training.gradient_weight == 0.0
    mirrored = dataclasses.replace(SCHEMA, symmetries=(Symmetry(((-1, 0), (0, 1)), (0.5, 0.5)),))
    assert recipe(dataclasses.replace(facts, schema=mirrored), minutes=1.0).training.augment
    basis = dataclasses.replace(SCHEMA, outputs=tuple(dataclasses.replace(f, span=True) for f in SCHEMA.outputs))
    assert recipe(dataclasses.replace(facts, schema=basis), minutes=1.0).training.precision == "fp32"


@pytest.mark.parametrize("samples", [2, 5, 20, 300, 10_000])
def test_any_number_of_samples_can_be_split(samples):
    training = recipe(DataFacts(SCHEMA, samples, has_simplices=True), minutes=None).training
    valid = max(1, round(training.valid_fraction * samples))
    assert 0 < valid < samples and valid <= 24 and training.epochs >= 20


def test_a_training_by_the_recipe(data, tmp_path):
    config = train_config(given(data, "training.minutes=0.02", "operator.width=16"), DataStore(data))
    assert train(data, tmp_path / "model", config)["best_error"] < 1.0
