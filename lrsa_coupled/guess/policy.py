"""Policies of the guarded solver: which guess a solve begins with, and how much it may cost.

``Always`` takes the first guess. ``Adaptive`` has a record: the wall time of the last solves by each choice (a guess,
or ``DEFAULT``), transfer, inference and failed attempts included, of problems of about the same size on as many ranks,
and which of them ended with a solution. Each choice is measured once, the default solve first, as the budget of the
others is a share of it; then the one is taken by which a *solved* problem has cost least: the geometric mean of the
times over the share of solves with a solution. So a default solve that fails is worth nothing, however quick. Another
choice is tried when for all the record shows it may be better, as long as such trials have lost little: its mean less a
standard error is below, or its last solve failed and there have been less than ``patience``.

A guess that failed or was rejected ``patience`` times in a row rests for ``rest`` solves, and is then tried again. Not
so one that is the fastest with its failures counted, as long as as many in a row are to be expected of it.

Once it has been measured, no guess is used whose risk the account does not cover. The account is the ``budget``, a
share of all time of default solves with a solution, and what guesses have saved, less what they have lost. The risk is
what the guess lost when it failed last, or what it takes before its solve and for an iteration, after which it can be
given up. So bad guesses take no more than the budget of a run, even if an iteration costs more than the budget of one
solve. An attempt may cost the ``budget`` of one solve, or a quarter of what guesses have saved, up to a default solve.
While the default solve has never ended with a solution there is no limit.
"""

from __future__ import annotations

import json
import logging
import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np

from lrsa_coupled.config import GuessConfig
from lrsa_coupled.files import write_text_atomically
from lrsa_coupled.guess.record import DEFAULT, TOLERANCES, Record
from lrsa_coupled.reading import read_json
from lrsa_coupled.settings import update

if TYPE_CHECKING:
    from mpi4py import MPI

logger = logging.getLogger(__name__)

READ = ("max_iterations", "budget", "max_distance", "patience", "rest", "record")
"""Settings that ``Adaptive`` reads."""

SETTINGS = ("policy", *READ)
"""Settings that policies read; the others are those of the evaluation of the operator."""

TRIALS, PROMISING, MUCH_BETTER, OUTDATED = 0.01, 0.5, 0.25, 0.5
"""With prospects: share of time, beside what guesses have saved, for trials; errors relative to the least of a measured
choice, of a guess that is tried and, while nothing was lost or if it is new, of one that is tried at once; error
relative to that of the first measurement of a guess that is measured again."""


@dataclass(frozen=True)
class Choice:
    """What a solve begins with.

    Args:
        name: Name of the guess, or ``DEFAULT``.
        why: Reason, for people.
        max_iterations: Newton iterations allowed to a solve from the guess, None for the solver's own limit.
        tested: Whether the guess must pass the acceptance test.
        expected: Expected time of a default solve; None to let the solve run without a convergence monitor [s].
        budget: What a guess that fails may cost [s].
        iterations: Expected iterations of a default solve, None when not known.
    """

    name: str
    why: str
    max_iterations: int | None = None
    tested: bool = True
    expected: float | None = None
    budget: float = math.inf
    iterations: float | None = None


@dataclass(frozen=True)
class Decision:
    """What was chosen for one solve and what came of it.

    Args:
        number: Counts the solves, from 1.
        choice: Name of the guess, or ``DEFAULT``.
        why: Reason for the choice.
        outcome: Of the choice: ``converged``, ``rejected`` (before the solve), ``abandoned`` or ``failed`` (in it; of
            the default solve, also by an exception), then the reason.
        wasted: Time spent on a guess that was not used in the end [s].
        seconds: Time of the solve, ``wasted`` included [s].
        risk: What a guess takes before its solve, and an iteration [s]; 0 for the default solve.
        solved: Whether the problem was solved in the end, by the choice or by the default solve after it.
        iterations: Those of a default solve; 0 of any other.
    """

    number: int
    choice: str
    why: str
    outcome: str
    wasted: float
    seconds: float
    risk: float = 0.0
    solved: bool = True
    iterations: int = 0

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

    def configure(self, settings: Mapping[str, Any]) -> None:
        """Change settings of ``GuessConfig``; ValueError for one without effect on this policy. Collective: no."""
        for name in settings:
            raise ValueError(f"lrsa_guess_{name} has no effect on a policy given by hand, {type(self).__name__}")

    def save(self) -> None:
        """Write what outlives the run, if anything. Call on one rank."""

    def summary(self) -> str:
        """Return a line for each choice: how often, what came of it, what bad guesses have cost."""
        return "\n".join(self._line(name) for name in dict.fromkeys(d.choice for d in self.decisions))

    def _line(self, name: str) -> str:
        chosen = [d for d in self.decisions if d.choice == name]
        if not chosen:
            return f"{name}: not used"
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
        return Choice(names[0] if names else DEFAULT, "always", self.max_iterations, tested=False)

    def configure(self, settings: Mapping[str, Any]) -> None:
        super().configure({name: value for name, value in settings.items() if name != "max_iterations"})
        self.max_iterations = settings.get("max_iterations", self.max_iterations)


