"""Two of every verb at once in one folder: one works and the other names it; two that make one data set share it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from lrsa_coupled.bench.rows import write_rows
from lrsa_coupled.data.store import DataStore
from tests.helpers import ROOT, mpiexec, needs_dolfinx, plain_environment
from tests.mpi.test_jobs import SAMPLES, loads
from tests.results import method, results
from tests.unit.test_training import write

pytestmark = needs_dolfinx
VERB = "import sys; from lrsa_coupled.cli import main; sys.exit(main())"
COLLECT = "import sys; from pathlib import Path; from tests.mpi.test_jobs import Job; "
COLLECT += "Job(int(sys.argv[1])).collect(Path(sys.argv[2]), 0)"
STOP = "from tests.faults.stop import stop_after; stop_after('lrsa_coupled.{}'); "
IN_LOCK, AFTER_SAMPLE = STOP.format("files:_take"), STOP.format("data.writer:ShardWriter.add")
TINY = ["--set", "operator.width=8", "--set", "operator.num_blocks=1", "--set", "operator.num_latents=4"]
TINY += ["--set", "training.epochs=2", "--set", "training.batch_size=4"]
WRITERS = {
    "train": ["train", "{tmp}/data", *TINY, "--set", "training.num_points=20", "--out", "{out}"],
    "export": ["export", "{tmp}/data", "--out", "{out}"],
    "merge": ["merge", "{tmp}/data", "{tmp}/more", "--out", "{out}"],
    "evaluate": ["evaluate", "{tmp}/model", "{tmp}/data", "--pictures", "{out}"],
    "report": ["report", "{tmp}/rows.jsonl", "--html", "{out}"],
    "solve": ["solve", "cavity", "--resolution", "4", "--out", "{out}"],
    "bench": ["bench", "cavity", "--samples", "1", "--resolution", "4", "--only", "zero", "--json", "{out}"],
    "experiment": ["experiment", "certificates", "darcy", "--samples", "1", "--resolution", "8", "--json", "{out}"],
    "run": ["run", "darcy", *TINY, "--set", "generate.samples=8", "--set", "problem.resolution=8", "--out", "{out}"],
}


def start(code: str, arguments: Sequence[str], before: str = "") -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", before + code, *arguments],
        cwd=ROOT,
        env=plain_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until_stopped(process: subprocess.Popen) -> None:
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status), process.communicate()


def go_on(process: subprocess.Popen) -> tuple[int, str]:
    os.kill(process.pid, signal.SIGCONT)
    _, text = process.communicate(timeout=200)
    return process.returncode, text


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tmp = tmp_path_factory.mktemp("given")
    for name, seed in (("data", 0), ("more", 1)):
        write(tmp / name, 12, seed=seed)
    write_rows(results(method("zero", [1.0])), tmp / "rows.jsonl")
    arguments = [each.format(tmp=tmp, out=tmp / "model") for each in WRITERS["train"]]
    assert start(VERB, arguments).wait(200) == 0
    return tmp


@pytest.mark.parametrize(("name", "ranks"), [*((name, 1) for name in WRITERS), ("solve", 2), ("train", 2)])
def test_the_second_names_the_first(name: str, ranks: int, given: Path, tmp_path: Path) -> None:
    if ranks > 1 and mpiexec() is None:
        pytest.skip("no mpiexec beside the interpreter")
    out = tmp_path / "out"
    arguments = [each.format(tmp=given, out=out) for each in WRITERS[name]]
    first = start(VERB, arguments, IN_LOCK)
    wait_until_stopped(first)
    launcher = [] if ranks == 1 else [str(mpiexec()), "-n", str(ranks)]
    second = subprocess.run(
        [*launcher, sys.executable, "-c", VERB, *arguments],
        cwd=ROOT,
        env=plain_environment(),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    line = f"lrsa-coupled: error: {out} is being written by process {first.pid} on {os.uname().nodename}; "
    assert second.returncode == 2 and second.stderr.startswith(line) and second.stderr.count("\n") == 1, second.stderr
    code, text = go_on(first)
    assert code == 0, text
    assert not [*tmp_path.rglob("*.lock*"), *tmp_path.rglob("*.tmp")]


def test_a_killed_holder_blocks_nobody(given: Path, tmp_path: Path) -> None:
    arguments = [each.format(tmp=given, out=tmp_path / "out") for each in WRITERS["train"]]
    first = start(VERB, arguments, IN_LOCK)
    wait_until_stopped(first)
    first.kill()
    first.communicate()
    second = start(VERB, arguments)
    _, text = second.communicate(timeout=200)
    assert second.returncode == 0, text


def test_two_generates_share_the_work_and_both_say_so(tmp_path: Path) -> None:
    arguments = ["generate", "darcy", "--samples", "8", "--resolution", "6", "--set", "generate.samples_per_shard=3"]
    whole, shared = tmp_path / "whole", tmp_path / "shared"
    assert start(VERB, [*arguments, "--out", str(whole)]).wait(200) == 0
    first = start(VERB, [*arguments, "--out", str(shared)], AFTER_SAMPLE)
    wait_until_stopped(first)
    second = start(VERB, [*arguments, "--out", str(shared)])
    out, text = second.communicate(timeout=200)
    assert second.returncode == 0 and "8 samples, 8 solved; 7 made" in out, text
    assert go_on(first)[0] == 0
    assert DataStore(shared).content_hash() == DataStore(whole).content_hash()
    assert DataStore(shared).verify() == []


def test_two_collectors_lose_nothing(tmp_path: Path) -> None:
    first = start(COLLECT, ["1", str(tmp_path / "data")], AFTER_SAMPLE)
    wait_until_stopped(first)
    second = start(COLLECT, ["2", str(tmp_path / "data")])
    assert second.wait(200) == 0
    assert go_on(first)[0] == 0
    assert loads(tmp_path / "data") == [100.0 * job + number for job in (1, 2) for number in range(SAMPLES)]


def test_without_a_compiler_training_says_it(given: Path, tmp_path: Path) -> None:
    arguments = [each.format(tmp=given, out=tmp_path / "out") for each in WRITERS["train"]]
    cache = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"), "PATH": str(tmp_path), "CXX": ""}
    done = subprocess.run(
        [sys.executable, "-c", VERB, *arguments, "--set", "training.compile=true"],
        cwd=ROOT,
        env=plain_environment() | cache,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert "lrsa-coupled: error: training.compile=true: torch cannot compile here" in done.stderr
