"""Signals at random moments: what is run again gives what an undisturbed run gives, no process is left behind.

A command is run again and again, each time with a signal at a random moment; when it ends by itself its result is
compared and it begins anew. ``LRSA_KILLS`` is the number of signals that have hit each command (8).
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI

pytest.importorskip("dolfinx", reason="generation needs DOLFINx")

from lrsa_coupled.bench.cost import measure
from lrsa_coupled.config import Config, LrsaConfig, TrainingConfig
from lrsa_coupled.data.format import record_digest
from lrsa_coupled.data.store import DataStore
from lrsa_coupled.training.loop import train
from tests.faults import collecting
from tests.faults.jobs import TOOL, Job

KILLS = int(os.environ.get("LRSA_KILLS", "8"))
PATIENCE = 90.0
"""Time for a job to end after a signal [s]; of a graceful end it is that of a sample, whose forms may be compiled."""

GRACEFUL = (signal.SIGTERM, signal.SIGUSR1)
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
STOPPED = 3


@dataclasses.dataclass(frozen=True)
class Subject:
    """A command to be killed.

    Args:
        command: For an output folder.
        ranks: Numbers of ranks, in turn.
        result: What does not depend on kills.
        is_graceful: Whether SIGTERM and SIGUSR1 end it with the exit code 3.
    """

    command: Callable[[Path], list[str]]
    ranks: tuple[int, ...]
    result: Callable[[Path], str]
    is_graceful: bool = True


def generate(case: str, *settings: str) -> Callable[[Path], list[str]]:
    flags = [word for setting in settings for word in ("--set", f"generate.{setting}")]
    return lambda out: [*TOOL, "generate", case, *flags, "--seed", "5", "--quiet", "--out", str(out)]


def content(folder: Path) -> str:
    store = DataStore(folder)
    assert not store.verify()
    return store.content_hash()


def collected(folder: Path) -> str:
    """Hash of the samples in the order of their parameters: after a kill the indices have gaps."""
    store, numbers = DataStore(folder), collecting.numbers(folder)
    assert not store.verify() and len(store.entries) == len(numbers) == collecting.COUNT
    records = (dataclasses.replace(store.read(numbers[n]), index=n) for n in range(collecting.COUNT))
    return hashlib.sha256("".join(record_digest(record, timing=False) for record in records).encode()).hexdigest()


def trained(folder: Path) -> str:
    (state,) = (folder / "last").glob("state-*.safetensors")
    return hashlib.sha256(state.read_bytes() + (folder / "model.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set and a model of the script, and a cache of compiled forms."""
    folder = tmp_path_factory.mktemp("inputs")
    collecting.main(folder / "data", None)
    operator = LrsaConfig(width=32, num_blocks=2, num_heads=2, num_latents=16)
    training = TrainingConfig(epochs=3, batch_size=4, num_points=None, device="cpu")
    train(folder / "data", folder / "model", Config(operator=operator, training=training))
    return folder


def subjects(inputs: Path) -> dict[str, Subject]:
    small = ["operator.width=32", "operator.num_blocks=2", "training.epochs=30", "training.save_every=0.2"]
    flags = [word for setting in (*small, "training.device=cpu") for word in ("--set", setting)]
    cavity = generate("cavity", "samples=40", "samples_per_shard=4")
    darcy = generate("darcy", "samples=24", "samples_per_shard=4", "samples_per_chain=4")
    return {
        "generate, gmsh": Subject(lambda out: [*cavity(out), "--resolution", "8"], (1, 2), content),
        "generate, fixed mesh": Subject(lambda out: [*darcy(out), "--resolution", "24"], (2, 1), content),
        "train": Subject(
            lambda out: [*TOOL, "train", str(inputs / "data"), "--out", str(out), *flags, "--quiet"], (1,), trained
        ),
        "collector, attached": Subject(
            lambda out: [sys.executable, "-m", "tests.faults.collecting", str(out), str(inputs / "model")],
            (1,),
            collected,
            is_graceful=False,
        ),
    }


NAMES = ("generate, gmsh", "generate, fixed mesh", "train", "collector, attached")


@dataclasses.dataclass(frozen=True)
class Shot:
    """What came of one signal."""

    signal: str
    to: str
    ranks: int
    moment: float
    code: int
    seconds: float

    def __str__(self) -> str:
        after = f"after {self.moment:5.2f} s: exit code {self.code:3d} {self.seconds:5.2f} s later"
        return f"{self.signal:8s} to {self.to:8s} of {self.ranks} ranks {after}"


