"""Policies of the guarded solver: which guess a solve begins with, and how much it may cost.

``Always`` takes the first guess. ``Adaptive`` has a record: the wall time of the last solves by each choice (a guess,
or ``DEFAULT``), transfer, inference and failed attempts included, of problems of about the same size on as many ranks.
Each choice is measured once, the default solve first, as the budget of the others is a share of it; then the one of
least geometric mean is taken. Another is tried when for all the record shows it may be faster, as long as such trials
have lost little: its mean less a standard error is below, or its last solve failed and there have been less than
``patience``.

A guess that failed or was rejected ``patience`` times in a row rests for ``rest`` solves, and is then tried again.

Once it has been measured, no guess is used whose risk the account does not cover. The account is the ``budget``, a
share of all default time so far, and what guesses have saved, less what they have lost. The risk is what the guess lost
when it failed last, or what it takes before its solve and for an iteration, after which it can be given up. So bad
guesses take no more than the budget of a run, even if an iteration costs more than the budget of one solve.
"""

from __future__ import annotations

import json
import logging
import math
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np

from lrsa_coupled.config import GuessConfig
from lrsa_coupled.files import write_text_atomically

logger = logging.getLogger(__name__)

DEFAULT = "default"
"""Name of the default solve among the choices."""


@dataclass(frozen=True)
class Choice:
    """What a solve begins with.

    Args:
        name: Name of the guess, or ``DEFAULT``.
        why: Reason, for people.
        max_iterations: Newton iterations allowed to a solve from the guess, None for the solver's own limit.
        max_residual: Limit of the acceptance test, None to leave the test out.
        expected: Expected time of a default solve; None to let the solve run without a convergence monitor [s].
        budget: What a guess that fails may cost [s].
    """

    name: str
    why: str
    max_iterations: int | None = None
    max_residual: float | None = None
    expected: float | None = None
    budget: float = math.inf


@dataclass(frozen=True)
class Decision:
    """What was chosen for one solve and what came of it.

    Args:
        number: Counts the solves, from 1.
        choice: Name of the guess, or ``DEFAULT``.
        why: Reason for the choice.
        outcome: ``converged``, ``rejected`` (before the solve), ``abandoned`` or ``failed`` (in it), then the reason.
        wasted: Time spent on a guess that was not used in the end [s].
        seconds: Time of the solve, ``wasted`` included [s].
        risk: What a guess takes before its solve, and an iteration [s]; 0 for the default solve.
        solved: Whether the problem was solved in the end, by the choice or by the default solve after it.
    """

    number: int
    choice: str
    why: str
    outcome: str
    wasted: float
    seconds: float
    risk: float = 0.0
    solved: bool = True

    @property
    def good(self) -> bool:
        """Whether the choice led to the solution."""
        return self.outcome == "converged"


class Policy(ABC):
    """Chooses what a solve begins with; the same on all ranks, as it is given the times of the slowest.

    Attributes:
        max_distance: Standard deviations from the training up to which a learned guess is evaluated.
        decisions: All decisions so far.
        log_level: Of the line about each solve.
    """

    max_distance: float = math.inf
    log_level: int = logging.INFO

    def __init__(self) -> None:
        self.decisions: list[Decision] = []

    @abstractmethod
    def choose(self, kind: str, names: Sequence[str]) -> Choice:
        """Choose for a problem of a kind among the guesses of these names. Collective: no."""

    def note(self, kind: str, decision: Decision) -> None:
        """Take down what came of a choice. Collective: no."""
        self.decisions.append(decision)

    def save(self) -> None:
        """Write what outlives the run, if anything. Call on one rank."""

    def summary(self) -> str:
        """Return a line for each choice: how often, what came of it, what bad guesses have cost."""
        return "\n".join(self._line(name) for name in dict.fromkeys(d.choice for d in self.decisions))

    def _line(self, name: str) -> str:
        chosen = [d for d in self.decisions if d.choice == name]
        if not chosen:
            return f"{name}: never chosen"
        outcomes = Counter(d.outcome.split(":")[0] for d in chosen)
        counts = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items())
        times = f"median {np.median([d.seconds for d in chosen]):.3g} s, {sum(d.wasted for d in chosen):.3g} s lost"
        return f"{name}: chosen {len(chosen)} times ({counts}), {times} on bad guesses"


