"""Bad input: one line that says what is wrong, exit code 2, no traceback."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest

from lrsa_coupled import catalog, cli, logs
from lrsa_coupled.cli.solve import read_parameters
from lrsa_coupled.config import PositiveFloat
from lrsa_coupled.petsc import options as petsc_options
from tests.helpers import ROOT, mpiexec, needs_dolfinx, plain_environment

OUT = ("--out", "{tmp}/out")

BAD = [
    ((), "the following arguments are required: VERB"),
    (("fly",), "invalid choice 'fly' (known: bench, "),
    (("solv", "cavity"), "invalid choice 'solv' (did you mean 'solve'?)"),
    (("solve", "cavity", "--indx", "2"), "unknown option '--indx' (did you mean '--index'?)"),
    (("experiment", "speed", "--presett", "x"), "unknown option '--presett'"),
    (("generate", "cavity"), "--out"),
    (("generate", "cavty", *OUT), "unknown case 'cavty' (did you mean 'cavity'?)"),
    (("generate", "{tmp}", *OUT), "has no case.py"),
    (("generate", "cavity", "--samples", "0", *OUT), "'generate.samples': expected int >= 1 and <= 10000000, got 0"),
    (("generate", "cavity", "--samples", "-3", *OUT), "'generate.samples': expected int >= 1 and <= 10000000, got -3"),
    (("generate", "cavity", "--samples", "few", *OUT), "expected int >= 1 and <= 10000000, got 'few'"),
    (("generate", "cavity", "--seed", "-1", *OUT), "'problem.seed': expected int >= 0"),
    (("generate", "cavity", "--set", "generate.sample=3", *OUT), "did you mean 'generate.samples'?"),
    (("generate", "cavity", "--set", "training.epochs=x", *OUT), "expected int >= 1, got 'x'"),
    (("generate", "cavity", "--config", "{tmp}/none.toml", *OUT), "cannot read the configuration file"),
    (("train", "{tmp}/none", *OUT), "is not a data set"),
    (("train", "{tmp}/none", *OUT, "--", "-ksp_type", "cg"), "does not use PETSc"),
    (("evaluate", "{tmp}/none", "{tmp}/none"), "is not a data set"),
    (("bench", "cavity", "--samples", "0"), "'bench.samples': expected int >= 1, got 0"),
    (("run", "cavity", "--preset", "huge", *OUT), "no preset 'huge'"),
    (
        ("experiment", "operators", "darcy", "--data", "d", "--test", "t", *OUT, "--preset", "papr"),
        "did you mean 'paper'?",
    ),
    (("experiment", "operator", "darcy"), "unknown experiment 'operator' (did you mean 'operators'?)"),
    (("list", "--set", "nothing=1"), "unknown key 'nothing' (known: case, options, problem, "),
    (("list", "--set", "epochs=1"), "unknown key 'epochs' (did you mean 'training.epochs'?)"),
    (("list", "--set", "data.foo=1"), "unknown key 'data.foo' (known: data.memory_gib)"),
    (("solve", "cavity", "--accept", "1e-3", *OUT), "--accept is the accuracy of --mode surrogate"),
    (("solve", "cavity", "--mode", "surrogate", "--accept", "little", *OUT), "invalid float value: 'little'"),
]

BAD_WITH_DOLFINX = [
    (("solve", "cavity", "--index", "-1", *OUT), "--index counts from 0"),
    (("solve", "cavity", "--method", "zeroo", "--resolution", "4", *OUT), "unknown method 'zeroo'"),
    (
        ("solve", "cavity", "--parameters", "{tmp}/none.json", *OUT),
        "expects a JSON file such as result.json",
    ),
    (("solve", "cavity", "--method", "zero", "--model", "{tmp}", *OUT), "give one of them"),
    (("solve", "cavity", "--method", "zero", "--mode", "surrogate", *OUT), "give one of them"),
    (("solve", "cavity", "--mode", "surrogate", "--accept", "2", *OUT), "between 1e-12 and 1, got 2"),
    (("solve", "cavity", "--mode", "surrogate", "--accept", "nan", *OUT), "between 1e-12 and 1, got nan"),
    (("solve", "helmholtz:modes", "--model", "{tmp}", *OUT), "takes no initial guess"),
    (
        ("solve", "helmholtz", "--mode", "surrogate", *OUT),
        "needs a model, 'helmholtz' ships none; name one with --model",
    ),
    (("solve", "cavity", "--model", "{tmp}/none", "--resolution", "4", *OUT), "{tmp}/none"),
    (("bench", "cavity", "--model", "{tmp}/none", "--samples", "1"), "{tmp}/none"),
    (("generate", "cavity", "--out", "/proc/none"), "/proc/none"),
    (("generate", "cavity", "--out", "{tmp}/file"), "File exists"),
    (("generate", "cavity", *OUT, "--", "5", "-ksp_type"), "got '5' without a name"),
]


def refuse(arguments: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert cli.main([a.format(tmp=tmp_path) for a in arguments]) == 2
    text = capsys.readouterr().err
    assert text.startswith("lrsa-coupled: error: ") and text.count("\n") == 1, text
    assert message.format(tmp=tmp_path) in text


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_input(
    arguments: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refuse(arguments, message, tmp_path, capsys)


@needs_dolfinx
@pytest.mark.parametrize(("arguments", "message"), BAD_WITH_DOLFINX)
def test_bad_input_with_dolfinx(
    arguments: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refuse(arguments, message, tmp_path, capsys)


@needs_dolfinx
def test_unknown_petsc_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verb = ("solve", "cavity", "--method", "zero", "--resolution", "4", "--quiet")
    refuse((*verb, *OUT, "--", "-snes_tpye", "newtonls"), "unknown PETSc option: -snes_tpye", tmp_path, capsys)


@needs_dolfinx
def test_generate_with_failed_samples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are counted with their reason, and the exit code is 1, also when nothing is left to make."""
    sizes = ("--samples", "2", "--resolution", "4", "--set", "generate.method=zero", "--quiet")
    verb = ["generate", "cavity", *sizes, "--out", str(tmp_path)]
    for petsc in (["--", "-newton_snes_max_it", "1"], []):
        assert cli.main([*verb, *petsc]) == 1
        text = capsys.readouterr().out
        assert "2 samples, 0 solved" in text and "  2 failed by zero: DIVERGED_MAX_IT (sample 0, 1)\n" in text
        assert "solve cavity --seed 0 --index 0 --resolution 4 --method zero --out DIR\n" in text
        assert "generate.method (continuation-loose, continuation-tight)" in text and "--retry-failed" in text
        assert text.splitlines()[-1].startswith("next: --retry-failed ")


