"""Time stepping: the same unseen trajectories from every initial guess of a step, at several tolerances.

A row is one step; ``values`` holds its ``tolerance`` (residual norm at the end relative to that of the previous
state), ``linear_iterations`` (of the KSP inside), and ``guess``, the residual norm of the guess relative to that of
the previous state (None when it never came to a solve). Seconds count everything: extrapolation or features,
transfer, inference, policy, solve.

Every method integrates a trajectory by itself, so that its states, and what it extrapolates, have the errors of its
own tolerance. All take a step in turn before any takes the next, so that what else the machine does affects all in
the same way. The solver and what it reuses stay over a trajectory. Its first step, with nothing to extrapolate, is
solved but does not count. Where a method loses a trajectory its further steps are missing.
"""

from __future__ import annotations

import dataclasses
import math
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import geometric_mean
from typing import TYPE_CHECKING, Any, final

import numpy as np
from msgspec.structs import replace

from lrsa_coupled.bench.compare import ADAPTIVE, LEARNED, baselines_of
from lrsa_coupled.bench.experiments import add_model
from lrsa_coupled.bench.payback import PayBack, cost_of, pay_back_note, pay_back_rows, savings
from lrsa_coupled.bench.report import align, counted, decision_lines, mean_iterations
from lrsa_coupled.bench.rows import Results, Row
from lrsa_coupled.generation.plan import sample_parameters
from lrsa_coupled.guess.policy import Adaptive, Always, Policy
from lrsa_coupled.interfaces import FixedMesh, InitialGuess, Problem, Reuse, SequenceSolver, SolveResult, Trajectory
from lrsa_coupled.logs import progress

if TYPE_CHECKING:
    from lrsa_coupled.bench.samples import Samples
    from lrsa_coupled.guess.learned import LearnedGuess

ON_RANKS = True
STUDY = "time-steps"
TOLERANCES = (1e-4, 1e-6, 1e-8, 1e-10)

add_arguments = add_model


def run(args: Namespace, samples: Samples) -> Results:
    """Integrate unseen trajectories by every method, without a model those of the case, at every tolerance. Collective.

    ValueError if the case has no trajectories, or the model belongs to another case or has seen them.
    """
    case, count = samples.case, samples.config.bench.samples
    if case.trajectory is None or case.fixed_mesh is None:
        raise ValueError(f"this experiment needs a case of trajectories, '{case.name}' has none")
    guess = samples.guess() if samples.model is not None else None
    problem = samples.problem(0)
    problems = [problem, *(case.problem(problem.mesh, problem.parameters) for _ in range(len(case.methods()) + 1))]
    # One trajectory more, not counted: wakes MUMPS and torch.
    list(_integrate(_steppers(samples, problems, guess), count, TOLERANCES[0], steps=3))
    rows: list[Row] = []
    for tolerance in TOLERANCES:
        steppers = _steppers(samples, problems, guess)
        for trajectory in progress(range(count), description=f"{case.name}, {tolerance:g}"):
            rows += _integrate(steppers, trajectory, tolerance, steps=case.trajectory.num_steps)
    costs = dict.fromkeys((LEARNED, ADAPTIVE), cost_of(guess.predictor.card)) if guess else {}
    return samples.results(STUDY, rows, costs, rtol=None)


def table(results: Results) -> str:
    """Format results: times are geometric means over the steps, ratios against the best baseline of the tolerance."""
    header, found = results.header, []
    counts = [len(rows) for rows in results.methods.values()]
    steps = max(counts, default=0) // len(TOLERANCES)
    place = f"resolution {header.resolution}, {counted(header.ranks, 'rank')}"
    parts = [f"{header.case}: {steps} unseen steps (seed {header.seed}), {place}"]
    parts[0] += "; residual relative to that of the previous state"
    for tolerance in TOLERANCES:
        methods = {n: [r for r in rows if r.number("tolerance") == tolerance] for n, rows in results.methods.items()}
        times = {name: _mean_time(rows) for name, rows in methods.items()}
        best = min(baselines_of(times), key=times.__getitem__)
        lines = [[f"tolerance {tolerance:.0e}", "solved", "Newton", "Krylov", "guess", "[ms]", f"against {best}"]]
        for name, rows in methods.items():
            guesses = [row.number("guess") for row in rows if row.values["guess"] is not None]
            cells = [name, f"{sum(row.solved for row in rows)}/{steps}", f"{mean_iterations(rows):.2f}"]
            cells += [f"{np.mean([row.number('linear_iterations') for row in rows]):.2f}"]
            cells += [f"{np.median(guesses):.2g}" if guesses else "-"]
            lines.append([*cells, f"{1e3 * times[name]:.2f}", f"{times[best] / times[name]:.2f}"])
        parts += [align(lines), "\n".join(decision_lines(methods.get(ADAPTIVE, [])))]
        if LEARNED in methods:
            name = f"{best} at {tolerance:.0e}, in steps"
            found.append(PayBack(name, header.costs[LEARNED].total, savings(methods[best], methods[LEARNED])))
    parts += [f"{align(pay_back_rows(found))}\n{pay_back_note(header.costs[LEARNED])}"] if found else []
    return "\n\n".join(part for part in parts if part)


def _mean_time(rows: Sequence[Row]) -> float:
    """Return the geometric mean over the solved steps, infinite when there is none [s]."""
    times = [row.seconds.total for row in rows if row.solved]
    return geometric_mean(times) if times else math.inf