@pytest.mark.parametrize("name", NAMES)
def test_signals_at_random_moments(name: str, inputs: Path, tmp_path: Path) -> None:
    subject, rng = subjects(inputs)[name], np.random.default_rng(NAMES.index(name))
    cache = {"XDG_CACHE_HOME": str(tmp_path / "cache")} if "generate" in name else {}  # kills hit compilation, too
    whole = Job(subject.command(tmp_path / "whole"), tmp_path / "log", ranks=subject.ranks[0])
    finished = whole.code(600.0)  # 1 where samples fail
    assert (finished in (0, 1), whole.left()) == (True, {}), whole.output()
    expected, duration = subject.result(tmp_path / "whole"), time.monotonic() - whole.started
    shots: list[Shot] = []
    out = tmp_path / "killed"
    for attempt in itertools.count():
        if len(shots) == KILLS:
            break
        number, begins = SIGNALS[len(shots) % len(SIGNALS)], not out.exists()
        job = Job(
            subject.command(out), tmp_path / "log", ranks=subject.ranks[attempt % len(subject.ranks)], environment=cache
        )
        try:
            shot = shoot(job, number, rng.uniform(0.0, duration), subject=subject, rng=rng, finished=finished)
            assert job.left() == {}, f"{shot}\n{job.output()}"
        finally:
            job.end()
        if shot is not None:
            print(f"{name}: {shot}", flush=True)
            shots.append(shot)
        else:
            assert subject.result(out) == expected, job.output()
            shutil.rmtree(out)
            if begins:  # forms are compiled by now, and less may run beside
                duration = min(duration, time.monotonic() - job.started)
    last = Job(subject.command(out), tmp_path / "log", ranks=subject.ranks[0], environment=cache)
    assert (last.code(600.0), last.left()) == (finished, {}), last.output()
    assert subject.result(out) == expected
    assert [str(path) for path in out.rglob("*.tmp")] == []


def shoot(
    job: Job, number: signal.Signals, moment: float, *, subject: Subject, rng: np.random.Generator, finished: int
) -> Shot | None:
    """Send a signal at a moment and wait for the end; None when the job has ended before."""
    caught = False
    while time.monotonic() < job.started + moment and job.process.poll() is None:
        caught = caught or job.catches(number)
        time.sleep(0.1)
    if job.process.poll() is not None:
        assert job.process.returncode == finished, job.output()
        return None
    to, processes = choose(job, number, rng)
    catches = job.catches(number)
    job.send(number, processes)
    sent = time.monotonic()
    code = job.code(PATIENCE)
    assert code is not None, f"{number.name} to {to} has not ended it in {PATIENCE} s\n{job.output()}"
    shot = Shot(number.name, to, job.num_ranks, moment, code, time.monotonic() - sent)
    if code == finished and number != signal.SIGKILL:
        return None  # it was about to end
    if subject.is_graceful and number in GRACEFUL:
        if caught and not catches:
            return None  # after its work, which is found to be whole
        assert code == STOPPED if catches else code in died(number), f"{shot}\n{job.output()}"
    elif number != signal.SIGKILL:
        assert code in died(number), f"{shot}\n{job.output()}"
    return shot


def died(number: signal.Signals) -> tuple[int, int]:
    """Return the exit codes after a signal, of a shell and of MPICH's launcher."""
    return 128 + number, number


def choose(job: Job, number: signal.Signals, rng: np.random.Generator) -> tuple[str, Sequence[int]]:
    """Return whom a signal goes to: all, one rank, or the launcher."""
    ranks = job.ranks()
    options: list[tuple[str, Sequence[int]]] = [("ranks", ranks)]
    if job.process.pid not in ranks:
        options += [("launcher", [job.process.pid])]
        options += [("one rank", ranks[:1]), ("all", list(job.processes()))] if number == signal.SIGKILL else []
    return options[rng.integers(len(options))]


ENDLESS = """
import sys, time
from pathlib import Path
from lrsa_coupled.bench import cost
def measured(work):
    Path(work).touch()
    time.sleep(1000)
if __name__ == "__main__":
    cost.measure(sys.argv[1])
cost._measured = measured
"""


@pytest.mark.parametrize("number", SIGNALS)
def test_a_measurement_ends_with_the_process_that_waits_for_it(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "endless.py").write_text(ENDLESS, encoding="utf-8")
    job = Job([sys.executable, str(tmp_path / "endless.py"), str(tmp_path / "begun")], tmp_path / "log")
    try:
        while not (tmp_path / "begun").exists():
            assert job.process.poll() is None, job.output()
            time.sleep(0.01)
        assert len(job.processes()) > 1
        job.send(number, [job.process.pid])
        assert (job.code(PATIENCE), job.left()) == (128 + number, {})
    finally:
        job.end()


def test_a_mistake_in_a_measurement_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="ended with exit code 1; its error is above"):
        measure("no work")
