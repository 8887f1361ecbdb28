"""What bad guesses cost behind the gate: the same unseen problems, the prediction poisoned in one way after another.

A ledger is a dictionary for JSON: what ``measured_on`` says, ``budget``, and ``poisons``, one a way: ``name``, ``solved`` and ``samples``
(counts), ``outcomes`` (how often a start was used, rejected, abandoned, failed, not tried), ``wasted`` (largest share of the classical time of its own
sample that a bad start has cost), ``overhead`` (all time over all classical time, less one), ``again`` (tries until the start was switched off, 0
when it was not) and ``decisions``. The classical time of a sample is measured right before and right after each gated solve of it; the mean counts.
"""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from mpi4py import MPI

from lrsa_coupled.bench.ledger import SLACK, measured_on
from lrsa_coupled.bench.report import align
from lrsa_coupled.bench.strategies import load_guess
from lrsa_coupled.config import Config
from lrsa_coupled.coupling.predictor import Predictor
from lrsa_coupled.coupling.residual import reference_norm, residual_norm, set_dirichlet
from lrsa_coupled.coupling.transfer import NodeSet
from lrsa_coupled.generation.plan import sample_parameters
from lrsa_coupled.guess.guarded import GuardedSolver
from lrsa_coupled.guess.learned import LEARNED, LearnedGuess
from lrsa_coupled.guess.policy import Adaptive
from lrsa_coupled.guess.target import CaseTarget
from lrsa_coupled.interfaces import Case, Guess, InitialGuess, Problem
from lrsa_coupled.logs import progress
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
RANDOM, ANOTHER, DISTRIBUTION = "weights randomised", "another sample's field", "another distribution"


