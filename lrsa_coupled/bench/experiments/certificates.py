"""The certificate of a surrogate against the truth, and the time to an accuracy against the case's own solver.

A row is one answer to one accuracy: method ``surrogate`` or ``baseline``, in ``values`` the accuracy ``accept``, the
true ``error``, and of the surrogate the ``estimate``, that of the bare prediction (``prediction_estimate``), the true
error of the prediction (``prediction``), and the ``norm``. Errors are relative, in the norm of the certificate at the
true solution: the default solver to its tolerance, then two Newton steps with MUMPS. Estimates are None without a
certificate, an error is None where nothing is delivered. Seconds go from the bare problem to the field, without mesh
and forms.

**Baseline.** Of a linear problem with an energy the same conjugate gradients from zero, stopped by the same estimate.
Of any other the default solver with the residual tolerance 1e-1, 1e-2, ... that serves best: the fastest of those
whose true error is within the accuracy. No user could know that tolerance.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from msgspec.structs import replace
from mpi4py import MPI
from petsc4py import PETSc

from lrsa_coupled.bench.compare import speedup
from lrsa_coupled.bench.experiments import OnRanks, add_model, add_samples
from lrsa_coupled.bench.pictures import save_figure
from lrsa_coupled.bench.report import Table, align, heading, number
from lrsa_coupled.bench.rows import Results, Row, Seconds, Values
from lrsa_coupled.bench.samples import Samples, load_guess, num_unknowns, timed
from lrsa_coupled.certify.certify import Certified, certify
from lrsa_coupled.certify.surrogate import Surrogate
from lrsa_coupled.coupling.norms import jacobian, make_norm, set_solution, solution_vector
from lrsa_coupled.coupling.residual import reference_norm, residual_vector
from lrsa_coupled.guess.learned import LearnedGuess
from lrsa_coupled.interfaces import Case, Problem
from lrsa_coupled.logs import progress
from lrsa_coupled.mpi import collective_errors, share

ON_RANKS = True
STUDY, SURROGATE, BASELINE = "certificates", "surrogate", "baseline"

TARGETS = tuple(10.0**-k for k in range(1, 9))
"""Relative errors asked for."""

TOLERANCES = tuple(10.0**-k for k in range(1, 11))
"""Residual tolerances tried by the baseline, relative to the residual of the zero guess."""

GOOD = (0.5, 3.0)
"""Effectivity indices, estimate by true error, that will do."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    add_samples(parser)
    add_model(parser)
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="write a PNG picture of estimates over errors")


def run(args: Namespace, place: OnRanks) -> Results:
    """Measure the certificate on samples never trained on. Collective.

    Raises:
        ValueError: If the seed is one that was trained on, or the model belongs to another case; on all ranks.
    """
    samples, settings = Samples(place.case, place.config, place.comm), place.config.bench
    with collective_errors(place.comm):
        guess = load_guess(place.case, place.config, place.needed_model())
    _Sample(samples, guess, settings.samples, repeats=1, targets=TARGETS[:1]).rows()  # not counted: compiles the forms
    rows: list[Row] = []
    for index in progress(range(settings.samples), description=f"{STUDY} of {place.case.name}"):
        rows += _Sample(samples, guess, index, repeats=settings.repeats, targets=TARGETS).rows()
    results = samples.results(STUDY, rows, rtol=samples.rtol)
    if args.pictures is not None:
        share(place.comm, lambda: print(f"picture: {effectivity_picture(results, args.pictures)}"))
    return results


