"""Estimates of a case with a known mean: all methods, resumed, on any number of ranks, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from mpi4py import MPI

pytest.importorskip("dolfinx", reason="estimates need DOLFINx")

from lrsa_coupled import cli, load_case
from lrsa_coupled.bench.html import page
from lrsa_coupled.bench.rows import read_rows
from lrsa_coupled.config import BenchConfig, Config, load
from lrsa_coupled.generation.plan import sample_parameters
from lrsa_coupled.interfaces import NumericalError
from lrsa_coupled.study import solves
from lrsa_coupled.study.estimate import Request, estimate
from lrsa_coupled.study.pilot import Study
from lrsa_coupled.study.result import Result, table
from tests import rods
from tests.rods import RodCase, exact_indices, exact_mean

pytestmark = pytest.mark.two_ranks

COMM = MPI.COMM_WORLD
ROD = str(Path(rods.__file__))


def run(folder: Path, comm: MPI.Intracomm = COMM, case: RodCase | None = None, **asked: object) -> Result:
    return estimate(case or RodCase(), Config(), Request(**{"pilot": 32, **asked}), folder, comm)


@pytest.mark.parametrize("method", ["mc", "mlmc", "mfmc", "gp"])
def test_methods(method: str, shared_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Study, "costs", property(lambda self: (1.0, 0.1, 0.05)[: len(self.resolutions)]))
    result = run(shared_path, method=method, error=6e-3, quantities=("integral",))
    found = result.quantities["integral"]
    assert result.reached and not result.failed and result.method == method
    assert found.mean.half_width <= 6e-3
    assert found.mean.value == pytest.approx(exact_mean(16), abs=4.0 * found.mean.standard_error)
    assert found.deviation.low > 0.0
    if method != "mc":
        assert found.mean.worth > result.solves["16"]
    written = json.loads((shared_path / "result.json").read_text())
    assert written == json.loads(json.dumps(dataclasses.asdict(result)))


def test_the_cheapest_method_on_any_number_of_ranks(shared_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Gaussian process knows a function of two parameters; each rank solves samples of its own."""
    monkeypatch.setattr(Study, "costs", property(lambda self: (100.0, 95.0, 90.0)[: len(self.resolutions)]))
    asked = {"error": 4e-3, "above": (0.15,), "quantiles": (0.5,), "quantities": ("integral",)}
    result = run(shared_path / "all", **asked)
    assert result.method == "gp" and set(result.expected) == {"mc", "mlmc", "mfmc", "gp"}
    one = run(shared_path / f"one{COMM.rank}", MPI.COMM_SELF, **asked, method="gp")
    assert result.quantities["integral"] == one.quantities["integral"]
    text = table(result)
    assert "integral, probability above 0.15" in text and "integral, quantile 0.5" in text
    assert result.quantities["integral"].above["0.15"].low > 0.0


def test_a_run_that_was_interrupted_ends_with_the_same_numbers(
    shared_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"method": "gp", "error": 4e-3, "quantities": ("integral",)}
    whole, append = run(shared_path / "whole", **asked), solves.append_line
    for more in (5, 7):
        left = [more]

        def failing(path: Path, text: str, left: list[int] = left) -> None:
            left[0] -= 1
            append(path, text)
            if left[0] < 0:
                with open(path, "ab") as stream:
                    stream.write(b'{"ask": {"resolution": 16, "ind')
                raise OSError(5, "Input/output error", str(path))

        with monkeypatch.context() as patch:
            patch.setattr(solves, "append_line", failing)
            with pytest.raises(OSError, match="Input/output error"):
                run(shared_path / "parts", **asked)
        COMM.Barrier()
    assert run(shared_path / "parts", **asked).quantities == whole.quantities
    with pytest.raises(ValueError, match=r"holds an estimate with pilot = 32, not 20"):
        run(shared_path / "parts", **asked | {"pilot": 20})


