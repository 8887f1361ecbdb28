"""Studies and trainers that are killed, crash, hang, or run out of disk: nothing is lost, and the answers stay.

On one, two and three ranks. The solves are those of ``tests/mpi/test_study.py``.
"""

from __future__ import annotations

import itertools
import os
import shutil
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
import logging, os, resource, sys
from pathlib import Path
from mpi4py import MPI
logging.basicConfig(level=logging.INFO)
sys.path.insert(0, {root!r})
import numpy as np
from tests.mpi.test_study import Script, _save, learn
from lrsa_coupled.mpi import share
from lrsa_coupled.study import economy, trainer
economy.FIRST = 8
economy.decide = lambda *_: economy.Verdict(30.0, 1.0, "as told")
economy.worth_loading = lambda _: True
training, folder, comm = {training!r}, Path({folder!r}), MPI.COMM_WORLD
code = "import shutil, sys, time; from lrsa_coupled.study.trainer import obey; obey(int(sys.argv[1])); " + training
trainer.command = lambda data, out, minutes, initial: [sys.executable, "-c", code, str(os.getpid()), str(out)]
script = Script()
attached = learn(script, str(folder), solves=10**6) if {learns} else None
study = attached.learner.study if attached else None
if study:
    study.cores = 1
    if "made" in training:
        share(comm, lambda: _save(folder.parent / "made", attached.learner.seen.schema))
if {limit}:
    resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
for number in range({first}, {first} + {count}):
    values = script.solve(number)
    owned = script.space.dofmap.index_map.size_local
    answer = comm.allreduce(float(np.sum(values[:owned] ** 2)))
    process = study.trainer._process if study else None
    if comm.rank == 0:
        print(number, process.pid if process else 0, os.getpid(), answer, flush=True)
if study and comm.rank == 0:
    choices = [decision.choice for decision in attached.policy.decisions]
    print("end", study.trainer.given_up, "learned" in choices, study.log is None, flush=True)