@final
class Always(Policy):
    """Takes the first guess for every solve, with a limit of Newton iterations; no choice depends on a time."""

    log_level = logging.DEBUG

    def __init__(self, max_iterations: int | None = None) -> None:
        super().__init__()
        self.max_iterations = max_iterations

    def choose(self, kind: str, names: Sequence[str]) -> Choice:
        return Choice(names[0] if names else DEFAULT, "always", self.max_iterations)


@dataclass(frozen=True)
class Tolerances:
    """Numbers of the adaptive policy.

    Args:
        window: Solves of a choice that the record holds.
        trials: Share of all time that may be lost on trials, after the first measurement of each choice.
        least_spread: Standard deviation of the logarithm of a time, when too few are known for a larger one.
        first_spread: The same before any choice has been measured twice.
    """

    window: int = 50
    trials: float = 0.05
    least_spread: float = 0.02
    first_spread: float = 0.3


TOLERANCES = Tolerances()


class _Record:
    """Times of the choices on problems of one kind."""

    def __init__(self, logs: Mapping[str, Sequence[float]] | None = None) -> None:
        self.logs = {name: deque(values, maxlen=TOLERANCES.window) for name, values in (logs or {}).items()}
        self.lost = self.total = 0.0
        self.streaks: Counter[str] = Counter()
        self.rests: dict[str, int] = {}
        self.risks: dict[str, float] = {}

    def add(self, choice: str, seconds: float) -> None:
        logs = self.logs.setdefault(choice, deque(maxlen=TOLERANCES.window))
        logs.append(math.log(max(seconds, 1e-9)))

    def mean(self, choice: str) -> float:
        return float(np.mean(self.logs[choice]))

    def affordable(self, choice: str, best: str) -> bool:
        """Return whether one more trial of a choice leaves the time lost on trials within its share."""
        times = {name: math.exp(self.mean(name)) for name in (choice, best)}
        return self.lost + times[choice] - times[best] <= TOLERANCES.trials * (self.total + times[choice])

    def covers(self, choice: str, budget: float) -> bool:
        """Return whether what guesses may still lose is enough for this one."""
        if choice not in self.risks or DEFAULT not in self.logs:
            return True
        times = {name: np.exp(logs) for name, logs in self.logs.items()}
        default = times.pop(DEFAULT)
        saved = sum(float(np.sum(default.mean() * (1.0 + budget) - own)) for own in times.values())
        return self.risks[choice] <= budget * float(default.sum()) + saved

    def lowest(self, choice: str) -> float:
        """Return the mean less a standard error, the spread being that of all choices together."""
        freedom = sum(len(values) - 1 for values in self.logs.values())
        square = sum(len(values) * float(np.var(values)) for values in self.logs.values())
        spread = math.sqrt(square / freedom) if freedom else TOLERANCES.first_spread
        return self.mean(choice) - max(spread, TOLERANCES.least_spread) / math.sqrt(len(self.logs[choice]))

    def times(self, *names: str) -> str:
        """Return the mean times, for people."""
        return ", ".join(f"{name} {math.exp(self.mean(name)):.3g} s over {len(self.logs[name])}" for name in names)


