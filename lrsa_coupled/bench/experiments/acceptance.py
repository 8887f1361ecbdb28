"""Does the safeguard let good guesses pass, and what do bad ones cost? On families of problems in plain scripts.

A family has ``problem``, ``inputs``, ``scalars``, ``outputs`` and ``draw(rng)``, see ``cases/scripts/families.py``. For
each an operator is trained on a few samples. Each further sample is solved by default, and from two guesses, with and
without the safeguard: the prediction, and in turn the prediction times -3, the solution of another sample, and a
combination of solutions. A guess is good when it saves iterations without the safeguard. What users run is measured:
``attach`` to the problem of the script.

A row is one guess: ``values`` holds the ``manner``, ``default_iterations`` and ``default_seconds``, ``faster``,
the ``outcome`` with the safeguard, and the time ``lost`` on one that is not faster: that of an attempt given up, or of
the iterations more than the default solve has; that of the prediction is left out.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt

from lrsa_coupled.bench.experiments import add_only
from lrsa_coupled.bench.machine import header_of
from lrsa_coupled.bench.report import align
from lrsa_coupled.bench.rows import Results, Row, Seconds, Values
from lrsa_coupled.config import Config
from lrsa_coupled.guess.policy import Choice, Policy
from lrsa_coupled.guess.record import DEFAULT
from lrsa_coupled.interfaces import Guess, InitialGuess
from lrsa_coupled.logs import progress
from lrsa_coupled.training.loop import train

ON_RANKS = False
STUDY = "acceptance"
FAMILIES = "lrsa_coupled.cases.scripts.families"
PREDICTION, BAD = "prediction", ("prediction times -3", "another solution", "combination of solutions")
SETTINGS = {
    "operator": {
        "width": 32, "num_blocks": 2, "num_heads": 2, "num_frequencies": 4, "weight_std": None, "score_gain": 3.0
    },
    "training": {
        "epochs": 30, "batch_size": 4, "num_points": 256, "optimizer": "muon", "learning_rate": 4e-3,
        "schedule": "cosine", "gradient_weight": 0.3, "validate_every": 20,
    },
}  # fmt: skip


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    text = f"Python file or module with FAMILIES and CELLS; {FAMILIES} by default"
    parser.add_argument("--families", default=FAMILIES, metavar="FILE", help=text)
    parser.add_argument("--train", type=int, default=32, metavar="N", help="samples to train on; 32 by default")
    parser.add_argument("--samples", type=int, default=20, metavar="N", help="further samples; 20 by default")
    add_only(parser, "families")


def run(args: Namespace, config: Config) -> Results:
    """Measure family by family. ValueError for one that the file does not have."""
    from mpi4py import MPI

    module = _load(args.families)
    unknown = set(args.only) - set(module.FAMILIES)
    if unknown:
        known = ", ".join(module.FAMILIES)
        raise ValueError(f"--only: {args.families} has no {', '.join(sorted(unknown))}, only {known}")
    rows: list[Row] = []
    for name in args.only or module.FAMILIES:
        family = module.FAMILIES[name](MPI.COMM_SELF, module.CELLS[name])
        with tempfile.TemporaryDirectory() as folder:
            rows += _Runs(name, family, config, args.train, Path(folder)).rows(args.samples)
    return Results.of(header_of(STUDY, "", asdict(config) | {"train.samples": args.train}), rows)


def table(results: Results) -> str:
    """Format results; in the last line those of all families."""
    head = ["family", "unknowns", "default", "prediction", "faster", "good guesses", "falsely rejected"]
    lines = [[*head, "others", "wrongly accepted", "time lost"]]
    lines += [_cells(name, rows) for name, rows in results.methods.items()]
    total = _cells("all", results.rows)
    lines.append([total[0], *["-"] * 3, *total[4:]])
    settings = results.header.settings
    budget = 100 * float(settings["guess.budget"] or 0.0)
    text = f"operators of {settings['train.samples']} samples, {settings['training.epochs']} epochs; mean iterations; "
    return f"{text}time lost: on those wrongly accepted, of all default solves, budget {budget:g} %\n\n{align(lines)}"


def _cells(name: str, rows: Sequence[Row]) -> list[str]:
    own = [row for row in rows if row.values["manner"] == PREDICTION]
    good = [row for row in rows if row.values["faster"]]
    others = [row for row in rows if not row.values["faster"]]
    refused = sum(row.values["outcome"] != "converged" for row in good)
    wrong = [row for row in others if not str(row.values["outcome"]).startswith("rejected")]
    lost = sum(row.number("lost") for row in wrong) / sum(row.number("default_seconds") for row in rows)
    default, iterations = (np.mean([f(row) for row in own]) for f in (lambda r: r.number("default_iterations"), _count))
    share = f"{refused} ({100 * refused / max(len(good), 1):.1f} %)"
    return [
        name, str(rows[0].unknowns), f"{default:.1f}", f"{iterations:.1f}",
        f"{sum(bool(row.values['faster']) for row in own)} of {len(own)}", str(len(good)), share,
        str(len(others)), str(len(wrong)), f"{100 * lost:.1f} %",
    ]  # fmt: skip


def _count(row: Row) -> float:
    return float(row.iterations)


@final
class _Asked(Policy):
    """Chooses what it is asked for."""

    log_level = logging.DEBUG

    def __init__(self) -> None:
        super().__init__()
        self.asked = Choice(DEFAULT, "")

    def choose(self, kind: str, names: Sequence[str]) -> Choice:
        """Return what it is asked for."""
        return self.asked


@dataclass
class _Changed(InitialGuess):
    """A learned guess, changed by a function of its values."""

    guess: InitialGuess
    change: Callable[[npt.NDArray[Any]], npt.NDArray[Any]] = field(default=lambda values: values)
    seconds: float = 0.0
    name = "learned"

    def put(self, problem: Any) -> Guess:
        """Put the prediction, then change it. Collective."""
        from lrsa_coupled.coupling.residual import set_dirichlet

        started = time.perf_counter()
        found = self.guess.put(problem)
        self.seconds = time.perf_counter() - started
        problem.solution.x.array[:] = self.change(problem.solution.x.array)
        set_dirichlet(problem)
        return found


@final
class _Runs:
    """Solves of one family."""

    def __init__(self, name: str, family: Any, config: Config, train_samples: int, folder: Path) -> None:
        from lrsa_coupled.generation.collect import Collector
        from lrsa_coupled.guess.attach import attach
        from lrsa_coupled.guess.learned import LearnedGuess

        self.name, self.family, self.config, self.policy = name, family, config, _Asked()
        self.u, self.rng = family.problem.u, np.random.default_rng(0)
        described = {"inputs": family.inputs, "scalars": family.scalars}
        collector = Collector(folder / "data", family.problem, name=name, outputs=family.outputs, **described)
        self.solutions = []
        with collector:
            for _ in progress(range(train_samples), description=f"{STUDY} {name}: samples"):
                self._draw()
                family.problem.solve()
                collector.add()
                self.solutions.append(self.u.x.array.copy())
        train(folder / "data", folder / "model", config)
        guess = LearnedGuess.load(folder / "model", config.guess)
        attached = attach(family.problem, guess, policy=self.policy, **described)
        assert attached is not None
        self.guess = _Changed(attached.guesses[0])
        attached.guesses = [self.guess]
        self._times: list[float] = []
        self._counts: list[int] = []

    def rows(self, count: int) -> list[Row]:
        """Solve samples; one more, first, wakes everything."""
        rows = []
        for index in progress(range(-1, count), description=f"{STUDY} {self.name}"):
            parameters = self.rng.bit_generator.state
            default, seconds, _ = self._solve(Choice(DEFAULT, ""), parameters)
            self._times.append(seconds)
            self._counts.append(default)
            for manner in (PREDICTION, BAD[index % len(BAD)]):
                row = self._row(index, manner, parameters, default, seconds)
                rows += [row] if index >= 0 else []
            self._draw()
        return rows

    def _row(self, index: int, manner: str, parameters: Any, default: int, default_seconds: float) -> Row:
        self.guess.change = self._change(manner, index)
        iterations, _, outcome = self._solve(Choice("learned", "", tested=False), parameters)
        faster = outcome == "converged" and iterations < default
        expected = float(np.exp(np.mean(np.log(self._times))))
        budget, count = self.config.guess.budget * expected, float(np.mean(self._counts))
        guarded = Choice("learned", "", expected=expected, budget=budget, iterations=count)
        _, seconds, outcome = self._solve(guarded, parameters)
        decision = self.policy.decisions[-1]
        lost = decision.wasted - self.guess.seconds
        if outcome == "converged":
            lost = (iterations / default - 1.0) * default_seconds
        values: Values = {
            "manner": manner, "default_iterations": default, "default_seconds": default_seconds, "faster": faster,
            "outcome": outcome, "lost": 0.0 if faster else max(0.0, lost),
        }  # fmt: skip
        return Row(
            method=self.name, sample=max(index, 0), unknowns=self.u.x.array.size, seconds=Seconds(total=seconds),
            iterations=iterations, solved=decision.solved, values=values,
        )  # fmt: skip

    def _solve(self, choice: Choice, parameters: Any) -> tuple[int, float, str]:
        """Solve the sample of a state of the generator; return iterations, time [s] and outcome."""
        self.rng.bit_generator.state = parameters
        self._draw()
        self.policy.asked = choice
        started = time.perf_counter()
        self.family.problem.solve()
        seconds = time.perf_counter() - started
        return self.family.problem.solver.getIterationNumber(), seconds, self.policy.decisions[-1].outcome

    def _draw(self) -> None:
        self.u.x.array[:] = 0.0
        self.family.draw(self.rng)

    def _change(self, manner: str, index: int) -> Callable[[npt.NDArray[Any]], npt.NDArray[Any]]:
        first, second = self.solutions[index], self.solutions[index // 2 - 1]
        changes: dict[str, Callable[[npt.NDArray[Any]], npt.NDArray[Any]]] = {
            BAD[0]: lambda values: -3.0 * values,
            BAD[1]: lambda values: first,
            BAD[2]: lambda values: 1.5 * first - second,
        }
        return changes.get(manner, lambda values: values)


def _load(name: str) -> Any:
    """Import a file or a module."""
    if not name.endswith(".py"):
        return importlib.import_module(name)
    spec = importlib.util.spec_from_file_location(Path(name).stem, name)
    if spec is None or spec.loader is None or not Path(name).is_file():
        raise ValueError(f"--families: {name} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
