"""Three collectors in one folder at the same time, as processes of their own; one is killed in the middle."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from mpi4py import MPI

pytest.importorskip("dolfinx", reason="the collector needs DOLFINx")

from lrsa_coupled.data.claims import SMALLEST
from lrsa_coupled.data.store import DataStore
from tests.helpers import ROOT, plain_environment
from tests.mpi.test_jobs import SAMPLES, Job, loads, wanted

JOBS = 3


def start(folder: Path, number: int, wait_after: int = -1) -> subprocess.Popen:
    code = f"from pathlib import Path; from tests.mpi.test_jobs import Job; Job({number}).collect(Path('{folder}'), 0, "
    code += f"wait_after={wait_after})"
    command = [sys.executable, "-c", code]
    return subprocess.Popen(command, cwd=ROOT, env=plain_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def test_three_jobs_at_once_and_one_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    others = [start(folder, number) for number in range(1, JOBS)]
    killed = start(folder, 0, wait_after=3)
    assert killed.stdout is not None and killed.stdout.readline() == b"waiting\n"
    assert [other.wait(250) for other in others] == [0] * (JOBS - 1)
    alone = {p.name for p in (folder / "shards").glob("*-1-*.h5")}
    assert len(alone) == 3  # the job is at work: nobody touches its shards
    killed.kill()
    killed.communicate()
    assert loads(folder) == [0.0, 1.0, 2.0, *wanted(*range(1, JOBS), count=SAMPLES)]
    Job(7).collect(folder, 0)  # and merges what it has left
    assert loads(folder) == [0.0, 1.0, 2.0, *wanted(*range(1, JOBS), 7, count=SAMPLES)]
    assert not list((folder / "shards").glob("*-1-*.h5"))
    assert max(DataStore(folder).entries) < (JOBS + 2) * SMALLEST
