"""Wrong uses of the command line and of scripts: each is answered by one line that says what to do."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cases.test_readmes import setup_script
from tests.helpers import needs_dolfinx

pytestmark = needs_dolfinx

COMMANDS = {
    "generat cavity": "did you mean 'generate'?",
    "solve cavity": "required: --out (see 'lrsa-coupled solve --help')",
    "solve cavitty --out s": "did you mean 'cavity'?",
    "solve own/cas.py --out s": "there is no file own/cas.py",
    "solve no/case.py --out s": "must hold exactly one class derived from lrsa_coupled.Case, found: none",
    "solve CASE --resolution 0 --out s": "'problem.resolution': expected int >= 1",
    "solve CASE --method newtonn --out s": "unknown method 'newtonn' (known: continuation, zero)",
    'solve CASE --parameters {"hot":1} --out s': "expects a JSON file such as result.json, there is none",
    "solve CASE --parameters hott.json --out s": "did you mean 'hot'?",
    "solve CASE --set probem.seed=1 --out s": "did you mean 'problem.seed'?",
    "solve CASE --set problem.seed=abc --out s": "'problem.seed': expected int",
    "solve CASE --set problem.seed --out s": "--set expects key=value",
    "solve CASE --model nowhere --out s": "give the folder of a model",
    "solve darcy --model model --out s": "has name 'conduction' instead of 'darcy'; train one",
    "solve cavity --preset hihg --out s": "did you mean 'high'?",
    "solve CASE --index -1 --out s": "--index counts from 0",
    "solve CASE --out data": "data holds a data set, expected a solution or a new folder; choose another one",
    "solve CASE --out file": "file cannot be a folder, there is a file; write elsewhere",
    "solve CASE --out s -- -newton_snes_rtoll 1e-8": "did you mean -newton_snes_rtol?",
    "generate CASE --samples 0 --out d": "'generate.samples': expected int >= 1",
    "generate CASE --resolution 8 --out data": "holds a data set with resolution 6 instead of 8; choose another folder",
    "generate CASE --seed 3 --out data": "holds a data set with seed 0 instead of 3; choose another folder",
    "generate CASE --ranks-per-sample 4 --out d": "ranks_per_sample must divide the number of ranks, got 4 and 1",
    "generate CASE --samples 8 --out data --set generate.quantities=true": "go on with generate.quantities=false, or",
    "generate CASE --preset smoke --out d": "has no presets: they are tables [presets.NAME] of own/config.toml",
    "train nowhere --out m": "make one with 'lrsa-coupled generate'",
    "train data --out data": "data holds a data set, expected a model or a new folder; choose another one",
    "train data --minutes 0 --out m": "'training.minutes': expected float > 0",
    "train data --set operator.width=7 --out m": "must divide width = 7",
    "train data --set operator.width=32 --out model": "begins with this model, or train without resuming (--no-resume)",
    "train data --set training.loss=energyy --out m": "expected one of data, energy, residual",
    "evaluate model other": "the model has name 'conduction' instead of 'darcy'",
    "evaluate model data --pictures file": "file cannot be a folder",
    "bench CASE --model model --data other": "other does not hold samples of 'conduction'",
    "bench CASE --only newton": "unknown method 'newton' (known: continuation, zero)",
    "bench CASE --samples 0": "'bench.samples': expected int >= 1",
    "estimate CASE --out e": "one of the arguments --error --budget is required",
    "estimate CASE --quantity temperatur --error 1 --out e": "did you mean 'mean_temperature'?",
    "estimate CASE --error 1 --pilot 3 --out e": "needs at least 10 samples, got 3",
    "estimate CASE --error 1 --method montecarlo --out e": "(known: auto, mc, mlmc, mfmc, gp, operator)",
    "estimate CASE --error 1 --method operator --out e": "--model DIR) or solves to train one (--train N)",
    "study CASE --samples 4 --out model": "model holds a model, expected a data set or a new folder",
    "plan CASE --solves 0": "plan needs --solves of at least 1",
    "export data --index 99 --out x": "no solved sample 99; 'lrsa-coupled info' prints what it has",
    "merge data other --out m": "data and other do not fit each other",
    "check CASE --samples 0": "--samples must be at least 1",
    "new own": "exists and is left as it is; choose another PATH",
    "new b --template quadratic": "known: energy, linear, nonlinear, script, transient",
    "serve CASE --port 99999999": "--port must be between 0 and 65535",
    "report file": "expected results as 'lrsa-coupled bench CASE --json FILE' writes them",
    "experiment speeed": "did you mean 'speed'?",
}
"""Commands in a folder with a case of one's own, its data, a model, other data, a file; and what the answer holds."""