@needs_dolfinx
@pytest.mark.parametrize("option", ["-linear_ksp_typ", "-newton_snes_max_its", "-modes_st_kps_type", "-nonsense"])
def test_unknown_petsc_options_are_refused_before_the_solve(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lrsa_coupled.cli.solve.solve", lambda *_: pytest.fail("a solve has begun"))
    message = f"unknown PETSc option: {option}: neither PETSc nor the case reads one of this name"
    if option != "-nonsense":
        message += f" (did you mean {option[: option.index('_') + 1]}"
    refuse(("solve", "cavity", *OUT, "--", option, "1"), message, tmp_path, capsys)


@needs_dolfinx
def test_petsc_options_of_any_prefix_are_known() -> None:
    petsc_options.initialise([])
    names = "a_b_ksp_type ksp_monitor mat_mumps_icntl_14 x_pc_fieldsplit_3_fields log_view st_type x_pc_lrsa_rank"
    for name in f"{names} lrsa_guess_budget ksp_gcrodr_recycle pc_python_type my_wave_shift".split():
        petsc_options.check_names([f"-{name}"], own="options.getReal('wave_shift', 1.0)")


@needs_dolfinx
def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in catalog.case_names())
    (line,) = (line for line in text.splitlines() if line.startswith("helmholtz:modes "))
    assert "lowest modes" in line and "darcy:correction " in text and "darcy:modes" not in text
    assert "methods: continuation-loose (default), continuation-tight, zero" in text and "models: shipped, high" in text
    assert "quantities: kinetic_energy [rho U^2 L^2], dissipation" in text


