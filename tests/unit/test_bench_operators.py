"""Operators trained alike and compared, their cost by number of points, and steps of training in two precisions."""

import dataclasses
from argparse import Namespace

import pytest

from lrsa_coupled import cli
from lrsa_coupled.bench.cost import Cost, Work, measure
from lrsa_coupled.bench.experiments import ablations, operators, precision, speed
from lrsa_coupled.bench.rows import Row, Seconds, read_rows
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


def compare(data, test, out, only=()):
    return operators.run(Namespace(data=data, test=test, out=out, only=only), config())


def test_baselines_have_the_size_of_lrsa():
    operator = LrsaConfig(width=64, num_blocks=4, num_heads=4)
    found = operators.variants(operator, SCHEMA)
    count = parameter_count(operator, SCHEMA)
    assert list(found) == list(operators.KINDS) and found["lrsa"] == operator
    for name, other in found.items():
        assert (other.kind, other.num_blocks) == (name, 4)
        heads = 1 if name == "fno" else other.num_heads
        near = (dataclasses.replace(other, width=other.width + step) for step in (heads, -heads))
        distances = [abs(parameter_count(item, SCHEMA) - count) for item in (other, *near)]
        assert distances[0] == min(distances)


def test_ablations_change_one_thing():
    found = ablations.variants(SMALL, SCHEMA)
    assert len(found) == 10 and found.pop("lrsa") == SMALL
    for variant in found.values():
        changed = [f.name for f in dataclasses.fields(SMALL) if getattr(variant, f.name) != getattr(SMALL, f.name)]
        assert len(changed) == 1


def test_operators_are_trained_tested_and_resumed(data, test_data, tmp_path, monkeypatch):
    names = ["lrsa", "flare"]
    results = compare(data, test_data, tmp_path, names)
    assert list(results.methods) == names
    assert [results.header.settings[name] for name in ("train.samples", "test.samples")] == [19, 5]
    for row in results.rows:
        assert 0.0 < row.number("l2_median") <= row.number("l2_worst") and row.number("h1_mean") > 0.0
        assert row.number("step_seconds") > 0.0 and row.values["step_error"] == ""
    lines = operators.table(results).splitlines()
    assert [line.split()[0] for line in lines[-2:]] == names and lines[-2].split()[7] == "1.00"
    monkeypatch.setattr("lrsa_coupled.training.loop.prepare", None)  # nothing is trained again
    monkeypatch.setattr(operators, "measure", lambda work: Cost(1.0, 2**20, 3))
    again = compare(data, test_data, tmp_path, names)
    assert [row.number("l2_mean") for row in again.rows] == [row.number("l2_mean") for row in results.rows]


def test_what_makes_no_sense_is_refused(data, test_data, tmp_path):
    with pytest.raises(ValueError, match="both samples of seed 0: generate test samples of another seed"):
        compare(data, data, tmp_path)
    with pytest.raises(ValueError, match=r"no variant 'flair' \(did you mean 'flare'\?\)"):
        compare(data, test_data, tmp_path, ["flair"])


def test_fno_is_left_out_where_there_is_no_grid(data, test_data, tmp_path, monkeypatch):
    def trained(name, *arguments):
        return Row(method=name, sample=0, seconds=Seconds(total=1.0), solved=True)

    monkeypatch.setattr(operators, "_trained", trained)
    monkeypatch.setattr(operators, "measure", lambda work: Cost())
    assert list(compare(data, test_data, tmp_path).methods) == [
        "lrsa",
        "flare",
        "transolver",
        "full",
    ]  # samples of two sizes
    monkeypatch.setattr("tests.unit.test_training.sample", lambda index: sample(2 * index))
    grid = write(tmp_path / "grid", count=4, seed=2)
    assert list(compare(data, grid, tmp_path).methods) == list(operators.KINDS)