def main(words: list[str]) -> int:
    from lrsa_coupled import cli

    return cli.main(words)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made, before = tmp_path_factory.mktemp("wrong"), Path.cwd()
    os.chdir(made)
    try:
        words = ["generate own/case.py --samples 8 --resolution 6 --out data", "train data --minutes 0.01 --out model"]
        for line in ("new own", *words, "generate darcy --samples 2 --resolution 8 --out other"):
            assert main([*line.split(), *["--quiet"] * (not line.startswith("new"))]) == 0
    finally:
        os.chdir(before)
    (made / "file").write_text("x")
    (made / "hott.json").write_text('{"hott": 1.0}')
    (made / "no").mkdir()
    (made / "no" / "case.py").write_text("raise RuntimeError('a script ran')\n")
    return made


@pytest.mark.parametrize("command", COMMANDS)
def test_a_wrong_command_is_answered_by_a_line(
    command: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    before = sorted(folder.rglob("*"))
    words = command.replace("CASE", "own/case.py").split()
    if "own/case.py" in words and words[0] not in ("plan", "serve") and "--resolution" not in words:
        words[2:2] = ["--resolution", "6"]
    assert main(words) == 2
    text = capsys.readouterr().err
    assert text.startswith("lrsa-coupled: error: ") and text.count("\n") == 1, text
    assert COMMANDS[command] in text
    made = [path for path in folder.rglob("*") if path not in before and "__pycache__" not in path.parts]
    assert not any(path.is_file() for path in made), made


def attach(names: dict[str, Any], **keywords: Any) -> Any:
    import lrsa_coupled

    return lrsa_coupled.attach(names["problem"], **keywords)


def learn(names: dict[str, Any], **keywords: Any) -> Any:
    return attach(names, **{"inputs": {"source": names["f"]}, "scalars": {"hot": names["hot"]}, **keywords})


def load(folder: str) -> Any:
    from lrsa_coupled import LearnedGuess

    return LearnedGuess.load(folder)


SCRIPTS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a flag for a folder": (lambda n: learn(n, learn=True), r"expected a folder or Learning\(folder, ...\), got True"),
    "a file": (lambda n: learn(n, learn="file"), "expected a folder for data and models, file is a file"),
    "the folder of a model": (lambda n: learn(n, learn="model"), "model holds a model, expected a data set or a new"),
    "data of another problem": (lambda n: learn(n, learn="data"), "holds a data set with name 'conduction' instead of"),
    "a list of inputs": (lambda n: learn(n, learn="d", inputs=[n["f"]]), "inputs must be a dict such as"),
    "a function as a scalar": (lambda n: learn(n, learn="d", scalars={"hot": n["f"]}), "name it under inputs"),
    "a text as a scalar": (lambda n: learn(n, learn="d", scalars={"hot": "warm"}), "must be a number, a Constant or"),
    "quantities and no folder": (lambda n: learn(n, quantities={"q": n["residual"]}), "give a folder, too"),
    "a folder for a guess": (lambda n: attach(n, guess="model"), r"LearnedGuess.load\(folder\) reads a trained model"),
    "no model": (lambda n: load("nowhere"), "give the folder of a model"),
    "an input of another name": (lambda n: attach(n, guess=load("model"), inputs={"sourc": n["f"]}), "'source'"),
    "a scalar left out": (lambda n: attach(n, guess=load("model"), inputs={"source": n["f"]}), "hot not given"),
    "a matrix for a solver": (lambda n: attach({"problem": n["f"]}, learn="d"), "expected a LinearProblem, a Nonl"),
    "a solver without unknown": (lambda n: attach({"problem": n["problem"].solver}, learn="d"), "u=... for a SNES or"),
}
"""Calls in a script that solves nonlinear heat conduction, in the same folder."""


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_wrong_call_is_answered_by_an_error(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    call, text = SCRIPTS[name]
    with pytest.raises((ValueError, TypeError), match=text) as caught:
        call(setup_script())
    assert "\n" not in str(caught.value)