@needs_dolfinx
def test_settings_prints_what_the_case_sets(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["settings", "darcy", "--preset", "smoke", "--set", "operator.tied=true"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for line in (
        "problem.resolution = 40  (int >= 1 and <= 1000000 or none)",
        "training.epochs = 10  (int >= 1)",
        "operator.tied = true  (bool)",
        "options.model_cells = 20  (int)",
        "guess.record = none  (str or none)",
    ):
        assert line in lines, line
    assert all(line.strip() for line in lines)


def test_unexpected_error_shows_its_place(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(given: list[str]) -> int:
        raise KeyError("inner")

    monkeypatch.setattr(cli, "_run", fail)
    assert cli.main(["list"]) == 2
    text = capsys.readouterr().err
    assert "Traceback" in text and "lrsa-coupled: error: unexpected KeyError" in text


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_output_that_cannot_be_written_is_an_error() -> None:
    code = "import sys; from lrsa_coupled.cli import main; sys.exit(main(['list']))"
    with open("/dev/full", "w", encoding="utf-8") as full:
        command = [sys.executable, "-c", code]
        done = subprocess.run(
            command, env=plain_environment(), stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (2, "lrsa-coupled: error: No space left on device\n")


@pytest.mark.parametrize(
    ("error", "code", "report"),
    [
        (SystemExit(0), 2, "lrsa-coupled: error: unexpected SystemExit: 0\n"),
        (KeyboardInterrupt(), 130, "lrsa-coupled: error: interrupted by Ctrl-C\n"),
        (BrokenPipeError(32, "Broken pipe"), 141, ""),
    ],
)
def test_interrupts_are_errors(
    error: BaseException, code: int, report: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(given: list[str]) -> int:
        raise error

    monkeypatch.setattr(cli, "_run", fail)
    monkeypatch.setattr(os, "dup2", lambda *_: None)
    assert cli.main(["list"]) == code
    assert capfd.readouterr().err.endswith(report)


def test_help_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    assert "generate" in capsys.readouterr().out


@pytest.mark.parametrize("verb", cli.verbs())
def test_help_has_an_example_and_the_defaults(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([verb, "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    example, for_petsc, _ = text.partition("example: lrsa-coupled ")[2].partition("what follows -- goes to PETSc")
    assert for_petsc or " -- " not in example
    arguments = example.split(" -- ")[0].split()
    assert arguments[0] == verb
    assert cli.make_parser().parse_args(arguments).verb == verb
    defaults = {"bench": "samples; 10 by", "estimate": "operator; auto by", "solve": "sample; 0 by"}
    assert f"{defaults.get(verb, '')} default" in text or verb not in defaults


def test_no_warning_of_a_library_stands_over_an_error() -> None:
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("default")
        logs.setup()
        for module in ("torch.nn.functional", "numpy", "torchic", "my_case"):
            warnings.warn_explicit("w", RuntimeWarning, "file", 1, module=module)
    assert len(shown) == (2 if not sys.warnoptions else 4)


def test_petsc_options_are_names_and_values() -> None:
    given = ["-ksp_rtol", "1e-3", "-snes_monitor", "--ksp_view", "-a_shift", "-1.5"]
    assert petsc_options.parse(given) == {"ksp_rtol": "1e-3", "snes_monitor": None, "ksp_view": None, "a_shift": "-1.5"}


@dataclass(frozen=True)
class Parameters:
    """Stands for the parameters of a case."""

    speed: PositiveFloat = 1.0
    sizes: tuple[float, ...] = (1.0, 2.0)


def test_parameters_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text(json.dumps({"speed": 3, "sizes": [4, 5.5]}))
    assert read_parameters(Parameters(), path) == Parameters(3.0, (4.0, 5.5))
    for text, message in [
        ("[", "not a valid JSON"),
        ("[]", "JSON object"),
        ('{"sped": 1}', "did you mean 'speed'"),
        ('{"sizes": [1]}', "of shape (2,), got (1,)"),
        ('{"speed": "x"}', "expected float > 0, got 'x'"),
        ('{"speed": 1e400}', "expected finite numbers, got inf"),
        ('{"speed": NaN}', "expected finite numbers, got nan"),
        ('{"speed": -5}', "'speed': expected float > 0, got -5"),
        ('{"sizes": [1, Infinity]}', "expected finite numbers, got inf"),
    ]:
        path.write_text(text)
        with pytest.raises(ValueError, match=re.escape(message)):
            read_parameters(Parameters(), path)


def run_alone(code: str, folder: Path) -> None:
    """Run a program in a process of its own, which must succeed."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=plain_environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_training_needs_no_mpi() -> None:
    code = (
        "import sys\nfrom lrsa_coupled import cli\ncode = cli.main(['train', '/none', '--out', '/none'])\n"
        "bad = [m for m in ('mpi4py', 'petsc4py', 'dolfinx') if m in sys.modules]\n"
        "sys.exit(f'{bad}' if bad or code != 2 else 0)"
    )
    run_alone(code, ROOT)


@needs_dolfinx
def test_classical_work_does_not_load_torch(tmp_path: Path) -> None:
    """It takes a second and a half on each rank, its compiler as long again, in which Ctrl-C can be lost."""
    code = (
        "import sys\nfrom lrsa_coupled.cli import main\nsmall = ['--resolution', '4', '--out']\n"
        "codes = main(['generate', 'darcy', '--samples', '1', *small, 'data']), "
        "main(['solve', 'darcy', '--method', 'mumps', *small, 'solution'])\n"
        "import lrsa_coupled.study.estimate\nassert codes == (0, 0) and 'torch' not in sys.modules\n"
        "import lrsa_coupled.guess.learned\nassert 'torch' in sys.modules and 'torch._dynamo' not in sys.modules"
    )
    run_alone(code, tmp_path)


@pytest.mark.skipif(mpiexec() is None, reason="no mpiexec beside the interpreter")
def test_an_interrupt_of_one_rank_ends_a_script_on_all(tmp_path: Path) -> None:
    """Python handles Ctrl-C between its own steps: a rank in a collective call waits for one that has left it."""
    script = tmp_path / "script.py"
    script.write_text(
        "from mpi4py import MPI\nfrom lrsa_coupled import mpi\nmpi.INTERRUPTED = 0.2\nworld = MPI.COMM_WORLD\n"
        "with mpi.collective_errors(world), mpi.collective_errors(world):\n"
        "    if world.rank == 1:\n        raise KeyboardInterrupt\n    world.recv(source=1)\n"
    )
    command = [str(mpiexec()), "-n", "2", sys.executable, str(script)]
    done = subprocess.run(command, env=plain_environment(), capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode != 0 and "KeyboardInterrupt" in done.stderr and "OutOfReach" not in done.stderr


@needs_dolfinx
@pytest.mark.skipif(mpiexec() is None, reason="no mpiexec beside the interpreter")
@pytest.mark.parametrize("fails_on", ["rank == 1", "True"])
def test_error_ends_all_ranks(fails_on: str, tmp_path: Path) -> None:
    """A rank that fails while the others wait in a collective call ends the job; a failure of all is one line."""
    script = tmp_path / "fail.py"
    script.write_text(
        "import sys\nfrom lrsa_coupled import cli, mpi\ncli.PATIENCE = 1.0\n"
        f"def fail(given):\n    rank = mpi.rank()\n    if {fails_on}:\n        raise ValueError('reported once')\n"
        "    mpi.world().Barrier()\n"
        "cli._run = fail\nsys.exit(cli.main(['list']))\n"
    )
    command = [str(mpiexec()), "-n", "2", sys.executable, str(script)]
    done = subprocess.run(
        command, env=plain_environment(), cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    # After an abort the launcher may report the rank that it killed (9) in place of the one that aborted (2).
    assert done.returncode == 2 if fails_on == "True" else done.returncode != 0
    assert done.stderr.count("lrsa-coupled: error: reported once\n") == 1
