"""Operators trained alike and compared, and their cost by number of points."""

import dataclasses
import json

import pytest

from lrsa_coupled import cli
from lrsa_coupled.bench import operators, speed, training_steps
from lrsa_coupled.bench.cost import Cost, Work, measure
from lrsa_coupled.config import LrsaConfig, of_kind
from lrsa_coupled.training.checkpoint import parameter_count
from tests.operators import lrsa_flop_count
from tests.unit.test_training import SCHEMA, sample, with_training, write

SMALL = LrsaConfig(width=16, num_blocks=1, num_heads=2, num_latents=8)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def test_data(tmp_path_factory):
    return write(tmp_path_factory.mktemp("test"), count=6, seed=1)


def config():
    return dataclasses.replace(with_training(num_points=None, epochs=2), operator=SMALL)


def test_rivals_have_the_size_of_lrsa():
    operator = LrsaConfig(width=64, num_blocks=4, num_heads=4)
    found = operators.variants("operators", operator, SCHEMA)
    count = parameter_count(operator, SCHEMA)
    assert list(found) == list(operators.RIVALS) and found["lrsa"] == operator
    for name, rival in found.items():
        assert (rival.kind, rival.num_blocks) == (name, 4)
        heads = 1 if name == "fno" else rival.num_heads
        wider, narrower = (dataclasses.replace(rival, width=rival.width + step) for step in (heads, -heads))
        assert abs(parameter_count(rival, SCHEMA) - count) <= min(
            abs(parameter_count(other, SCHEMA) - count) for other in (wider, narrower)
        )


def test_ablations_change_one_thing():
    found = operators.variants("ablations", SMALL, SCHEMA)
    assert len(found) == 10 and found.pop("lrsa") == SMALL
    for variant in found.values():
        assert (
            sum(getattr(variant, field.name) != getattr(SMALL, field.name) for field in dataclasses.fields(SMALL)) == 1
        )


def test_operators_are_trained_tested_and_resumed(data, test_data, tmp_path, monkeypatch):
    names = ["lrsa", "flare"]
    ledger = operators.bench_operators(config(), data, test_data, tmp_path, only=names)
    assert [row["name"] for row in ledger["operators"]] == names
    assert (ledger["data"]["samples"], ledger["test"]["samples"]) == (19, 5)
    for row in ledger["operators"]:
        assert 0.0 < row["l2"]["median"] <= row["l2"]["worst"] and row["h1"]["mean"] > 0.0
        assert row["step"]["seconds"] > 0.0 and row["step"]["error"] == ""
    lines = operators.operators_table(ledger).splitlines()
    assert [line.split()[0] for line in lines[-2:]] == names and lines[-2].split()[7] == "1.00"
    monkeypatch.setattr("lrsa_coupled.training.loop.prepare", None)  # nothing is trained again
    monkeypatch.setattr(operators, "measure", lambda work: Cost(1.0, 2**20, 3))
    again = operators.bench_operators(config(), data, test_data, tmp_path, only=names)
    assert [row["l2"] for row in again["operators"]] == [row["l2"] for row in ledger["operators"]]


def test_what_makes_no_sense_is_refused(data, test_data, tmp_path):
    with pytest.raises(ValueError, match="both samples of seed 0: generate test samples of another seed"):
        operators.bench_operators(config(), data, data, tmp_path)
    with pytest.raises(ValueError, match=r"no variant 'flair' \(did you mean 'flare'\?\)"):
        operators.bench_operators(config(), data, test_data, tmp_path, only=["flair"])


def test_fno_is_left_out_where_there_is_no_grid(data, test_data, tmp_path, monkeypatch):
    monkeypatch.setattr(operators, "_trained", lambda name, *arguments, **options: {"name": name})
    monkeypatch.setattr(operators, "measure", lambda work: Cost())
    ledger = operators.bench_operators(config(), data, test_data, tmp_path)  # samples of two sizes
    assert [row["name"] for row in ledger["operators"]] == ["lrsa", "flare", "transolver", "full"]
    monkeypatch.setattr("tests.unit.test_training.sample", lambda index: sample(2 * index))
    grid = operators.bench_operators(config(), data, write(tmp_path / "grid", count=4, seed=2), tmp_path)
    assert [row["name"] for row in grid["operators"]] == list(operators.RIVALS)