@dataclass(frozen=True)
class _Sample:
    """The answers to one sample; none where the default solver fails."""

    samples: Samples
    guess: LearnedGuess
    index: int
    repeats: int
    targets: Sequence[float]

    def rows(self) -> list[Row]:
        """Answer and compare with the truth. Collective."""
        case, problem = self.samples.case, self.samples.problem(self.index)
        truth = true_solution(case, problem)
        if truth is None:
            return []
        norm, zero = make_norm(problem, case.schema.outputs), truth.duplicate()
        zero.set(0.0)
        scale = norm.of_solution(zero, 0.0)

        def error() -> float:
            difference = solution_vector(problem)
            difference.axpy(-1.0, truth)
            return norm.of(difference) / scale

        prediction = error() if self.guess.put(problem).accepted else None
        rows: list[Row] = []
        seen: Values = {"norm": norm.name, "prediction": prediction}
        for accept in self.targets:
            result, seconds = timed(problem, partial(self._answer, problem, accept), self.repeats)
            values: Values = {
                "accept": accept,
                "error": error() if result.delivered else None,
                "estimate": result.error,
            }
            values |= {"prediction_estimate": result.prediction, "linearisations": result.linearisations, **seen}
            row = self._row(SURROGATE, values, seconds, problem)
            fell_back = result.fallback is not None
            rows.append(replace(row, solved=result.certified, iterations=result.iterations, used_fallback=fell_back))
        solves = list(self._baseline(problem, error))
        for accept in self.targets:
            enough = [solve for solve in solves if solve[0] <= accept]
            if enough:
                reached, seconds = min(enough, key=lambda solve: solve[1])
                rows.append(self._row(BASELINE, {"accept": accept, "error": reached}, seconds, problem))
        for item in (truth, zero, norm):
            item.destroy()
        return rows

    def _answer(self, problem: Problem, accept: float) -> Certified:
        return Surrogate(self.samples.case, self.guess, problem, accept=accept).solve()

    def _baseline(self, problem: Problem, error: Callable[[], float]) -> Iterator[tuple[float, float]]:
        """Yield true error and seconds of the baseline's solves, to ever smaller errors. Collective."""
        case = self.samples.case
        if problem.is_linear and problem.energy is not None:
            for accept in self.targets:
                certificate = partial(certify, case, problem, accept=accept, max_linearisations=1)
                _, seconds = timed(problem, certificate, self.repeats)
                yield error(), seconds
            return
        reference = reference_norm(problem)
        for tolerance in TOLERANCES:
            solve = partial(_solves, case, problem, tolerance * reference)
            converged, seconds = timed(problem, solve, self.repeats)
            if converged:
                reached = error()
                yield reached, seconds
                if reached <= self.targets[-1]:
                    return

    def _row(self, method: str, values: Values, seconds: float, problem: Problem) -> Row:
        times, unknowns = Seconds(total=seconds, solve=seconds), num_unknowns(problem)
        return Row(method=method, sample=self.index, seconds=times, solved=True, unknowns=unknowns, values=values)


def true_solution(case: Case, problem: Problem) -> PETSc.Vec | None:
    """Solve a problem to rounding, by the default solver and two Newton steps with MUMPS; None when the former fails.

    Collective; leaves the result in ``problem.solution``, too.
    """
    if not _solves(case, problem, case.rtol * reference_norm(problem)):
        return None
    for _ in range(2):
        matrix, residual, solution = jacobian(problem), residual_vector(problem), solution_vector(problem)
        pc = PETSc.PC().create(problem.mesh.comm)
        pc.setType("lu")
        pc.setFactorSolverType("mumps")
        pc.setOperators(matrix)
        correction = residual.duplicate()
        pc.apply(residual, correction)
        solution.axpy(-1.0, correction)
        set_solution(problem, solution)
        for item in (pc, matrix, residual, correction, solution):
            item.destroy()
    return solution_vector(problem)


def _solves(case: Case, problem: Problem, atol: float) -> bool:
    solver = case.default_solver(problem, atol)
    result = solver.solve()
    solver.destroy()
    return result.converged


def table(results: Results) -> str:
    """Format results: effectivity indices, failed certificates, times to an error."""
    answers = results.methods.get(SURROGATE, [])
    if not answers:
        return f"{results.header.case}: the default solver has solved no sample"
    predictions = {row.sample: row.number("prediction") for row in answers if row.values["prediction"] is not None}
    errors = list(predictions.values())
    predicted = "no prediction was accepted"
    if errors:
        predicted = f"error of the prediction: median {np.median(errors):.2g}, 95 % {np.quantile(errors, 0.95):.2g}"
    parts = [f"{heading(results)}; relative errors in the {answers[0].values['norm']}\n{predicted}"]
    return "\n\n".join([*parts, align(_effectivity_rows(answers)), align(_time_rows(results))])


