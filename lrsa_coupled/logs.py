"""Logging and progress bars, of rank 0 only."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterable
from typing import Any

from lrsa_coupled import mpi

NAME = "lrsa_coupled"


LIBRARIES = "torch dolfinx ufl basix ffcx petsc4py mpi4py h5py numpy scipy sklearn matplotlib safetensors"


def setup(verbosity: int = 0) -> None:
    """Send records of rank 0, and errors of any, to stderr: warnings at -1, information at 0, everything from 1 on.

    Python's warnings of libraries, which would stand over the message of an error, are printed from 1 on.
    """
    if verbosity < 1 and not sys.warnoptions:
        warnings.filterwarnings("ignore", module=rf"({LIBRARIES.replace(' ', '|')})(\.|$)")
    root = logging.getLogger()
    for handler in [h for h in root.handlers if h.get_name() == NAME]:
        root.removeHandler(handler)
    handler = logging.StreamHandler(sys.stderr)
    handler.set_name(NAME)
    handler.setFormatter(logging.Formatter("%(message)s" if verbosity < 1 else "%(name)s: %(message)s"))
    handler.addFilter(lambda record: mpi.rank() == 0 or record.levelno >= logging.ERROR)
    root.addHandler(handler)
    level = {-1: logging.WARNING, 0: logging.INFO}.get(max(verbosity, -1), logging.DEBUG)
    logging.getLogger(NAME).setLevel(level)


def progress(
    iterable: Iterable[Any] | None = None,
    *,
    description: str,
    unit: str = "sample",
    delay: float = 0.0,
    total: int | None = None,
    done: int = 0,
) -> Any:
    """Return a tqdm bar; silent on ranks above 0 and until ``setup`` has asked for information. Collective: no.

    The bar appears after ``delay`` [s]. Without ``iterable`` it is moved by ``update``, up to ``total``; ``done`` steps
    were taken before.
    """
    from tqdm import tqdm

    silent = mpi.rank() != 0 or not logging.getLogger(NAME).isEnabledFor(logging.INFO)
    # mpirun gives no terminal: every update is then a line of its own in a log file.
    interval = 0.1 if sys.stderr.isatty() else 2.0
    bar = {"desc": description, "unit": unit, "delay": delay, "total": total, "initial": done}
    return tqdm(iterable, disable=silent, mininterval=interval, file=sys.stderr, **bar)
