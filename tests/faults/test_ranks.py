"""Exceptions of five types at every function of a case, on one rank, in every verb: no hang, a true exit code.

A table is printed at the end of each test. A hang is a job that is still there ``BOUND`` seconds after the exception.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle, product
from pathlib import Path

import pytest

from lrsa_coupled.data.store import DataStore
from tests.helpers import ROOT, mpiexec, needs_dolfinx, plain_environment

pytestmark = [needs_dolfinx, pytest.mark.skipif(mpiexec() is None, reason="no mpiexec beside the interpreter")]

KINDS = ("ValueError", "OwnError", "NameError", "SystemExit", "KeyboardInterrupt")
BOUND, STARTED = 30.0, 300.0
AT_ONCE = int(os.environ.get("LRSA_FAULTS_AT_ONCE", "2"))
CASE = str(ROOT / "tests" / "faults" / "faulty_case.py")
TOOL = ("-c", "import sys; from lrsa_coupled.cli import main; sys.exit(main())")
SOLVES = ("sample", "mesh", "meshed", "problem", "methods", "make", "solve", "residual", "jacobian", "monitor")
TINY = ("--set", "operator.width=8", "--set", "operator.num_blocks=1", "--set", "operator.num_latents=4",
        "--set", "training.epochs=1", "--set", "training.batch_size=2", "--quiet")  # fmt: skip


@dataclass(frozen=True)
class Injection:
    """An exception of a kind at a place on a rank."""

    place: str
    rank: int
    kind: str


@dataclass(frozen=True)
class Outcome:
    """Exit code, None of a hang, seconds from the exception to the end, and what is wrong."""

    injection: Injection
    code: int | None
    seconds: float
    wrong: str


def each(places: tuple[str, ...], ranks: tuple[int, ...], kinds: int = len(KINDS)) -> list[Injection]:
    """At each place and rank exceptions of ``kinds`` kinds, in turn."""
    turn = cycle(KINDS)
    return [Injection(place, rank, next(turn)) for place, rank, _ in product(places, ranks, range(kinds))]


def inject(command: list[str], injection: Injection, folder: Path) -> Outcome:
    """Run a command until it ends or hangs."""
    folder.mkdir(parents=True)
    mark, place = folder / "mark", f"{injection.place}:{injection.rank}:{injection.kind}"
    environment = plain_environment() | {"FAULT": place, "FAULT_MARK": str(mark)}
    command = [part.format(out=folder / "out") for part in command]
    with (folder / "stdout").open("w") as out, (folder / "stderr").open("w") as err:
        job = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=err, start_new_session=True)
        started = time.time()
        raised = lambda: mark.stat().st_mtime if mark.exists() else started + STARTED  # noqa: E731
        while job.poll() is None and time.time() < raised() + BOUND:
            time.sleep(0.05)
        seconds, code = time.time() - raised(), job.poll()
        if code is None:
            os.killpg(job.pid, signal.SIGKILL)
            job.wait()
    return Outcome(injection, code, seconds, complaint(injection, code, mark.exists(), folder))


def complaint(injection: Injection, code: int | None, raised: bool, folder: Path) -> str:
    """Return what is wrong about the end of a run, empty for a true exit code and one report that names the place."""
    text = (folder / "stderr").read_text()
    expected = 130 if injection.kind == "KeyboardInterrupt" else 2
    in_case = f"the case failed, [\\w.]*{injection.kind}: (3: )?(injected|0)"
    what = "interrupted by Ctrl-C" if expected == 130 else f"(unexpected {injection.kind}: |{in_case}|injected)"
    reports = re.findall(r"^lrsa-coupled: error: (.*)$", text, re.MULTILINE)
    store = folder / "out"
    if not raised:
        return "the place is not reached"
    if code is None:
        return "hangs"
    if code != expected:
        return f"exit code {code} instead of {expected}"
    if len(reports) != 1 or not re.match(what, reports[0]):
        return f"reports {reports} instead of '{what}'"
    if expected == 2 and 'faulty_case.py", line' not in text and injection.place != "validate":
        return "no line of the case"
    if (store / "dataset.json").exists() and (DataStore(store).verify() or DataStore(store).failures()):
        return "damaged or failed samples"
    return ""


def run_all(
    name: str, command: list[str], injections: list[Injection], tmp_path: Path, say: Callable[[str], None]
) -> None:
    """Inject, print a table, and fail if anything is wrong."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        outcomes = list(pool.map(lambda item: inject(command, item[1], tmp_path / str(item[0])), enumerate(injections)))
    say(f"\n{name}\n{'place':10s} {'rank':>4s} {'kind':18s} {'code':>5s} {'seconds':>8s}  wrong")
    for outcome in outcomes:
        at, code = outcome.injection, "-" if outcome.code is None else outcome.code
        say(f"{at.place:10s} {at.rank:4d} {at.kind:18s} {code:>5} {outcome.seconds:8.1f}  {outcome.wrong}")
    wrong = [outcome for outcome in outcomes if outcome.wrong]
    say(f"{len(outcomes)} injections, {sum(o.code is None for o in outcomes)} hangs, {len(wrong)} wrong")
    assert not wrong, wrong


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    def show(text: str) -> None:
        with capsys.disabled():
            print(text, flush=True)

    return show


