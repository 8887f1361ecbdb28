"""A generate that is killed and run again gives the data set of an undisturbed run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mpi4py import MPI  # noqa: F401  (MPI is loaded before PETSc)

pytest.importorskip("dolfinx", reason="generation needs DOLFINx")

from lrsa_coupled.data.format import ARRAYS
from lrsa_coupled.data.store import DataStore

from tests.helpers import plain_environment

SAMPLES = 12
TOOL = [sys.executable, "-c", "import sys; from lrsa_coupled.cli import main; sys.exit(main())", "generate", "cavity", "--samples", str(SAMPLES), "--resolution", "8", "--seed", "5",
        "--set", "generate.samples_per_shard=2", "--quiet"]  # fmt: skip


def test_killed_run_is_completed(tmp_path: Path) -> None:
    environment = plain_environment()
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = subprocess.Popen([*TOOL, "--out", str(killed)], env=environment, start_new_session=True)
    deadline = time.monotonic() + 120.0
    while not list(killed.glob("shards/*.h5")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    done = set(DataStore(killed).status)
    assert 0 < len(done) < SAMPLES
    before = {path: path.stat().st_mtime_ns for path in killed.glob("shards/*.h5")}
    subprocess.run([*TOOL, "--out", str(killed)], env=environment, check=True)
    subprocess.run([*TOOL, "--out", str(whole)], env=environment, check=True)
    assert all(path.stat().st_mtime_ns == time_ns for path, time_ns in before.items())
    one, two = DataStore(killed), DataStore(whole)
    assert list(one.status) == list(two.status) == list(range(SAMPLES))
    for index in one.solved:
        first, second = one.read(index).arrays, two.read(index).arrays
        for name in ARRAYS:
            assert getattr(first, name).tobytes() == getattr(second, name).tobytes(), (index, name)