class _Changed(nn.Module):
    """An operator whose outputs are changed on their way."""

    def __init__(self, model: Operator, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.change = model, change
        self.normaliser, self.config = model.normaliser, model.config

    def encode(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Any]:
        outputs, tokens = self.model.encode(*args, **kwargs)
        return self.change(outputs), tokens

    def decode(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.change(self.model.decode(*args, **kwargs))


def bench_gate(
    case: Case, config: Config, comm: MPI.Comm, *, model: Path, others: Sequence[Path] = ()
) -> dict[str, Any]:
    """Solve ``config.bench.samples`` unseen problems through the gate with each poison. Collective.

    Args:
        case: The case.
        config: Settings; those of ``bench``, ``guess`` and ``gate`` count.
        comm: Communicator of the problems.
        model: Operator to poison.
        others: Operators for the case that were trained on samples of another distribution, a poison each.

    Raises:
        ValueError: If there is no sample to solve, the seed was trained on, or a model belongs to another case.
    """
    guess, *strangers = (load_guess(case, config, path) for path in (model, *others))
    settings = config.bench
    if settings.samples < 2:
        raise ValueError(
            f"bench --what gate needs at least two samples, the first of which measures the classical solve, got {settings.samples}"
        )
    starts = _starts(case, guess, config)
    for path, stranger in zip(others, strangers, strict=True):
        starts[f"{DISTRIBUTION}: {path}"] = stranger.bind(case, max_distance=config.guess.max_distance)
    policy = dataclasses.replace(config.guess, record=None)  # each way has a record of its own
    gates = {name: Adaptive(policy, [LEARNED]) for name in starts}
    seconds: dict[str, list[tuple[float, float, bool]]] = {name: [] for name in starts}
    for index in progress(range(-1, settings.samples), description=f"gate {case.name}"):
        number = (
            index if index >= 0 else settings.samples
        )  # one sample more, first, to compile the forms and wake MUMPS and torch
        parameters = sample_parameters(case, config.problem.test_seed, number)
        problem = case.problem(case.mesh(comm, parameters, config.problem.resolution or case.resolution), parameters)
        atol = (config.problem.rtol or case.rtol) * reference_norm(problem)
        starts[ANOTHER].prepare(problem)
        for name, start in starts.items():
            gate = gates[name] if index >= 0 else Adaptive(policy, [LEARNED])
            found = _measure(case, problem, atol, gate=gate, start=start)
            if index >= 0:
                seconds[name].append(found)
    rows = [_row(name, gates[name], seconds[name]) for name in starts]
    return measured_on(case, config, comm) | {"budget": config.guess.budget, "poisons": rows}


def gate_table(ledger: Mapping[str, Any]) -> str:
    """Format a ledger for the terminal."""
    lines = [["prediction", "solved", "outcomes of the learned start", "largest waste", "all overhead", "switched off"]]
    for row in ledger["poisons"]:
        outcomes = ", ".join(f"{count} {outcome}" for outcome, count in row["outcomes"].items())
        off = f"after {row['again']}" if row["again"] else "no"
        lines.append(
            [
                row["name"],
                f"{row['solved']}/{row['samples']}",
                outcomes,
                f"{100 * row['wasted']:.1f} %",
                f"{100 * row['overhead']:+.1f} %",
                off,
            ]
        )
    return (
        f"{ledger['case']}: bad guesses behind the gate, {ledger['poisons'][0]['samples']} unseen samples (seed {ledger['seed']}), resolution "
        f"{ledger['resolution']}, {ledger['ranks']} ranks; budget {100 * ledger['budget']:g} % of a classical solve\n\n{align(lines)}"
    )


def _starts(case: Case, guess: LearnedGuess, config: Config) -> dict[str, InitialGuess]:
    operator = guess.predictor

    def learned(model: nn.Module) -> LearnedGuess:
        predictor = Predictor(model, operator.card, operator.settings)
        return LearnedGuess(predictor, case, max_distance=config.guess.max_distance)

    starts: dict[str, InitialGuess] = {
        name: learned(_Changed(operator.model, change)) for name, change in CHANGES.items()
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.problem.test_seed)
        fresh = checkpoint.make_model(operator.card.operator, operator.card.schema)
    fresh.normaliser.load_state_dict(operator.model.normaliser.state_dict())
    return starts | {RANDOM: learned(fresh.eval()), ANOTHER: _Another(case, operator, config.problem.test_seed)}


class _Another(InitialGuess):
    """The prediction for another problem on the mesh of the sample; that problem is set up outside the timing."""

    name = LEARNED

    def __init__(self, case: Case, predictor: Predictor, seed: int) -> None:
        self.case, self.predictor = case, predictor
        self.parameters = sample_parameters(case, seed + 1, 0)
        self.other: Problem | None = None

    def prepare(self, problem: Problem) -> None:
        self.other = self.case.problem(problem.mesh, self.parameters)

    def put(self, problem: Problem) -> Guess:
        started = time.perf_counter()
        nodes = NodeSet(problem, self.case.schema.outputs)
        prediction = self.predictor.predict(self.case, self.other, nodes)
        if prediction.accepted:
            nodes.scatter(prediction.values, problem.solution)
            set_dirichlet(problem)
        transfer = time.perf_counter() - started - prediction.inference
        seconds = {"transfer": transfer, "inference": prediction.inference}
        return Guess(prediction.accepted, prediction.reason, seconds)


def _measure(
    case: Case, problem: Problem, atol: float, *, gate: Adaptive, start: InitialGuess
) -> tuple[float, float, bool]:
    """Return the time of a classical solve, that of a gated one, and whether the latter has met the tolerance. Collective."""
    classical = case.default_solver
    around = []
    for turn in ("before", "gated", "after"):
        problem.solution.x.array[:] = 0.0
        problem.mesh.comm.Barrier()
        started = time.perf_counter()
        if turn == "gated":
            solver = GuardedSolver([start], CaseTarget(case, problem, atol), gate)
        else:
            solver = classical(problem, atol)
        result = solver.solve()
        solver.destroy()
        seconds = problem.mesh.comm.allreduce(time.perf_counter() - started, op=MPI.MAX)
        if turn == "gated":
            gated, good = seconds, result.converged and residual_norm(problem) <= (1.0 + SLACK) * atol
        else:
            around.append(seconds)
    return float(np.mean(around)), gated, bool(good)


def _row(name: str, gate: Adaptive, seconds: Sequence[tuple[float, float, bool]]) -> dict[str, Any]:
    classical, gated = (np.array([item[k] for item in seconds]) for k in range(2))
    tries = [decision for decision in gate.decisions if decision.choice == LEARNED]
    outcomes = Counter(decision.outcome.split(":")[0] for decision in tries)
    outcomes["not tried"] = len(gate.decisions) - len(tries)
    bad = [decision for decision in tries if not decision.good]
    streak = [decision.good for decision in tries][: gate.settings.patience]
    return {
        "name": name,
        "solved": sum(item[2] for item in seconds),
        "samples": len(seconds),
        "outcomes": {outcome: count for outcome, count in outcomes.items() if count},
        "wasted": max((decision.wasted / classical[decision.number - 1] for decision in bad), default=0.0),
        "overhead": float(gated.sum() / classical.sum() - 1.0),
        "again": len(tries) if streak and not any(streak) else 0,
        "decisions": [vars(decision) for decision in gate.decisions],
    }
