"""Ledger of time stepping: the same unseen trajectories by every way to start a step, at several tolerances.

A ledger is a dictionary for JSON: what ``measured_on`` says, less ``tolerance``, ``cost`` (of the operator, as ``cost_of`` returns it; null without
one), and ``tolerances``, one entry each::

    tolerance                   residual norm at the end of a step, relative to that of the previous state as start
    gate                        what the gate chose, for people
    strategies                  list of {"name", "steps"}, the classical ones in the case's order, then those with the operator

and each step holds ``trajectory``, ``step``, ``solved`` (the true residual is within the tolerance), ``iterations`` (Newton), ``linear_iterations``
(of the KSP inside), ``start`` (residual norm of the start, relative to that of the previous state; null when it never came to a solve) and
``seconds`` (wall time of the slowest rank: extrapolation or features, transfer and inference, gate, solve).

Every way integrates a trajectory by itself, so that its states, and what it extrapolates, have the errors of its own tolerance. All take a step
in turn before any takes the next, so that what else the machine does hits all alike. The solver and what it keeps stay over a trajectory. Its
first step, for which there is one state and nothing to extrapolate, is solved but does not count.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, final

import numpy as np
from mpi4py import MPI

from lrsa_coupled.bench.breakeven import compared, cost_of, note_of, rows_of
from lrsa_coupled.bench.ledger import SLACK, measured_on
from lrsa_coupled.bench.pictures import GATED, LEARNED
from lrsa_coupled.bench.report import align
from lrsa_coupled.bench.steps import extrapolations, step_solver
from lrsa_coupled.bench.strategies import load_guess
from lrsa_coupled.config import Config
from lrsa_coupled.coupling.residual import residual_norm
from lrsa_coupled.coupling.transfer import NodeSet
from lrsa_coupled.generation.plan import sample_parameters
from lrsa_coupled.guess.guarded import slowest
from lrsa_coupled.guess.learned import LEARNED as LEARNED_GUESS
from lrsa_coupled.guess.learned import LearnedGuess
from lrsa_coupled.guess.policy import Adaptive, Always
from lrsa_coupled.interfaces import Case, Problem, Reuse, SequenceSolver, SolveResult
from lrsa_coupled.logs import progress

TOLERANCES = (1e-4, 1e-6, 1e-8, 1e-10)


@final
class _Way:
    """One way to take steps, on a problem of its own.

    Args:
        case: The case.
        name: Name of the way.
        problem: The first step of a trajectory.
        make: Makes the solver that takes the steps.
    """

    def __init__(
        self, case: Case, name: str, problem: Problem, make: Callable[[Problem, float], SequenceSolver]
    ) -> None:
        self.case, self.name, self.problem = case, name, problem
        self.steps: list[dict[str, Any]] = []
        self._make = make
        self._solver: SequenceSolver | None = None
        self._first_norm = math.nan
        self._lost = False

    def begin(self, seed: int, index: int) -> None:
        """Go to the first step of a trajectory. Collective."""
        self.end()
        self.problem = self.case.fixed_mesh.update(self.problem, sample_parameters(self.case, seed, index))
        self._lost = False

    def take(self, tolerance: float, place: tuple[int, int]) -> None:
        """Take a step and go to the next; ``place`` is trajectory and step. Collective."""
        case, problem, comm = self.case, self.problem, self.problem.mesh.comm
        if self._lost:
            self.steps.append(_record(place, None, False, seconds=0.0, start=math.nan))
            return
        case.trajectory.extrapolate(problem, "previous")
        scale = residual_norm(problem)
        atol = tolerance * scale
        problem.solution.x.array[:] = 0.0
        self._first_norm = math.nan
        comm.Barrier()
        started = time.perf_counter()
        self._update(atol)
        result = self._solver.solve()
        seconds = slowest(comm, time.perf_counter() - started)
        solved = result.converged and residual_norm(problem) <= (1.0 + SLACK) * atol
        if place[1] > 0:
            self.steps.append(_record(place, result, solved, seconds=seconds, start=self._first_norm / scale))
        self._lost = not (solved or self._rescue(atol))
        if not self._lost:
            self.problem = case.trajectory.advance(problem)

    def end(self) -> None:
        """Free the solver. Collective."""
        if self._solver is not None:
            self._solver.destroy()
        self._solver = None

    def _update(self, atol: float) -> None:
        if self._solver is not None:
            self._solver.update(self.problem, atol)
            return
        self._solver = self._make(self.problem, atol)
        self._solver.monitor(self._monitor)

    def _monitor(self, iteration: int, norm: float) -> bool:
        if iteration == 0:
            self._first_norm = norm
        return False

    def _rescue(self, atol: float) -> bool:
        """Solve a step that was not, without counting the time, so that the next one has a state to go on from. Collective."""
        self.end()
        solver = self.case.default_solver(self.problem, atol)
        result = solver.solve()
        solver.destroy()
        return result.converged


def bench_transient(case: Case, config: Config, comm: MPI.Comm, *, model: Path | None = None) -> dict[str, Any]:
    """Integrate ``config.bench.samples`` unseen trajectories in every way at every tolerance. Collective.

    Raises:
        ValueError: If the case has no trajectories, none is asked for, or the model belongs to another case or has seen them.
    """
    settings = config.bench
    if case.trajectory is None:
        raise ValueError(f"bench --what transient needs a case of time steps (trajectory), '{case.name}' has none")
    guess = load_guess(case, config, model) if model is not None else None
    first = sample_parameters(case, config.problem.test_seed, 0)
    mesh = case.mesh(comm, first, config.problem.resolution or case.resolution)
    problems = [case.problem(mesh, first) for _ in range(len(case.methods()) + (2 if guess else 0))]
    starts = [LEARNED_GUESS, *case.trajectory.extrapolations[1:]]
    policy = dataclasses.replace(config.guess, record=None)
    warming = _ways(case, problems, guess=guess, gate=Adaptive(policy, starts))
    _integrate(
        warming, config.problem.test_seed, settings.samples, tolerance=TOLERANCES[0], steps=3
    )  # one more, not counted: wakes MUMPS and torch
    entries = []
    for tolerance in TOLERANCES:
        gate = Adaptive(policy, starts)
        ways = _ways(case, problems, guess=guess, gate=gate)
        for trajectory in progress(range(settings.samples), description=f"transient {case.name}, {tolerance:g}"):
            _integrate(ways, config.problem.test_seed, trajectory, tolerance=tolerance, steps=case.trajectory.num_steps)
        strategies = [{"name": way.name, "steps": way.steps} for way in ways]
        entries.append({"tolerance": tolerance, "gate": gate.summary() if guess else "", "strategies": strategies})
    about = {key: value for key, value in measured_on(case, config, comm).items() if key != "tolerance"}
    return about | {
        "num_steps": case.trajectory.num_steps,
        "trajectories": settings.samples,
        "cost": cost_of(guess.predictor.card) if guess else None,
        "tolerances": entries,
    }


def transient_table(ledger: Mapping[str, Any]) -> str:
    """Format a ledger for the terminal: times are geometric means over the steps, ratios against the best classical way of the tolerance."""
    parts = [
        f"{ledger['case']}: {ledger['trajectories']} unseen trajectories of {ledger['num_steps']} steps (seed {ledger['seed']}), resolution "
        f"{ledger['resolution']}, {ledger['ranks']} ranks; residual relative to that of the previous state"
    ]
    for entry in ledger["tolerances"]:
        times = {s["name"]: _mean_time(s["steps"]) for s in entry["strategies"]}
        best = min((name for name in times if name not in (LEARNED, GATED)), key=times.__getitem__)
        rows = [
            [f"tolerance {entry['tolerance']:.0e}", "solved", "Newton", "Krylov", "start", "[ms]", f"against {best}"]
        ]
        for strategy in entry["strategies"]:
            steps = strategy["steps"]
            starts = [step["start"] for step in steps if step["start"] is not None]
            rows.append([
                strategy["name"], f"{sum(step['solved'] for step in steps)}/{len(steps)}",
                *(f"{np.mean([step[key] for step in steps]):.2f}" for key in ("iterations", "linear_iterations")),
                f"{np.median(starts):.2g}" if starts else "-", f"{1e3 * times[strategy['name']]:.2f}", f"{times[best] / times[strategy['name']]:.2f}",
            ])  # fmt: skip
        parts += [align(rows), *filter(None, [entry["gate"]])]
    return "\n\n".join([*parts, *_break_even(ledger)])


def _break_even(ledger: Mapping[str, Any]) -> list[str]:
    """Say, for each tolerance, after how many steps the operator has paid for itself against the best classical way."""
    if not ledger["cost"]:
        return []
    found = []
    for entry in ledger["tolerances"]:
        steps = {s["name"]: s["steps"] for s in entry["strategies"]}
        best = min((name for name in steps if name not in (LEARNED, GATED)), key=lambda name: _mean_time(steps[name]))
        savings = [
            (rival["seconds"] if own["solved"] else 0.0) - own["seconds"]
            for own, rival in zip(steps[LEARNED], steps[best], strict=True)
            if rival["solved"]
        ]
        found.append(
            compared(
                f"{best} at {entry['tolerance']:.0e}, in steps",
                ledger["cost"],
                [ledger["ranks"] * saving for saving in savings],
            )
        )
    return [f"{align(rows_of(found))}\n{note_of(ledger['cost'])}"]


def _ways(case: Case, problems: Sequence[Problem], *, guess: LearnedGuess | None, gate: Adaptive) -> list[_Way]:
    names = list(case.methods())
    ways = [
        _Way(case, name, problem, partial(case.fixed_mesh.sequence, method=name, reuse=Reuse()))
        for name, problem in zip(names, problems, strict=guess is None)
    ]
    if guess is None:
        return ways
    behind_gate, always = problems[-2:]
    chosen = guess.bind(case, nodes=NodeSet(behind_gate, case.schema.outputs), max_distance=gate.max_distance)
    make = partial(step_solver, case, guesses=[chosen, *extrapolations(case)[1:]], policy=gate)
    ways.append(_Way(case, GATED, behind_gate, make))
    taken = guess.bind(case, nodes=NodeSet(always, case.schema.outputs))
    return [*ways, _Way(case, LEARNED, always, partial(step_solver, case, guesses=[taken], policy=Always()))]


def _integrate(ways: Sequence[_Way], seed: int, trajectory: int, *, tolerance: float, steps: int) -> None:
    for way in ways:
        way.begin(seed, trajectory * way.case.trajectory.num_steps)
    for step in range(steps):
        for way in ways:
            way.take(tolerance, (trajectory, step))
    for way in ways:
        way.end()


def _record(
    place: tuple[int, int], result: SolveResult | None, solved: bool, *, seconds: float, start: float
) -> dict[str, Any]:
    trajectory, step = place
    iterations, linear = (0, 0) if result is None else (result.iterations, result.linear_iterations)
    return {"trajectory": trajectory, "step": step, "solved": bool(solved), "iterations": int(iterations), "linear_iterations": int(linear),
            "start": start if math.isfinite(start) else None, "seconds": seconds}  # fmt: skip


def _mean_time(steps: Sequence[Mapping[str, Any]]) -> float:
    """Return the geometric mean over the steps that were solved, infinite when none was [s]."""
    times = [step["seconds"] for step in steps if step["solved"]]
    return float(np.exp(np.mean(np.log(times)))) if times else math.inf
