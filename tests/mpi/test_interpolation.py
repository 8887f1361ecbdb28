"""Interpolation between meshes and the two-grid preconditioner, at any number of ranks."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
import numpy.typing as npt
import pytest
from mpi4py import MPI

pytest.importorskip("dolfinx", reason="the solvers need DOLFINx")

import ufl
from dolfinx import fem
from dolfinx.fem.petsc import assemble_matrix
from dolfinx.mesh import CellType, Mesh, create_interval, create_unit_cube, create_unit_square, exterior_facet_indices
from petsc4py import PETSc

from lrsa_coupled.coupling.residual import reference_norm
from lrsa_coupled.interfaces import Problem
from lrsa_coupled.solvers.interpolation import constrain, interpolation_matrix, set_two_grid
from lrsa_coupled.solvers.linear import LinearSolver

COMM = MPI.COMM_WORLD
GMRES = {"ksp_type": "gmres", "ksp_pc_side": "right", "ksp_gmres_restart": "300", "pc_type": "none"}
RTOL = 1e-12  # of the residual of the Helmholtz problem, such that its solutions agree to 1e-8
EPS = 100 * np.finfo(np.float64).eps


def box(dim: int, num_cells: int) -> Mesh:
    """The unit interval, square or cube with ``num_cells`` cells a side."""
    if dim == 1:
        return create_interval(COMM, num_cells, [0.0, 1.0])
    return (
        create_unit_square(COMM, num_cells, num_cells)
        if dim == 2
        else create_unit_cube(COMM, num_cells, num_cells, num_cells)
    )


@cache
def lagrange(dim: int, num_cells: int, degree: int = 1) -> fem.FunctionSpace:
    """The scalar Lagrange space on ``box``, made once: meshes take most of the time where ranks share cores."""
    return fem.functionspace(box(dim, num_cells), ("P", degree))


def apply(matrix: PETSc.Mat, function: fem.Function) -> npt.NDArray[np.float64]:
    """The owned entries of the matrix times the owned values of the function."""
    x, y = matrix.createVecs()
    x.array[:] = function.x.array[: x.getLocalSize()]
    matrix.mult(x, y)
    result = y.array.copy()
    x.destroy()
    y.destroy()
    return result


def polynomial(space: fem.FunctionSpace, degree: int) -> fem.Function:
    """A function of all coordinates with all its monomials up to ``degree``."""
    u = fem.Function(space)
    u.interpolate(lambda x: (0.5 + x[0] - 2.0 * x[1] + 3.0 * x[2]) ** degree)
    return u


@pytest.mark.parametrize(("cells", "degrees"), [((4, 8), (1, 1)), ((8, 4), (1, 1)), ((7, 10), (1, 1)), ((10, 7), (2,
                                                1)), ((7, 10), (1, 2)), ((4, 8), (4, 3))], ids=str)  # fmt: skip
@pytest.mark.parametrize("dim", [2, 3])
def test_polynomials_are_reproduced(dim: int, cells: tuple[int, int], degrees: tuple[int, int]) -> None:
    if dim == 3:
        cells = (cells[0] // 2, cells[1] // 2)
    source, target = (lagrange(dim, n, p) for n, p in zip(cells, degrees, strict=True))
    matrix = interpolation_matrix(source, target)
    assert matrix.getSize() == (target.dofmap.index_map.size_global, source.dofmap.index_map.size_global)
    expected = polynomial(target, degrees[0]).x.array[: target.dofmap.index_map.size_local]
    scale = 6.0 ** degrees[0]
    assert np.abs(apply(matrix, polynomial(source, degrees[0])) - expected).max(initial=0.0) < EPS * scale
    assert np.abs(apply(matrix, polynomial(source, 0)) - 1.0).max(initial=0.0) < EPS
    matrix.destroy()


@pytest.mark.parametrize(("dim", "num_cells", "refinement"), [(2, 4, 2), (2, 6, 5), (3, 2, 3)])
def test_nested_nodes_have_their_values_to_the_bit(dim: int, num_cells: int, refinement: int) -> None:
    coarse, fine = (lagrange(dim, n) for n in (num_cells, num_cells * refinement))
    down, up = interpolation_matrix(fine, coarse), interpolation_matrix(coarse, fine)
    u, expected = fem.Function(fine), fem.Function(coarse)
    for function in (u, expected):  # of whole numbers, such that both meshes give the same bits
        function.interpolate(lambda x: 0.1 * (np.array([1.0, 100.0, 10000.0]) @ np.rint(num_cells * refinement * x)))
    at_coarse = down.getValuesCSR()
    assert (np.diff(at_coarse[0]) == 1).all()
    assert (at_coarse[2] == 1.0).all()
    assert np.array_equal(apply(down, u), expected.x.array[: coarse.dofmap.index_map.size_local])
    identity = down.matMult(up)
    first, end = identity.getOwnershipRange()
    offsets, columns, entries = identity.getValuesCSR()
    rows = np.repeat(np.arange(first, end), np.diff(offsets))
    assert np.array_equal(rows[entries != 0], np.arange(first, end))
    assert np.array_equal(columns[entries != 0], np.arange(first, end))
    assert (entries[entries != 0] == 1.0).all()
    for matrix in (down, up, identity):
        matrix.destroy()


def test_rows_are_not_doubled() -> None:
    source, target = (lagrange(2, n, 2) for n in (7, 10))
    matrix = interpolation_matrix(source, target)
    entries = matrix.getInfo(PETSc.Mat.InfoType.GLOBAL_SUM)["nz_used"]
    assert target.dofmap.index_map.size_global <= entries <= 6 * target.dofmap.index_map.size_global
    offsets = matrix.getValuesCSR()[0]
    assert (np.diff(offsets) >= 1).all()
    assert (np.diff(offsets) <= 6).all()
    matrix.destroy()


def test_more_ranks_than_cells() -> None:
    source, target = lagrange(1, 1), lagrange(1, 4)
    matrix = interpolation_matrix(source, target)
    expected = target.tabulate_dof_coordinates()[: target.dofmap.index_map.size_local, 0]
    assert np.abs(apply(matrix, polynomial(source, 1)) - 0.5 - expected).max(initial=0.0) < EPS
    matrix.destroy()


@pytest.mark.parametrize("shift", [0.05, 1e-6, 3.0])
def test_a_target_outside_is_refused_on_all_ranks(shift: float) -> None:
    source, mesh = lagrange(2, 4), box(2, 5)
    mesh.geometry.x[:, 0] += shift
    target = fem.functionspace(mesh, ("P", 1))
    with pytest.raises(ValueError, match="36 points outside" if shift > 1 else r"\b[0-9]+ points outside"):
        interpolation_matrix(source, target)


def test_a_target_in_a_notch_is_refused() -> None:
    """The box of a slanted boundary cell holds points outside the mesh; DOLFINx gives them the nearest cell."""
    mesh, target = box(2, 4), lagrange(2, 8)
    mesh.geometry.x[:, 1] *= 1.0 - 0.5 * mesh.geometry.x[:, 0]
    with pytest.raises(ValueError, match="20 points outside"):
        interpolation_matrix(fem.functionspace(mesh, ("P", 1)), target)


def test_within_reach_the_nearest_cell_is_continued() -> None:
    source, mesh = lagrange(2, 4), box(2, 5)
    mesh.geometry.x[:, :2] += (0.01, -0.02)
    target = fem.functionspace(mesh, ("P", 2))
    matrix = interpolation_matrix(source, target, reach=0.03)
    expected = np.array([1.0, 2.0]) @ target.tabulate_dof_coordinates()[: target.dofmap.index_map.size_local, :2].T
    linear = fem.Function(source)
    linear.interpolate(lambda x: x[0] + 2.0 * x[1])
    assert np.abs(apply(matrix, linear) - expected).max(initial=0.0) < EPS
    matrix.destroy()
    with pytest.raises(ValueError, match="points outside"):
        interpolation_matrix(source, target, reach=1e-3)


@pytest.mark.parametrize("element", [("P", 1, (2,)), ("DG", 1), ("N1curl", 1)], ids=str)
def test_other_elements_are_refused(element: tuple) -> None:
    scalar, other = lagrange(2, 4), fem.functionspace(lagrange(2, 5).mesh, element)
    for source, target in ((scalar, other), (other, scalar)):
        with pytest.raises(ValueError, match="scalar Lagrange"):
            interpolation_matrix(source, target)


def test_other_meshes_are_refused() -> None:
    triangles = lagrange(2, 4)
    quadrilaterals = fem.functionspace(create_unit_square(COMM, 3, 3, CellType.quadrilateral), ("P", 1))
    interpolation_matrix(triangles, quadrilaterals).destroy()
    with pytest.raises(ValueError, match="affine simplices"):
        interpolation_matrix(quadrilaterals, triangles)
    if COMM.size > 1:
        alone = fem.functionspace(create_unit_square(MPI.COMM_SELF, 3, 3), ("P", 1))
        with pytest.raises(ValueError, match="same ranks"):
            interpolation_matrix(triangles, alone)


def boundary_dofs(space: fem.FunctionSpace) -> npt.NDArray[np.int32]:
    """The local degrees of freedom on the boundary, ghosts included."""
    mesh = space.mesh
    facets = mesh.topology.dim - 1
    mesh.topology.create_connectivity(facets, facets + 1)
    return fem.locate_dofs_topological(space, facets, exterior_facet_indices(mesh.topology))


def helmholtz(comm: MPI.Comm, num_cells: int) -> Problem:
    """-Laplace u - k^2 u = f with k the ``parameters``, 20, a source off the centre and u = x - y on the boundary."""
    mesh = create_unit_square(comm, num_cells, num_cells)
    space = fem.functionspace(mesh, ("P", 1))
    u, v, k = fem.Function(space), ufl.TestFunction(space), fem.Constant(mesh, 20.0)
    x = ufl.SpatialCoordinate(mesh)
    f = 100.0 * ufl.exp(-50.0 * ((x[0] - 0.3) ** 2 + (x[1] - 0.6) ** 2))
    values = fem.Function(space)
    values.interpolate(lambda x: x[0] - x[1])
    residual = (ufl.inner(ufl.grad(u), ufl.grad(v)) - k**2 * u * v - f * v) * ufl.dx
    return Problem(mesh=mesh, parameters=k, solution=u, residual=fem.form(residual),
                   jacobian=fem.form(ufl.derivative(residual, u)),
                   bcs=[fem.dirichletbc(values, boundary_dofs(space))], node_space=space, is_linear=True)  # fmt: skip


def prolongation_to(space: fem.FunctionSpace, num_cells: int) -> PETSc.Mat:
    """The constrained prolongation from a square of ``num_cells`` cells a side."""
    coarse = fem.functionspace(create_unit_square(space.mesh.comm, num_cells, num_cells), ("P", 1))
    free = interpolation_matrix(coarse, space)
    constrained = constrain(free, boundary_dofs(coarse), boundary_dofs(space))
    assert constrained.getSize() == (space.dofmap.index_map.size_global, (num_cells - 1) ** 2)
    free.destroy()
    return constrained


def two_grid_solver(comm: MPI.Comm, num_cells: int, num_coarse: int) -> LinearSolver:
    """GMRES with the two-grid preconditioner on the Helmholtz problem."""
    problem = helmholtz(comm, num_cells)
    solver = LinearSolver(problem, RTOL * reference_norm(problem), options=GMRES)
    prolongation = prolongation_to(problem.node_space, num_coarse)
    set_two_grid(solver.ksp.getPC(), prolongation)
    prolongation.destroy()
    return solver


def direct_solution(k: float, num_cells: int) -> npt.NDArray[np.float64]:
    """The owned values of the solution by MUMPS."""
    problem = helmholtz(COMM, num_cells)
    problem.parameters.value = k
    solver = LinearSolver(problem, 1e-12)
    assert solver.solve().converged
    solver.destroy()
    return problem.solution.x.array[: problem.node_space.dofmap.index_map.size_local]


def error(solver: LinearSolver, expected: npt.NDArray[np.float64]) -> float:
    """The largest difference of the solution from the expected one over the largest value, over all ranks."""
    values = solver.problem.solution.x.array[: expected.size]
    difference, size = (COMM.allreduce(np.abs(v).max(initial=0.0), op=MPI.MAX) for v in (values - expected, expected))
    return difference / size


def test_two_grid_on_an_indefinite_problem() -> None:
    solver, alone = two_grid_solver(COMM, 64, 32), two_grid_solver(MPI.COMM_SELF, 64, 32)
    result, reference = solver.solve(), alone.solve()
    assert result.converged
    assert abs(result.iterations - reference.iterations) <= 3
    assert error(solver, direct_solution(20.0, 64)) < 1e-8
    problem = helmholtz(COMM, 64)
    plain = LinearSolver(problem, RTOL * reference_norm(problem), options=GMRES, max_iterations=4 * result.iterations)
    assert plain.solve().reason == "DIVERGED_MAX_IT"
    for s in (solver, alone, plain):
        s.destroy()


def test_a_reused_set_up_follows_the_matrix() -> None:
    solver = two_grid_solver(COMM, 64, 27)
    first = solver.solve().iterations
    coarse = solver.ksp.getPC().getMGCoarseSolve().getOperators()[0]
    norm, handle = coarse.norm(), coarse.handle
    solver.problem.parameters.value = 23.0
    solver.matrix.zeroEntries()
    assemble_matrix(solver.matrix, solver.problem.jacobian, bcs=list(solver.problem.bcs))
    solver.matrix.assemble()
    solver.ksp.setOperators(solver.matrix)
    solver.problem.solution.x.array[:] = 0.0
    result = solver.solve()
    kept = solver.ksp.getPC().getMGCoarseSolve().getOperators()[0]
    assert result.converged
    assert result.iterations < 3 * first
    assert kept.handle == handle
    assert kept.norm() != norm
    assert error(solver, direct_solution(23.0, 64)) < 1e-8
    solver.destroy()


@pytest.fixture
def user_options() -> Iterator[None]:
    """Options of the user against every default of the two-grid preconditioner."""
    ours = {"linear_mg_levels_ksp_type": "chebyshev", "linear_mg_levels_pc_type": "jacobi",
            "linear_mg_levels_ksp_max_it": "2", "linear_mg_coarse_pc_type": "svd"}  # fmt: skip
    options = PETSc.Options()
    for key, value in ours.items():
        options[key] = value
    yield
    for key in ours:
        options.delValue(key)


@pytest.mark.usefixtures("user_options")
def test_options_of_the_user_win() -> None:
    solver = two_grid_solver(COMM, 16, 8)
    solver.ksp.setUp()
    pc = solver.ksp.getPC()
    smoother, coarse = pc.getMGSmoother(1), pc.getMGCoarseSolve()
    assert (smoother.getType(), smoother.getPC().getType(), smoother.getTolerances()[3]) == ("chebyshev", "jacobi", 2)
    assert coarse.getPC().getType() == "svd"
    solver.destroy()


def test_the_defaults_of_two_grid() -> None:
    solver = two_grid_solver(COMM, 16, 8)
    solver.ksp.setUp()
    pc = solver.ksp.getPC()
    smoother, coarse = pc.getMGSmoother(1), pc.getMGCoarseSolve()
    assert (smoother.getType(), smoother.getPC().getType(), smoother.getTolerances()[3]) == ("richardson", "sor", 1)
    assert (coarse.getType(), coarse.getPC().getType(), coarse.getPC().getFactorSolverType()) == (
        "preonly",
        "lu",
        "mumps",
    )
    solver.destroy()
