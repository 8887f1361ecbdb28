"""Mistakes in a user's case: the run stops and shows the line; a sample fails for a numerical reason only."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("mpi4py.MPI", reason="needs MPI")
pytest.importorskip("dolfinx", reason="needs DOLFINx")

from petsc4py import PETSc

from lrsa_coupled import cli
from lrsa_coupled.catalog import load_case
from lrsa_coupled.config import Config
from lrsa_coupled.data.store import DataStore
from lrsa_coupled.generation.source import source_digest
from lrsa_coupled.traces import OWN_CASE
from lrsa_coupled.training import loop
from tests.own_case import CASE, write_case


def generate(case: Path, out: Path, *given: str, samples: int = 3) -> int:
    return cli.main(["generate", str(case), "--samples", str(samples), "--out", str(out), "--quiet", *given])


@pytest.mark.parametrize("callback", ["sample", "mesh", "problem", "features", "make"])
def test_a_mistake_ends_the_run_and_shows_its_line(
    callback: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_case(tmp_path / "case", **{callback: "undefined"})
    assert generate(path, tmp_path / "data") == 2
    text = capsys.readouterr().err
    line = path.read_text().splitlines().index("        undefined") + 1
    assert f'File "{path}", line {line}, in {callback}\n' in text
    assert text.splitlines()[-1].startswith("lrsa-coupled: error: the case failed, NameError: name 'undefined' is not")
    assert "site-packages" not in text and "generate.py" not in text
    if (tmp_path / "data" / "dataset.json").exists():
        assert not DataStore(tmp_path / "data").entries


@pytest.mark.parametrize("raised", ["ValueError('x')", "OSError(28, 'full')", "ArithmeticError()", "FloatingPointError",
                                    "MemoryError", "StopIteration", "Exception('x')", "ImportError('x')"])  # fmt: skip
def test_no_exception_of_python_fails_a_sample(raised: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What was finished before stays, and the run goes on once the mistake is corrected."""
    path = write_case(tmp_path / "case", mesh=f"if parameters.source < 1.2: raise {raised}")
    assert generate(path, tmp_path / "data") == 2
    text = capsys.readouterr().err
    assert f'File "{path}"' in text and "(in sample 2 of 'plate')" in text.splitlines()[-1]
    assert list(DataStore(tmp_path / "data").entries) == [0, 1]
    write_case(tmp_path / "case", mesh="pass")
    assert generate(path, tmp_path / "data", "--accept-changed-case") == 0
    assert DataStore(tmp_path / "data").solved == [0, 1, 2]


