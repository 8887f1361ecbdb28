"""Cutting quadrilaterals and hexahedra into simplices."""

import math

import numpy as np
import pytest

from lrsa_coupled.data.cells import simplices


@pytest.mark.parametrize("dim", [2, 3])
def test_the_simplices_fill_the_cell(dim):
    corners = np.array([[(vertex >> axis) & 1 for axis in range(dim)] for vertex in range(2**dim)], dtype=float)
    cells = np.stack([np.arange(2**dim), np.arange(2**dim) + 2**dim]).astype(np.int32)
    points = np.concatenate([corners, 3.0 * corners + 1.0])
    cut = simplices(cells, dim)
    assert cut.shape == (2 * math.factorial(dim), dim + 1) and cut.dtype == np.int32
    volumes = np.abs(np.linalg.det(points[cut[:, 1:]] - points[cut[:, :1]])) / math.factorial(dim)
    assert np.allclose(volumes[: len(cut) // 2], 1.0 / math.factorial(dim))
    assert np.isclose(volumes[len(cut) // 2 :].sum(), 3.0**dim)
    interior = np.random.default_rng(0).uniform(size=(200, dim))
    inside = np.zeros(200, dtype=int)
    for simplex in cut[: len(cut) // 2]:
        shares = np.linalg.solve((points[simplex[1:]] - points[simplex[0]]).T, (interior - points[simplex[0]]).T)
        inside += (shares.min(axis=0) >= 0.0) & (shares.sum(axis=0) <= 1.0)
    assert (inside == 1).all()


def test_simplices_and_other_cells_stay():
    for width in (3, 5):
        cells = np.arange(2 * width, dtype=np.int32).reshape(2, width)
        assert simplices(cells, 3) is cells
    assert simplices(np.zeros((1, 4), dtype=np.int32), 3).shape == (1, 4)
