"""An estimate on two ranks that is killed five times ends with the numbers of one that was not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers import ROOT, mpiexec, needs_dolfinx, plain_environment

pytestmark = needs_dolfinx
VERB = "import sys; from lrsa_coupled.cli import main; sys.exit(main())"
PILOT = 32


def start(folder: Path) -> subprocess.Popen[bytes]:
    """Start an estimate in a session of its own, so that all its ranks can be killed at once."""
    asked = ["estimate", str(ROOT / "tests/rods.py"), "--quantity", "integral", "--error", "0.004", "--method", "gp"]
    command = [str(mpiexec()), "-n", "2", sys.executable, "-c", VERB, *asked, "--sobol", "10", "--out", str(folder)]
    return subprocess.Popen(
        command, cwd=ROOT, env=plain_environment(), start_new_session=True, stdout=subprocess.DEVNULL
    )


def solved(folder: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in (folder / "solves").glob("*.jsonl"))


def killed_after(folder: Path, count: int) -> int:
    """Kill an estimate when it has made some more solves; return how many there are."""
    process, before = start(folder), solved(folder)
    while solved(folder) < before + count and process.poll() is None:
        time.sleep(0.001)
    assert process.poll() is None, "it has ended before it was killed"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return solved(folder)


@pytest.mark.skipif(mpiexec() is None, reason="there is no launcher of MPI")
def test_five_kills(tmp_path: Path) -> None:
    assert start(tmp_path / "whole").wait(timeout=300) == 0
    counts = [killed_after(tmp_path / "parts", more) for more in (1, 7, 9, 10, 12)]
    assert counts[-1] > PILOT  # one of them came after the pilot
    assert start(tmp_path / "parts").wait(timeout=300) == 0
    whole, parts = (json.loads((tmp_path / name / "result.json").read_text()) for name in ("whole", "parts"))
    for name in ("quantities", "sobol", "solves", "method", "reached"):
        assert parts[name] == whole[name]
