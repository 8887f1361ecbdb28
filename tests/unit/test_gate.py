"""The policy of the gate on made-up times: it finds the quickest choice, loses little on the way, and drops a start that fails."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("mpi4py", reason="the coupling needs MPI")

from lrsa_coupled.config import GuessConfig
from lrsa_coupled.guess.gate import CLASSICAL, Decision, Gate

KIND = "1 ranks, about 1e+04 unknowns"


def run(
    gate: Gate, times: dict[str, float], count: int, *, spread: float = 0.2, fails: str = "", wasted: float = 0.0
) -> float:
    """Solve ``count`` problems whose times scatter log-normally; return the mean time over the least mean of a choice."""
    rng = np.random.default_rng(0)
    total, best = 0.0, 0.0
    for _ in range(count):
        hardness = np.exp(spread * rng.standard_normal())
        choice, why = gate.choose(KIND)
        failed = choice == fails
        seconds = hardness * (times[CLASSICAL] + wasted if failed else times[choice])
        outcome = "rejected: too far" if failed else "converged"
        gate.note(
            KIND, Decision(len(gate.decisions) + 1, choice, why, outcome, hardness * wasted if failed else 0.0, seconds)
        )
        total += seconds
        best += hardness * min(time for name, time in times.items() if name != fails)
    return total / best


def chosen(gate: Gate, name: str) -> int:
    return sum(decision.choice == name for decision in gate.decisions)


@pytest.mark.parametrize("spread", [0.02, 0.2, 0.6])
@pytest.mark.parametrize("learned", [0.33, 0.8, 0.95, 1.05, 1.2, 3.0])
def test_ends_near_the_best_choice(learned: float, spread: float) -> None:
    gate = Gate(GuessConfig(), ["learned"])
    assert run(gate, {"learned": learned, CLASSICAL: 1.0}, 200, spread=spread) < 1.1
    worse = CLASSICAL if learned < 1.0 else "learned"
    assert chosen(gate, worse) < 100 or abs(learned - 1.0) < 0.1


def test_a_clear_case_is_decided_after_one_solve_each() -> None:
    gate = Gate(GuessConfig(), ["learned"])
    run(gate, {"learned": 1.0, CLASSICAL: 3.0}, 40, spread=0.1)
    assert chosen(gate, CLASSICAL) == 1
    assert [decision.choice for decision in gate.decisions[:3]] == [CLASSICAL, "learned", "learned"]


def test_the_best_of_several_starts_is_found() -> None:
    gate = Gate(GuessConfig(), ["learned", "previous"])
    assert run(gate, {"learned": 1.0, "previous": 0.6, CLASSICAL: 2.0}, 200) < 1.1
    assert chosen(gate, "previous") > 150


def test_a_start_that_fails_rests_and_is_tried_again() -> None:
    gate = Gate(GuessConfig(patience=3, rest=20), ["learned"])
    ratio = run(gate, {"learned": 0.5, CLASSICAL: 1.0}, 60, fails="learned", wasted=0.1)
    tries = [decision.number for decision in gate.decisions if decision.choice == "learned"]
    assert len(tries) <= 6
    assert ratio < 1.02
    assert max(np.diff(tries)) > 20
    assert "rests until solve" in gate.choose(KIND)[1] or gate.choose(KIND)[0] == "learned"


def test_a_start_of_which_the_first_goes_wrong_is_not_given_up() -> None:
    gate = Gate(GuessConfig(), ["learned"])
    for number in range(1, 61):
        choice, why = gate.choose(KIND)
        wasted = 0.4 if choice == "learned" and chosen(gate, "learned") == 0 else 0.0
        seconds = 0.4 if choice == "learned" and not wasted else 1.0 + wasted
        gate.note(KIND, Decision(number, choice, why, "failed: late" if wasted else "converged", wasted, seconds, 0.1))
    assert chosen(gate, "learned") > 40


@pytest.mark.parametrize("wasted", [0.3, 1.0, 2.0])
def test_bad_starts_stay_within_the_budget_though_the_good_ones_make_up_for_them_on_average(wasted: float) -> None:
    """Every third start goes wrong, so that none rests, and the geometric mean of the times is below that of the classical ones."""
    gate = Gate(GuessConfig(patience=2), ["learned"])
    tries, total = 0, 0.0
    for number in range(1, 201):
        choice, why = gate.choose(KIND)
        tries += choice == "learned"
        bad = choice == "learned" and tries % 3 == 0
        seconds = 1.0 + wasted if bad else 0.4 if choice == "learned" else 1.0
        gate.note(
            KIND,
            Decision(
                number, choice, why, "abandoned: it stalls" if bad else "converged", wasted * bad, seconds, risk=0.1
            ),
        )
        total += seconds
        assert total <= 1.15 * number + wasted  # the first may lose what nobody could know
    assert tries > 20


def test_a_start_whose_risk_is_not_covered_waits_and_says_so() -> None:
    gate, chosen_now = Gate(GuessConfig(), ["learned"]), []
    for number in range(1, 5):
        choice, why = gate.choose(KIND)
        chosen_now.append((choice, "not yet within the budget" in why))
        gate.note(KIND, Decision(number, choice, why, "converged", 0.0, 1.0 if choice == CLASSICAL else 0.9, risk=0.5))
    assert chosen_now == [(CLASSICAL, False), ("learned", False), (CLASSICAL, True), ("learned", False)]


def test_problems_of_another_kind_have_a_record_of_their_own() -> None:
    gate = Gate(GuessConfig(), ["learned"])
    run(gate, {"learned": 1.0, CLASSICAL: 3.0}, 10)
    assert gate.expected(KIND) == pytest.approx(3.0, rel=0.5)
    assert gate.choose("8 ranks, about 1e+06 unknowns") == (CLASSICAL, "not yet measured")


def test_the_record_outlives_the_run(tmp_path) -> None:
    path = tmp_path / "record.json"
    first = Gate(GuessConfig(record=str(path)), ["learned"])
    run(first, {"learned": 3.0, CLASSICAL: 1.0}, 10, spread=0.05)
    first.save()
    second = Gate(GuessConfig(record=str(path)), ["learned"])
    assert second.choose(KIND)[0] == CLASSICAL
    path.write_text("[1, 2]")
    with pytest.raises(ValueError, match="is not a record of costs"):
        Gate(GuessConfig(record=str(path)), ["learned"])


@pytest.mark.parametrize(
    "changes", [{"budget": 0.0}, {"max_distance": -1.0}, {"max_residual": float("nan")}, {"patience": 0}, {"rest": 0}]
)
def test_settings_out_of_range_are_named(changes: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"GuessConfig.{next(iter(changes))}': expected"):
        Gate(GuessConfig(**changes), ["learned"])


def test_names_must_differ() -> None:
    with pytest.raises(ValueError, match="names of their own"):
        Gate(GuessConfig(), [CLASSICAL])


def test_the_summary_says_what_was_chosen_and_lost() -> None:
    gate = Gate(GuessConfig(), ["learned", "previous"])
    run(gate, {"learned": 0.5, "previous": 0.4, CLASSICAL: 1.0}, 20, fails="learned", wasted=0.1)
    learned, previous, classical = gate.summary().splitlines()
    assert "rejected" in learned and "lost on bad starts" in learned
    assert previous.startswith("gate: previous: chosen") and "converged" in previous
    assert classical.startswith("gate: classical: chosen")
    assert "never chosen" in Gate(GuessConfig(), ["learned"]).summary()
