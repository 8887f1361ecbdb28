"""Memory of this process, as Linux tells it."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import final


def memory(entry: str) -> int:
    """Return the memory of this process [bytes]: resident now (VmRSS), at its peak (VmHWM), or allocated (VmData)."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{entry}:"))


@final
class PeakMemory:
    """What is needed from here on at the peak; what was freed but kept by the allocator is given back first, as it would hide the peak."""

    def __init__(self) -> None:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts from here
        self._before = memory("VmRSS")

    def grown(self) -> int:
        """Return the peak since, less what there was [bytes]."""
        return memory("VmHWM") - self._before
