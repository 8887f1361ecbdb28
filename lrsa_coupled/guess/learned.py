"""The prediction of a trained operator as initial guess."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import final

from lrsa_coupled.config import GuessConfig
from lrsa_coupled.coupling.contract import features_of
from lrsa_coupled.coupling.predictor import Predictor
from lrsa_coupled.coupling.residual import set_dirichlet
from lrsa_coupled.coupling.transfer import NodeSet
from lrsa_coupled.guess.record import LEARNED
from lrsa_coupled.interfaces import Described, Features, Guess, InitialGuess, Unknown


@final
class LearnedGuess(InitialGuess):
    """The prediction of an operator.

    Args:
        predictor: The operator.
        described: Case or script that gives the features of a problem; set by ``bind`` where None.
        nodes: Those of all problems to come, when they share one unknown.
        max_distance: Standard deviations from the problems of the training up to which the operator is evaluated.
    """

    name = LEARNED

    def __init__(self, predictor: Predictor, described: Described | None = None, *, nodes: NodeSet | None = None,
                 max_distance: float = math.inf) -> None:  # fmt: skip
        if not isinstance(predictor, Predictor):
            text = f"a learned guess is made of a Predictor, got {predictor!r}"
            raise TypeError(f"{text}; LearnedGuess.load(folder) reads a trained model")
        self.predictor, self.described, self.nodes, self.max_distance = predictor, described, nodes, max_distance

    @classmethod
    def load(cls, folder: Path | str, settings: GuessConfig | None = None) -> LearnedGuess:
        """Load a model, see ``Predictor.load``. Collective: no."""
        return cls(Predictor.load(folder, settings))

    def with_settings(self, settings: GuessConfig) -> LearnedGuess:
        """Return the guess of the same operator, evaluated in another way. Collective: no."""
        return LearnedGuess(Predictor(self.predictor.model, self.predictor.card, settings))

    def bind(
        self, described: Described, *, nodes: NodeSet | None = None, max_distance: float = math.inf
    ) -> LearnedGuess:
        """Return the guess for the problems of a case or script; errors as ``Predictor.check``. Collective: no."""
        self.predictor.check(described)
        return LearnedGuess(self.predictor, described, nodes=nodes, max_distance=max_distance)

    def put(self, problem: Unknown) -> Guess:
        if self.described is None:
            raise ValueError("a learned guess needs the case or script of its problems: call bind(...) before put(...)")
        started, inference = time.perf_counter(), 0.0
        features = features_of(self.described, problem)
        reason = self._too_far(features, problem)
        if not reason:
            nodes = self.nodes or NodeSet(problem, self.described.schema.outputs)
            prediction = self.predictor.predict(self.described, problem, nodes, features)
            inference, reason = prediction.inference, prediction.reason
            if not reason:
                nodes.scatter(prediction.values, problem.solution)
                set_dirichlet(problem)
        transfer = time.perf_counter() - started - inference
        return Guess(not reason, reason, {"transfer": transfer, "inference": inference})

    def _too_far(self, features: Features, problem: Unknown) -> str:
        if self.max_distance == math.inf:
            return ""
        distance, limit = self.predictor.distance(features, problem.mesh.comm), self.max_distance
        far = f"the problem is {distance:.1f} standard deviations from those of the training, {limit:g} allowed"
        return "" if distance <= limit else far  # not a number is too far