def on_ranks(ranks: int, *arguments: str, tool: tuple[str, ...] = TOOL) -> list[str]:
    return [str(mpiexec()), "-n", str(ranks), sys.executable, *tool, *arguments]


GENERATE = ("generate", CASE, "--samples", "2", "--out", "{out}", "--quiet")
SOLVE = ("solve", CASE, "--out", "{out}", "--quiet")
ALL = (*SOLVES, "features")
ONE = [sys.executable, *TOOL]
COMMANDS = {
    "generate, 1 process": ([*ONE, *GENERATE], each(ALL, (0,), 1)),
    "generate, 2 ranks, a sample each": (
        on_ranks(2, *GENERATE, "--samples", "3000"), each(("sample", "mesh", "methods", "solve", "features"), (1,), 1)),
    "generate, 2 ranks a sample": (on_ranks(2, *GENERATE, "--ranks-per-sample", "2"), each(ALL, (1,))),
    "generate, 3 ranks a sample": (
        on_ranks(3, *GENERATE, "--ranks-per-sample", "3"), each(("sample", "meshed", "make", "residual"), (0, 2), 1)),
    "solve, 1 process": ([*ONE, *SOLVE], each(("sample", "problem", "make", "residual", "jacobian"), (0,), 1)),
    "solve, 2 ranks": (on_ranks(2, *SOLVE), each(SOLVES, (1,), 2)),
    "solve, 3 ranks": (on_ranks(3, *SOLVE), each(("mesh", "methods", "solve", "residual", "monitor"), (0,), 1)),
    "bench, 2 ranks": (on_ranks(2, "bench", CASE, "--samples", "1", "--quiet"), each(SOLVES[::2], (1,), 1)),
    "check, 2 ranks": (on_ranks(2, "check", CASE, "--quiet"), each(("problem", "features", "residual"), (1,), 1)),
    "run, 2 ranks": (on_ranks(2, "run", CASE, "--out", "{out}", *TINY), each(("mesh", "residual"), (0,), 1)),
    "experiment, 2 ranks": (
        on_ranks(2, "experiment", "generation", CASE, "--samples", "1", "--quiet"), each(("meshed", "solve"), (1,), 1)),
}  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
def test_errors_of_a_case(name: str, tmp_path: Path, say: Callable[[str], None]) -> None:
    run_all(name, *COMMANDS[name], tmp_path, say)


def test_errors_in_a_training(tmp_path: Path, say: Callable[[str], None]) -> None:
    data = tmp_path / "data"
    generate = [sys.executable, *TOOL, "generate", CASE, "--samples", "8", "--out", str(data), "--quiet"]
    subprocess.run(generate, cwd=ROOT, env=plain_environment(), check=True, timeout=STARTED)
    tool = ("-m", "tests.faults.faulty_training")
    command = on_ranks(2, "train", str(data), "--out", "{out}", *TINY, tool=tool)
    run_all("train, 2 ranks", command, each(("validate",), (1,)), tmp_path, say)
