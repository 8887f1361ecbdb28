"""Combinations of earlier solutions: rules give what they should, errors in hindsight are those of the guesses."""

from __future__ import annotations

import numpy as np
import pytest

from lrsa_coupled.guess.regression import EXTRAPOLATED, NEAREST, PREVIOUS, REGRESSION, Combinations

SCALARS = [slice(0, 1), slice(1, 2)]


class Family:
    """Solutions on a line of nodes that depend smoothly on two parameters, and what is kept of them."""

    def __init__(self, *, most: int = 100) -> None:
        self.nodes = np.linspace(0.0, 1.0, 50)
        self.kept = Combinations(SCALARS, num_scalars=2, most=most)
        self.solutions: list[np.ndarray] = []

    def solution(self, parameters: np.ndarray) -> np.ndarray:
        return np.sin(3 * parameters[0] * self.nodes) + np.exp(parameters[1] / 100 * self.nodes)

    def add(self, parameters: np.ndarray) -> dict[str, tuple[float, float]]:
        """Add a solution; return the errors of the rules, in hindsight and of the guesses themselves."""
        values, rows = self.solution(parameters), np.array(self.solutions).reshape(-1, 50)
        weights = self.kept.weights(parameters)
        products = rows @ values
        errors = self.kept.errors(weights, products, float(values @ values))
        found = {name: (errors[name], float(np.linalg.norm(w @ rows - values))) for name, w in weights.items()}
        if self.kept.place < len(rows):
            self.solutions[self.kept.place] = values
        else:
            self.solutions.append(values)
        self.kept.add(parameters, products, float(values @ values))
        return found


def test_errors_in_hindsight_are_those_of_the_guesses_and_the_regression_is_the_best() -> None:
    family, rng, found = Family(), np.random.default_rng(0), []
    for _ in range(40):
        found.append(family.add(rng.uniform((0.2, 100.0), (1.0, 200.0))))
    assert set(found[0]) == set() and set(found[1]) == {PREVIOUS} and REGRESSION in found[3]
    for each in found:
        for hindsight, error in each.values():
            assert hindsight == pytest.approx(error, abs=1e-5)
    late = {name: np.mean([each[name][1] for each in found[30:]]) for name in found[-1]}
    assert late[NEAREST] < 0.7 * late[PREVIOUS] and late[REGRESSION] < 0.1 * late[NEAREST]


def test_along_a_path_the_extrapolation_is_of_second_order() -> None:
    family, errors = Family(), []
    for step in (0.1, 0.05):
        family = Family()
        for number in range(10):
            last = family.add(np.array([1.0 - step * (9 - number), 100.0]))
        errors.append(last[EXTRAPOLATED][1])
    assert errors[0] / errors[1] > 3.0


def test_the_nearest_is_found_whatever_the_units_and_the_latest_of_equals() -> None:
    kept = Combinations(SCALARS, num_scalars=2, most=10)
    for parameters in ((0.0, 1e6), (1.0, 1e6), (0.0, 2e6), (0.0, 2e6)):
        kept.add(np.array(parameters), np.zeros(len(kept)), 1.0)
    assert kept.weights(np.array([0.9, 1.1e6]))[NEAREST].tolist() == [0, 1, 0, 0]
    assert kept.weights(np.array([0.1, 1.9e6]))[NEAREST].tolist() == [0, 0, 0, 1]


def test_the_oldest_solution_gives_its_place_to_a_new_one() -> None:
    family, rng = Family(most=8), np.random.default_rng(1)
    for _ in range(30):
        found = family.add(rng.uniform((0.2, 100.0), (1.0, 200.0)))
        for hindsight, error in found.values():
            assert hindsight == pytest.approx(error, abs=1e-5)
    assert len(family.kept) == 8
    assert np.flatnonzero(family.kept.weights(np.array([0.5, 150.0]))[PREVIOUS]).tolist() == [29 % 8]


@pytest.mark.parametrize("parameters", [np.zeros((6, 2)), np.arange(12.0).reshape(6, 2)])
def test_weights_sum_to_one_for_equal_problems_too(parameters: np.ndarray) -> None:
    kept = Combinations(SCALARS, num_scalars=2, most=10)
    for number, each in enumerate(parameters):
        kept.add(each, np.zeros(number), 1.0)
    for weights in kept.weights(parameters[2]).values():
        assert weights.sum() == pytest.approx(1.0) and np.isfinite(weights).all()


def test_without_a_description_there_are_guesses_too() -> None:
    kept = Combinations([], num_scalars=0, most=10)
    for number in range(5):
        kept.add(np.zeros(0), np.zeros(number), 1.0)
    found = kept.weights(np.zeros(0))
    assert np.argmax(found[NEAREST]) == 4 and found[REGRESSION].sum() == pytest.approx(1.0)
