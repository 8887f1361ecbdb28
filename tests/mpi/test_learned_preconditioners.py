"""Bases from operators and coarse meshes, an operator as preconditioner: chosen by options, at any number of ranks."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI

pytest.importorskip("dolfinx", reason="the descriptions are of DOLFINx spaces")

from dolfinx import fem
from dolfinx.mesh import create_unit_square
from petsc4py import PETSc

from lrsa_coupled.coupling.options import default_options
from lrsa_coupled.petsc.blocks import multiply, norms, smoothed
from lrsa_coupled.petsc.describe import describe
from lrsa_coupled.schema import Field
from lrsa_coupled.solvers.interpolation import boundary_dofs, constrain, interpolation_matrix
from tests.learned import COMM, Waves, operator

pytestmark = pytest.mark.two_ranks

RTOL = 1e-8
PREFIX = "learned_test_"
GMRES = {"ksp_type": "gmres", "ksp_gmres_restart": "300", "ksp_pc_side": "right"}
SPACE = {
    "pc_type": "python",
    "pc_python_type": "lrsa_coupled.petsc.coarse_space.CoarseSpacePC",
    "pc_lrsa_inner_pc_type": "gamg",
}
NEURAL = {"pc_type": "python", "pc_python_type": "lrsa_coupled.petsc.neural.NeuralPC"}
BASIS, CORRECTION = Field("modes", 6, span=True), Field("correction")


@contextmanager
def solver(waves: Waves, pmat: PETSc.Mat | None = None, **options: object) -> Iterator[PETSc.KSP]:
    ksp = PETSc.KSP().create(waves.matrix.comm)
    ksp.setOptionsPrefix(PREFIX)
    ksp.setOperators(waves.matrix, pmat)
    ksp.setTolerances(rtol=RTOL, max_it=300)
    try:
        with default_options(PREFIX, {name: str(value) for name, value in options.items()}):
            ksp.setFromOptions()
            ksp.setUp()
            yield ksp
    finally:
        ksp.destroy()


@contextmanager
def refused(message: str) -> Iterator[None]:
    """Expect a ValueError, which petsc4py wraps when a Python PC raises it."""
    with pytest.raises(PETSc.Error) as caught:
        yield
    assert isinstance(caught.value.__cause__, ValueError) and re.search(message, str(caught.value.__cause__))


def iterations(ksp: PETSc.KSP, waves: Waves) -> int:
    """Solve, check the true residual, return the iterations."""
    x = waves.right.duplicate()
    ksp.solve(waves.right, x)
    assert ksp.getConvergedReason() > 0
    assert (waves.right - waves.matrix * x).norm() <= 1.01 * RTOL * waves.right.norm()
    return ksp.getIterationNumber()


def correction_model(folder: Path, scale: float = 1e-3) -> Path:
    return operator(folder, CORRECTION, inputs=("medium", "residual"), scale=scale)


def prolongation(waves: Waves, cells: int = 12) -> PETSc.Mat:
    coarse = fem.functionspace(create_unit_square(waves.matrix.comm.tompi4py(), cells, cells), ("P", 1))
    return constrain(interpolation_matrix(coarse, waves.space), boundary_dofs(coarse), boundary_dofs(waves.space))


def test_coarse_modes_deflate(shared_path: Path) -> None:
    waves = Waves()
    with solver(waves, waves.stiffness, **GMRES, pc_type="gamg") as plain:
        alone = iterations(plain, waves)
    describe(waves.stiffness, waves.space, bcs=[waves.bc], prolongation=prolongation(waves))
    found = {}
    for smoothing in (0, 2):
        with solver(
            waves,
            waves.stiffness,
            **GMRES,
            **SPACE,
            pc_lrsa_basis="coarse",
            pc_lrsa_coarse_modes=16,
            pc_lrsa_smoothing=smoothing,
        ) as ksp:
            assert ksp.getPC().getPythonContext().dimension == 16
            found[smoothing] = iterations(ksp, waves)
    assert 2 * found[0] <= alone and found[2] <= found[0]


@pytest.mark.parametrize("cells", [0, 12])
def test_a_predicted_basis_does_not_depend_on_the_ranks(shared_path: Path, cells: int) -> None:
    """The basis of all ranks together is as good as that of each rank alone."""
    folder = operator(shared_path / "basis", BASIS)
    results = []
    for comm in (COMM, MPI.COMM_SELF):
        waves = Waves(comm)
        describe(waves.matrix, waves.space, bcs=[waves.bc], inputs=waves.inputs)
        with solver(
            waves,
            waves.stiffness,
            **GMRES,
            **SPACE,
            pc_lrsa_checkpoint=folder,
            pc_lrsa_grid=cells,
            pc_lrsa_min_gain=0,
            pc_lrsa_max_defect=2,
        ) as ksp:
            context = ksp.getPC().getPythonContext()
            assert (
                context.settings.basis == "learned"
                and context.dimension == BASIS.components
                and context.inference > 0.0
            )
            results.append(iterations(ksp, waves))
            assert np.abs(context._space[waves.fixed]).max(initial=0.0) == 0.0
    assert abs(results[0] - results[1]) <= 1


def test_a_basis_from_a_grid_goes_to_zero_at_the_boundary_without_a_kink(shared_path: Path) -> None:
    """The operator does not vanish at the boundary, the basis is small a quarter of a cell from it."""
    waves = Waves()
    describe(waves.matrix, waves.space, bcs=[waves.bc], inputs=waves.inputs)
    with solver(
        waves,
        waves.stiffness,
        **GMRES,
        **SPACE,
        pc_lrsa_checkpoint=operator(shared_path / "basis", BASIS),
        pc_lrsa_grid=6,
        pc_lrsa_min_gain=0,
        pc_lrsa_max_defect=2,
    ) as ksp:
        basis = ksp.getPC().getPythonContext()._space
    points = waves.space.tabulate_dof_coordinates()[: len(basis), :2]
    distance = np.rint(24 * np.minimum(points, 1.0 - points).min(axis=1))
    mean = {
        layer: COMM.allreduce(np.abs(basis[distance == layer]).sum()) / COMM.allreduce(int((distance == layer).sum()))
        for layer in (1, 4)
    }
    assert mean[1] < 0.6 * mean[4]


def test_one_description_serves_two_operators(shared_path: Path) -> None:
    """An operator that corrects, with a coarse space from another inside, and inputs that neither reads."""
    waves = Waves()
    describe(waves.matrix, waves.space, bcs=[waves.bc], inputs=waves.inputs | {"unread": waves.medium})
    inside = {f"pc_lrsa_inner_{name}": value for name, value in SPACE.items()} | {
        "pc_lrsa_inner_pc_lrsa_max_defect": 2,
        "pc_lrsa_inner_pc_lrsa_min_gain": 0,
    }
    with solver(
        waves,
        None,
        ksp_type="fgmres",
        ksp_gmres_restart=300,
        **NEURAL,
        **inside,
        pc_lrsa_checkpoint=correction_model(shared_path / "model"),
        pc_lrsa_inner_pc_lrsa_checkpoint=operator(shared_path / "basis", BASIS),
    ) as ksp:
        assert iterations(ksp, waves) < 300


def test_a_useless_operator_is_left_out(shared_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = operator(shared_path / "basis", BASIS)
    waves = Waves()
    describe(waves.stiffness, waves.space, bcs=[waves.bc], inputs=waves.inputs)
    with solver(waves, waves.stiffness, **GMRES, pc_type="gamg") as plain:
        alone = iterations(plain, waves)
    with (
        caplog.at_level(logging.WARNING),
        solver(waves, waves.stiffness, **GMRES, **SPACE, pc_lrsa_checkpoint=folder, pc_lrsa_max_defect=0.1) as ksp,
    ):
        context = ksp.getPC().getPythonContext()
        assert context.dimension == 0 and context.defect > 0.1
        assert abs(iterations(ksp, waves) - alone) <= 1
        tried = []
        for _ in range(6):
            waves.stiffness.shift(0.0)  # another state: PETSc sets the preconditioner up again
            waves.stiffness.assemble()
            ksp.setOperators(waves.matrix, waves.stiffness)
            ksp.setUp()
            tried.append(context.inference > 0.0)
            assert context.dimension == 0
        assert tried == [False, True, False, False, False, True]
        assert abs(iterations(ksp, waves) - alone) <= 1
    assert "its invariance defect is" in caplog.text


def test_what_is_missing_is_named(shared_path: Path) -> None:
    waves = Waves()
    basis, correction = operator(shared_path / "basis", BASIS), correction_model(shared_path / "correction")
    cases = [
        (SPACE | {"pc_lrsa_basis": "learned"}, "pc_lrsa_checkpoint FOLDER"),
        (SPACE | {"pc_lrsa_basis": "coarse"}, "describe"),
        (SPACE | {"pc_lrsa_checkpoint": basis}, "describe"),
        (SPACE | {"pc_lrsa_checkpoint": correction}, "predicts a basis"),
        (SPACE | {"pc_lrsa_smoothing": -1}, "pc_lrsa_smoothing must be 0 or more"),
        (NEURAL, "pc_lrsa_checkpoint FOLDER"),
        (NEURAL | {"pc_lrsa_checkpoint": correction}, "describe"),
        (NEURAL | {"pc_lrsa_checkpoint": basis}, "from a residual to its correction"),
        (NEURAL | {"pc_lrsa_checkpoint": correction, "pc_lrsa_sweeps": -1}, "pc_lrsa_sweeps must be 0 or more"),
        (NEURAL | {"pc_lrsa_checkpoint": correction, "pc_lrsa_precision": "fp8"}, "bf16, fp32"),
    ]
    for options, message in cases:
        with refused(message), solver(waves, waves.stiffness, ksp_type="fgmres", **options):
            pass
    describe(waves.matrix, waves.space, bcs=[waves.bc])
    for options, message in (
        (SPACE | {"pc_lrsa_checkpoint": basis}, "medium not given"),
        (SPACE | {"pc_lrsa_basis": "coarse"}, "prolongation"),
    ):
        with refused(message), solver(waves, waves.stiffness, **options):
            pass


@pytest.mark.parametrize("method", ["fgmres", "fcg", "gcr"])
@pytest.mark.parametrize("sweeps", [0, 1])
def test_flexible_methods_converge_with_an_operator(shared_path: Path, method: str, sweeps: int) -> None:
    waves = Waves()
    waves.matrix = waves.stiffness
    describe(waves.matrix, waves.space, bcs=[waves.bc], inputs=waves.inputs)
    more = {"ksp_fcg_mmax": 300, "ksp_gmres_restart": 300, "ksp_gcr_restart": 300, "ksp_norm_type": "unpreconditioned"}
    with solver(
        waves,
        None,
        ksp_type=method,
        **NEURAL,
        **more,
        pc_lrsa_checkpoint=correction_model(shared_path / "model"),
        pc_lrsa_sweeps=sweeps,
        pc_lrsa_precision="fp32",
    ) as ksp:
        if sweeps:
            assert iterations(ksp, waves) < 200
        else:  # random weights alone precondition badly: what counts is that nothing breaks
            x = waves.right.duplicate()
            ksp.solve(waves.right, x)
            assert np.isfinite(x.norm())


@pytest.mark.parametrize("method", ["cg", "gmres", "minres", "bcgs"])
def test_other_methods_are_refused(shared_path: Path, method: str) -> None:
    waves = Waves()
    describe(waves.matrix, waves.space, bcs=[waves.bc], inputs=waves.inputs)
    model = correction_model(shared_path / "model")
    with (
        solver(waves, None, ksp_type=method, **NEURAL, pc_lrsa_checkpoint=model) as ksp,
        refused(f"flexible method .*got {method}"),
    ):
        ksp.solve(waves.right, waves.right.duplicate())


def test_an_operator_is_homogeneous_and_bounded_by_what_is_finite(
    shared_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    waves = Waves()
    describe(waves.matrix, waves.space, bcs=[waves.bc], inputs=waves.inputs)
    with solver(
        waves,
        None,
        ksp_type="fgmres",
        **NEURAL,
        pc_lrsa_checkpoint=correction_model(shared_path / "model"),
        pc_lrsa_sweeps=0,
    ) as ksp:
        pc, (x, y, z) = ksp.getPC(), (waves.right.duplicate() for _ in range(3))
        waves.right.copy(x)
        pc.apply(x, y)
        x.scale(1e-9)
        pc.apply(x, z)
        z.scale(1e9)
        assert y.norm() > 0.0 and (y - z).norm() < 2e-2 * y.norm()  # bf16 inside
        x.set(0.0)
        pc.apply(x, z)
        assert z.norm() == 0.0
        with caplog.at_level(logging.WARNING):
            pc.getPythonContext()._predictor.model.head.weight.data.fill_(float("nan"))
            for _ in range(2):
                pc.apply(waves.right, y)
        assert (y - waves.right).norm() == 0.0 and caplog.text.count("not finite") == 1


def test_smoothing_keeps_what_is_low() -> None:
    waves = Waves()
    points = waves.space.tabulate_dof_coordinates()[: waves.right.getLocalSize()]
    low = np.sin(np.pi * points[:, 0]) * np.sin(np.pi * points[:, 1])
    high = np.where(np.rint(24 * (points[:, 0] + points[:, 1])) % 2, 1.0, -1.0)
    block = np.column_stack([low, high])
    block[waves.fixed] = 0.0
    after = smoothed(block, waves.stiffness, 2)
    ratios = norms(after, COMM) / norms(block, COMM)
    assert ratios[0] == pytest.approx(1.0, abs=0.05) and ratios[1] < 0.3
    assert smoothed(block, waves.stiffness, 0) is block
    assert multiply(waves.stiffness, after).shape == block.shape
