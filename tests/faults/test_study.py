"""Studies and trainers that are killed: what is on disk is whole, nothing runs on, and the next run goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mpi4py.MPI", reason="the study needs MPI")  # before DOLFINx, which needs its library
pytest.importorskip("dolfinx", reason="the study needs DOLFINx")

from lrsa_coupled.data.store import DataStore

SCRIPT = """
import sys, time, logging
from pathlib import Path
logging.basicConfig(level=logging.INFO)
sys.path.insert(0, {root!r})
from tests.mpi.test_study import Script, learn
from lrsa_coupled.study import economy, trainer
economy.FIRST = 8
economy.decide = lambda *_: economy.Verdict(30.0, 1.0, "as told")
code = "import sys, time; from lrsa_coupled.study.trainer import obey; obey(int(sys.argv[1])); time.sleep(60)"
trainer.command = lambda *_: [sys.executable, "-c", code, str(__import__("os").getpid())]
script = Script()
attached = learn(script, {folder!r}, solves=10**6)
attached.learner.study.cores = 1
for number in range({first}, {first} + {count}):
    script.solve(number)
    process = attached.learner.study.trainer._process
    print(number, process.pid if process else 0, flush=True)
"""
ROOT = str(Path(__file__).parents[2])


def start(folder: Path, first: int, count: int) -> subprocess.Popen[str]:
    code = SCRIPT.format(root=ROOT, folder=str(folder), first=first, count=count)
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def runs(number: int) -> bool:
    try:
        os.kill(number, 0)
        return " Z " not in Path(f"/proc/{number}/stat").read_text()
    except (ProcessLookupError, FileNotFoundError):
        return False


@pytest.mark.parametrize("seed", range(6))
def test_a_study_that_is_killed_loses_nothing_and_leaves_nobody(tmp_path: Path, seed: int) -> None:
    delay = np.random.default_rng(seed).uniform(0.0, 0.5)
    process = start(tmp_path / "data", 0, 10**6)
    assert process.stdout is not None
    solved, trainer = map(int, process.stdout.readline().split())
    end = time.monotonic() + delay
    while time.monotonic() < end or (seed % 2 and not trainer):
        solved, trainer = map(int, process.stdout.readline().split())
    process.send_signal(signal.SIGKILL)
    process.wait()
    for line in process.stdout:
        solved, trainer = map(int, line.split()) if line.endswith("\n") else (solved, trainer)
    time.sleep(0.5)
    assert not (trainer and runs(trainer))
    kept = share_of(tmp_path / "data")
    assert kept > solved  # writing costs less than its share here: each sample is on disk before the next solve
    again = start(tmp_path / "data", 1000, 3)
    again.communicate(timeout=120)
    assert again.returncode == 0 and share_of(tmp_path / "data") == kept + 3


def share_of(folder: Path) -> int:
    """Number of samples on disk, all of them whole."""
    store = DataStore(folder)
    assert not store.verify()
    return len(store.solved)


def test_a_trainer_that_is_killed_is_given_up_and_the_study_goes_on(tmp_path: Path) -> None:
    process = start(tmp_path / "data", 0, 40)
    assert process.stdout is not None
    killed = set()
    for line in process.stdout:
        trainer = int(line.split()[1])
        if trainer and trainer not in killed:
            killed.add(trainer)
            os.kill(trainer, signal.SIGKILL)
    assert process.wait() == 0 and len(killed) == 2 and share_of(tmp_path / "data") == 40