def test_a_numerical_error_fails_a_sample(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_case(tmp_path / "case", mesh="if parameters.source < 1.2: raise NumericalError('the mesher gave up')")
    assert generate(path, tmp_path / "data") == 1
    assert "1 failed by direct: NumericalError: the mesher gave up (sample 2)\n" in capsys.readouterr().out
    assert DataStore(tmp_path / "data").solved == [0, 1]


def test_a_sample_that_zero_solves_fails_by_that_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_case(tmp_path / "case", sample="source = 0.0 if source > 1.5 else source")
    assert generate(path, tmp_path / "data") == 1
    assert "the residual at zero has the norm 0: rtol is relative to it" in capsys.readouterr().out
    ((failed, *_),) = DataStore(tmp_path / "data").failures().values()
    again = ["--seed", "0", "--index", str(failed), "--out", str(tmp_path / "out"), "--quiet"]
    assert cli.main(["solve", str(path), *again]) == 2
    text = capsys.readouterr().err
    assert "the residual at zero has the norm 0" in text and "Traceback" not in text


def test_failed_samples_are_tried_again_when_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, data = write_case(tmp_path / "case"), tmp_path / "data"
    assert generate(path, tmp_path / "undisturbed") == 0
    assert generate(path, data, "--", "-linear_ksp_type", "richardson", "-linear_pc_type", "none") == 1
    for name in ("linear_ksp_type", "linear_pc_type"):
        PETSc.Options().delValue(name)
    assert "--retry-failed" in capsys.readouterr().out
    assert generate(path, data) == 1 and not DataStore(data).solved
    assert generate(path, data, "--retry-failed") == 0
    assert DataStore(data).content_hash() == DataStore(tmp_path / "undisturbed").content_hash()
    assert not list((data / "begun").glob("*"))


def test_an_edited_case_is_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, data = write_case(tmp_path / "case"), tmp_path / "data"
    assert generate(path, data) == 0
    path.write_text(
        "# a comment, and the docstring of a class\n" + CASE.replace("Plate(Case):", 'Plate(Case):\n    "A"')
    )
    assert generate(path, data) == 0
    write_case(tmp_path / "case", sample="source += 1.0")
    assert generate(path, data, samples=4) == 2
    text = capsys.readouterr().err
    assert text.count("\n") == 1 and "before its source changed" in text
    assert "choose another folder" in text and "--accept-changed-case" in text
    before = DataStore(data).read(0)
    assert generate(path, data, "--accept-changed-case", samples=4) == 0
    assert DataStore(data).read(0).parameters == before.parameters
    assert generate(path, data, samples=4) == 0
    assert float(DataStore(data).arrays(3).scalars[0]) > 2.0


def test_the_source_of_a_case_is_its_file_and_those_beside_it_that_it_imports(tmp_path: Path) -> None:
    path = write_case(tmp_path / "case")
    (tmp_path / "case" / "loads.py").write_text("A = 1\n")
    (tmp_path / "case" / "other.py").write_text("B = 1\n")
    found = [source_digest(load_case(str(path)))]
    path.write_text(CASE.replace("\nimport numpy", "\nif False:\n    from loads import A\nimport numpy"))
    found.append(source_digest(load_case(str(path))))
    (tmp_path / "case" / "other.py").write_text("B = 2\n")
    assert source_digest(load_case(str(path))) == found[-1]
    (tmp_path / "case" / "loads.py").write_text("A = 2  # other\n")
    found.append(source_digest(load_case(str(path))))
    (tmp_path / "case" / "loads.py").write_text('"""Loads."""\nA = (2)\n')
    assert source_digest(load_case(str(path))) == found[-1]
    assert len(set(found)) == 3
    assert source_digest(load_case("helmholtz:modes")) == source_digest(load_case("helmholtz"))


WRONG = [
    ({"sample": "return {'source': source}"}, "sample() of 'plate' must return an instance of a frozen"),
    ({"sample": "return Load(np.array([source]))"}, "parameters must be numbers of Python"),
    ({"sample": "source = np.random.default_rng().uniform()"}, "sample 0 of 'plate' must be the same each time"),
    ({"mesh": "return None"}, "mesh() of 'plate' must return a Mesh, got NoneType"),
    ({"problem": "return 'problem'"}, "problem() of 'plate' must return a Unknown, got str"),
    ({"make": "return 'solver'"}, "methods()['direct'] of 'plate' must return a Solver, got str"),
    ({"features": "return values, scalars"}, "features() of 'plate' must return a Features, got tuple"),
    ({"features": "values = values[:, 0]"}, "shape of nodal: expected (25, 1), the owned nodes and"),
    ({"features": "values = values[:-1]"}, "got (24, 1)"),
    ({"features": "scalars = np.zeros(2)"}, "shape of scalars: expected (1,), got (2,)"),
    ({"features": "scalars = scalars * np.nan"}, "scalars of 'plate' must be finite"),
    ({"features": "values = values * 1e200"}, "inputs of 'plate' must be finite"),
]  # fmt: skip


@pytest.mark.parametrize(("statements", "message"), WRONG)
def test_what_a_callback_returns_is_checked(
    statements: dict[str, str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_case(tmp_path / "case", **statements)
    assert generate(path, tmp_path / "data", samples=1) == 2
    text = capsys.readouterr().err
    assert text.count("\n") == 1 and message in text
    if "features" not in statements:
        assert cli.main(["solve", str(path), "--out", str(tmp_path / "out"), "--quiet"]) == 2 or "each time" in message


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ('(Field("source"),)', '(Field("source"))', "inputs must be a tuple of Field, got Field: a tuple of one"),
        ('("source",), (F', '("source"), (F', "scalars must be a tuple of str, got str: a tuple of one needs a comma"),
        ('(Field("u"),)', '("u",)', "outputs must be a tuple of Field, got one with str"),
        ("default_method = 4, 1e-9,", 'default_method = 4, "1e-9",', "rtol of 'plate' must be of type float"),
        ('"unit": "1"', '"units": "1"', "parameter 'source': expected metadata="),
        ("source: float", "source: int", "does not draw what Load declares: Expected `int`, got `float`"),
        ("    fields =", "    quantities = schema.outputs[0]\n    fields =", "quantities of 'plate' must be a tup"),
        ("    fields =", "    quantities = schema.outputs * 2\n    fields =", "need different names, got two of 'u'"),
        ("    fields =", "    quantites =", "'quantites' of 'plate' is read by nothing (did you mean 'quantities'?)"),
    ],
)  # fmt: skip
def test_slips_are_named(
    right: str, wrong: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "case.py"
    path.write_text(CASE.replace(right, wrong))
    assert generate(path, tmp_path / "data", samples=1) == (0 if "read by nothing" in message else 2)
    assert message in capsys.readouterr().err


def test_methods_are_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrongs = {
        '{"direct": dict}': "methods()['direct'] of 'plate' must be a Solver or a function that returns one",
        '{"direct": None}': "or a function that returns one, got None",
        '["direct"]': "methods() of 'plate' must return solvers by name, got list",
    }
    for number, (wrong, message) in enumerate(wrongs.items()):
        path = write_case(tmp_path / f"case{number}")  # bytecode of a file as long and as old would be taken
        path.write_text(CASE.replace('{"direct": self.make}', wrong))
        assert cli.main(["solve", str(path), "--out", str(tmp_path / "out"), "--quiet"]) == 2
        text = capsys.readouterr().err
        assert text.count("\n") == 1 and message in text


@pytest.mark.parametrize("verb", ["solve", "bench", "generate"])
def test_a_case_that_is_no_python_shows_the_line(verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "case.py").write_text("a = 1\nclass Own(:\n")
    out = [] if verb == "bench" else ["--out", str(tmp_path / "out")]
    assert cli.main([verb, str(tmp_path), *out]) == 2
    text = capsys.readouterr().err
    assert "line 2" in text and "lrsa-coupled: error: the case failed, SyntaxError" in text and OWN_CASE not in text


@pytest.mark.parametrize("verb", [["solve", "--out", "{tmp}/out"], ["bench", "--samples", "1"],
                                  ["experiment", "generation", "--samples", "1"]])  # fmt: skip
def test_a_mistake_is_shown_in_other_verbs(verb: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_case(tmp_path / "case", problem="undefined")
    place = 2 if verb[0] == "experiment" else 1
    arguments = [each.format(tmp=tmp_path) for each in verb]
    assert cli.main([*arguments[:place], str(path), *arguments[place:]]) == 2
    text = capsys.readouterr().err
    assert f'File "{path}"' in text and text.splitlines()[-1].startswith(
        "lrsa-coupled: error: the case failed, NameErr"
    )


STOP = "import os, signal; os.kill(os.getpid(), signal.SIGTERM)"


def test_a_signal_ends_an_experiment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_case(tmp_path / "case", mesh=STOP)
    assert cli.main(["experiment", "generation", str(path), "--samples", "2", "--quiet"]) == 2
    assert capsys.readouterr().err == "lrsa-coupled: error: SIGTERM: ended before all was measured\n"


def test_a_signal_ends_the_training_of_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(data: Path, out: Path, config: Config, *, stop: Callable[[], str], **_: object) -> dict[str, str]:
        os.kill(os.getpid(), signal.SIGTERM)
        return {"stopped": stop()}

    monkeypatch.setattr(loop, "train", train)
    path, out = write_case(tmp_path / "case"), tmp_path / "out"
    assert cli.main(["run", str(path), "--set", "generate.samples=2", "--out", str(out), "--quiet"]) == 3
    assert not (out / "bench").exists()


def test_without_a_c_compiler_no_sample_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CC", "/no/such/compiler")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = write_case(tmp_path / "case")
    path.write_text(CASE.replace("ufl.grad(u)", f"{tmp_path.stat().st_ino / 3} * ufl.grad(u)"))  # a form of its own
    assert generate(path, tmp_path / "data") == 2
    text = capsys.readouterr().err
    assert "/no/such/compiler" in text.splitlines()[-1] and "C compiler" in text.splitlines()[-1]
    assert not DataStore(tmp_path / "data").entries
