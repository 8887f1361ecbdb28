"""Moving least squares: exact for linear fields, of second order, where points repeat and at the edge too."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("mpi4py.MPI", reason="the guess needs MPI")  # before DOLFINx, which needs its library
pytest.importorskip("dolfinx", reason="the guess needs DOLFINx")

from lrsa_coupled.guess.interpolated import MovingLeastSquares


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_linear_fields_are_exact(dim: int) -> None:
    rng = np.random.default_rng(dim)
    points, targets = rng.random((300, dim)), 1.02 * rng.random((50, dim))
    points = np.vstack([points, points[:40]])  # of a discontinuous space
    slopes = rng.normal(size=(dim, 2))
    found = MovingLeastSquares(points, points @ slopes + 1.0)(targets)
    assert np.abs(found - (targets @ slopes + 1.0)).max() < 1e-6


def test_smooth_fields_are_of_second_order() -> None:
    errors = []
    for cells in (16, 32):
        x = np.stack(np.meshgrid(*[np.linspace(0, 1, cells + 1)] * 2), axis=-1).reshape(-1, 2)
        targets = np.random.default_rng(0).random((400, 2))
        field = MovingLeastSquares(x, np.sin(4 * x[:, :1]) * np.exp(x[:, 1:]))
        error = field(targets) - np.sin(4 * targets[:, :1]) * np.exp(targets[:, 1:])
        errors.append(float(np.sqrt(np.mean(error**2))))
    assert errors[0] / errors[1] > 3.0


def test_few_points_are_enough() -> None:
    assert MovingLeastSquares(np.zeros((1, 2)), np.full((1, 1), 3.0))(np.ones((2, 2))) == pytest.approx(3.0, abs=1e-4)