@final
class Adaptive(Policy):
    """Takes what the record of costs promises to be fastest; the text of the module has the rules.

    Args:
        settings: Budget, limits and the file of the record.
        names: Names of the guesses.
        guess_first: Whether a guess that is not measured goes before the default solve, with ``max_iterations`` as its
            limit: where a program makes one solve, measuring the default would be all that it does.

    Raises:
        ValueError: If a name is doubled or ``DEFAULT``, or the file of the record holds something else.
    """

    def __init__(self, settings: GuessConfig, names: Sequence[str], *, guess_first: bool = False) -> None:
        super().__init__()
        if len({*names, DEFAULT}) != len(names) + 1:
            raise ValueError(f"guesses need names of their own, none of them '{DEFAULT}', got {', '.join(names)}")
        self.settings, self.names, self.guess_first = settings, tuple(names), guess_first
        self.max_distance = settings.max_distance
        self._records = _read(Path(settings.record)) if settings.record else {}

    def choose(self, kind: str, names: Sequence[str]) -> Choice:
        record, settings = self._record(kind), self.settings
        name, why = self._choose(record, names)
        if name == DEFAULT:
            return Choice(name, why)
        if DEFAULT not in record.logs:
            return Choice(name, why, settings.max_iterations, settings.max_residual)
        expected = self.expected(kind)
        return Choice(name, why, None, settings.max_residual, expected, settings.budget * expected)

    def expected(self, kind: str) -> float:
        """Return the expected time of a default solve of this kind, which has been measured [s]. Collective: no."""
        return math.exp(self._records[kind].mean(DEFAULT))

    def note(self, kind: str, decision: Decision) -> None:
        super().note(kind, decision)
        record, name = self._record(kind), decision.choice
        best = min(record.logs, key=record.mean, default=name)
        if name != best:
            record.lost += max(0.0, decision.seconds - math.exp(record.mean(best)))
        record.total += decision.seconds
        record.add(name, decision.seconds)
        record.rests.pop(name, None)
        if name == DEFAULT:
            return
        record.risks[name] = max(decision.risk, decision.wasted)
        if decision.good:
            record.streaks[name] = 0
            return
        record.add(DEFAULT, decision.seconds - decision.wasted)
        record.streaks[name] += 1
        if record.streaks[name] >= self.settings.patience:
            record.rests[name] = len(self.decisions) + self.settings.rest
            record.streaks[name] = self.settings.patience - 1  # the next failure after the rest is enough
            logger.warning("the %s guess rests for %d solves: %s", name, self.settings.rest, decision.outcome)

    def save(self) -> None:
        if self.settings.record:
            logs = {kind: {name: [*log] for name, log in r.logs.items()} for kind, r in self._records.items()}
            write_text_atomically(Path(self.settings.record), json.dumps(logs) + "\n")

    def summary(self) -> str:
        return "\n".join(self._line(name) for name in (*self.names, DEFAULT))

    def _record(self, kind: str) -> _Record:
        return self._records.setdefault(kind, _Record())

    def _choose(self, record: _Record, names: Sequence[str]) -> tuple[str, str]:
        number = len(self.decisions)
        awake = [name for name in names if record.rests.get(name, 0) <= number]
        covered = [name for name in awake if record.covers(name, self.settings.budget)]
        choices = [*covered, DEFAULT] if self.guess_first else [DEFAULT, *covered]
        for name in choices:
            if name not in record.logs:
                return name, "not yet measured"
        best = min(choices, key=record.mean)
        for name in choices:
            if name in record.rests and record.affordable(name, best):
                return name, "its rest is over"
            unlucky = 0 < record.streaks[name] <= len(record.logs[name]) < self.settings.patience
            if name != best and (unlucky or record.lowest(name) < record.mean(best)) and record.affordable(name, best):
                return name, f"may be faster than {best}: {record.times(name, best)}"
        asleep = [f"{name} rests until solve {record.rests[name] + 1}" for name in names if name not in awake]
        dear = [f"what {name} may lose is not yet within the budget" for name in awake if name not in covered]
        return best, "; ".join([f"fastest by the record: {record.times(*choices)}", *asleep, *dear])


def make_policy(settings: GuessConfig, names: Sequence[str], *, guess_first: bool = False) -> Policy:
    """Make the policy that the settings ask for, the adaptive one if none; ``guess_first``: see ``Adaptive``."""
    if settings.policy == "always":
        return Always(settings.max_iterations)
    return Adaptive(settings, names, guess_first=guess_first)


Gate = Adaptive
"""The adaptive policy under its earlier name."""


def _read(path: Path) -> dict[str, _Record]:
    """Read the record of an earlier run, if there is one; version 0.1 names the default solve 'classical'."""
    if not path.exists():
        return {}
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        records = {}
        for kind, times in content.items():
            logs = {name: [float(value) for value in values] for name, values in times.items()}
            records[kind] = _Record({DEFAULT if n == "classical" else n: log for n, log in logs.items()})
        return records
    except (OSError, ValueError, TypeError, AttributeError) as error:
        text = f"{path} is not a record of costs of initial guesses ({error}): remove it or name another file"
        raise ValueError(text) from error