def test_missing_folders_are_named(capsys):
    assert cli.main(["bench", "cavity", "--what", "operators", "--data", "x"]) == 2
    assert "bench --what operators needs --test and --out" in capsys.readouterr().err


def test_flags_that_are_not_read_are_refused(capsys):
    assert cli.main(["bench", "cavity", "--what", "operators", "--samples", "3"]) == 2
    assert (
        "bench --what operators does not read --samples; it is for --what starts or generate" in capsys.readouterr().err
    )


def test_operations_follow_from_few_points():
    sizes = {"num_inputs": 1, "num_scalars": 0, "num_outputs": 1}
    cost = measure(Work(SMALL, 5000, sizes=(2, 1, 0, 1), repeats=1))
    assert cost.flops == lrsa_flop_count(SMALL, 5000, dim=2, **sizes)
    full = measure(Work(of_kind(SMALL, "full"), 1100, batch=2, sizes=(2, 1, 0, 1), repeats=1, backward=True))
    ends, products = 2 * 1100 * (3 + 16 + 1) * 16, 2 * 1100 * 6 * 16**2 + 4 * 1100**2 * 16
    assert full.flops == 3 * 2 * (ends + products)
    assert cost.seconds > 0.0 and cost.memory > 0 and cost.error == ""


def test_what_does_not_fit_is_told():
    assert measure(Work(of_kind(SMALL, "transolver"), 10**6, repeats=1, memory_share=0.01)).error == "out of memory"


def test_the_table_of_speeds_compares_with_lrsa(tmp_path, capsys):
    command = [
        "bench-operator",
        "--device",
        "cpu",
        "--points",
        "300",
        "--chunk",
        "200",
        "--precision",
        "fp32",
        "--json",
        str(tmp_path / "t.json"),
    ]
    sizes = [
        f"--set=operator.{name}={value}"
        for name, value in (("width", 16), ("num_blocks", 1), ("num_heads", 2), ("num_latents", 8))
    ]
    assert cli.main([*command, *sizes]) == 0
    rows = json.loads((tmp_path / "t.json").read_text(encoding="utf-8"))["rows"]
    assert [(row["kind"], row["backward"], row["chunk_size"]) for row in rows] == [
        ("lrsa", False, 200), ("transolver", False, 0), ("lrsa", True, 200), ("transolver", True, 0)
    ]  # fmt: skip
    text = capsys.readouterr().out
    assert text.count("lrsa, chunks of 200") == 2 and text.count("transolver") == 2
    assert speed.POINTS[0] == 4096 and speed.POINTS[-1] == 1048576
    assert cli.main([*command, *sizes, "--only", "flare"]) == 0
    assert {row["kind"] for row in json.loads((tmp_path / "t.json").read_text(encoding="utf-8"))["rows"]} == {"flare"}


def test_steps_of_both_formats_are_taken_in_turn(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(training_steps, "STEPS", 6)
    ledger = training_steps.bench_steps(config(), data)
    fp32, bf16 = ledger["steps"]
    assert (fp32["precision"], bf16["precision"]) == ("fp32", "bf16") and ledger["case"] == "synthetic"
    assert all(len(row["seconds"]) == 6 and min(row["seconds"]) > 0.0 for row in ledger["steps"])
    assert fp32["loss"] != bf16["loss"] and abs(fp32["loss"] / bf16["loss"] - 1.0) < 0.2
    json.dumps(ledger)
    assert "6 steps in turn" in training_steps.steps_table(ledger)
    assert cli.main(["bench", "cavity", "--what", "steps"]) == 2
    assert "needs --data" in capsys.readouterr().err