def effectivity_picture(results: Results, folder: Path) -> Path:
    """Write ``effectivity.png``, estimates over true errors. Call on one rank."""
    answers = results.methods.get(SURROGATE, [])
    figure = Figure(figsize=(6.0, 5.5), layout="constrained", facecolor="white")
    axis = figure.subplots()
    points = {
        "delivered field": (_delivered(answers), "tab:blue"),
        "bare prediction": (_predicted(answers), "tab:orange"),
    }
    for label, (pairs, colour) in points.items():
        text = f"{label} ({len(pairs)})"
        axis.plot(*pairs.T[::-1], "o", color=colour, markersize=4, alpha=0.4, markeredgewidth=0, label=text)
    every = np.concatenate([pairs for pairs, _ in points.values()])
    limits = np.array([0.3 * every.min(), 3.0 * every.max()]) if every.size else np.array([1e-9, 1.0])
    axis.plot(limits, limits, color="black", linewidth=0.8)
    low, high = GOOD
    label = f"{low:g} to {high:g} times the error"
    axis.fill_between(limits, low * limits, high * limits, color="0.9", zorder=0, label=label)
    axis.set(xscale="log", yscale="log", xlim=limits, ylim=limits, xlabel="true relative error", ylabel="estimate")
    axis.set_title(heading(results), fontsize=8)
    axis.grid(linewidth=0.3)
    axis.legend(frameon=False)
    return save_figure(figure, folder / "effectivity.png")


def _delivered(answers: Sequence[Row], accept: float | None = None) -> npt.NDArray[np.float64]:
    """Return estimates and true errors of the certified fields ``(num_fields, 2)``, of one accuracy or all."""
    rows = [row for row in answers if row.solved and accept in (None, row.values["accept"])]
    pairs = [(row.number("estimate"), row.number("error")) for row in rows]
    return np.array([pair for pair in pairs if pair[1] > 0.0]).reshape(-1, 2)


def _predicted(answers: Sequence[Row]) -> npt.NDArray[np.float64]:
    """Return estimates and true errors of the predictions ``(num_predictions, 2)``, from the runs to one accuracy."""
    rows = [row for row in answers if row.solved and row.values["accept"] == TARGETS[1]]
    pairs = [(row.number("prediction_estimate"), row.number("prediction")) for row in rows]
    return np.array([pair for pair in pairs if pair[1] > 0.0 and pair[0] == pair[0]]).reshape(-1, 2)


def _effectivity_rows(answers: Sequence[Row]) -> Table:
    good = f"in [{GOOD[0]:g}, {GOOD[1]:g}]"
    rows = [["estimate / true error", "certified", "5 %", "median", "95 %", good, "true error above"]]
    for accept in (None, *TARGETS):
        name = "prediction" if accept is None else f"delivered, {accept:.0e} asked for"
        pairs = _predicted(answers) if accept is None else _delivered(answers, accept)
        if not len(pairs):
            rows.append([name, "0", *["-"] * 5])
            continue
        indices = pairs[:, 0] / pairs[:, 1]
        within = np.mean((indices >= GOOD[0]) & (indices <= GOOD[1]))
        above = "-" if accept is None else str(int(np.sum(pairs[:, 1] > accept)))
        quantiles = [f"{value:.2f}" for value in np.quantile(indices, [0.05, 0.5, 0.95])]
        rows.append([name, str(len(pairs)), *quantiles, f"{100 * within:.0f} %", above])
    return rows


def _time_rows(results: Results) -> Table:
    rows = [["time to a relative error of", "surrogate [s]", "baseline [s]", "speed-up", "losses", "fell back"]]
    for accept in TARGETS:
        ours, others = (
            [row for row in results.methods.get(name, []) if row.values["accept"] == accept]
            for name in (SURROGATE, BASELINE)
        )
        reached = {row.sample: row.seconds.total for row in ours if row.number("error") <= accept}
        baseline = {row.sample: row.seconds.total for row in others}
        result = speedup(baseline, reached)
        medians = [number(float(np.median(list(times.values())))) if times else "-" for times in (reached, baseline)]
        mean, fallbacks = f"{result.mean:.2f}" if result.ratios else "-", sum(row.used_fallback for row in ours)
        rows.append([f"{accept:.0e}", *medians, mean, str(result.losses), str(fallbacks)])
    return rows
