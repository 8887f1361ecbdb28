"""The policies on made-up times: the adaptive one finds the fastest choice, loses little, drops a guess that fails."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mpi4py", reason="the coupling needs MPI")

from mpi4py import MPI

from lrsa_coupled.config import GuessConfig
from lrsa_coupled.guess.policy import Adaptive, Always, Decision, forget_policies, make_policy, policy_for
from lrsa_coupled.guess.record import DEFAULT

KIND = "1 ranks, about 1e+04 unknowns"


def run(
    policy: Adaptive, times: dict[str, float], count: int, *, spread: float = 0.2, fails: str = "", wasted: float = 0.0
) -> float:
    """Solve ``count`` problems of log-normal times; return the mean time over the least mean of a choice."""
    rng = np.random.default_rng(0)
    total, best = 0.0, 0.0
    for _ in range(count):
        hardness = np.exp(spread * rng.standard_normal())
        choice, why = _choose(policy)
        failed = choice == fails
        seconds = hardness * (times[DEFAULT] + wasted if failed else times[choice])
        outcome = "rejected: too far" if failed else "converged"
        policy.note(
            KIND,
            Decision(len(policy.decisions) + 1, choice, why, outcome, hardness * wasted if failed else 0.0, seconds),
        )
        total += seconds
        best += hardness * min(time for name, time in times.items() if name != fails)
    return total / best


def _choose(policy: Adaptive) -> tuple[str, str]:
    choice = policy.choose(KIND, policy.names)
    return choice.name, choice.why


def chosen(policy: Adaptive, name: str) -> int:
    return sum(decision.choice == name for decision in policy.decisions)


@pytest.mark.parametrize("spread", [0.02, 0.2, 0.6])
@pytest.mark.parametrize("learned", [0.33, 0.8, 0.95, 1.05, 1.2, 3.0])
def test_ends_near_the_best_choice(learned: float, spread: float) -> None:
    policy = Adaptive(GuessConfig(), ["learned"])
    assert run(policy, {"learned": learned, DEFAULT: 1.0}, 200, spread=spread) < 1.1
    worse = DEFAULT if learned < 1.0 else "learned"
    assert chosen(policy, worse) < 100 or abs(learned - 1.0) < 0.1


def test_a_clear_case_is_decided_after_one_solve_each() -> None:
    policy = Adaptive(GuessConfig(), ["learned"])
    run(policy, {"learned": 1.0, DEFAULT: 3.0}, 40, spread=0.1)
    assert chosen(policy, DEFAULT) == 1
    assert [decision.choice for decision in policy.decisions[:3]] == [DEFAULT, "learned", "learned"]


def test_the_best_of_several_guesses_is_found() -> None:
    policy = Adaptive(GuessConfig(), ["learned", "previous"])
    assert run(policy, {"learned": 1.0, "previous": 0.6, DEFAULT: 2.0}, 200) < 1.1
    assert chosen(policy, "previous") > 150


def test_a_guess_that_fails_rests_and_is_tried_again() -> None:
    policy = Adaptive(GuessConfig(patience=3, rest=20), ["learned"])
    ratio = run(policy, {"learned": 0.5, DEFAULT: 1.0}, 60, fails="learned", wasted=0.1)
    tries = [decision.number for decision in policy.decisions if decision.choice == "learned"]
    assert len(tries) <= 6
    assert ratio < 1.02
    assert max(np.diff(tries)) > 20
    assert "is left out for" in _choose(policy)[1] or _choose(policy)[0] == "learned"


def test_a_guess_of_which_the_first_goes_wrong_is_not_given_up() -> None:
    policy = Adaptive(GuessConfig(), ["learned"])
    for number in range(1, 61):
        choice, why = _choose(policy)
        wasted = 0.4 if choice == "learned" and chosen(policy, "learned") == 0 else 0.0
        seconds = 0.4 if choice == "learned" and not wasted else 1.0 + wasted
        policy.note(
            KIND, Decision(number, choice, why, "failed: late" if wasted else "converged", wasted, seconds, 0.1)
        )
    assert chosen(policy, "learned") > 40


def unsteady(policy: Adaptive, outcomes: Iterable[bool]) -> list[str]:
    """Make as many solves; a guess takes 0.3, one that fails loses 0.2 beside the default solve's 1. Return choices."""
    choices = []
    for number, good in enumerate(outcomes, len(policy.decisions) + 1):
        choice, why = _choose(policy)
        wasted = 0.2 if choice == "learned" and not good else 0.0
        seconds = 0.3 if choice == "learned" and good else 1.0 + wasted
        outcome = "abandoned: it stalls" if wasted else "converged"
        policy.note(KIND, Decision(number, choice, why, outcome, wasted, seconds, risk=0.05))
        choices.append(choice)
    return choices


