"""Settings: strict names, types and ranges, precedence, and errors that name the nearest key."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from lrsa_coupled import config as configuration
from lrsa_coupled.config import Config, FnoConfig, LrsaConfig, ProblemConfig, TrainingConfig, load, of_kind
from lrsa_coupled.settings import update


def test_file_then_assignments(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text(
        '[training]\nepochs = 7\nlearning_rate = 1\nnum_points = "none"\n[bench]\nsamples = 2\n[problem]\nseed = 5'
    )
    given = ["training.epochs=9", "training.precision=bf16", "operator.mass_weighted=true", "problem.seed=none"]
    config = load(Config(), files=[path], assignments=given)
    assert (config.training.epochs, config.training.learning_rate, config.bench.samples) == (9, 1.0, 2)
    assert isinstance(config.training.learning_rate, float)
    assert config.training.precision == "bf16" and config.operator.needs_mass
    assert config.training.num_points is None and config.problem.seed is None


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("training.epoch=3", "unknown key 'training.epoch' (did you mean 'training.epochs'?)"),
        ("trainin.epochs=3", "did you mean 'training"),
        ("training.epochs=2.5", "'training.epochs': expected int >= 1, got 2.5"),
        ("training.epochs=true", "'training.epochs': expected int >= 1, got True"),
        ("training.epochs=many", "expected int >= 1, got 'many'"),
        ("training.epochs=none", "expected int >= 1, got 'none'"),
        ("training.patience=0", "expected int >= 1 or none, got 0"),
        ("training.ema=1", "expected float > 0 and < 1 or none, got 1"),
        ("training.learning_rate=nan", "expected float > 0, got nan"),
        ("training.learning_rate=1e400", "expected float > 0, finite, got inf"),
        ("training.precision=fp16", "expected one of fp32, bf16, got 'fp16'"),
        ("training=3", "'training' is a table of keys"),
        ("training.epochs", "--set expects key=value"),
        ("training.epochs.more=1", "expected int >= 1, got {'more': 1}"),
        ("options=3", "'options': expected a table of keys, got 3"),
        ("=1", "unknown key"),
        ("operator.mass_weighted=1", "expected bool, got 1"),
        ("operator.num_modes=4", "'operator.num_modes' does not apply to operator.kind = lrsa"),
        ("operator.kind=flair", "'operator.kind': expected one of lrsa, flare, transolver, full, fno, got 'flair'"),
        ("operator.widht=4", "did you mean 'operator.width'?"),
    ],
)
def test_bad_assignment(assignment: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        load(Config(), assignments=[assignment])
    assert str(caught.value).startswith("--set") and "\n" not in str(caught.value)


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot read the configuration file"):
        load(Config(), files=[tmp_path / "none.toml"])
    bad = tmp_path / "bad.toml"
    for content in (b"[training\n", b"\xff\xfe\x00"):
        bad.write_bytes(content)
        with pytest.raises(ValueError, match="not a valid TOML file"):
            load(Config(), files=[bad])


def test_the_kind_of_the_operator_says_which_settings_there_are() -> None:
    base = load(Config(), assignments=["operator.width=32", "operator.tied=true"])
    config = load(base, assignments=["operator.num_modes=5", "operator.kind=fno"])
    assert config.operator == FnoConfig(width=32, num_modes=5) and config.operator.needs_grid
    assert of_kind(config.operator, "lrsa") == LrsaConfig(width=32)
    with pytest.raises(ValueError, match="tied' does not apply to operator"):
        load(config, assignments=["operator.tied=true"])


def test_the_seed_of_training_and_test_samples_differ() -> None:
    assert ProblemConfig().training_seed != ProblemConfig().test_seed
    assert ProblemConfig(seed=7).training_seed == ProblemConfig(seed=7).test_seed == 7


def test_settings_are_checked_wherever_they_are_made() -> None:
    with pytest.raises(ValueError, match=r"'TrainingConfig.epochs': expected int >= 1, got 0"):
        TrainingConfig(epochs=0)
    with pytest.raises(ValueError, match=r"'LrsaConfig.width': expected int >= 1 and <= 65536, got '64'"):
        dataclasses.replace(LrsaConfig(), width="64")


def test_round_trip(tmp_path: Path) -> None:
    given = ["guess.max_ratio=3", "problem.seed=4", "operator.kind=flare", "training.patience=2"]
    config = load(Config(case="cavity"), assignments=given)
    assert update(Config(), dataclasses.asdict(config), where="test") == config
    configuration.save(config, tmp_path)
    assert configuration.read(tmp_path / "config.json") == config


def test_what_training_reads_of_a_data_set_of_version_1(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(
        json.dumps({
            "case": "rods", "options": {"dim": 3},
            "generate": {"samples": 6, "seed": 0, "start": "classical", "model": ""},
            "data": {"memory_gib": 2.0}, "gate": {"record": ""}, "bench": {"coarser": 0, "rtol": 0.0},
            "operator": {"kind": "lrsa", "width": 16, "num_modes": 12, "weight_std": 0.0},
            "training": {"num_points": 0, "patience": 0, "ema": 0.0, "initial": "", "micro_batch_size": 0, "epochs": 4},
        })
    )  # fmt: skip
    config = configuration.read(path)
    assert config.operator == LrsaConfig(width=16, weight_std=None)
    assert config.training == TrainingConfig(num_points=None, epochs=4)
    assert (config.options, config.data.memory_gib) == ({"dim": 3}, 2.0)
    path.write_text("[]")
    with pytest.raises(ValueError, match="must hold a JSON object"):
        configuration.read(path)


def test_a_setting_that_is_gone_is_left_out_of_a_file_of_version_2(tmp_path: Path) -> None:
    configuration.save(Config(), tmp_path)
    content = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    content["guess"]["max_residual"] = 0.9
    (tmp_path / "config.json").write_text(json.dumps(content), encoding="utf-8")
    assert configuration.read(tmp_path / "config.json") == Config()
