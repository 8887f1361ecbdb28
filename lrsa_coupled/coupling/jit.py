"""Forms that DOLFINx compiles: one that a killed run of ours was compiling is compiled by the next run.

FFCx marks a form that is being compiled by its C file in the cache. Whoever finds the mark waits for the library, ten
seconds unless told otherwise, and gives up: after a kill every run that needs the form does so, until somebody removes
the file. Here a file beside it names the process that compiles.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ffcx.codegeneration.jit as ffcx
from mpi4py import MPI
import dolfinx.jit

from lrsa_coupled.files import may_be_running, process_name

PATIENCE = 60
"""Time to wait for a form that another process compiles [s]: many ranks on few cores may need the same one."""

MARK = ".process"

_find = ffcx.get_cached_module


def compile_abandoned_forms() -> None:
    """Let this process compile the forms that processes which have ended have left. Collective: no.

    For programs of ours: it changes FFCx in the whole process. What a process without this call, or one of another
    machine, was compiling when it was killed is not known to be abandoned.
    """
    dolfinx.jit.DOLFINX_DEFAULT_JIT_OPTIONS["timeout"] = (PATIENCE, "Timeout for JIT compilation")
    ffcx.get_cached_module = _find_or_mark


def _find_or_mark(module_name: str, object_names: list[str], cache_dir: Path | str, timeout: int) -> Any:
    """As the function of FFCx: wait for a compiled form and return it, or None when the caller has to compile it."""
    folder, is_compiled = Path(cache_dir), Path(cache_dir, f"{module_name}.c.cached").exists()
    for mark in folder.glob(f"{module_name}.*{MARK}"):
        process = mark.name.removeprefix(f"{module_name}.").removesuffix(MARK)
        if (is_compiled or not may_be_running(process)) and _removed(mark) and not is_compiled:
            Path(folder, f"{module_name}.c").unlink(missing_ok=True)
    found = _find(module_name, object_names, cache_dir, timeout)
    if found[0] is None:
        Path(folder, f"{module_name}.{process_name()}{MARK}").touch()
    return found


def _removed(path: Path) -> bool:
    """Remove a file and return whether this process did it, and not another one at the same time."""
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True