def test_a_guess_that_pays_though_it_fails_often_does_not_rest() -> None:
    """Three failures in a row now and then are no surprise where a third of the tries fails."""
    outcomes = (np.random.default_rng(0).random(200) > 1.0 / 3.0).tolist()
    assert "False, False, False" in str(outcomes)
    assert unsteady(Adaptive(GuessConfig(), ["learned"]), outcomes).count("learned") > 190


def test_a_guess_that_begins_to_fail_rests() -> None:
    policy = Adaptive(GuessConfig(), ["learned"])
    unsteady(policy, [True] * 40)
    assert unsteady(policy, [False] * 30).count("learned") == 3


def test_an_attempt_may_cost_a_quarter_of_what_guesses_have_saved() -> None:
    """Up to a default solve, and never less than the budget."""
    policy, budgets = Adaptive(GuessConfig(budget=0.15), ["learned"]), []
    for _ in range(12):
        unsteady(policy, [True])
        budgets.append(policy.choose(KIND, ["learned"]).budget)
    saved = 0.7 * np.arange(12)  # the first is a default solve of 1
    assert budgets == pytest.approx(np.clip(saved / 4.0, 0.15, 1.0).tolist())


@pytest.mark.parametrize("wasted", [0.3, 1.0, 2.0])
def test_bad_guesses_stay_within_the_budget_though_the_good_ones_make_up_for_them_on_average(wasted: float) -> None:
    """Every third guess fails, so that none rests; the geometric mean of the times is below that of the default."""
    policy = Adaptive(GuessConfig(patience=2), ["learned"])
    tries, total = 0, 0.0
    for number in range(1, 201):
        choice, why = _choose(policy)
        tries += choice == "learned"
        bad = choice == "learned" and tries % 3 == 0
        seconds = 1.0 + wasted if bad else 0.4 if choice == "learned" else 1.0
        policy.note(
            KIND,
            Decision(
                number, choice, why, "abandoned: it stalls" if bad else "converged", wasted * bad, seconds, risk=0.1
            ),
        )
        total += seconds
        assert total <= 1.15 * number + wasted  # the first may lose what nobody could know
    assert tries > 20


def test_a_guess_whose_risk_is_not_covered_waits_and_says_so() -> None:
    policy, chosen_now = Adaptive(GuessConfig(), ["learned"]), []
    for number in range(1, 5):
        choice, why = _choose(policy)
        chosen_now.append((choice, "not yet within the budget" in why))
        policy.note(KIND, Decision(number, choice, why, "converged", 0.0, 1.0 if choice == DEFAULT else 0.9, risk=0.5))
    assert chosen_now == [(DEFAULT, False), ("learned", False), (DEFAULT, True), ("learned", False)]


def test_problems_of_another_kind_have_a_record_of_their_own() -> None:
    policy = Adaptive(GuessConfig(), ["learned"])
    run(policy, {"learned": 1.0, DEFAULT: 3.0}, 10)
    assert policy.expected(KIND) == pytest.approx(3.0, rel=0.5)
    other = policy.choose("8 ranks, about 1e+06 unknowns", policy.names)
    assert (other.name, other.why) == (DEFAULT, "not yet measured")