@final
class Adaptive(Policy):
    """Takes what the record of costs promises to be fastest; the text of the module has the rules.

    Args:
        settings: Budget, limits and the file of the record.
        names: Names of the guesses.
        guess_first: Whether a guess that is not measured goes before the default solve, with ``max_iterations`` as its
            limit: where a program makes one solve, measuring the default would be all that it does.

    Attributes:
        prospects: Expected relative errors of the choices in the next solve, ``DEFAULT`` for the user's own guess; None
            where nobody knows.
        without: Guesses of which, with prospects, nobody knows the error: they are measured at once.

    Raises:
        ValueError: If a name is doubled or ``DEFAULT``, or the file of the record holds something else.
    """

    def __init__(self, settings: GuessConfig, names: Sequence[str], *, guess_first: bool = False) -> None:
        super().__init__()
        if len({*names, DEFAULT}) != len(names) + 1:
            raise ValueError(f"guesses need names of their own, none of them '{DEFAULT}', got {', '.join(names)}")
        self.settings, self.names, self.guess_first = settings, tuple(names), guess_first
        self.max_distance = settings.max_distance
        self.prospects: dict[str, float] | None = None
        self.without: frozenset[str] = frozenset()
        self._records = _read(Path(settings.record)) if settings.record else {}

    def choose(self, kind: str, names: Sequence[str]) -> Choice:
        record, settings = self._record(kind), self.settings
        name, why = self._choose(record, names)
        if name == DEFAULT:
            return Choice(name, why)
        if DEFAULT not in record.logs:
            return Choice(name, why, settings.max_iterations)
        expected = self.expected(kind)
        if expected is None:
            return Choice(name, why)
        counts, budget = record.iterations, settings.budget * expected
        if self.prospects is not None and name not in record.logs:
            budget = min(budget, record.first_failure(settings.budget))
        budget = max(budget, min(expected, record.saved(0.0) / 4.0))
        mean = sum(counts) / len(counts) if counts else None
        return Choice(name, why, expected=expected, budget=budget, iterations=mean)

    def expected(self, kind: str) -> float | None:
        """Return the expected time of a default solve of this kind that ends with a solution [s]. Collective: no.

        None when there has been none.
        """
        logs = self._record(kind).solved(DEFAULT)
        return math.exp(logs.mean()) if len(logs) else None

    def costs(self, kind: str) -> dict[str, tuple[float, int]]:
        """Return the mean time of a solved problem [s] and the number of solves, by choice. Collective: no."""
        record = self._record(kind)
        return {name: (math.exp(record.cost(name)), len(record.logs[name])) for name in record.logs}

    def forget(self, name: str) -> None:
        """Begin again with a guess that has changed. Collective: no."""
        for record in self._records.values():
            record.forget(name)

    def note(self, kind: str, decision: Decision) -> None:
        super().note(kind, decision)
        record, name = self._record(kind), decision.choice
        if self.prospects is not None and not record.number:
            record.number = 1
            return
        solved = decision.good or (decision.solved and name != DEFAULT)
        record.count(name, decision.seconds, solved, decision.wasted)
        record.add(name, decision.seconds, solved)
        record.rests.pop(name, None)
        if name == DEFAULT:
            record.iterations.extend([decision.iterations] * (solved and decision.iterations > 0))
            return
        record.risks[name] = max(decision.risk, decision.wasted)
        if self.prospects is not None and name in self.prospects:
            record.errors.setdefault(name, self.prospects[name])
        record.note_outcome(name, decision.good)
        if decision.good:
            return
        record.add(DEFAULT, decision.seconds - decision.wasted, decision.solved)
        if record.streaks[name] >= self.settings.patience and not record.pays_so_far(name):
            record.rests[name] = record.number + self.settings.rest
            record.streaks[name] = self.settings.patience - 1  # the next failure after the rest is enough
            text = "the %s guess has failed too often and is left out for %d solves; the last time: %s"
            logger.warning(text, name, self.settings.rest, decision.outcome)

    def configure(self, settings: Mapping[str, Any]) -> None:
        super().configure({name: value for name, value in settings.items() if name not in READ})
        self.settings = update(self.settings, settings, where="PETSc options", prefix="lrsa_guess_")
        self.max_distance = self.settings.max_distance
        if settings.get("record"):
            self._records = _read(Path(settings["record"]))

    def save(self) -> None:
        if self.settings.record:
            logs = {kind: record.to_json() for kind, record in self._records.items()}
            write_text_atomically(Path(self.settings.record), json.dumps(logs) + "\n")

    def summary(self) -> str:
        return "\n".join(self._line(name) for name in (*self.names, DEFAULT))

    def _record(self, kind: str) -> Record:
        return self._records.setdefault(kind, Record())

    def _choose(self, record: Record, names: Sequence[str]) -> tuple[str, str]:
        left = {name: record.rests.get(name, 0) - record.number for name in names}
        asleep = {name: count for name, count in left.items() if count > 0}
        awake = [name for name in names if name not in asleep]
        covered = [name for name in awake if record.covers(name, self.settings.budget)]
        choices = [*covered, DEFAULT] if self.guess_first else [DEFAULT, *covered]
        if self.prospects is not None and DEFAULT in record.logs:
            record.forget_outdated(self.prospects, OUTDATED)  # for the next solve: errors change from solve to solve
            choices = self._promising(record, choices, self.prospects)
        for name in choices:
            if name not in record.logs:
                return name, "not yet measured"
        trials = TOLERANCES.trials if self.prospects is None else TRIALS
        best = min(choices, key=record.cost)
        for name in choices:
            if name in record.rests and record.affordable(name, best, trials):
                return name, "tried again after it was left out"
            unlucky = 0 < record.streaks[name] <= len(record.logs[name]) < self.settings.patience
            cheaper = (unlucky or record.lowest(name) < record.cost(best)) and self._may_be_better(name, best)
            if name != best and cheaper and record.affordable(name, best, trials):
                return name, f"may be faster than {best}: {record.describe(name, best)}"
        rests = [f"{name} is left out for {count} more solves" for name, count in asleep.items()]
        dear = [f"what {name} may lose is not yet within the budget" for name in awake if name not in covered]
        return best, "; ".join([f"fastest by the record: {record.describe(*choices)}", *rests, *dear])

    def _may_be_better(self, name: str, best: str) -> bool:
        """Return whether a measured guess is worth a trial; the default is always: others are measured by it."""
        errors = self.prospects or {}
        return name == DEFAULT or name not in errors or errors[name] < errors.get(best, math.inf)

    def _promising(self, record: Record, choices: Sequence[str], errors: Mapping[str, float]) -> list[str]:
        """Return the choices that are measured, first of all the most promising of the others if it is worth a try."""
        measured = [name for name in choices if name in record.logs or name in self.without]
        others = [name for name in choices if name not in record.logs and name in errors]
        if not others:
            return measured
        first = min(others, key=errors.__getitem__)
        ratio = errors[first] / max(min((errors[name] for name in measured if name in errors), default=1.0), 1e-300)
        if record.cost(DEFAULT) == math.inf or (ratio < MUCH_BETTER and (not record.lost or first in record.changed)):
            return [first, *measured]
        affordable = record.may_lose(record.first_failure(self.settings.budget), TRIALS)
        return [first, *measured] if ratio < PROMISING and affordable else measured