def test_operations_follow_from_few_points():
    sizes = {"num_inputs": 1, "num_scalars": 0, "num_outputs": 1}
    cost = measure(Work(SMALL, 5000, sizes=(2, 1, 0, 1), repeats=1))
    assert cost.flops == lrsa_flop_count(SMALL, 5000, dim=2, **sizes)
    full = of_kind(SMALL, "full")
    found = measure(Work(full, 1100, batch=2, sizes=(2, 1, 0, 1), repeats=1, backward=True))
    ends, products = 2 * 1100 * (3 + 16 + 1) * 16, 2 * 1100 * 6 * 16**2 + 4 * 1100**2 * 16
    assert found.flops == 3 * 2 * (ends + products)
    assert cost.seconds > 0.0 and cost.memory > 0 and cost.error == ""


def test_what_does_not_fit_is_an_error_of_the_row():
    work = Work(of_kind(SMALL, "transolver"), 10**6, repeats=1, memory_share=0.01)
    assert measure(work).error == "out of memory"


def test_speed_is_compared_with_lrsa(tmp_path, capsys, monkeypatch):
    """What is measured is that of the tests above, made up here."""
    made_up = {"lrsa": Cost(1.0, 1000, 10), "flare": Cost(2.0, 3000, 10)}
    monkeypatch.setattr(speed, "measure", lambda work: made_up[work.operator.kind])
    path = tmp_path / "speed.jsonl"
    command = ["experiment", "speed", "--device", "cpu", "--points", "300", "--chunk", "200", "--precision", "fp32"]
    sizes = {"width": 16, "num_blocks": 1, "num_heads": 2, "num_latents": 8}
    settings = [f"--set=operator.{name}={value}" for name, value in sizes.items()]
    assert cli.main([*command, "--only", "lrsa", "flare", "--json", str(path), *settings]) == 0
    text, rows = capsys.readouterr().out, read_rows(path).rows
    assert [(row.method, row.values["backward"], row.values["chunk_size"]) for row in rows] == [
        ("lrsa", False, 200), ("flare", False, None), ("lrsa", True, 200), ("flare", True, None),
    ]  # fmt: skip
    assert all(row.solved and row.number("flops") > 0.0 for row in rows)
    assert text.count("lrsa, chunks of 200") == 2 and text.count("flare") == 2 and text.count("2.00, 3.00") == 2
    assert cli.main(["report", str(path)]) == 0
    assert capsys.readouterr().out.count("flare") == 2


def test_steps_of_both_precisions_are_taken_in_turn(data, monkeypatch):
    monkeypatch.setattr(precision, "STEPS", 6)
    results = precision.run(Namespace(data=data), config())
    fp32, bf16 = results.methods.values()
    assert list(results.methods) == ["fp32", "bf16"] and results.header.case == "synthetic"
    assert len(fp32) == len(bf16) == 6
    losses = [rows[-1].number("loss") for rows in (fp32, bf16)]
    assert losses[0] != losses[1] and abs(losses[0] / losses[1] - 1.0) < 0.2
    assert "6 steps in turn" in precision.table(results)


def test_missing_folders_and_wrong_names_are_named(capsys):
    for command, message in (
        (["operators", "cavity", "--data", "x"], "the following arguments are required: --test, --out"),
        (["operators", "cavity", "--samples", "3"], "unknown option '--samples'"),
        (["precision", "cavity"], "the following arguments are required: --data"),
        (["speeed"], "unknown experiment 'speeed' (did you mean 'speed'?)"),
    ):
        assert cli.main(["experiment", *command]) == 2
        assert message in capsys.readouterr().err
    assert cli.main(["experiment", "--help"]) == 0
    text = capsys.readouterr().out
    names = ("preconditioners", "eigensolvers", "adversarial-guesses", "certificates", "time-steps", "generation")
    assert all(f"  {name} " in text for name in (*names, "operators", "ablations", "refinement", "precision", "speed"))