"""
ROOT = str(Path(__file__).parents[2])
RANKS = (1, 2, 3)
SLEEPS = "time.sleep(60)"
TRAININGS = {
    "it crashes": "sys.exit('a crash')",
    "it is killed by the system": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "it hangs": "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)",
    "it leaves half a model": "import pathlib; pathlib.Path(sys.argv[2]).mkdir(); time.sleep(600)",
    "its weights are damaged": "made = {made!r}; shutil.copytree(made, sys.argv[2]); "
    "open(sys.argv[2] + '/model.safetensors', 'r+b').truncate(1000)",
    "its weights are not numbers": "made = {made!r}; shutil.copytree(made, sys.argv[2]); import numpy as np; "
    "from safetensors.numpy import load_file, save_file; name = sys.argv[2] + '/model.safetensors'; "
    "save_file({{key: np.full_like(value, np.nan) for key, value in load_file(name).items()}}, name)",
}


def start(
    folder: Path, first: int, count: int, *, ranks: int = 1, training: str = SLEEPS, learns: bool = True, limit: int = 0
) -> subprocess.Popen[str]:
    code = SCRIPT.format(
        root=ROOT, folder=str(folder), first=first, count=count, training=training, learns=learns, limit=limit
    )
    near = Path(sys.executable).parent / "mpiexec"
    launcher = [str(near) if near.is_file() else "mpiexec", "-n", str(ranks)] if ranks > 1 else []
    words = [*launcher, sys.executable, "-c", code]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


def answers(process: subprocess.Popen[str]) -> tuple[dict[int, float], list[str]]:
    """Return the answers that a study prints, and the words of its end."""
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    lines = [line.split() for line in out.splitlines()]
    found = {int(words[0]): float(words[3]) for words in lines if words[0].isdecimal()}
    return found, next((words[1:] for words in lines if words[0] == "end"), [])


def runs(number: int) -> bool:
    try:
        os.kill(number, 0)
        return " Z " not in Path(f"/proc/{number}/stat").read_text()
    except (ProcessLookupError, FileNotFoundError):
        return False


def samples(folder: Path) -> int:
    """Number of samples on disk, all of them whole."""
    store = DataStore(folder)
    assert not store.verify()
    return len(store.solved)


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("seed", range(6))
def test_a_study_that_is_killed_loses_nothing_and_leaves_nobody(tmp_path: Path, seed: int, ranks: int) -> None:
    """Where the seed is odd, while a training runs; where it is a multiple of three the trainer is killed, too."""
    delay = np.random.default_rng(seed).uniform(0.0, 0.5)
    process = start(tmp_path / "data", 0, 10**6, ranks=ranks)
    assert process.stdout is not None
    solved, trainer, own = _numbers(process.stdout.readline())
    end = time.monotonic() + delay
    while time.monotonic() < end or (seed % 2 and not trainer):
        solved, trainer, own = _numbers(process.stdout.readline())
    if trainer and seed % 3 == 0:
        os.kill(trainer, signal.SIGKILL)
    os.kill(own, signal.SIGKILL)  # rank 0; the launcher ends the others
    for line in process.stdout:
        if line.endswith("\n") and line[:1].isdecimal():  # not what the launcher says of the end
            solved, trainer, _ = _numbers(line)
    process.wait(60)
    time.sleep(0.5)
    assert not (trainer and runs(trainer))
    kept = samples(tmp_path / "data")
    assert kept > solved  # writing costs less than its share here: each sample is on disk before the next solve
    found, _ = answers(start(tmp_path / "data", 1000, 3, ranks=ranks))
    assert len(found) == 3 and samples(tmp_path / "data") == kept + 3


def _numbers(line: str) -> tuple[int, int, int]:
    solved, trainer, own = map(int, line.split()[:3])
    return solved, trainer, own


@pytest.mark.parametrize("ranks", RANKS)
def test_a_trainer_that_is_killed_is_given_up_and_the_study_goes_on(tmp_path: Path, ranks: int) -> None:
    process = start(tmp_path / "data", 0, 40, ranks=ranks)
    assert process.stdout is not None
    killed = set()
    for line in itertools.takewhile(lambda line: line.split()[0].isdecimal(), process.stdout):
        trainer = int(line.split()[1])
        if trainer and trainer not in killed:
            killed.add(trainer)
            os.kill(trainer, signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == 0 and len(killed) == 2 and samples(tmp_path / "data") == 40


@pytest.mark.parametrize("ranks", RANKS)
def test_whatever_becomes_of_the_trainings_the_answers_stay(tmp_path: Path, ranks: int) -> None:
    plain, _ = answers(start(tmp_path / "none", 0, 30, ranks=ranks, learns=False))
    for name, training in TRAININGS.items():
        shutil.rmtree(tmp_path / "data", ignore_errors=True)
        code = training.format(made=str(tmp_path / "made"))
        shutil.rmtree(tmp_path / "made", ignore_errors=True)
        found, (_, learned, _) = answers(start(tmp_path / "data", 0, 30, ranks=ranks, training=code))
        assert found == pytest.approx(plain, rel=1e-6), name
        assert samples(tmp_path / "data") == 30, name
        assert not list((tmp_path / "data" / "models").glob(".*")), name
        assert learned == "False" or "numbers" in name, name


@pytest.mark.parametrize("ranks", RANKS)
def test_a_full_disk_ends_collecting_alone(tmp_path: Path, ranks: int) -> None:
    plain, _ = answers(start(tmp_path / "none", 0, 20, ranks=ranks, learns=False))
    found, (_, _, ended) = answers(start(tmp_path / "data", 0, 20, ranks=ranks, limit=12_000))
    assert found == pytest.approx(plain, rel=1e-6) and ended == "True"
    kept = samples(tmp_path / "data")
    again, _ = answers(start(tmp_path / "data", 1000, 2, ranks=ranks))
    assert len(again) == 2 and samples(tmp_path / "data") == kept + 2
