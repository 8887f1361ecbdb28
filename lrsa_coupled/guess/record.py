"""What solves by each choice have cost so far, on problems of one kind."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import numpy.typing as npt

DEFAULT, LEARNED = "default", "learned"
"""Names of the default solve and of the solve from a prediction among the choices."""

LARGEST = 100.0

type Entry = tuple[float, bool]
"""Logarithm of the time of a solve [s], and whether it ended with a solution."""


@dataclass(frozen=True)
class Tolerances:
    """Numbers of the adaptive policy.

    Args:
        window: Solves of a choice that the record holds.
        trials: Share of all time that may be lost on trials, after the first measurement of each choice.
        least_spread: Standard deviation of the logarithm of a time, when too few are known for a larger one.
        first_spread: The same before any choice has been measured twice.
        surprise: Probability below which failures in a row say that something has changed.
    """

    window: int = 50
    trials: float = 0.05
    least_spread: float = 0.02
    first_spread: float = 0.3
    surprise: float = 1e-3


TOLERANCES = Tolerances()


@final
class Record:
    """Times of the choices on problems of one kind.

    What counts is the cost of a solved problem: the geometric mean of the times over the share of solves that ended
    with a solution, infinite when none has. Costs are logarithms.

    Attributes:
        number: Solves so far.
        iterations: Those of default solves with a solution, of this run.
        outcomes: Whether the last tries of a guess have led to the solution, in this run.
        streaks: Failures of a guess in a row.
        rests: The number of solves from which a guess is tried again.
        risks: What a guess that goes wrong is expected to lose [s].
        errors: Expected relative error of a guess when it was first measured, where it was known.
        lost: Time lost against the best choice [s].
        changed: Guesses that have changed since they were measured.
    """

    def __init__(self, logs: Mapping[str, Iterable[Entry]] | None = None) -> None:
        self.logs = {name: deque(entries, maxlen=TOLERANCES.window) for name, entries in (logs or {}).items()}
        self.number = 0
        self.iterations: deque[int] = deque(maxlen=TOLERANCES.window)
        self.outcomes: dict[str, deque[bool]] = {}
        self.streaks: Counter[str] = Counter()
        self.rests: dict[str, int] = {}
        self.risks: dict[str, float] = {}
        self.errors: dict[str, float] = {}
        self.changed: set[str] = set()
        self.lost = self._total = 0.0

    def add(self, choice: str, seconds: float, solved: bool) -> None:
        """Add a solve."""
        self.logs.setdefault(choice, deque(maxlen=TOLERANCES.window)).append((math.log(max(seconds, 1e-9)), solved))
        self.changed.discard(choice)

    def count(self, choice: str, seconds: float, solved: bool, wasted: float = 0.0) -> None:
        """Count a solve, before it is added: what it has wasted, or lost against the best choice.

        One without solution has lost its time and what the best choice takes for a solution.
        """
        self.number += 1
        self._total += seconds
        best = min(self.logs, key=self.cost, default=choice)
        if choice != best and self.cost(best) < math.inf:
            value = math.exp(self.cost(best))
            self.lost += (wasted or max(0.0, seconds - value)) if solved else seconds + value

    def cost(self, choice: str) -> float:
        """Return the cost of a solved problem."""
        solved = len(self.solved(choice))
        return self._mean(choice) - math.log(solved / len(self.logs[choice])) if solved else math.inf

    def solved(self, choice: str) -> npt.NDArray[np.float64]:
        """Return the logarithms of the times of the solves that ended with a solution."""
        return np.array([log for log, solved in self.logs.get(choice, ()) if solved])

    def lowest(self, choice: str) -> float:
        """Return the cost that is still possible: less a standard error, and as if the next solve had a solution.

        The spread is that of all choices together.
        """
        logs = [logs for name in self.logs if len(logs := self.solved(name))]
        freedom = sum(len(values) - 1 for values in logs)
        square = sum(len(values) * float(np.var(values)) for values in logs)
        spread = math.sqrt(square / freedom) if freedom else TOLERANCES.first_spread
        error = max(spread, TOLERANCES.least_spread) / math.sqrt(len(self.logs[choice]))
        share = (len(self.solved(choice)) + 1) / (len(self.logs[choice]) + 1)
        return self._mean(choice) - error - math.log(share)

    def affordable(self, choice: str, best: str, trials: float = TOLERANCES.trials) -> bool:
        """Return whether one more trial of a choice leaves the time lost on trials within its share."""
        if self.cost(best) == math.inf:
            return True  # where nothing solves, nothing is lost
        time, value = math.exp(self._mean(choice)), math.exp(self.cost(best))
        share = len(self.solved(choice)) / len(self.logs[choice])
        return self.lost + time + (1.0 - 2.0 * share) * value <= trials * (self._total + time)

    def note_outcome(self, guess: str, good: bool) -> None:
        """Note whether a try of a guess has led to the solution."""
        self.outcomes.setdefault(guess, deque(maxlen=TOLERANCES.window)).append(good)
        self.streaks[guess] = 0 if good else self.streaks[guess] + 1

    def pays_so_far(self, guess: str) -> bool:
        """Return whether a guess that fails is the fastest all the same, and fails no more often than it did before.

        So many failures in a row would be no surprise, given the tries before them.
        """
        streak, others = self.streaks[guess], [self.cost(name) for name in self.logs if name != guess]
        before = [*self.outcomes[guess]][:-streak]
        share = (before.count(False) + 1) / (len(before) + 2)
        return self.cost(guess) < min(others, default=math.inf) and share**streak > TOLERANCES.surprise

    def may_lose(self, seconds: float, trials: float) -> bool:
        """Return whether a loss of some time would leave all that was lost within a share of all time.

        Half of what guesses have saved may be lost besides.
        """
        return self.lost + seconds <= trials * (self._total + seconds) + 0.5 * max(self.saved(0.0), 0.0)

    def first_failure(self, budget: float) -> float:
        """Return what a guess that was never tried may lose: an iteration and what comes before it, else the budget."""
        default = float(np.exp(self.solved(DEFAULT)).mean())
        return default * (1.2 / float(np.mean(self.iterations)) if self.iterations else budget)

    def forget(self, choice: str) -> None:
        """Forget what a choice has cost, as it has changed."""
        for known in (self.logs, self.outcomes, self.streaks, self.rests, self.risks, self.errors):
            known.pop(choice, None)
        self.changed.add(choice)

    def forget_outdated(self, errors: Mapping[str, float], share: float) -> None:
        """Forget what guesses have cost whose error is now below a share of that when they were first measured.

        Not of the one that is the fastest even so.
        """
        best = min(self.logs, key=self.cost, default="")
        for choice in [name for name, error in self.errors.items() if errors.get(name, math.inf) < share * error]:
            if choice != best:
                self.forget(choice)

    def covers(self, choice: str, budget: float) -> bool:
        """Return whether what guesses may still lose is enough for this one; a default that fails sets no limit."""
        default = np.exp(self.solved(DEFAULT))
        if choice not in self.risks or not len(default):
            return True
        return self.risks[choice] <= budget * float(default.sum()) + self.saved(budget)

    def describe(self, *names: str) -> str:
        """Return the costs, for people."""
        return ", ".join(self._describe(name) for name in names)

    def to_json(self) -> dict[str, list[Any]]:
        """Return the times as numbers, those of solves without solution as lists of one number."""
        return {name: [log if solved else [log] for log, solved in logs] for name, logs in self.logs.items()}

    @classmethod
    def from_json(cls, content: Mapping[str, Iterable[Any]]) -> Record:
        """Read what ``to_json`` has made; version 0.1 names the default solve 'classical'."""
        read = {name: [_entry(value) for value in values] for name, values in content.items()}
        return cls({DEFAULT if name == "classical" else name: entries for name, entries in read.items()})

    def saved(self, budget: float) -> float:
        """Return what guesses have saved, less what they have lost, against the default and a share of it [s]."""
        default = np.exp(self.solved(DEFAULT))
        times = [np.exp([log for log, _ in logs]) for name, logs in self.logs.items() if name != DEFAULT]
        return sum(float(np.sum(default.mean() * (1.0 + budget) - own)) for own in times) if len(default) else 0.0

    def _mean(self, choice: str) -> float:
        return float(np.mean([log for log, _ in self.logs[choice]]))

    def _describe(self, name: str) -> str:
        count, solved = len(self.logs[name]), len(self.solved(name))
        failed = "" if solved == count else f", {count - solved} without solution"
        return f"{name} {math.exp(self._mean(name)):.3g} s over {count}{failed}"


def _entry(value: Any) -> Entry:
    log, solved = (float(value[0]), False) if isinstance(value, list) else (float(value), True)
    if not abs(log) < LARGEST:
        raise ValueError(f"expected logarithms of times below {LARGEST}, got {log}")
    return log, solved