def test_solves_of_a_case_that_has_changed_are_refused(shared_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(shared_path, error=0.1, method="mc", quantities=("integral",))
    monkeypatch.setattr("lrsa_coupled.study.estimate.source_digest", lambda case: "another")
    with pytest.raises(ValueError, match="of the case as it was before its source changed"):
        run(shared_path, error=0.1, method="mc", quantities=("integral",))


def test_another_goal_goes_on_with_the_solves_that_are_there(shared_path: Path) -> None:
    asked = {"method": "gp", "quantities": ("integral",)}
    first = run(shared_path / "one", error=8e-3, **asked)
    beside = run(shared_path / "one", error=8e-3, above=(0.15,), **asked)
    assert beside.quantities["integral"].mean == first.quantities["integral"].mean and beside.solves == first.solves
    further = run(shared_path / "one", error=3e-3, above=(0.15,), **asked)
    assert further.reached and not first.quantities["integral"].above
    assert run(shared_path / "one", error=3e-3, above=(0.15,), **asked) == further  # as it was, no solve and no fit
    assert run(shared_path / "one", error=5e-3, above=(0.15,), **asked) == further
    assert further.quantities == run(shared_path / "other", error=3e-3, above=(0.15,), **asked).quantities


def test_an_operator_trained_by_the_way(shared_path: Path) -> None:
    """It sees the load, so that a line through what it predicts is worth something, however little it has learnt."""
    tiny = ["operator.width=8", "operator.num_blocks=1", "operator.num_latents=4", "operator.num_heads=2"]
    tiny += ["training.epochs=4", "training.batch_size=4", "training.num_points=none", "training.valid_fraction=0.2"]
    request = Request(("integral",), error=6e-3, method="operator", train=16)
    result = estimate(RodCase(), load(Config(), assignments=tiny), request, shared_path, COMM)
    found = result.quantities["integral"].mean
    assert result.reached and found.worth > 2.0 * result.solves["16"]
    assert found.value == pytest.approx(exact_mean(16), abs=4.0 * found.standard_error)
    assert result.seconds["training"] > 0.0 and result.seconds["solves to train on"] > 0.0 and not result.made_before
    model = str(shared_path / "model")
    given = estimate(RodCase(), Config(), Request(error=0.02, method="operator", model=model), shared_path / "g", COMM)
    made = given.made_before
    assert made["data"] == pytest.approx(result.seconds["solves to train on"], abs=1e-3) and made["training"] > 0.0
    assert "times with the" in table(given) and "for the model's data and training" in table(given)
    auto = estimate(RodCase(), Config(), Request(("integral",), error=0.02, model=model), shared_path / "auto", COMM)
    assert "mc" in auto.expected and "operator" not in auto.expected  # to try it takes more than these solves
    with pytest.raises(ValueError, match="samples of an estimate must be unseen: the seed 4 is that of the data"):
        settings = load(Config(), assignments=["problem.seed=4"])
        estimate(RodCase(), settings, Request(error=0.02, method="operator", model=model), shared_path / "seen", COMM)


@pytest.mark.parametrize("method", ["mc", "gp"])
def test_sobol_indices(method: str, shared_path: Path) -> None:
    result = run(shared_path, method=method, error=2e-2, quantities=("integral",), sobol=60)
    found = result.sobol["integral"]
    assert [*found] == ["x", "y"]
    for pair, exact in zip(found.values(), exact_indices(), strict=True):
        for index, value in zip(pair, exact, strict=True):
            assert index.value == pytest.approx(value, abs=4.0 * index.standard_error)
            assert index.standard_error < (0.5 if method == "mc" else 0.1)
    assert "integral, Sobol indices of x: first" in table(result)


def test_a_budget_is_kept(shared_path: Path) -> None:
    result = run(shared_path, method="mc", budget=0.5)
    assert result.reached and result.solves["16"] >= 32
    assert sum(result.seconds.values()) < 3.0 * COMM.size


def test_failed_solves_are_left_out_and_reported(shared_path: Path) -> None:
    class Failing(RodCase):
        def _update(self, problem: rods.RodProblem, parameters: rods.RodParameters) -> rods.RodProblem:
            if parameters.x > 0.8:
                raise NumericalError("too much")
            return super()._update(problem, parameters)

    result = run(shared_path, case=Failing(), method="mfmc", error=1e-2)
    assert "NumericalError: too much at resolution 16" in result.failed
    assert result.quantities["integral"].mean.value < exact_mean(16) + 1e-2


def test_solves_begin_from_the_guess_that_is_fastest() -> None:
    """Nested iteration of the cavity on each mesh that has coarser ones; the quantities are those of other guesses."""
    case, quantities = load_case("cavity"), load_case("cavity").quantities[:1]
    guided, plain = (
        solves.Solver(case, Config(bench=BenchConfig(coarse_meshes=count)), COMM, 16) for count in (1, None)
    )
    name = quantities[0].name
    for index in range(4):
        parameters = sample_parameters(case, 5, index)
        one, other = (solver.solve(parameters, quantities)[0] for solver in (guided, plain))
        assert one is not None and other is not None and one[name] == pytest.approx(other[name], rel=1e-6)
    assert not plain.guesses and {each.choice for each in guided.policy.decisions} > {"nested, 1 coarser mesh"}


def test_what_makes_no_sense_is_refused(shared_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for wrong, text in (
        ({}, "an error or a budget"),
        ({"error": 1.0, "budget": 1.0}, "an error or a budget"),
        ({"error": -1.0}, "must be positive, got -1.0"),
        ({"error": 1.0, "method": "mlcm"}, "unknown method 'mlcm' .did you mean 'mlmc'"),
        ({"error": 1.0, "method": "operator"}, "needs a model .* or solves to train one .--train N."),
        ({"error": 1.0, "method": "mc", "train": 9}, "train = 9 needs method operator, got method mc"),
        ({"error": 1.0, "method": "mc", "model": "model"}, "method mc takes no operator, got model: leave it out"),
        ({"error": 1.0, "sobol": 2}, "Sobol indices need at least 10 samples, got 2"),
        ({"error": 1.0, "quantiles": (2.0,)}, "shares between 0 and 1"),
    ):
        with pytest.raises(ValueError, match=text):
            Request(**wrong)
    with pytest.raises(ValueError, match="at least 10 samples, got 3"):
        Request(error=1.0, pilot=3)
    with pytest.raises(ValueError, match="'rods' has no quantity 'intgral'"):
        run(shared_path / "none", error=1.0, quantities=("intgral",))
    assert not (shared_path / "none").exists()


def test_experiment(shared_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--quantity", "integral", "--error", "0.02", "0.01", "--pilot", "12", "--pictures", str(shared_path)]
    assert cli.main(["experiment", "estimates", ROD, *asked, "--json", str(shared_path / "rows.jsonl")]) == 0
    results = read_rows(shared_path / "rows.jsonl")
    assert [*results.methods] == ["mc", "mlmc", "mfmc", "gp"]
    assert all(row.solved for row in results.rows) and len(results.methods["gp"]) == 2
    assert results.methods["gp"][1].number("half_width") <= 0.01 and (shared_path / "estimates.png").is_file()
    if COMM.rank == 0:
        assert "mc (expected)" in capsys.readouterr().out
        text = page([results])
        assert "At a half-width of 0.01 " in text and " times cheaper than " in text
        assert "<h3>Estimate</h3>" in text and "Cost of an estimate" in text and "<h3>Costs</h3>" not in text
    words = ["bench", ROD, "--what", "estimate"]
    assert cli.main([*words, "--only", "gp"]) == 2
    if COMM.rank == 0:
        assert "compares all methods, got --only gp" in capsys.readouterr().err


def test_command(shared_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["estimate", ROD, "--quantity", "integral", "--error", "0.02", "--method", "mc", "--pilot", "12"]
    assert cli.main([*asked, "--out", str(shared_path)]) == 0
    if COMM.rank == 0:
        assert "integral, mean: 0.0" in capsys.readouterr().out
    assert cli.main([*asked, "--out", str(shared_path), "--resolution", "8"]) == 2
