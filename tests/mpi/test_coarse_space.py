"""The coarse space as a PETSc preconditioner: algebra, convergence, useless bases, options, at any number of ranks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI

pytest.importorskip("petsc4py", reason="the preconditioners need PETSc")

from petsc4py import PETSc

from lrsa_coupled.coupling.options import default_options
from lrsa_coupled.petsc.coarse_space import COMBINATIONS, CoarseSpacePC
from tests.matrices import N, grid_matrix, right_side

pytestmark = pytest.mark.two_ranks

COMM = MPI.COMM_WORLD
RTOL = 1e-8
SHIFT = 240.0  # a dozen modes of the stiffness matrix are lower
PYTHON = {"pc_type": "python", "pc_python_type": "lrsa_coupled.petsc.coarse_space.CoarseSpacePC"}
PREFIX = "coarse_test_"


def modes(count: int, *, comm: MPI.Comm = COMM, noise: float = 0.0, first: int = 0) -> np.ndarray:
    """Owned rows of the lowest modes of the grid matrix, and white noise of this relative size on them."""
    i, j = (index.ravel() + 1 for index in np.meshgrid(np.arange(N), np.arange(N), indexing="ij"))
    levels = 1.3 * (1 - np.cos(np.pi * i / (N + 1))) + 1 - np.cos(np.pi * j / (N + 1))
    order = np.argsort(levels)[first : first + count]
    waves = [np.sin(np.pi * np.outer(numbers, numbers[order]) / (N + 1)) for numbers in (i, j)]
    whole = waves[0] * waves[1] * 2.0 / (N + 1)
    whole += noise * np.random.default_rng(5).standard_normal(whole.shape) / N
    matrix = grid_matrix(comm=comm)
    rows = slice(*matrix.getOwnershipRange())
    matrix.destroy()
    return whole[rows]


@contextmanager
def solver(
    matrix: PETSc.Mat, pmat: PETSc.Mat | None = None, *, basis: np.ndarray | None = None, **options: str
) -> Iterator[PETSc.KSP]:
    ksp = PETSc.KSP().create(matrix.comm)
    ksp.setOptionsPrefix(PREFIX)
    ksp.setOperators(matrix, pmat)
    ksp.setTolerances(rtol=RTOL, max_it=400)
    defaults = {
        "ksp_type": "gmres",
        "ksp_gmres_restart": "400",
        "ksp_pc_side": "right",
        **PYTHON,
        "pc_lrsa_inner_pc_type": "jacobi",
        **options,
    }
    try:
        with default_options(PREFIX, defaults):
            ksp.setFromOptions()
            if basis is not None:
                ksp.getPC().getPythonContext().set_basis(basis)
            ksp.setUp()
            yield ksp
    finally:
        ksp.destroy()


def iterations(ksp: PETSc.KSP) -> int:
    """Solve, check the true residual, return the iterations."""
    matrix = ksp.getOperators()[0]
    b, x = right_side(matrix), matrix.createVecRight()
    ksp.solve(b, x)
    assert ksp.getConvergedReason() > 0
    residual = b - matrix * x
    assert residual.norm() <= 1.001 * RTOL * b.norm()
    return ksp.getIterationNumber()


def applied(pc: PETSc.PC, x: PETSc.Vec, *, transposed: bool = False) -> PETSc.Vec:
    y = x.duplicate()
    (pc.applyTranspose if transposed else pc.apply)(x, y)
    return y


@pytest.mark.parametrize("combine", COMBINATIONS)
def test_transposes_are_transposes(combine: str) -> None:
    matrix = grid_matrix(wind=0.0 if combine == "symmetric" else 30.0, shift=SHIFT)
    with solver(matrix, basis=modes(12), pc_lrsa_combine=combine) as ksp:
        pc, x, y = ksp.getPC(), right_side(matrix, 1), right_side(matrix, 2)
        assert pc.getPythonContext().dimension == 12
        assert applied(pc, x).dot(y) == pytest.approx(applied(pc, y, transposed=True).dot(x), rel=1e-10)


def test_what_the_space_holds_is_solved_exactly() -> None:
    matrix, basis = grid_matrix(wind=30.0, shift=SHIFT), modes(12)
    with solver(matrix, basis=basis) as ksp:
        z = matrix.createVecRight()
        z.array[:] = basis @ np.arange(1.0, 13.0)
        difference = applied(ksp.getPC(), matrix * z) - z
        assert difference.norm() < 1e-10 * z.norm()


@pytest.mark.parametrize("shift", [0.0, SHIFT])
def test_the_symmetric_form_is_symmetric_and_positive(shift: float) -> None:
    matrix, stiffness = grid_matrix(shift=shift), grid_matrix()
    with solver(matrix, stiffness, basis=modes(14), pc_lrsa_combine="symmetric", pc_lrsa_inner_pc_type="bjacobi",
                pc_lrsa_inner_sub_pc_type="icc") as ksp:  # fmt: skip
        x, y = right_side(matrix, 1), right_side(matrix, 2)
        mx, my = applied(ksp.getPC(), x), applied(ksp.getPC(), y)
        assert mx.dot(y) == pytest.approx(my.dot(x), rel=1e-10)
        assert mx.dot(x).real > 0.0 and my.dot(y).real > 0.0


def test_conjugate_gradients_fall_monotonically_in_energy() -> None:
    matrix = grid_matrix()
    b, exact, errors = right_side(matrix), matrix.createVecRight(), []
    with solver(matrix, ksp_type="cg", ksp_pc_side="left", pc_type="lu", pc_factor_mat_solver_type="mumps") as direct:
        direct.solve(b, exact)
    with solver(matrix, basis=modes(12, noise=0.05), ksp_type="cg", ksp_pc_side="left", pc_lrsa_combine="symmetric",
                ksp_norm_type="unpreconditioned") as ksp:  # fmt: skip

        def note(ksp: PETSc.KSP, iteration: int, norm: float) -> None:
            error = ksp.buildSolution() - exact
            errors.append((matrix * error).dot(error))

        ksp.setMonitor(note)
        deflated = iterations(ksp)
    assert len(errors) == deflated + 1 and np.all(np.diff(errors) < 1e-14 * errors[0])
    with solver(matrix, ksp_type="cg", ksp_pc_side="left", pc_type="jacobi", ksp_norm_type="unpreconditioned") as plain:
        assert deflated < 0.6 * iterations(plain)


@pytest.mark.parametrize("combine", COMBINATIONS)
def test_deflation_saves_iterations_alike_at_any_number_of_ranks(combine: str) -> None:
    def count(comm: MPI.Comm, **options: str) -> int:
        matrix = grid_matrix(shift=SHIFT, comm=comm)
        basis = modes(24, comm=comm) if "pc_type" not in options else None
        with solver(matrix, grid_matrix(comm=comm), basis=basis, **options) as ksp:
            return iterations(ksp)

    here = count(COMM, pc_lrsa_combine=combine)
    assert abs(here - count(MPI.COMM_SELF, pc_lrsa_combine=combine)) <= 1
    assert here < 0.75 * count(COMM, pc_type="jacobi")


def test_minres_takes_the_symmetric_form_of_an_indefinite_operator() -> None:
    matrix = grid_matrix(shift=SHIFT)
    counts = []
    for basis in (modes(24), modes(24, noise=1e-3)):
        with solver(
            matrix,
            grid_matrix(),
            basis=basis,
            ksp_type="minres",
            ksp_pc_side="left",
            pc_lrsa_combine="symmetric",
            pc_lrsa_inner_pc_type="gamg",
            ksp_norm_type="preconditioned",
            ksp_rtol="1e-10",
        ) as ksp:
            counts.append(iterations(ksp))
    assert counts[0] <= counts[1] < 100


def test_inverse_iterations_mend_a_noisy_basis() -> None:
    matrix, stiffness = grid_matrix(shift=SHIFT), grid_matrix()
    counts = {}
    for name, noise, steps in (("exact", 0.0, 0), ("noisy", 0.3, 0), ("improved", 0.3, 2)):
        with solver(
            matrix,
            stiffness,
            basis=modes(16, noise=noise),
            pc_lrsa_inner_pc_type="gamg",
            pc_lrsa_inverse_iterations=str(steps),
        ) as ksp:
            counts[name] = iterations(ksp)
    assert counts["exact"] <= counts["improved"] < counts["noisy"]


@pytest.mark.parametrize(("what", "inner"), [("noise", "gamg"), ("high modes", "gamg"), ("modes", "lu")])
def test_a_useless_basis_leaves_the_inner_preconditioner_alone(
    what: str, inner: str, caplog: pytest.LogCaptureFixture
) -> None:
    matrix = grid_matrix()
    rng = np.random.default_rng(COMM.rank)
    basis = {
        "noise": lambda: rng.standard_normal((matrix.getLocalSize()[0], 16)),
        "high modes": lambda: modes(16, first=500),
        "modes": lambda: modes(16),
    }[what]()
    options = {"pc_lrsa_inner_pc_factor_mat_solver_type": "mumps"} if inner == "lu" else {}
    with solver(matrix, basis=basis, pc_lrsa_inner_pc_type=inner, **options) as ksp:
        assert ksp.getPC().getPythonContext().dimension == 0
        guarded = iterations(ksp)
    assert "the coarse space is not used: the inner preconditioner leaves" in caplog.text
    with solver(matrix, pc_type=inner, pc_factor_mat_solver_type="mumps" if inner == "lu" else "petsc") as ksp:
        assert guarded == iterations(ksp)


def test_a_basis_that_is_not_finite_leaves_the_inner_preconditioner_alone(caplog: pytest.LogCaptureFixture) -> None:
    with solver(grid_matrix(), basis=np.nan * modes(4)) as ksp:
        assert ksp.getPC().getPythonContext().dimension == 0
        guarded = iterations(ksp)
    assert "the coarse space is not used: it has rank 0" in caplog.text
    with solver(grid_matrix(), pc_type="jacobi") as ksp:
        assert guarded == iterations(ksp)


def test_repeated_vectors_count_once() -> None:
    basis = modes(6)
    with solver(
        grid_matrix(), basis=np.column_stack([basis, basis @ np.ones(6), 0.0 * basis[:, 0], 3.0 * basis[:, 2]])
    ) as ksp:
        assert ksp.getPC().getPythonContext().dimension == 6


def test_the_space_serves_a_sequence_of_operators() -> None:
    matrix = grid_matrix(shift=SHIFT)
    with solver(matrix, grid_matrix(), basis=modes(24)) as ksp:
        iterations(ksp)
        again = grid_matrix(shift=0.9 * SHIFT)
        again.copy(matrix)
        ksp.setOperators(matrix, ksp.getOperators()[1])
        after = iterations(ksp)
        operators = ksp.getOperators()
        ksp.reset()
        ksp.setOperators(*operators)
        assert iterations(ksp) == after
    with solver(again, grid_matrix(), basis=modes(24)) as ksp:
        assert iterations(ksp) == after


def test_the_near_null_space_is_a_basis() -> None:
    matrix = grid_matrix()
    vectors = []
    for column in modes(8).T:
        vector = matrix.createVecRight()
        vector.array[:] = column
        vectors.append(vector)
    matrix.setNearNullSpace(PETSc.NullSpace().create(vectors=vectors, comm=COMM))
    with solver(matrix, pc_lrsa_basis="nearnullspace") as ksp:
        assert ksp.getPC().getPythonContext().dimension == 8
        found = iterations(ksp)
    with solver(matrix, basis=modes(8)) as ksp:
        assert iterations(ksp) == found


def test_the_view_says_what_is_used(tmp_path) -> None:
    with solver(grid_matrix(), basis=modes(8), pc_lrsa_inverse_iterations="1") as ksp:
        path = COMM.bcast(str(tmp_path / "view.txt"))
        viewer = PETSc.Viewer().createASCII(path, comm=COMM)
        ksp.getPC().view(viewer)
        viewer.destroy()
        COMM.Barrier()
        text = Path(path).read_text(encoding="utf-8")
    assert (
        "coarse space of 8 vectors (given), deflated, 0 smoothing steps, 1 inverse iterations" in text
        and "jacobi" in text
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"pc_lrsa_combine": "sum"},
            "-coarse_test_pc_lrsa_combine must be one of deflated, symmetric, additive, got 'sum'",
        ),
        ({"pc_lrsa_inverse_iterations": "-1"}, "-coarse_test_pc_lrsa_inverse_iterations must be 0 or more, got -1"),
        ({"pc_lrsa_basis": "nearnullspace"}, "in the near-null space of the preconditioning matrix; got none"),
        ({}, "by pc.getPythonContext().set_basis"),
        ({"short": ""}, "owned rows"),
        ({"pc_lrsa_combine": "symmetric", "windy": ""}, "needs a symmetric matrix"),
        ({"pc_lrsa_inverse_iterations": "1", "other": ""}, "needs P - A positive on the basis"),
    ],
)
def test_what_cannot_be_is_named_on_all_ranks(options: dict[str, str], message: str) -> None:
    basis = None
    if "short" in options:
        basis = modes(4)[: -1 if COMM.rank == COMM.size - 1 else None]
    if "windy" in options or "other" in options:
        basis = modes(4)
    matrix = grid_matrix(wind=30.0 if "windy" in options else 0.0)
    settings = {name: word for name, word in options.items() if name.startswith("pc_")}
    other = grid_matrix(shift=SHIFT) if "other" in options else None
    with pytest.raises(PETSc.Error) as caught, solver(matrix, other, basis=basis, **settings):
        pass
    assert isinstance(caught.value.__cause__, ValueError)  # petsc4py wraps what a Python PC raises
    assert message in str(caught.value.__cause__)


def test_the_context_is_found_by_its_dotted_name() -> None:
    with solver(grid_matrix(), basis=modes(4)) as ksp:
        assert isinstance(ksp.getPC().getPythonContext(), CoarseSpacePC)
