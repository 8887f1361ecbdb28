"""The machine that measures: versions, processor, memory of this process."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import final

from lrsa_coupled.bench.rows import Header, flat


def header_of(study: str, case: str, settings: Mapping[str, object], *, ranks: int = 1) -> Header:
    """Return a header with settings by nested name, and the versions of what is loaded."""
    import torch

    machine: dict[str, str | int] = {
        "processor": _processor(),
        "cores": os.cpu_count() or 1,
        "threads_per_rank": torch.get_num_threads(),
    }
    return Header(study=study, case=case, ranks=ranks, versions=versions(), machine=machine, settings=flat(settings))


def versions() -> dict[str, str]:
    """Return the versions of what is loaded of Python, DOLFINx, PETSc and torch."""
    loaded = [name for name in ("dolfinx", "petsc4py", "torch") if name in sys.modules]
    return {"python": platform.python_version()} | {
        name: str(vars(sys.modules[name])["__version__"]) for name in loaded
    }


def memory(entry: str) -> int:
    """Return the memory of this process [bytes]: resident now (VmRSS), at its peak (VmHWM), or allocated (VmData).

    OSError where the system does not know it.
    """
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    found = [int(line.split()[1]) for line in lines if line.startswith(f"{entry}:")]
    if not found:
        raise OSError(f"the memory of a process cannot be measured here: /proc/self/status has no {entry}")
    return 1024 * found[0]


@final
class PeakMemory:
    """Memory needed from here on at the peak; freed memory that the allocator holds is given back first."""

    def __init__(self) -> None:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts from here
        self._before = memory("VmRSS")

    def grown(self) -> int:
        """Return the peak since, less the memory before [bytes]."""
        return memory("VmHWM") - self._before


def _processor() -> str:
    """Return the name of the processor on Linux, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