def test_the_record_outlives_the_run(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    first = Adaptive(GuessConfig(record=str(path)), ["learned"])
    run(first, {"learned": 3.0, DEFAULT: 1.0}, 10, spread=0.05)
    first.save()
    second = Adaptive(GuessConfig(record=str(path)), ["learned"])
    assert _choose(second)[0] == DEFAULT
    for text in ("[1, 2]", "[" * 100_000, '{"a": {"learned": [1e308]}}', '{"a": {"learned": [[]]}}', '{"a": [1e400]}'):
        path.write_text(text)
        with pytest.raises(ValueError, match="is not a record of costs"):
            Adaptive(GuessConfig(record=str(path)), ["learned"])


def test_a_record_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text(json.dumps({KIND: {"classical": [0.0, 0.0], "learned": [-1.0]}}))
    assert _choose(Adaptive(GuessConfig(record=str(path)), ["learned"]))[0] == "learned"


def test_the_guess_goes_first_where_one_solve_is_all_there_is() -> None:
    policy = Adaptive(GuessConfig(max_iterations=5), ["learned"], guess_first=True)
    choice = policy.choose(KIND, policy.names)
    assert (choice.name, choice.max_iterations, choice.tested, choice.expected) == ("learned", 5, True, None)
    policy.note(KIND, Decision(1, "learned", "", "failed: late", 0.4, 1.4, 0.1))
    assert policy.expected(KIND) == pytest.approx(1.0)
    choice = policy.choose(KIND, policy.names)
    assert choice.max_iterations is None and (choice.name == DEFAULT or choice.budget == pytest.approx(0.15))


def test_always_takes_the_first_guess_whatever_it_costs() -> None:
    policy = make_policy(GuessConfig(policy="always", max_iterations=7), ["learned"])
    assert policy.choose(KIND, ["learned", "previous"]).name == "learned"
    assert policy.choose(KIND, ["learned"]).max_iterations == 7 and policy.choose(KIND, ["learned"]).expected is None
    assert Always().choose(KIND, []).name == DEFAULT
    assert isinstance(make_policy(GuessConfig(), ["learned"]), Adaptive)


def test_names_must_differ() -> None:
    with pytest.raises(ValueError, match="names of their own"):
        Adaptive(GuessConfig(), [DEFAULT])


def test_the_summary_says_what_was_chosen_and_lost() -> None:
    policy = Adaptive(GuessConfig(), ["learned", "previous"])
    run(policy, {"learned": 0.5, "previous": 0.4, DEFAULT: 1.0}, 20, fails="learned", wasted=0.1)
    learned, previous, default = policy.summary().splitlines()
    assert "rejected" in learned and "lost on bad guesses" in learned
    assert previous.startswith("previous: chosen") and "converged" in previous
    assert default.startswith("default: chosen")
    assert "not used" in Adaptive(GuessConfig(), ["learned"]).summary()


def meet(policy: Adaptive, outcomes: dict[str, Callable[[int], tuple[float, bool]]], count: int) -> list[str]:
    """Solve ``count`` problems; ``outcomes`` give time and success of a choice. Return what was chosen."""
    for number in range(1, count + 1):
        choice, why = _choose(policy)
        seconds, good = outcomes[choice](number)
        outcome = "converged" if good else "failed: SNES reason -5"
        policy.note(KIND, Decision(number, choice, why, outcome, 0.0, seconds, 0.1 * seconds, good))
    return [decision.choice for decision in policy.decisions]


def test_a_default_solve_that_fails_is_worth_nothing_however_quick() -> None:
    policy = Adaptive(GuessConfig(), ["learned"])
    choices = meet(policy, {DEFAULT: lambda _: (0.001, False), "learned": lambda _: (1.0, True)}, 100)
    assert choices[:2] == [DEFAULT, "learned"] and choices.count(DEFAULT) <= 5
    assert "1 without solution" in policy.decisions[2].why


def test_a_default_solve_that_has_never_succeeded_sets_no_limit() -> None:
    policy = Adaptive(GuessConfig(), ["learned"])
    policy.note(KIND, Decision(1, DEFAULT, "", "failed: PETSc error 91", 0.0, 1e-3))
    assert policy.expected(KIND) is None
    for number in range(2, 4):
        choice = policy.choose(KIND, ["learned"])
        limits = (choice.name, choice.max_iterations, choice.expected, choice.budget)
        assert limits == ("learned", None, None, math.inf)
        policy.note(KIND, Decision(number, "learned", "", "failed: late", 5.0, 5.001, 1.0, solved=False))
    policy.note(KIND, Decision(4, DEFAULT, "", "converged", 0.0, 2.0))
    assert policy.expected(KIND) == pytest.approx(2.0)


@pytest.mark.parametrize(("learned", "best"), [(1.3, "learned"), (3.0, DEFAULT)])
def test_the_cost_of_a_solved_problem_decides_where_some_default_solves_fail(learned: float, best: str) -> None:
    policy = Adaptive(GuessConfig(), ["learned"])
    choices = meet(policy, {DEFAULT: lambda n: (1.0, n % 2 == 0), "learned": lambda _: (learned, True)}, 200)
    assert choices.count(best) > 150


def test_a_default_solve_that_failed_once_is_tried_again() -> None:
    policy = Adaptive(GuessConfig(), ["learned"])
    choices = meet(policy, {DEFAULT: lambda n: (1.0, n > 1), "learned": lambda _: (4.0, True)}, 100)
    assert choices.count(DEFAULT) > 60


def test_nothing_is_chosen_for_ever_where_nothing_solves() -> None:
    policy = Adaptive(GuessConfig(patience=3), ["learned"])
    choices = meet(policy, {DEFAULT: lambda _: (1.0, False), "learned": lambda _: (2.0, False)}, 50)
    assert choices.count("learned") == 3 and choices[-1] == DEFAULT


def test_solves_without_solution_are_in_the_record_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    first = Adaptive(GuessConfig(record=str(path)), ["learned"])
    meet(first, {DEFAULT: lambda _: (0.001, False), "learned": lambda _: (1.0, True)}, 3)
    first.save()
    second = Adaptive(GuessConfig(record=str(path)), ["learned"])
    assert _choose(second) == _choose(first) and second.expected(KIND) is None


def test_one_policy_lives_as_long_as_the_process_for_each_prefix_and_operator() -> None:
    forget_policies()
    comm, settings = MPI.COMM_WORLD, GuessConfig()
    policy = policy_for(comm, "heat_", settings, names=["learned"], operator="a")
    assert policy_for(comm.Dup(), "heat_", GuessConfig(), names=["learned"], operator="a") is policy
    others = [
        policy_for(comm, "flow_", settings, names=["learned"], operator="a"),
        policy_for(comm, "heat_", settings, names=["learned"], operator="b"),
        policy_for(comm, "heat_", GuessConfig(budget=0.3), names=["learned"], operator="a"),
    ]
    assert len({id(item) for item in [policy, *others]}) == 4
    forget_policies()
    assert policy_for(comm, "heat_", settings, names=["learned"], operator="a") is not policy


def test_settings_given_from_outside_reach_a_policy_made_by_hand(tmp_path: Path) -> None:
    policy = Adaptive(GuessConfig(patience=7), ["learned"])
    policy.configure({"budget": 0.3, "max_distance": 2.0, "record": str(tmp_path / "record.json")})
    assert (policy.settings.budget, policy.settings.patience, policy.max_distance) == (0.3, 7, 2.0)
    policy.save()
    assert (tmp_path / "record.json").exists()
    with pytest.raises(ValueError, match=r"lrsa_guess_budget'?: expected float > 0"):
        policy.configure({"budget": -1.0})
    with pytest.raises(ValueError, match="lrsa_guess_policy has no effect on a policy given by hand, Adaptive"):
        policy.configure({"policy": "always"})
    always = Always(3)
    always.configure({"max_iterations": 5})
    assert always.choose(KIND, ["learned"]).max_iterations == 5
    with pytest.raises(ValueError, match="no effect on a policy given by hand, Always"):
        always.configure({"budget": 0.3})


def prospective(times: dict[str, float], errors: dict[str, float], count: int) -> tuple[Adaptive, float]:
    """Solve with known errors of the guesses, fixed times; return the policy, and the time over that of the default."""
    policy, total = Adaptive(GuessConfig(), [name for name in times if name != DEFAULT]), 0.0
    policy.prospects = {}
    for number in range(count):
        choice, why = _choose(policy)
        seconds = times[choice] * (2.0 if number == 0 else 1.0)  # the first sets up
        policy.note(KIND, Decision(number + 1, choice, why, "converged", 0.0, seconds, 0.05))
        policy.prospects = errors
        total += seconds
    return policy, total / (times[DEFAULT] * (count + 1))


def test_with_prospects_only_promising_guesses_are_measured_and_the_first_solve_does_not_count() -> None:
    times = {"previous": 1.5, "nearest": 1.2, "regression": 0.7, DEFAULT: 1.0}
    errors = {"previous": 0.9, "nearest": 0.6, "regression": 0.1, DEFAULT: 1.0}
    policy, ratio = prospective(times, errors, 60)
    assert [each.choice for each in policy.decisions[:3]] == [DEFAULT, DEFAULT, "regression"]
    assert chosen(policy, "previous") == chosen(policy, "nearest") == 0 and ratio < 0.75
    assert policy.costs(KIND)[DEFAULT] == (pytest.approx(1.0), 1)


@pytest.mark.parametrize("error", [0.2, 0.3, 0.45, 0.9])
def test_with_prospects_guesses_that_do_not_pay_cost_little_at_any_length(error: float) -> None:
    for count in range(3, 100):
        _, ratio = prospective({"nearest": 1.1, DEFAULT: 1.0}, {"nearest": error, DEFAULT: 1.0}, count)
        assert ratio <= 1.03


@pytest.mark.parametrize("error", [0.3, 0.45])
def test_guesses_that_look_promising_and_fail_cost_little_at_any_length(error: float) -> None:
    """Problems of very different hardness, as the steps of a continuation; a guess loses an iteration of five."""
    rng, policy, total, least = np.random.default_rng(0), Adaptive(GuessConfig(), ["a", "b", "c"]), 0.0, 0.0
    policy.prospects = {}
    for number in range(300):
        choice, why = _choose(policy)
        hardness = rng.choice([0.2, 1.0])
        wasted = 0.25 * hardness * (choice != DEFAULT)
        outcome = "abandoned: it stalls" if wasted else "converged"
        decision = Decision(number + 1, choice, why, outcome, wasted, hardness + wasted, wasted, iterations=5)
        policy.note(KIND, decision)
        policy.prospects = dict.fromkeys(policy.names, error) | {DEFAULT: 1.0}
        total, least = total + hardness + wasted, least + hardness
        assert total <= 1.02 * least
    assert chosen(policy, "a") > 0


def test_a_guess_that_has_changed_is_measured_again() -> None:
    policy, _ = prospective({"learned": 1.3, DEFAULT: 1.0}, {"learned": 0.2, DEFAULT: 1.0}, 30)
    assert 0 < chosen(policy, "learned") < 5 and _choose(policy)[0] == DEFAULT
    policy.forget("learned")
    assert _choose(policy) == ("learned", "not yet measured")


def test_a_guess_whose_error_has_halved_since_it_was_measured_is_measured_again() -> None:
    policy, _ = prospective({"regression": 1.2, DEFAULT: 1.0}, {"regression": 0.2, DEFAULT: 1.0}, 40)
    policy.prospects = {"regression": 0.11, DEFAULT: 1.0}
    assert _choose(policy)[0] == DEFAULT
    policy.prospects = {"regression": 0.09, DEFAULT: 1.0}
    assert _choose(policy) == ("regression", "not yet measured")


def test_a_guess_that_was_left_out_is_measured_again_once_its_error_has_halved() -> None:
    policy = Adaptive(GuessConfig(), ["previous"])
    policy.prospects = {"previous": 0.2, DEFAULT: 1.0}
    for number in range(30):
        choice, outcome, wasted = (DEFAULT, "converged", 0.0) if number < 20 else ("previous", "abandoned", 0.02)
        policy.note(KIND, Decision(number + 1, choice, "", outcome, wasted, 1.0 + wasted, wasted, iterations=5))
    assert "previous is left out for" in _choose(policy)[1]
    policy.prospects = {"previous": 0.05, DEFAULT: 1.0}
    assert _choose(policy)[0] == DEFAULT and _choose(policy) == ("previous", "not yet measured")