def _steppers(samples: Samples, problems: Sequence[Problem], guess: LearnedGuess | None) -> list[_Stepper]:
    """Return a stepper for each method, the operator last, each with a problem of its own."""
    from lrsa_coupled.coupling.transfer import NodeSet
    from lrsa_coupled.guess.extrapolated import ExtrapolatedGuess

    case, settings = samples.case, dataclasses.replace(samples.config.guess, record=None)
    found = [_Stepper(samples, name, problem) for name, problem in zip(case.methods(), problems, strict=False)]
    if guess is None:
        return found
    trajectory = found[0].trajectory
    for name, problem in zip((ADAPTIVE, LEARNED), problems[-2:], strict=True):
        adaptive = name == ADAPTIVE
        limit = settings.max_distance if adaptive else math.inf
        learned = guess.bind(case, nodes=NodeSet(problem, case.schema.outputs), max_distance=limit)
        others = trajectory.extrapolations[1:] if adaptive else ()
        guesses = [learned, *(ExtrapolatedGuess(other, trajectory) for other in others)]
        policy = Adaptive(settings, [item.name for item in guesses]) if adaptive else Always()
        found.append(_Stepper(samples, name, problem, guesses, policy))
    return found


@final
@dataclass
class _Stepper:
    """A method that takes steps, on a problem of its own; behind guesses when it has a policy."""

    samples: Samples
    name: str
    problem: Problem
    guesses: Sequence[InitialGuess] = ()
    policy: Policy | None = None
    lost: bool = False
    _solver: SequenceSolver | None = None
    _first_norm: float = math.nan

    @property
    def trajectory(self) -> Trajectory[Any]:
        """That of the case."""
        assert self.samples.case.trajectory is not None
        return self.samples.case.trajectory

    @property
    def fixed_mesh(self) -> FixedMesh[Any]:
        """That of the case."""
        assert self.samples.case.fixed_mesh is not None
        return self.samples.case.fixed_mesh

    def begin(self, index: int) -> None:
        """Go to the first step of a trajectory. Collective."""
        self.end()
        self.problem = self.fixed_mesh.update(
            self.problem, sample_parameters(self.samples.case, self.samples.seed, index)
        )
        self.lost = False

    def take(self, index: int, tolerance: float) -> Row:
        """Take a step and go to the next. Collective."""
        from lrsa_coupled.bench.samples import timed
        from lrsa_coupled.coupling.residual import residual_norm

        self.trajectory.extrapolate(self.problem, "previous")
        scale = residual_norm(self.problem)
        atol, self._first_norm = tolerance * scale, math.nan
        result, seconds = timed(self.problem, partial(self._solve, atol))
        row = self.samples.row(self.name, index, problem=self.problem, atol=atol, result=result, seconds=seconds)
        guess = self._first_norm / scale if math.isfinite(self._first_norm) else None
        values = {"tolerance": tolerance, "linear_iterations": result.linear_iterations, "guess": guess}
        row = replace(row, values=values)
        if isinstance(self.policy, Adaptive):
            row = replace(row, decisions=(dataclasses.asdict(self.policy.decisions[-1]),))
        self.lost = not (row.solved or self._rescue(atol))
        if not self.lost:
            self.problem = self.trajectory.advance(self.problem)
        return row

    def end(self) -> None:
        """Free the solver. Collective."""
        if self._solver is not None:
            self._solver.destroy()
        self._solver = None

    def _solve(self, atol: float) -> SolveResult:
        if self._solver is None:
            self._solver = self._make(atol)
            self._solver.monitor(self._monitor)
        else:
            self._solver.update(self.problem, atol)
        return self._solver.solve()

    def _make(self, atol: float) -> SequenceSolver:
        from lrsa_coupled.guess.extrapolated import ExtrapolatedGuess, step_target
        from lrsa_coupled.guess.guarded import GuardedSolver

        if self.policy is None:
            return self.fixed_mesh.sequence(self.problem, atol, method=self.name, reuse=Reuse())
        inside = self.samples.case.solver(self.problem, atol)
        assert isinstance(inside, SequenceSolver)
        default = ExtrapolatedGuess(self.trajectory.extrapolations[0], self.trajectory)
        return GuardedSolver(self.guesses, step_target(inside, self.problem, atol, default), self.policy)

    def _monitor(self, iteration: int, norm: float) -> bool:
        if iteration == 0:
            self._first_norm = norm
        return False

    def _rescue(self, atol: float) -> bool:
        """Solve a step that is not solved, not timed, so that the next one has a state to go on from. Collective."""
        from lrsa_coupled.bench.samples import solve

        self.end()
        return solve(partial(self.samples.case.default_solver, self.problem, atol)).converged


def _integrate(steppers: Sequence[_Stepper], trajectory: int, tolerance: float, *, steps: int) -> Iterator[Row]:
    """Integrate a trajectory by all methods in turn, yield the rows of all steps but the first. Collective."""
    num_steps = steppers[0].trajectory.num_steps
    for stepper in steppers:
        stepper.begin(trajectory * num_steps)
    for step in range(steps):
        for stepper in steppers:
            if not stepper.lost:
                row = stepper.take(trajectory * num_steps + step, tolerance)
                if step > 0:
                    yield row
    for stepper in steppers:
        stepper.end()
