"""The guarded solver: whatever the guess, the answer is right; a bad one is rejected before or soon in the solve."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from mpi4py import MPI

pytest.importorskip("dolfinx", reason="the solvers need DOLFINx")

from lrsa_coupled.cases.cavity.case import CavityCase
from lrsa_coupled.cases.hyperelastic.case import HyperelasticCase
from lrsa_coupled.config import GuessConfig
from lrsa_coupled.coupling.residual import reference_norm, residual_norm, set_dirichlet
from lrsa_coupled.generation.plan import sample_parameters
from lrsa_coupled.guess.acceptance import accept
from lrsa_coupled.guess.guarded import GuardedSolver, kind_of
from lrsa_coupled.guess.monitor import Limits, Monitor
from lrsa_coupled.guess.policy import Adaptive, Always
from lrsa_coupled.guess.record import DEFAULT
from lrsa_coupled.guess.target import CaseTarget
from lrsa_coupled.interfaces import Case, Guess, InitialGuess, Problem

pytestmark = pytest.mark.two_ranks

COMM = MPI.COMM_WORLD
CASES = {"cavity": (CavityCase(), 10), "hyperelastic": (HyperelasticCase(), 3)}
CHANGES: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "exact": lambda truth, rng: truth,
    "near": lambda truth, rng: 0.98 * truth,
    "flipped": lambda truth, rng: -truth,
    "ten times": lambda truth, rng: 10.0 * truth,
    "zeros": lambda truth, rng: 0.0 * truth,
    "noise": lambda truth, rng: np.abs(truth).mean() * rng.standard_normal(truth.size),
    "not a number": lambda truth, rng: np.nan * truth,
    "infinite": lambda truth, rng: np.inf * (truth + 1.0),
}


@cache
def solved(name: str) -> tuple[Case, Problem, float, np.ndarray]:
    case, resolution = CASES[name]
    parameters = sample_parameters(case, 0, 1)
    problem = case.problem(case.mesh(COMM, parameters, resolution), parameters)
    atol = case.rtol * reference_norm(problem)
    solver = case.default_solver(problem, atol)
    assert solver.solve().converged
    solver.destroy()
    return case, problem, atol, problem.solution.x.array.copy()


def put(problem: Problem, values: np.ndarray) -> None:
    problem.solution.x.array[:] = values
    set_dirichlet(problem)


class Changed(InitialGuess):
    """The solution, changed."""

    name = "learned"

    def __init__(self, change: str, truth: np.ndarray) -> None:
        self.change, self.truth = CHANGES[change], truth

    def put(self, problem: Problem) -> Guess:
        put(problem, self.change(self.truth, np.random.default_rng(COMM.rank)))
        return Guess()


class Refused(InitialGuess):
    name = "learned"

    def put(self, problem: Problem) -> Guess:
        problem.solution.x.array[:] = np.nan
        return Guess(False, "too far", {"transfer": 0.0, "inference": 0.0})


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("change", CHANGES)
def test_the_answer_is_right_whatever_the_guess(name: str, change: str) -> None:
    case, problem, atol, truth = solved(name)
    policy = Adaptive(GuessConfig(), ["learned"])
    for _ in range(3):
        problem.solution.x.array[:] = 0.0
        solver = GuardedSolver([Changed(change, truth)], CaseTarget(case, problem, atol), policy)
        result = solver.solve()
        solver.destroy()
        assert result.converged and set(result.seconds) == {"transfer", "inference", "solve"}
        assert residual_norm(problem) <= atol * (1 + 1e-6)
        everyone = COMM.allgather([vars(decision) for decision in policy.decisions])
        assert all(decisions == everyone[0] for decisions in everyone)
    assert np.abs(problem.solution.x.array - truth).max(initial=0.0) < 1e-5 * COMM.allreduce(
        np.abs(truth).max(initial=0.0), op=MPI.MAX
    )
    assert [decision.choice for decision in policy.decisions[:2]] == [DEFAULT, "learned"]
    first = policy.decisions[1]
    if change in ("exact", "near"):
        assert first.good and first.wasted == 0.0
    if change in ("not a number", "infinite"):
        assert first.outcome.startswith("rejected")
    if change in ("not a number", "infinite", "noise"):
        assert not first.good
        assert result.used_fallback or policy.decisions[-1].choice == DEFAULT
        assert 0.0 < first.wasted < first.seconds


@pytest.mark.parametrize("guess", [Refused(), None], ids=["refused", "too few iterations"])
def test_always_falls_back_and_counts_every_iteration(guess: InitialGuess | None) -> None:
    case, problem, atol, truth = solved("cavity")
    default = GuardedSolver([], CaseTarget(case, problem, atol), Always()).solve()
    policy = Always(max_iterations=1)
    result = GuardedSolver([guess or Changed("near", truth)], CaseTarget(case, problem, atol), policy).solve()
    assert result.converged and result.used_fallback and not default.used_fallback
    assert result.iterations == default.iterations + (guess is None)
    assert policy.decisions[0].outcome.startswith("failed" if guess is None else "rejected: too far")


def test_a_guess_must_be_finite_and_lower_the_energy_where_there_is_one() -> None:
    _, flow, _, truth = solved("cavity")
    put(flow, truth)
    rough = truth + 0.1 * np.abs(truth).max() * np.random.default_rng(COMM.rank).standard_normal(truth.size)
    for values in (truth, rough):  # the first step removes what is rough: the residual says little
        put(flow, values)
        before = flow.solution.x.array.copy()
        assert accept(flow).accepted
        assert np.array_equal(flow.solution.x.array, before)
    put(flow, np.nan * truth)
    found = accept(flow)
    assert not found.accepted and found.reason == "the guess is not finite"
    assert not flow.solution.x.array.any()
    _, block, _, shape = solved("hyperelastic")
    put(block, shape)
    assert accept(block).accepted
    assert np.array_equal(block.solution.x.array, shape)
    put(block, -shape)
    assert "the energy is" in accept(block).reason


def test_a_guess_beyond_the_minimum_is_drawn_back() -> None:
    _, block, _, shape = solved("hyperelastic")
    small = 0.02 * shape
    accepted = []
    for factor in (1.0, 150.0):
        put(block, factor * small)
        found = accept(block)
        accepted.append((found.accepted, "drawn back to" in found.reason))
    assert accepted[0] == (True, False)
    assert accepted[1] in ((True, True), (False, True), (False, False))


def test_a_monitored_newton_ends_when_it_is_asked_to() -> None:
    case, problem, atol, truth = solved("cavity")
    put(problem, 0.9 * truth)
    seen = []
    solver = case.solver(problem, atol)
    solver.monitor(lambda iteration, norm: seen.append((iteration, norm)) or iteration == 1)
    result = solver.solve()
    solver.destroy()
    assert not result.converged
    assert [iteration for iteration, _ in seen] == [0, 1] and seen[1][1] < seen[0][1]


@pytest.mark.parametrize(
    ("norms", "pace", "ended"),
    [
        ([1.0, 1e-3, 1e-15, 1e-18], 0.2, None),  # without tolerance, a solver that ends by the length of its step
        ([1.0, 1e-3, 1e-9], 0.2, None),
        ([1.0, 2.0], 0.2, 1),
        ([1.0, 2.0, 2.0], 0.1, 2),  # the budget is one iteration and a half
        ([1e3, 1.0, 1e-3], 0.2, None),  # the first step removes what is rough
        ([1e3, 5e2], 0.2, 1),  # it does not: far from where the default solve begins
        ([1.0, 0.3, 0.2, 0.05], 0.2, None),  # one slow iteration, as with a Jacobian that was kept
        ([1.0, 0.95], 0.2, 1),
        ([1.0, 0.95, 0.9, 0.85, 0.5, 0.1], 0.03, None),  # so slow a default solve has many iterations, too
        ([1.0, float("nan")], 0.2, 1),
        ([1.0, 1e-3], 1.6, 1),  # a default solve would have ended
    ],
)
def test_a_monitor_lets_go_on_what_will_converge_and_ends_what_will_not(
    norms: list[float], pace: float, ended: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([pace * iteration for iteration in range(len(norms))])
    monkeypatch.setattr("lrsa_coupled.guess.monitor.time.perf_counter", lambda: next(clock))
    monitor = Monitor(
        COMM, Limits(start=1.0, atol=0.0 if norms[-1] < 1e-16 else 1e-8, budget=0.15, expected=1.0), started=0.0
    )
    found = (iteration for iteration, norm in enumerate(norms) if monitor(iteration, norm))
    assert next(found, None) == ended
    assert (monitor.reason is None) == (ended is None)


def test_a_monitor_counts_iterations_where_those_of_the_default_solve_are_known() -> None:
    for iterations, expected in ((10.0, False), (2.0, True)):
        limits = Limits(start=1.0, atol=1e-8, budget=0.0, expected=1e-9, iterations=iterations)
        monitor = Monitor(COMM, limits, started=0.0)
        assert not monitor(0, 1.0)
        assert monitor(1, 0.1) is expected  # a slow machine says nothing


def test_a_guess_from_which_newton_stagnates_is_given_up_after_two_iterations() -> None:
    """A line search of ever shorter steps from a rough guess, where the default solve has 30 iterations."""
    for norms, ended in (((0.97, 0.95), True), ((0.97, 0.4), False), ((2.0, 0.1), False), ((2.0, 2.0), True)):
        monitor = Monitor(COMM, Limits(start=1.0, atol=1e-8, budget=0.0, expected=1e-9, iterations=30.0), started=0.0)
        assert not monitor(0, 1.0) and not monitor(1, norms[0])  # the first step may raise the norm, in elasticity
        assert monitor(2, norms[1]) is ended


def test_a_guess_from_which_the_norm_soars_is_given_up_after_the_first_iteration() -> None:
    for iterations, second, ended in ((30.0, 20.0, True), (30.0, 5.0, False), (5.0, 5.0, True)):
        limits = Limits(start=1.0, atol=1e-8, budget=0.0, expected=1e-9, iterations=iterations)
        monitor = Monitor(COMM, limits, started=0.0)
        assert not monitor(0, 1.0)
        assert monitor(1, second) is ended


def test_problems_of_about_the_same_size_are_of_one_kind() -> None:
    kinds = {kind_of(case.problem(case.mesh(COMM, parameters, resolution), parameters))
             for case, resolution in CASES.values() for parameters in [sample_parameters(case, 0, 0)]}  # fmt: skip
    assert len(kinds) == 2 and all(kind.startswith(f"{COMM.size} ranks, about") for kind in kinds)
