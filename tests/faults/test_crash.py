"""A generate that is killed at random moments, each time run again, gives the data set of an undisturbed run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI

pytest.importorskip("dolfinx", reason="generation needs DOLFINx")

from lrsa_coupled.data.format import ARRAYS
from lrsa_coupled.data.store import DataStore
from tests.helpers import mpiexec, plain_environment

KILLS = int(os.environ.get("LRSA_KILLS", "2"))
SAMPLES = 10 * KILLS
TOOL = [
    sys.executable,
    "-c",
    "import sys; from lrsa_coupled.cli import main; sys.exit(main())",
    "generate",
    "cavity",
    "--samples",
    str(SAMPLES),
    "--resolution",
    "8",
    "--seed",
    "5",
    "--set",
    "generate.samples_per_shard=4",
    "--quiet",
]


def present(folder: Path) -> set[int]:
    return set(DataStore(folder).entries) if (folder / "dataset.json").exists() else set()


@pytest.mark.skipif(mpiexec() is None, reason="no mpiexec beside the interpreter")
def test_killed_runs_lose_nothing_but_the_samples_in_flight(tmp_path: Path) -> None:
    environment, rng = plain_environment(), np.random.default_rng(0)
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    done: set[int] = set()
    for _ in range(KILLS):
        process = subprocess.Popen(
            [str(mpiexec()), "-n", "2", *TOOL, "--out", str(killed)], env=environment, start_new_session=True
        )
        deadline = time.monotonic() + 120.0
        while len(present(killed)) <= len(done) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(rng.uniform(0.0, 1.0))
        at_kill = present(killed)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert done <= at_kill <= present(killed)
        done = present(killed)
    assert 0 < len(done) < SAMPLES
    codes = [
        subprocess.run([*command, "--out", str(folder)], env=environment, check=False).returncode
        for command, folder in (([str(mpiexec()), "-n", "2", *TOOL], killed), (TOOL, whole))
    ]
    one, two = DataStore(killed), DataStore(whole)
    assert codes == [int(len(two.solved) < SAMPLES)] * 2
    assert one.entries == two.entries and list(one.entries) == list(range(SAMPLES))
    for index in one.solved:
        first, second = one.read(index).arrays, two.read(index).arrays
        for name in ARRAYS:
            assert getattr(first, name).tobytes() == getattr(second, name).tobytes(), (index, name)
    assert one.content_hash() == two.content_hash()
