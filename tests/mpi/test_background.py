"""The Cartesian grid behind a mesh: interpolation, averages, any partition of the nodes."""

from __future__ import annotations

import numpy as np
import pytest
from mpi4py import MPI

pytest.importorskip("scipy", reason="the grid is kept in sparse matrices")

from lrsa_coupled.coupling.background import EMPTY, BackgroundGrid

COMM = MPI.COMM_WORLD


def cloud(count: int = 4000, dim: int = 3, comm: MPI.Comm = COMM) -> tuple[np.ndarray, np.ndarray]:
    """This rank's share, a random one, of random points in a box, and masses."""
    rng = np.random.default_rng(3)
    points = rng.random((count, dim)) * np.array([2.0, 1.0, 0.5])[:dim] - 0.3
    owner, mass = rng.integers(0, COMM.size, count), rng.uniform(0.5, 1.5, count)
    mine = owner == COMM.rank if comm.size == COMM.size else slice(None)
    return points[mine], mass[mine]


def test_cubics_are_interpolated_exactly() -> None:
    points, mass = cloud()
    grid = BackgroundGrid(points, mass, 8, comm=COMM)

    def cubic(x: np.ndarray) -> np.ndarray:
        return np.column_stack([x[:, 0] ** 3 * x[:, 1] - x[:, 2] ** 2, 1.0 + x[:, 1] ** 3 * x[:, 2] ** 3])

    found = grid.interpolate(cubic(grid.nodes))
    assert found.flags.f_contiguous
    np.testing.assert_allclose(found, cubic(points), atol=100 * np.finfo(np.float32).eps * 10)


def test_interpolation_is_of_fourth_order() -> None:
    points, mass = cloud(dim=2)

    def wave(x: np.ndarray) -> np.ndarray:
        return np.sin(4.0 * x[:, :1]) * np.cos(3.0 * x[:, 1:2])

    errors = []
    for cells in (8, 16, 32):
        grid = BackgroundGrid(points, mass, cells, comm=COMM)
        errors.append(np.sqrt(COMM.allreduce(np.sum((grid.interpolate(wave(grid.nodes)) - wave(points)) ** 2))))
    assert np.log2(np.array(errors[:-1]) / errors[1:]) == pytest.approx(4.0, abs=0.3)


def test_averages_are_what_interpolation_gives_back() -> None:
    points, mass = cloud(20000)
    grid = BackgroundGrid(points, mass, 16, comm=COMM)
    wave = np.sin(3.0 * points[:, :1] + 2.0 * points[:, 1:2])
    back = grid.interpolate(grid.restrict(wave))
    square = COMM.allreduce(np.array([np.sum((back - wave) ** 2), np.sum(wave**2)]))
    assert np.sqrt(square[0] / square[1]) < 0.025
    assert grid.mass.sum() == pytest.approx(COMM.allreduce(mass.sum()), rel=1e-5)


def test_the_partition_of_the_nodes_does_not_matter() -> None:
    grids = [BackgroundGrid(*cloud(comm=comm), 6, comm=comm) for comm in (COMM, MPI.COMM_SELF)]
    values = [
        grid.restrict(np.exp(cloud(comm=comm)[0])) for grid, comm in zip(grids, (COMM, MPI.COMM_SELF), strict=True)
    ]
    for left, right in ((grids[0].nodes, grids[1].nodes), (grids[0].mass, grids[1].mass), values):
        np.testing.assert_allclose(left, right, rtol=1e-5)


def test_a_rank_may_own_no_node() -> None:
    points, mass = cloud(comm=MPI.COMM_SELF)
    mine = slice(None) if COMM.rank == 0 else slice(0)
    grid = BackgroundGrid(points[mine], mass[mine], 6, comm=COMM)
    whole = BackgroundGrid(points, mass, 6, comm=MPI.COMM_SELF)
    np.testing.assert_allclose(grid.restrict(points[mine]), whole.restrict(points), atol=1e-5)
    assert len(grid.interpolate(grid.nodes)) == len(points[mine])


def test_nodes_outside_of_the_domain_have_next_to_no_mass_and_the_nearest_values() -> None:
    points, mass = cloud(dim=2)
    inside = (points[:, 0] < 0.5) | (points[:, 1] < 0.0)  # an L
    grid = BackgroundGrid(points[inside], mass[inside], 16, comm=COMM)
    corner = np.argmin(np.linalg.norm(grid.nodes - np.array([1.7, 0.7]), axis=1))
    assert grid.mass[corner] == pytest.approx(EMPTY * grid.mass.mean(), rel=0.1)
    values = grid.restrict(points[inside])
    assert np.all(np.isfinite(values)) and values.max() < 1.75


def test_nodes_of_the_grid_are_fixed_where_the_nearest_of_the_mesh_is() -> None:
    points, mass = cloud()
    grid = BackgroundGrid(points, mass, 8, comm=COMM, fixed=points[:, 0] < 0.0)
    all_points = np.concatenate(COMM.allgather(points))
    nearest = np.array([np.argmin(np.sum((all_points - node) ** 2, axis=1)) for node in grid.nodes])
    np.testing.assert_array_equal(grid.fixed, all_points[nearest, 0] < 0.0)
    assert 0.1 < grid.fixed.mean() < 0.3
    assert not BackgroundGrid(points, mass, 8, comm=COMM).fixed.any()


@pytest.mark.parametrize(
    ("cells", "flat", "message"), [(2, False, "at least 3 cells, got 2"), (8, True, "extend in each direction")]
)
def test_what_cannot_be_is_named(cells: int, flat: bool, message: str) -> None:
    points, mass = cloud()
    with pytest.raises(ValueError, match=message):
        BackgroundGrid(points * np.array([1.0, 1.0, not flat]), mass, cells, comm=COMM)