def make_policy(settings: GuessConfig, names: Sequence[str], *, guess_first: bool = False) -> Policy:
    """Make the policy that the settings ask for, the adaptive one if none; ``guess_first``: see ``Adaptive``."""
    if settings.policy == "always":
        return Always(settings.max_iterations)
    return Adaptive(settings, names, guess_first=guess_first)


_policies: dict[tuple[object, ...], Policy] = {}


def policy_for(
    comm: MPI.Comm, prefix: str, settings: GuessConfig, *, names: Sequence[str], operator: str = ""
) -> Policy:
    """Return the policy of all solvers with an options prefix in this process, made at the first call. Collective: no.

    So a script that makes a new mesh or a new problem for each solve goes on with the record of those before.
    ``operator`` identifies the operator behind the guesses, such as the text of its card: another one has a record of
    its own, as have other settings and a communicator of other ranks.
    """
    from mpi4py import MPI  # here, as the tables of experiments are printed where there is none

    world, group = MPI.COMM_WORLD.Get_group(), comm.Get_group()
    ranks = tuple(MPI.Group.Translate_ranks(group, range(comm.size), world))
    world.Free()
    group.Free()
    key = (ranks, prefix, settings, tuple(names), operator)
    if key not in _policies:
        _policies[key] = make_policy(settings, names)
    return _policies[key]


def forget_policies() -> None:
    """Begin all records in this process again. Collective: no."""
    _policies.clear()


Gate = Adaptive
"""The adaptive policy under its earlier name."""


def _read(path: Path) -> dict[str, Record]:
    """Read the record of an earlier run, if there is one."""
    if not path.exists():
        return {}
    try:
        return {kind: Record.from_json(times) for kind, times in read_json(path).items()}
    except (OSError, ValueError, TypeError, AttributeError, IndexError) as error:
        text = f"{path} is not a record of costs of initial guesses ({error}): remove it or name another file"
        raise ValueError(text) from error
