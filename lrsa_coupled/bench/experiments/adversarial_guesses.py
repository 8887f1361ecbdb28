"""What adversarial guesses cost behind the adaptive policy: unseen problems, the prediction changed in several manners.

A method is a manner. The time of the default solver is measured right before and right after each guarded solve;
``values`` holds their mean, ``default``.
"""

from __future__ import annotations

import dataclasses
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import torch
from msgspec.structs import replace
from torch import Tensor, nn

from lrsa_coupled.bench.experiments import add_model
from lrsa_coupled.bench.report import align, heading, solved_count
from lrsa_coupled.bench.rows import Results, Row, Scalar
from lrsa_coupled.generation.plan import sample_parameters
from lrsa_coupled.guess.policy import Adaptive
from lrsa_coupled.interfaces import Guess, InitialGuess, Problem
from lrsa_coupled.logs import progress
from lrsa_coupled.operators.model import Operator
from lrsa_coupled.training import checkpoint

if TYPE_CHECKING:
    from lrsa_coupled.bench.samples import Samples
    from lrsa_coupled.guess.learned import LearnedGuess

ON_RANKS = True
STUDY = "adversarial-guesses"
CHANGES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "as it is": lambda outputs: outputs,
    "not a number": lambda outputs: outputs * torch.nan,
    "infinite": lambda outputs: outputs / 0.0,
    "zeros": torch.zeros_like,
    "sign flipped": torch.neg,
    "ten times": lambda outputs: 10.0 * outputs,
    "white noise of 100 %": lambda outputs: outputs + outputs.square().mean().sqrt() * torch.randn_like(outputs),
}
RANDOM, ANOTHER, LEARNED = "random weights", "another sample's field", "learned"


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    add_model(parser)
    text = "models trained on samples of another distribution, a manner each"
    parser.add_argument("--models", type=Path, nargs="+", default=[], metavar="DIR", help=text)


def run(args: Namespace, samples: Samples) -> Results:
    """Solve with each manner; ValueError for less than two samples or a model that does not fit. Collective."""
    from lrsa_coupled.bench.samples import load_guess

    case, config, count = samples.case, samples.config, samples.config.bench.samples
    if count < 2:
        raise ValueError(f"expected at least two samples, the first of which measures the default solver, got {count}")
    guesses = _guesses(samples, samples.guess())
    for path in args.models:
        stranger = load_guess(case, config, path)
        guesses[f"another distribution: {path}"] = stranger.bind(case, max_distance=config.guess.max_distance)
    settings = dataclasses.replace(config.guess, record=None)  # each manner has a record of its own
    policies = {name: Adaptive(settings, [LEARNED]) for name in guesses}
    rows = []
    for index in progress(range(-1, count), description=f"{STUDY} {case.name}"):
        problem = samples.problem(index if index >= 0 else count)  # one sample more, first, which wakes MUMPS and torch
        for name, guess in guesses.items():
            guess.prepare(problem)
            policy = policies[name] if index >= 0 else Adaptive(settings, [LEARNED])
            row = _measure(samples, problem, name, guess, policy, index=max(index, 0))
            rows += [row] if index >= 0 else []
    return samples.results(STUDY, rows, rtol=samples.case.rtol)


def table(results: Results) -> str:
    """Format results."""
    header = ["prediction", "solved", "outcomes of the learned guess", "largest waste", "all overhead", "switched off"]
    lines = [header]
    patience = int(results.header.settings["guess.patience"] or 0)
    for name, rows in results.methods.items():
        decisions, default = [row.decisions[0] for row in rows], [row.number("default") for row in rows]
        tries = [pair for pair in zip(decisions, default, strict=True) if pair[0]["choice"] == LEARNED]
        bad = [decision["outcome"] != "converged" for decision, _ in tries]
        wasted = [float(decision["wasted"] or 0.0) / seconds for decision, seconds in tries]
        overhead = sum(row.seconds.total for row in rows) / sum(default) - 1.0
        off = f"after {len(tries)}" if tries and all(bad[:patience]) else "no"
        cells = [name, solved_count(rows), outcomes(decisions), f"{100 * max(wasted, default=0.0):.1f} %"]
        lines.append([*cells, f"{100 * overhead:+.1f} %", off])
    budget = 100 * float(results.header.settings["guess.budget"] or 0.0)
    return f"{heading(results)}; budget {budget:g} % of a default solve\n\n{align(lines)}"


def outcomes(decisions: Sequence[dict[str, Scalar]]) -> str:
    """Count what came of the learned guess."""
    found = Counter(str(d["outcome"]).split(":")[0] if d["choice"] == LEARNED else "not tried" for d in decisions)
    return ", ".join(f"{count} {outcome}" for outcome, count in found.items())


def _measure(
    samples: Samples, problem: Problem, name: str, guess: InitialGuess, policy: Adaptive, *, index: int
) -> Row:
    """Solve by default, guarded, and by default again. Collective."""
    from lrsa_coupled.bench.samples import solve, timed
    from lrsa_coupled.guess.guarded import GuardedSolver
    from lrsa_coupled.guess.target import CaseTarget

    case, atol = samples.case, samples.atol(problem)
    default = partial(solve, partial(case.default_solver, problem, atol))
    guarded = partial(solve, partial(GuardedSolver, [guess], CaseTarget(case, problem, atol), policy))
    _, before = timed(problem, default)
    result, seconds = timed(problem, guarded)
    row = samples.row(name, index, problem=problem, atol=atol, result=result, seconds=seconds)
    _, after = timed(problem, default)
    decisions = (dataclasses.asdict(policy.decisions[-1]),)
    return replace(row, decisions=decisions, values={"default": (before + after) / 2})


def _guesses(samples: Samples, guess: LearnedGuess) -> dict[str, InitialGuess]:
    """Return the guesses by name: the changes above, random weights, the prediction for another sample."""
    from lrsa_coupled.coupling.predictor import Predictor
    from lrsa_coupled.guess.learned import LearnedGuess

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
    return found | {ANOTHER: _AnotherGuess(samples, guess)}


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
class _AnotherGuess(InitialGuess):
    """The prediction for another problem on the mesh of the sample; ``prepare`` sets that up, outside the timing."""

    name = LEARNED

    def __init__(self, samples: Samples, guess: LearnedGuess) -> None:
        self.case, self.guess = samples.case, guess
        self.parameters = sample_parameters(self.case, samples.seed + 1, 0)
        self._other: Any = None

    def prepare(self, problem: Problem) -> None:
        """Set up the other problem. Collective."""
        self._other = self.case.problem(problem.mesh, self.parameters)

    def put(self, problem: Problem) -> Guess:
        """Predict for the other problem. Collective."""
        from lrsa_coupled.coupling.residual import set_dirichlet
        from lrsa_coupled.coupling.transfer import NodeSet

        if self._other is None:
            self.prepare(problem)
        found = self.guess.put(self._other)
        if found.accepted:
            other, own = (NodeSet(item, self.case.schema.outputs) for item in (self._other, problem))
            own.scatter(other.gather(self._other.solution), problem.solution)
            set_dirichlet(problem)
        return found
