"""Configuration: strict names and types, precedence, and errors that name the nearest key."""

from __future__ import annotations

from pathlib import Path

import pytest

from lrsa_coupled import config as configuration
from lrsa_coupled.config import Config, load, to_dict
from lrsa_coupled.settings import update


def test_file_then_assignments(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text("[training]\nepochs = 7\nlearning_rate = 1\n[bench]\nsamples = 2\n")
    config = load(
        Config(),
        files=[path],
        assignments=["training.epochs=9", "training.precision=bf16", "operator.mass_weighted=true"],
    )
    assert (config.training.epochs, config.training.learning_rate, config.bench.samples) == (9, 1.0, 2)
    assert isinstance(config.training.learning_rate, float)
    assert config.training.precision == "bf16" and config.operator.mass_weighted


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("training.epoch=3", "did you mean 'training.epochs'"),
        ("trainin.epochs=3", "did you mean 'training"),
        ("training.epochs=2.5", "'training.epochs': expected int >= 1, got 2.5"),
        ("training.epochs=true", "'training.epochs': expected int >= 1, got True"),
        ("training.epochs=many", "expected int >= 1, got 'many'"),
        ("training.precision=fp16", "expected one of fp32, bf16, got 'fp16'"),
        ("training=3", "'training' is a table of keys"),
        ("training.epochs", "--set expects key=value"),
        ("training.epochs.more=1", "expected int >= 1, got {'more': 1}"),
        ("=1", "unknown key"),
        ("operator.mass_weighted=1", "expected bool, got 1"),
    ],
)
def test_bad_assignment(assignment: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        load(Config(), assignments=[assignment])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot read the configuration file"):
        load(Config(), files=[tmp_path / "none.toml"])
    bad = tmp_path / "bad.toml"
    for content in (b"[training\n", b"\xff\xfe\x00"):
        bad.write_bytes(content)
        with pytest.raises(ValueError, match="not a valid TOML file"):
            load(Config(), files=[bad])


def test_round_trip(tmp_path: Path) -> None:
    config = load(Config(case="cavity"), assignments=["guess.max_ratio=3", "problem.seed=4"])
    assert update(Config(), to_dict(config), where="test") == config
    configuration.save(config, tmp_path)
    assert load(Config(), files=[]) == Config()
    assert (tmp_path / "config.json").read_text().startswith("{")
