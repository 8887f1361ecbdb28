"""What several test modules share."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lrsa_coupled.files import process_name

ROOT = Path(__file__).resolve().parents[1]

needs_dolfinx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("dolfinx", "mpi4py")),
    reason="DOLFINx is not installed (extra 'fem')",
)


def mpiexec() -> str | None:
    """Return the launcher that came with this interpreter's MPI library; None without one."""
    path = Path(sys.executable).parent / "mpiexec"
    return str(path) if path.is_file() else None


def plain_environment() -> dict[str, str]:
    """Return the environment of a subprocess: no traces of an MPI launcher, the repository on the path."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PMI", "OMPI_", "MPI_", "HYDRA", "HYDI"))}
    return kept | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def killed_process() -> str:
    """Return the name that a process which has ended had."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return process_name().replace(f"~{os.getpid()}", f"~{ended.pid}")
