"""``lrsa-coupled`` with a training that fails before it validates; see ``faulty_case.py``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from lrsa_coupled import cli, mpi
from lrsa_coupled.training import loop
from tests.faults.faulty_case import KINDS  # here: PETSc starts on all ranks at once

validate = loop.validate


def failing(*args: Any, **kwargs: Any) -> Any:
    _, rank, kind = os.environ["FAULT"].split(":")
    if mpi.rank() == int(rank):
        Path(os.environ["FAULT_MARK"]).touch()
        raise KINDS[kind]()
    return validate(*args, **kwargs)


if __name__ == "__main__":
    loop.validate = failing
    sys.exit(cli.main())
