"""The part of a traceback that a user can do something about: that in a case of their own."""

from __future__ import annotations

import traceback
from collections.abc import Iterator

OWN_CASE = "lrsa_coupled_own_case_"
"""Begins the names of the modules of users' own cases."""


def own_trace(error: BaseException) -> str:
    """Return the traceback of an error from the first line in a user's own case on, empty when none is in it.

    That of what caused the error is preferred. The last line is type and text of the error. Collective: no.
    """
    for each in reversed([*_chain(error)]):
        frames = each.__traceback__
        while frames is not None and not str(frames.tb_frame.f_globals.get("__name__")).startswith(OWN_CASE):
            frames = frames.tb_next
        if frames is not None or isinstance(each, SyntaxError):
            found = traceback.TracebackException(type(each), each, frames)
            found.__notes__ = []
            return "".join(found.format(chain=False))
    return next((note for note in notes(error) if note.startswith("Traceback")), "")


def notes(error: BaseException) -> list[str]:
    """Return the notes of an error and of what caused it."""
    return list(dict.fromkeys(note for each in _chain(error) for note in getattr(each, "__notes__", ())))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, what caused it, and so on."""
    seen: list[BaseException] = []
    while error is not None and not any(error is each for each in seen):
        yield error
        seen.append(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
