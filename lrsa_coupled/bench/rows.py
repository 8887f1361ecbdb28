"""Results of measurements as JSON Lines: a ``Header`` first, then one ``Row`` for one method on one sample.

All times are of the slowest rank [s]. The types below are the format: what a file holds is checked against them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np

from lrsa_coupled.files import write_text_atomically
from lrsa_coupled.reading import open_regular

type Scalar = bool | int | float | str | None
type Values = dict[str, Scalar]

Count = Annotated[int, msgspec.Meta(ge=0)]
Ranks = Annotated[int, msgspec.Meta(ge=1)]
Time = Annotated[float, msgspec.Meta(ge=0.0)]
Positive = Annotated[float, msgspec.Meta(gt=0.0)]


MOST_BYTES = 1 << 28
"""Bytes of a file of results that are read."""


class Cost(msgspec.Struct, frozen=True):
    """What the data and the training of an operator took, wall time x ranks [s]; None where its card does not say."""

    data: Positive | None = None
    training: Positive | None = None

    @property
    def total(self) -> float | None:
        """The sum, None unless both are known."""
        return None if self.data is None or self.training is None else self.data + self.training


class Seconds(msgspec.Struct, frozen=True, kw_only=True):
    """Times of one solve by stage: medians of the repeats; ``setup`` makes the solver."""

    total: Positive
    transfer: Time = 0.0
    inference: Time = 0.0
    setup: Time = 0.0
    solve: Time = 0.0


class Header(msgspec.Struct, frozen=True, kw_only=True, tag="header", tag_field="record"):
    """What was measured, with what, on which machine.

    Args:
        study: ``bench``, or the name of the experiment.
        case: Empty for an experiment without one.
        rtol: Residual norm at the end relative to that of the zero guess; None if each row has its own.
        machine: Processor, cores, threads of a rank.
        costs: Of the operators, by method.
        settings: By dotted name.
    """

    study: str
    case: str
    seed: int | None = None
    resolution: int | None = None
    ranks: Ranks = 1
    rtol: Positive | None = None
    versions: dict[str, str] = {}
    machine: dict[str, str | int] = {}
    costs: dict[str, Cost] = {}
    settings: dict[str, Scalar] = {}


class Row(msgspec.Struct, frozen=True, kw_only=True, tag="row", tag_field="record"):
    """One method on one sample.

    Args:
        case: It, ``study`` and ``ranks`` are those of the header.
        unknowns: Of the discrete problem, on all ranks.
        iterations: Of the nonlinear solver, or of the linear one of a linear problem.
        solved: Whether the true residual meets the tolerance.
        residual: Its Euclidean norm, None when not finite.
        atol: Tolerance of that norm.
        start_error: Of the initial guess against the converged first output, mass-weighted L2; None for a zero guess.
        used_fallback: Whether the default method took over.
        reason: Why it is not solved.
        decisions: Of the adaptive policy, one a repeat.
        values: What an experiment measures besides.
    """

    case: str = ""
    study: str = ""
    method: str
    sample: Count
    unknowns: Count | None = None
    ranks: Ranks = 1
    seconds: Seconds
    iterations: Count = 0
    solved: bool
    residual: float | None = None
    atol: Positive | None = None
    start_error: Time | None = None
    used_fallback: bool = False
    reason: str | None = None
    decisions: tuple[dict[str, Scalar], ...] = ()
    values: Values = {}

    def number(self, name: str) -> float:
        """Return a number of ``values``; NaN where it is None."""
        value = self.values[name]
        return np.nan if value is None else float(value)


@dataclass(frozen=True)
class Results:
    """A header and its rows."""

    header: Header
    rows: Sequence[Row]

    @classmethod
    def of(cls, header: Header, rows: Iterable[Row]) -> Results:
        """Return rows with the case, the study and the ranks of a header."""
        shared = {"case": header.case, "study": header.study, "ranks": header.ranks}
        return cls(header, [msgspec.structs.replace(row, **shared) for row in rows])

    @property
    def methods(self) -> dict[str, list[Row]]:
        """The rows of each method, in the order of their first rows."""
        found: dict[str, list[Row]] = {}
        for row in self.rows:
            found.setdefault(row.method, []).append(row)
        return found

    @property
    def num_samples(self) -> int:
        """The most samples of a method."""
        return max((len({row.sample for row in rows}) for rows in self.methods.values()), default=0)

    @property
    def solved_times(self) -> dict[str, dict[int, float]]:
        """The total seconds of every solved sample, by method and index."""
        return {
            name: {row.sample: row.seconds.total for row in rows if row.solved} for name, rows in self.methods.items()
        }

    @property
    def unknowns(self) -> list[int]:
        """Of the samples of the first method; empty unless all are known."""
        counts = [row.unknowns for row in next(iter(self.methods.values()), [])]
        known = [count for count in counts if count is not None]
        return known if len(known) == len(counts) else []


def write_rows(results: Results, path: Path) -> None:
    """Write results by atomic rename, numbers that are not finite as null. Call on one rank."""
    lines = (msgspec.json.encode(item).decode() for item in (results.header, *results.rows))
    write_text_atomically(path, "".join(f"{line}\n" for line in lines))


def read_rows(path: Path) -> Results:
    """Read results.

    Raises:
        ValueError: If the file cannot be read or holds something else; names file and line.
    """
    expected = "expected results as 'lrsa-coupled bench CASE --json FILE' writes them"
    try:
        with open_regular(path) as stream:
            lines = stream.read(MOST_BYTES).splitlines()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); {expected}") from error
    if not lines:
        raise ValueError(f"{path}: empty; {expected}")
    decoder: msgspec.json.Decoder[Header | Row] = msgspec.json.Decoder(Header | Row)
    header: Header | None = None
    rows: dict[object, Row] = {}
    for number, line in enumerate(lines, start=1):
        try:
            header = _add(decoder.decode(line), line, header, rows)
        except (ValueError, RecursionError) as error:
            what = f"not valid JSON ({error})" if type(error) is msgspec.DecodeError else str(error)
            raise ValueError(f"{path}, line {number}: {what}; {expected}") from error
    assert header is not None
    return Results(header, list(rows.values()))


def _add(item: Header | Row, line: bytes, header: Header | None, rows: dict[object, Row]) -> Header:
    """Return the header, once a row is added to the others; refuse what may not stand there."""
    if isinstance(item, Header):
        if header is not None:
            raise ValueError("a second header")
        return item
    if header is None:
        raise ValueError("a row before the header")
    # Experiments measure a sample at several tolerances or sizes; the repeats of bench are one row.
    key = (item.method, item.sample) if header.study == "bench" else line
    if key in rows:
        raise ValueError(f"a second row of '{item.method}' on sample {item.sample}")
    rows[key] = item
    return header


def flat(settings: Mapping[str, object], prefix: str = "") -> dict[str, Scalar]:
    """Return nested settings by dotted name."""
    found: dict[str, Scalar] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value if isinstance(value, bool | int | float | None) else str(value)
    return found
