"""The gate: for every solve, the start that its record of costs promises to end soonest, and no more than a budget for one that goes wrong.

A choice is one of the starts, or ``CLASSICAL``. The record holds the wall time of the last ``WINDOW`` solves by each choice, transfer, inference
and failed attempts included, of problems of about the same size on the same number of ranks. Each choice is measured once, the classical
one first, as the budget of the others is a share of it; then the one of least geometric mean is taken. Another is tried when for all the
record says it may be quicker, as long as such trials have lost less than the share ``TRIALS`` of all time: its mean less a standard error is
below, or its last solve went wrong and there have been less than ``patience`` of them.

A start that failed or was rejected ``patience`` times in a row rests for ``rest`` solves, and is then tried again.

Once it has been measured, no start is used whose risk the account does not cover. The account is the ``budget``, a share of all classical time so
far, and what starts have saved, less what they have lost. The risk is what the start has lost when last it went wrong, or what it takes before its
solve and for an iteration, after which it can be given up. So bad starts take no more than the budget allows of a run, even such as cannot be told
from good ones before an iteration that costs more than the budget of one solve.
"""

from __future__ import annotations

import json
import logging
import math
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np

from lrsa_coupled.config import GuessConfig
from lrsa_coupled.files import write_text_atomically

logger = logging.getLogger(__name__)

CLASSICAL = "classical"
WINDOW = 50
"""Solves of a choice that the record remembers."""

TRIALS = 0.05
"""Share of all time that may be lost on finding out which choice is quickest, after the first measurement of each."""

LEAST_SPREAD = 0.02
"""Standard deviation of the logarithm of a time, when too few have been seen to know a larger one."""

FIRST_SPREAD = 0.3
"""The same before any choice has been measured twice."""


@dataclass(frozen=True)
class Decision:
    """What the gate decided on one solve and what came of it.

    Args:
        number: Counts the solves, from 1.
        choice: Name of the start, or ``CLASSICAL``.
        why: Reason for the choice.
        outcome: ``converged``, ``rejected`` (before the solve), ``abandoned`` or ``failed`` (during it), then the reason.
        wasted: Time spent on a start that was not used in the end [s].
        seconds: Time of the solve, ``wasted`` included [s].
        risk: What a start takes before its solve, and an iteration [s]; 0 for the classical one.
    """

    number: int
    choice: str
    why: str
    outcome: str
    wasted: float
    seconds: float
    risk: float = 0.0

    @property
    def good(self) -> bool:
        """Whether the choice led to the solution."""
        return self.outcome == "converged"


class _Record:
    """Times of the choices on problems of one kind."""

    def __init__(self, logs: Mapping[str, Sequence[float]] | None = None) -> None:
        self.logs = {name: deque(values, maxlen=WINDOW) for name, values in (logs or {}).items()}
        self.lost = self.total = 0.0
        self.streaks: Counter[str] = Counter()
        self.rests: dict[str, int] = {}
        self.risks: dict[str, float] = {}

    def add(self, choice: str, seconds: float) -> None:
        self.logs.setdefault(choice, deque(maxlen=WINDOW)).append(math.log(max(seconds, 1e-9)))

    def mean(self, choice: str) -> float:
        return float(np.mean(self.logs[choice]))

    def affordable(self, choice: str, best: str) -> bool:
        """Tell whether one more trial of a choice leaves the time lost on trials within its share."""
        times = {name: math.exp(self.mean(name)) for name in (choice, best)}
        return self.lost + times[choice] - times[best] <= TRIALS * (self.total + times[choice])

    def covers(self, choice: str, budget: float) -> bool:
        """Tell whether what the starts may still lose is enough for this one."""
        if choice not in self.risks:
            return True
        times = {name: np.exp(logs) for name, logs in self.logs.items()}
        saved = sum(
            float(np.sum(times[CLASSICAL].mean() * (1.0 + budget) - own))
            for name, own in times.items()
            if name != CLASSICAL
        )
        return self.risks[choice] <= budget * float(times[CLASSICAL].sum()) + saved

    def lowest(self, choice: str) -> float:
        """Return the mean less a standard error, the spread being that of all choices together."""
        squares = [(np.array(values) - np.mean(values)) ** 2 for values in self.logs.values()]
        freedom = sum(len(values) - 1 for values in squares)
        spread = math.sqrt(sum(values.sum() for values in squares) / freedom) if freedom else FIRST_SPREAD
        return self.mean(choice) - max(spread, LEAST_SPREAD) / math.sqrt(len(self.logs[choice]))


