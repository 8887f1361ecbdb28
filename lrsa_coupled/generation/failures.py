"""What a sample may fail of, see ``coupling/failures.py``, and what is a mistake of its case."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
from mpi4py import MPI

from lrsa_coupled.coupling.failures import is_numerical
from lrsa_coupled.data.format import digest
from lrsa_coupled.generation.plan import sample_parameters
from lrsa_coupled.interfaces import Case, NumericalError
from lrsa_coupled.mpi import allreduce, collective_errors

REMEDY = "draw from the generator given to sample() alone"

__all__ = ["check_draw", "is_numerical", "numerical_failures", "parameters_text", "same_on_all_ranks"]


def check_draw(case: Case, seed: int, comm: MPI.Comm) -> None:
    """ValueError on all ranks unless a case draws the same first sample each time and on all of them. Collective."""
    with collective_errors(comm):
        drawn = [sample_parameters(case, seed, 0) for _ in range(2)]
        texts = [parameters_text(each) for each in drawn]
        if texts[0] != texts[1]:
            found = f"got {texts[0]} and {texts[1]}"
            raise ValueError(f"sample 0 of '{case.name}' must be the same each time it is drawn, {found}: {REMEDY}")
        try:
            msgspec.convert(json.loads(texts[0]), type(drawn[0]))  # as 'solve --parameters' reads them
        except msgspec.ValidationError as error:
            kind = type(drawn[0]).__name__
            raise ValueError(f"sample() of '{case.name}' does not draw what {kind} declares: {error}") from error
        except TypeError:  # an annotation that msgspec does not know
            pass
        same_on_all_ranks(comm, texts[0], what=f"sample 0 of '{case.name}'")


def parameters_text(parameters: Any) -> str:
    """Return the parameters of a sample as JSON; TypeError when they cannot be written."""
    try:
        return json.dumps(dataclasses.asdict(parameters))
    except TypeError as error:
        raise TypeError(
            f"parameters must be numbers of Python and tuples of them, got {parameters}: {error}"
        ) from error


def same_on_all_ranks(comm: MPI.Comm, text: str, *, what: str) -> None:
    """ValueError on all ranks unless all of them have the same text. Collective, as ``mpi.allreduce``."""
    mark = digest([text.encode()])
    ends = allreduce(comm, (mark, mark), lambda one, two: (min(one[0], two[0]), max(one[1], two[1])))
    if ends[0] != ends[1]:
        raise ValueError(f"{what} must be the same on all ranks, it differs: {REMEDY}")


@contextmanager
def numerical_failures(comm: MPI.Comm, what: str) -> Iterator[None]:
    """Raise each failure of a sample on one rank as a NumericalError on all, any other error as ``collective_errors``.

    Collective. A mistake has the note that it is in ``what``.
    """
    with collective_errors(comm):
        try:
            yield
        except Exception as error:
            if is_numerical(error):
                raise NumericalError(f"{type(error).__name__}: {error}".splitlines()[0]) from error
            error.add_note(f"in {what}")
            raise
