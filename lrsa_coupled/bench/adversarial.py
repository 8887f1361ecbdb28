"""Adversarial guesses: predictions of an operator, changed on their way in one manner after another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, final

import torch
from torch import Tensor, nn

from lrsa_coupled.bench.samples import Samples
from lrsa_coupled.coupling.predictor import Predictor
from lrsa_coupled.coupling.residual import set_dirichlet
from lrsa_coupled.coupling.transfer import NodeSet
from lrsa_coupled.generation.plan import sample_parameters
from lrsa_coupled.guess.learned import LearnedGuess
from lrsa_coupled.interfaces import Guess, InitialGuess, Problem
from lrsa_coupled.operators.model import Operator
from lrsa_coupled.training import checkpoint

CHANGES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "as it is": lambda outputs: outputs,
    "not a number": lambda outputs: outputs * torch.nan,
    "infinite": lambda outputs: outputs / 0.0,
    "zeros": torch.zeros_like,
    "sign flipped": torch.neg,
    "ten times": lambda outputs: 10.0 * outputs,
    "white noise of 100 %": lambda outputs: outputs + outputs.square().mean().sqrt() * torch.randn_like(outputs),
}
RANDOM, ANOTHER = "random weights", "another sample's field"


def adversarial_guesses(samples: Samples, guess: LearnedGuess) -> dict[str, InitialGuess]:
    """Return the guesses by name: the changes above, random weights, the prediction for another sample."""
    case, predictor, limit = samples.case, guess.predictor, samples.config.guess.max_distance
    changed: dict[str, Any] = {name: _Changed(predictor.model, change) for name, change in CHANGES.items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(samples.seed)
        fresh = checkpoint.make_model(predictor.card.operator, predictor.card.schema)
    fresh.normaliser.load_state_dict(predictor.model.normaliser.state_dict())
    found: dict[str, InitialGuess] = {
        name: LearnedGuess(Predictor(model, predictor.card, predictor.settings), case, max_distance=limit)
        for name, model in {**changed, RANDOM: fresh.eval()}.items()
    }
    return found | {ANOTHER: AnotherGuess(samples, guess)}


class _Changed(nn.Module):
    """An operator whose outputs are changed on their way."""

    def __init__(self, model: Operator, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.change = model, change
        self.normaliser, self.config = model.normaliser, model.config

    def encode(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Any]:
        """Return changed outputs, and the tokens."""
        outputs, tokens = self.model.encode(*args, **kwargs)
        return self.change(outputs), tokens

    def decode(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return changed outputs."""
        return self.change(self.model.decode(*args, **kwargs))


@final
class AnotherGuess(InitialGuess):
    """The prediction for another problem on the mesh of the sample; ``prepare`` sets that up, outside the timing."""

    name = "learned"

    def __init__(self, samples: Samples, guess: LearnedGuess) -> None:
        self.case, self.guess = samples.case, guess
        self.parameters = sample_parameters(self.case, samples.seed + 1, 0)
        self._other: Any = None

    def prepare(self, problem: Problem) -> None:
        """Set up the other problem. Collective."""
        self._other = self.case.problem(problem.mesh, self.parameters)

    def put(self, problem: Problem) -> Guess:
        """Predict for the other problem. Collective."""
        if self._other is None:
            self.prepare(problem)
        found = self.guess.put(self._other)
        if found.accepted:
            outputs = self.case.schema.outputs
            NodeSet(problem, outputs).scatter(
                NodeSet(self._other, outputs).gather(self._other.solution), problem.solution
            )
            set_dirichlet(problem)
        return found
