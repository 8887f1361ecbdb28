"""GCRO-DR as a PETSc KSP: iterations, recycling, tolerances and breakdowns at any number of ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from mpi4py import MPI

pytest.importorskip("petsc4py", reason="the solvers need PETSc")

from petsc4py import PETSc

from lrsa_coupled.coupling.options import default_options
from lrsa_coupled.solvers.gcrodr import GCRODR, orthogonalise
from tests.matrices import grid_matrix, right_side

pytestmark = pytest.mark.two_ranks

COMM = MPI.COMM_WORLD
RTOL = 1e-8
PYTHON = {"ksp_type": "python", "ksp_python_type": "lrsa_coupled.solvers.gcrodr.GCRODR"}
PLAIN = {**PYTHON, "ksp_gcrodr_recycle": "0"}
HELMHOLTZ = 240.0  # a dozen eigenvalues of -1.3 d2/dx2 - d2/dy2 on the unit square are lower; all are simple


@contextmanager
def solver(
    matrix: PETSc.Mat, *, pc: str = "none", max_it: int = 1000, pmat: PETSc.Mat | None = None, **options: str
) -> Iterator[PETSc.KSP]:
    ksp = PETSc.KSP().create(matrix.comm)
    ksp.setOptionsPrefix("gcrodr_test_")
    ksp.setOperators(matrix, pmat)
    ksp.setTolerances(rtol=RTOL, max_it=max_it)
    try:
        with default_options(
            "gcrodr_test_", {"pc_type": pc, **(options if "ksp_type" in options else {**PYTHON, **options})}
        ):
            ksp.setFromOptions()
            ksp.setUp()
        yield ksp
    finally:
        ksp.destroy()


def solve(ksp: PETSc.KSP, *, seed: int = 0, x: PETSc.Vec | None = None) -> int:
    """Solve, check the true residual against the tolerance, and return the iterations."""
    matrix = ksp.getOperators()[0]
    b, x = right_side(matrix, seed), x or matrix.createVecRight()
    ksp.solve(b, x)
    assert ksp.getConvergedReason() > 0
    residual = b - matrix * x
    assert residual.norm() <= 1.0001 * RTOL * b.norm()
    return ksp.getIterationNumber()


def sequence(
    make: Callable[[float], PETSc.Mat], *, pmat: PETSc.Mat | None = None, pc: str = "none", **options: str
) -> list[int]:
    """Iterations for a sequence of slightly different matrices."""
    with solver(make(0.0), pc=pc, pmat=pmat, **options) as ksp:
        counts = []
        for step in range(4):
            ksp.setOperators(make(0.01 * step), pmat)
            counts.append(solve(ksp, seed=step))
    return counts


def indefinite(noise: float) -> PETSc.Mat:
    return grid_matrix(shift=HELMHOLTZ, noise=noise)


@pytest.mark.parametrize("restart", [20, 200])
@pytest.mark.parametrize("pc", ["none", "jacobi", "gamg"])
def test_without_recycling_it_is_fgmres(pc: str, restart: int) -> None:
    matrix = grid_matrix(shift=15.0, wind=20.0, noise=0.5)
    with solver(matrix, pc=pc, ksp_type="fgmres", ksp_gmres_restart=str(restart)) as ksp:
        expected = solve(ksp)
    with solver(matrix, pc=pc, **PLAIN, ksp_gcrodr_restart=str(restart)) as ksp:
        assert abs(solve(ksp) - expected) <= 1


@pytest.mark.parametrize(("ritz", "expected"), [("harmonic", [239, 55, 51, 49]), ("galerkin", [238, 54, 51, 50])])
def test_recycling_spares_half_of_the_iterations_of_indefinite_systems(ritz: str, expected: list[int]) -> None:
    counts = sequence(indefinite, ksp_gcrodr_recycle="30", ksp_gcrodr_restart="200", ksp_gcrodr_ritz=ritz)
    assert 2 * max(counts[1:]) < counts[0]
    assert counts == pytest.approx(expected, abs=2)  # the same at any number of ranks


def test_recycling_across_restarts() -> None:
    counts = sequence(indefinite, ksp_gcrodr_recycle="30", ksp_gcrodr_restart="50")
    assert counts == pytest.approx([242, 56, 51, 49], abs=2)


def test_recycling_helps_convection() -> None:
    counts = sequence(lambda step: grid_matrix(wind=5 + 100 * step))
    assert counts == pytest.approx([106, 64, 48, 48], abs=2)


@pytest.mark.parametrize("ritz", ["harmonic", "galerkin"])
def test_preconditioner_of_another_matrix(ritz: str) -> None:
    laplace = grid_matrix()
    cold = sequence(indefinite, pmat=laplace, pc="gamg", **PLAIN)
    counts = sequence(indefinite, pmat=laplace, pc="gamg", ksp_gcrodr_ritz=ritz)
    assert counts[0] == cold[0]
    assert 2 * max(counts[1:]) < min(cold[1:])


def test_same_matrix_twice_and_drop() -> None:
    with solver(indefinite(0.0), ksp_gcrodr_recycle="30", ksp_gcrodr_restart="200") as ksp:
        context = ksp.getPythonContext()
        first = solve(ksp)
        assert context.dimension == 30
        assert 2 * solve(ksp, seed=1) < first
        context.drop()
        assert solve(ksp) == first


def test_an_initial_guess_is_honoured() -> None:
    matrix = indefinite(0.0)
    exact = right_side(matrix, 3)
    b = matrix * exact
    with solver(matrix, **PLAIN, ksp_gcrodr_restart="200") as ksp:
        norms: list[float] = []
        ksp.setMonitor(lambda ksp, its, norm: norms.append(norm))
        ksp.setInitialGuessNonzero(True)
        x = exact.copy()
        ksp.solve(b, x)
        assert (ksp.getIterationNumber(), ksp.getConvergedReason() > 0) == (0, True)
        x.axpy(1e-6, right_side(matrix, 4))
        near = (b - matrix * x).norm()
        ksp.solve(b, x)
        assert norms[1] == pytest.approx(near)
        assert len(norms) == ksp.getIterationNumber() + 2
        assert (b - matrix * x).norm() <= 1.0001 * RTOL * b.norm()  # relative to b, not to the start


def test_zero_right_side_needs_no_iteration() -> None:
    matrix = indefinite(0.0)
    with solver(matrix) as ksp:
        b, x = matrix.createVecs()
        ksp.solve(b, x)
        assert (ksp.getIterationNumber(), x.norm()) == (0, 0.0)
        assert ksp.getConvergedReason() > 0


def test_too_few_iterations_are_a_reason() -> None:
    matrix = indefinite(0.0)
    with solver(matrix, max_it=7) as ksp:
        b = right_side(matrix)
        ksp.solve(b, b.duplicate())
        assert (ksp.getConvergedReason(), ksp.getIterationNumber()) == (PETSc.KSP.ConvergedReason.DIVERGED_MAX_IT, 7)
        assert ksp.getPythonContext().dimension == 7


def test_a_matrix_that_is_not_finite_is_a_reason() -> None:
    matrix = indefinite(0.0)
    with solver(matrix) as ksp:
        solve(ksp)
        broken = grid_matrix(shift=np.nan)
        ksp.setOperators(broken)
        ksp.solve(right_side(broken), broken.createVecRight())
        assert ksp.getConvergedReason() == PETSc.KSP.ConvergedReason.DIVERGED_NANORINF
        ksp.setOperators(matrix)
        solve(ksp)


def test_another_size_drops_the_space() -> None:
    with solver(indefinite(0.0)) as ksp:
        first = solve(ksp)
        ksp.reset()
        ksp.setOperators(grid_matrix(12, shift=HELMHOLTZ))
        solve(ksp)
        small = grid_matrix(11, shift=HELMHOLTZ)
        other = PETSc.KSP().create(COMM)
        other.setOperators(small)
        other.setType("python")
        other.setPythonContext(ksp.getPythonContext())  # without a reset in between
        other.solve(right_side(small), small.createVecRight())
        assert other.getConvergedReason() > 0
        other.destroy()
        ksp.reset()
        ksp.setOperators(indefinite(0.0))
        assert solve(ksp) == first


def test_dependent_vectors_are_left_out() -> None:
    with solver(indefinite(0.0), ksp_gcrodr_recycle="30", ksp_gcrodr_restart="200") as ksp:
        solve(ksp)
        context = ksp.getPythonContext()
        space = context._space[:, :30]
        space[:, 20:] = space[:, 10:20]
        space[:, 19] = 0.0
        assert max(solve(ksp, seed=1), solve(ksp, seed=2)) < 100
        assert context.dimension == 30


def diagonal_matrix(lowest: int) -> PETSc.Mat:
    """Three eigenvalues, from ``lowest`` on."""
    matrix = PETSc.Mat().createAIJ(12, nnz=1, comm=COMM)
    for row in range(*matrix.getOwnershipRange()):
        matrix[row, row] = float(lowest + row % 3)
    matrix.assemble()
    return matrix


@pytest.mark.parametrize("ritz", ["harmonic", "galerkin"])
def test_happy_breakdown(ritz: str) -> None:
    with solver(diagonal_matrix(1), ksp_gcrodr_recycle="5", ksp_gcrodr_ritz=ritz) as ksp:
        assert solve(ksp) == 3
        assert solve(ksp) <= 1  # in the recycled space
        assert solve(ksp, seed=1) <= 3


def test_a_singular_system_without_solution_breaks_down() -> None:
    matrix = diagonal_matrix(0)
    with solver(matrix, max_it=100) as ksp:
        b = right_side(matrix)
        ksp.solve(b, b.duplicate())
        assert ksp.getConvergedReason() == PETSc.KSP.ConvergedReason.DIVERGED_BREAKDOWN


def test_matrix_free_operators_are_multiplied_column_by_column() -> None:
    matrix = indefinite(0.0)
    assembled = sequence(lambda step: matrix)
    shell = PETSc.Mat().createPython(matrix.getSizes(), Product(matrix), comm=COMM)
    shell.setUp()
    assert sequence(lambda step: shell) == pytest.approx(assembled, abs=1)


class Product:
    """A matrix by its products."""

    def __init__(self, matrix: PETSc.Mat) -> None:
        self.matrix = matrix

    def mult(self, mat: PETSc.Mat, x: PETSc.Vec, y: PETSc.Vec) -> None:
        self.matrix.mult(x, y)


@pytest.mark.parametrize(("name", "value"), [("recycle", "-1"), ("restart", "20"), ("ritz", "largest")])
def test_bad_options(name: str, value: str) -> None:
    with pytest.raises(PETSc.Error) as caught, solver(indefinite(0.0), **{f"ksp_gcrodr_{name}": value}):
        pass
    assert isinstance(caught.value.__cause__, ValueError)  # petsc4py wraps what a Python KSP raises
    assert f"-ksp_gcrodr_{name}" in str(caught.value.__cause__)
    with pytest.raises(ValueError, match=f"-ksp_gcrodr_{name}"):
        GCRODR().configure(**{name: value if name == "ritz" else int(value)})


def test_left_preconditioning_is_refused() -> None:
    matrix = indefinite(0.0)
    with solver(matrix) as ksp:
        ksp.setPCSide(PETSc.PC.Side.LEFT)
        b = right_side(matrix)
        with pytest.raises(PETSc.Error) as caught:
            ksp.solve(b, b.duplicate())
    assert "PC side right" in str(caught.value.__cause__)


def test_monitors_see_the_solution_of_the_iteration() -> None:
    matrix = indefinite(0.0)
    b = right_side(matrix)
    with solver(matrix, pc="jacobi", ksp_gcrodr_recycle="10", ksp_gcrodr_restart="40") as ksp:
        errors: list[float] = []
        ksp.setMonitor(lambda ksp, its, norm: errors.append(abs(ksp.buildResidual().norm() - norm)))
        for _ in range(2):
            ksp.solve(b, b.duplicate())
    assert max(errors) <= 1e-10 * b.norm()


def test_orthogonalise_a_vector_that_is_almost_in_the_basis() -> None:
    size = 300
    basis = np.linalg.qr(np.random.default_rng(0).standard_normal((size, 40)))[0]
    vector = basis @ np.ones(40) + 1e-9 * np.random.default_rng(1).standard_normal(size)
    rows = slice(*(size * rank // COMM.size for rank in (COMM.rank, COMM.rank + 1)))
    mine = np.asfortranarray(basis[rows])
    left = vector[rows].copy()
    h, norm = orthogonalise(mine, left, COMM)
    whole = np.concatenate(COMM.allgather(left))
    assert np.abs(basis.T @ whole).max() < 1e-12 * norm
    assert norm == pytest.approx(np.linalg.norm(whole))
    assert np.abs(basis @ h + whole - vector).max() < 1e-13