@final
class Gate:
    """Chooses starts and keeps the record of their costs; the same on all ranks when it is told the same times.

    Args:
        settings: Budget, limits and where the record is kept.
        starts: Names of the starts.

    Attributes:
        decisions: All decisions so far.

    Raises:
        ValueError: If a name is doubled or that of the classical start, or the file of the record holds
            something else.
    """

    def __init__(self, settings: GuessConfig, starts: Sequence[str]) -> None:
        _check(starts)
        self.settings = settings
        self.starts = tuple(starts)
        self.decisions: list[Decision] = []
        self._records: dict[str, _Record] = _read(Path(settings.record)) if settings.record else {}

    def choose(self, kind: str) -> tuple[str, str]:
        """Return the choice for the next solve of a problem of this kind, and why. Collective: no."""
        record = self._records.setdefault(kind, _Record())
        number = len(self.decisions)
        awake = [name for name in self.starts if record.rests.get(name, 0) <= number]
        covered = [name for name in awake if record.covers(name, self.settings.budget)]
        choices = [CLASSICAL, *covered]
        for name in choices:
            if name not in record.logs:
                return name, "not yet measured"
        best = min(choices, key=record.mean)
        for name in choices:
            if name in record.rests and record.affordable(name, best):
                return name, "its rest is over"
            unlucky = 0 < record.streaks[name] <= len(record.logs[name]) < self.settings.patience
            if name != best and (unlucky or record.lowest(name) < record.mean(best)) and record.affordable(name, best):
                return name, f"may be quicker than {best}: {_times(record, name)}, {_times(record, best)}"
        asleep = [f"{name} rests until solve {record.rests[name] + 1}" for name in self.starts if name not in awake]
        dear = [f"what {name} may lose is not yet within the budget" for name in awake if name not in covered]
        return best, "; ".join(
            [f"quickest by the record: {', '.join(_times(record, name) for name in choices)}", *asleep, *dear]
        )

    def expected(self, kind: str) -> float:
        """Return the time that the record expects of a classical solve of this kind, which it has measured [s]. Collective: no."""
        return math.exp(self._records[kind].mean(CLASSICAL))

    def note(self, kind: str, decision: Decision) -> None:
        """Take a decision and its outcome into the record. Collective: no; the times must be the same on all ranks."""
        record = self._records.setdefault(kind, _Record())
        self.decisions.append(decision)
        best = min(record.logs, key=record.mean, default=decision.choice)
        if decision.choice != best:
            record.lost += max(0.0, decision.seconds - math.exp(record.mean(best)))
        record.total += decision.seconds
        record.add(decision.choice, decision.seconds)
        record.rests.pop(decision.choice, None)
        if decision.choice == CLASSICAL:
            return
        record.risks[decision.choice] = max(decision.risk, decision.wasted)
        if decision.good:
            record.streaks[decision.choice] = 0
            return
        record.add(CLASSICAL, decision.seconds - decision.wasted)
        record.streaks[decision.choice] += 1
        if record.streaks[decision.choice] >= self.settings.patience:
            record.rests[decision.choice] = len(self.decisions) + self.settings.rest
            record.streaks[decision.choice] = self.settings.patience - 1  # the next failure after the rest is enough
            logger.warning(
                "gate: %s is switched off for %d solves: %s", decision.choice, self.settings.rest, decision.outcome
            )

    def save(self) -> None:
        """Write the record, when it has a file, by atomic rename. Call on one rank."""
        if self.settings.record:
            content = {
                kind: {name: list(logs) for name, logs in record.logs.items()} for kind, record in self._records.items()
            }
            write_text_atomically(Path(self.settings.record), json.dumps(content) + "\n")

    def summary(self) -> str:
        """Return a table of what was chosen, what came of it, and what bad starts have cost."""
        lines = []
        for name in (*self.starts, CLASSICAL):
            taken = [d for d in self.decisions if d.choice == name]
            if not taken:
                lines.append(f"gate: {name}: never chosen")
                continue
            outcomes = Counter(d.outcome.split(":")[0] for d in taken)
            counts = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items())
            middle = float(np.median([d.seconds for d in taken]))
            wasted = sum(d.wasted for d in taken)
            lines.append(
                f"gate: {name}: chosen {len(taken)} times ({counts}), median {middle:.3g} s, {wasted:.3g} s lost on bad starts"
            )
        return "\n".join(lines)


def _times(record: _Record, name: str) -> str:
    return f"{name} {math.exp(record.mean(name)):.3g} s over {len(record.logs[name])}"


def _check(starts: Sequence[str]) -> None:
    if len({*starts, CLASSICAL}) != len(starts) + 1:
        raise ValueError(f"starts must have names of their own, none of them '{CLASSICAL}', got {', '.join(starts)}")


def _read(path: Path) -> dict[str, _Record]:
    """Read the record of an earlier run, nothing when there is no file."""
    if not path.exists():
        return {}
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        return {
            kind: _Record({name: [float(value) for value in logs] for name, logs in times.items()})
            for kind, times in content.items()
        }
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is not a record of costs that the gate wrote ({error}): remove it or name another file"
        ) from error
