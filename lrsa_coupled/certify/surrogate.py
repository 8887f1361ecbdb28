"""The operator as a surrogate of the solver: its prediction, corrected to a given accuracy, with a certificate.

When no estimate of the error comes about, or none small enough, the default solve delivers, as after any guess that has
failed; its field is then certified in the same way.
"""

from __future__ import annotations

import dataclasses
import logging
from typing import Any, final

from lrsa_coupled.certify.certify import Certified, certify, check_accept
from lrsa_coupled.coupling.residual import reference_norm
from lrsa_coupled.guess.guarded import GuardedSolver
from lrsa_coupled.guess.learned import LearnedGuess
from lrsa_coupled.guess.policy import Always
from lrsa_coupled.guess.target import CaseTarget
from lrsa_coupled.interfaces import Case, Problem

logger = logging.getLogger(__name__)

ADVICE = "train the operator longer or nearer to such problems; 'lrsa-coupled evaluate' shows its errors"


@final
class Surrogate:
    """A trained operator that answers to a given relative accuracy; ValueError if that is out of range."""

    def __init__(self, case: Case, guess: LearnedGuess, problem: Problem, *, accept: float) -> None:
        check_accept(accept)
        if not isinstance(guess, LearnedGuess):
            raise TypeError(f"a surrogate takes a LearnedGuess, got {guess!r}; LearnedGuess.load(folder) reads one")
        self.case, self.guess, self.problem, self.accept = case, guess, problem, accept

    def solve(self) -> Certified:
        """Predict, estimate and correct; the default solve when that fails. Collective.

        ValueError if the model belongs to another case, on all ranks.
        """
        guess = self.guess.bind(self.case).put(self.problem)
        result = Certified(certified=False, accept=self.accept, reason=guess.reason)
        if guess.accepted:
            result = self._certify()
        seconds = {**guess.seconds, **result.seconds}
        if result.certified:
            return dataclasses.replace(result, seconds=seconds)
        logger.warning("no certificate (%s); the default solver takes over", result.reason)
        atol = self.case.rtol * reference_norm(self.problem)
        default = GuardedSolver([], CaseTarget(self.case, self.problem, atol), Always()).solve_once()
        seconds["solve"] = seconds.get("solve", 0.0) + default.seconds["solve"]
        default = dataclasses.replace(default, seconds=seconds, used_fallback=True)
        result = dataclasses.replace(result, seconds=seconds, advice=ADVICE, fallback=default)
        return self._certified_anyway(result) if default.converged else result

    def _certify(self) -> Certified:
        limit = self.guess.predictor.settings.max_iterations
        return certify(self.case, self.problem, accept=self.accept, max_linearisations=limit)

    def _certified_anyway(self, failed: Certified) -> Certified:
        """Certify what the default solve has delivered; the field stays as it is where that fails. Collective."""
        field = self.problem.solution.x.array.copy()
        result = self._certify()
        spent: dict[str, Any] = {
            "linearisations": failed.linearisations + result.linearisations,
            "iterations": failed.iterations + result.iterations,
            "seconds": {**failed.seconds, **{s: failed.seconds.get(s, 0.0) + t for s, t in result.seconds.items()}},
        }
        if not result.certified:
            self.problem.solution.x.array[:] = field
            return dataclasses.replace(failed, **spent)
        spent |= {"reason": failed.reason, "advice": ADVICE, "fallback": failed.fallback, "prediction": None}
        return dataclasses.replace(result, **spent)
