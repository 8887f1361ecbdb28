"""Coarse spaces and operators as preconditioners of complex matrices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import ufl
from dolfinx import fem
from dolfinx.fem.petsc import assemble_matrix
from dolfinx.mesh import create_unit_square
from petsc4py import PETSc

from lrsa_coupled import describe
from lrsa_coupled.coupling.norms import jacobian
from lrsa_coupled.petsc.blocks import inner_products, multiply, norms, span
from lrsa_coupled.schema import Field
from lrsa_coupled.solvers.interpolation import boundary_dofs, constrain, interpolation_matrix
from tests.complex.problems import COMM, magnetic
from tests.learned import operator
from tests.mpi.test_coarse_space import applied, solver

WAVES = [(i, j) for i in range(1, 7) for j in range(1, 7) if i**2 + j**2 < 42]

FGMRES = {"ksp_type": "fgmres", "pc_lrsa_inner_pc_type": "gamg", "pc_lrsa_max_defect": "1"}


class Waves:
    """-Laplace u - (260 + 6i) u, u = 0 on the boundary: A complex symmetric, P the stiffness matrix."""

    def __init__(self, cells: int = 24) -> None:
        self.space = fem.functionspace(create_unit_square(COMM, cells, cells), ("P", 1))
        u, v = ufl.TrialFunction(self.space), ufl.TestFunction(self.space)
        stiff = ufl.inner(ufl.grad(u), ufl.grad(v)) * ufl.dx
        whole = stiff - (260 + 6j) * ufl.inner(u, v) * ufl.dx
        self.bcs = [fem.dirichletbc(PETSc.ScalarType(0.0), boundary_dofs(self.space), self.space)]
        self.stiffness, self.matrix = (assemble_matrix(fem.form(form), bcs=self.bcs) for form in (stiff, whole))
        self.stiffness.assemble()
        self.matrix.assemble()

    def modes(self) -> np.ndarray:
        """Owned rows of the lowest modes, real."""
        x = self.space.tabulate_dof_coordinates()[: self.matrix.getLocalSize()[0]]
        return np.stack([np.sin(i * np.pi * x[:, 0]) * np.sin(j * np.pi * x[:, 1]) for i, j in WAVES], axis=1)


def random(matrix: PETSc.Mat, seed: int) -> PETSc.Vec:
    """Complex values, the same at any number of ranks."""
    b, generator = matrix.createVecLeft(), np.random.default_rng(seed)
    b.array[:] = (generator.standard_normal(b.size) + 1j * generator.standard_normal(b.size))[slice(*b.owner_range)]
    return b


def test_blocks_are_sesquilinear() -> None:
    problem = magnetic()
    matrix = jacobian(problem)
    block = np.stack([random(matrix, seed).array for seed in range(3)], axis=1)
    image = multiply(matrix, block)
    products = inner_products(block, image, COMM)
    assert np.allclose(products, products.conj().T)
    assert norms(block, COMM).dtype == np.float64
    columns, weights = span(block, COMM, 1e-8)
    unit = columns @ weights
    assert np.allclose(inner_products(unit, unit, COMM), np.eye(3))
    assert np.allclose(multiply(matrix, block.real), multiply(matrix, block.real + 0j))


@pytest.mark.parametrize("turned", [False, True], ids=["real basis", "complex basis"])
@pytest.mark.parametrize("combine", ["deflated", "additive"])
def test_fgmres_with_modes_needs_few_iterations(combine: str, turned: bool) -> None:
    """A complex combination of the vectors spans the same space."""
    waves = Waves()
    basis, b = waves.modes(), random(waves.matrix, 1)
    if turned:
        generator = np.random.default_rng(0)
        basis = basis @ (
            generator.standard_normal((len(WAVES),) * 2) + 1j * generator.standard_normal((len(WAVES),) * 2)
        )
    counts = []
    inner = {"ksp_type": "fgmres", "pc_lrsa_inner_pc_type": "gamg", "pc_lrsa_combine": combine}
    for min_gain in ("0", "100"):  # the second leaves the space out
        with solver(waves.matrix, waves.stiffness, basis=basis, pc_lrsa_min_gain=min_gain, pc_lrsa_max_defect="1",
                    **inner) as ksp:  # fmt: skip
            x = waves.matrix.createVecRight()
            ksp.solve(b, x)
            assert (b - waves.matrix * x).norm() <= 1.001e-8 * b.norm()
            assert ksp.getPC().getPythonContext().dimension == (len(WAVES) if min_gain == "0" else 0)
            counts.append(ksp.getIterationNumber())
    assert counts[0] < 0.6 * counts[1]


@pytest.mark.parametrize("combine", ["deflated", "additive"])
def test_transposes_are_plain_transposes(combine: str) -> None:
    waves = Waves()
    with solver(waves.matrix, basis=waves.modes() * np.exp(1j * np.arange(len(WAVES))), pc_lrsa_combine=combine,
                pc_lrsa_min_gain="0", pc_lrsa_max_defect="1") as ksp:  # fmt: skip
        pc, x, y = ksp.getPC(), random(waves.matrix, 1), random(waves.matrix, 2)
        left, right = applied(pc, x), applied(pc, y, transposed=True)
        assert left.tDot(y) == pytest.approx(right.tDot(x), rel=1e-9)


def test_the_symmetric_form_is_hermitian_and_refuses_absorption() -> None:
    problem = magnetic(cells=20)
    matrix = jacobian(problem)
    basis = np.stack([random(matrix, seed).array for seed in range(5)], axis=1)
    with solver(matrix, basis=basis, pc_lrsa_min_gain="0", pc_lrsa_combine="symmetric", pc_lrsa_max_defect="1") as ksp:
        x, y = random(matrix, 7), random(matrix, 8)
        mx, my = applied(ksp.getPC(), x), applied(ksp.getPC(), y)
        assert mx.dot(y) == pytest.approx(np.conj(my.dot(x)), rel=1e-9)
        assert mx.dot(x).real > 0.0 and abs(mx.dot(x).imag) < 1e-9 * mx.dot(x).real
        left, right = applied(ksp.getPC(), x), applied(ksp.getPC(), y, transposed=True)
        assert left.tDot(y) == pytest.approx(right.tDot(x), rel=1e-9)
    waves = Waves()
    with pytest.raises(PETSc.Error) as caught, solver(waves.matrix, basis=waves.modes(), pc_lrsa_combine="symmetric",
                                                      pc_lrsa_min_gain="0", pc_lrsa_max_defect="1"):  # fmt: skip
        pass
    assert "needs a symmetric matrix" in str(caught.value.__cause__)


def test_modes_of_a_coarse_mesh() -> None:
    """Absorbing terms are left out of the pencil; its modes help."""
    waves = Waves()
    coarse = fem.functionspace(create_unit_square(COMM, 12, 12), ("P", 1))
    dofs = boundary_dofs(coarse), boundary_dofs(waves.space)
    describe(waves.stiffness, waves.space, prolongation=constrain(interpolation_matrix(coarse, waves.space), *dofs))
    b, counts = random(waves.matrix, 1), []
    for min_gain in ("0", "100"):
        given = {"pc_lrsa_basis": "coarse", "pc_lrsa_coarse_modes": "30", "pc_lrsa_min_gain": min_gain}
        with solver(waves.matrix, waves.stiffness, **FGMRES, **given) as ksp:
            ksp.solve(b, waves.matrix.createVecRight())
            assert ksp.getConvergedReason() > 0
            counts.append(ksp.getIterationNumber())
    assert counts[0] < 0.8 * counts[1]


def test_a_predicted_basis_is_of_real_vectors(shared_path: Path) -> None:
    waves = Waves()
    folder = operator(shared_path / "basis", Field("modes", 6, span=True))
    describe(waves.stiffness, waves.space, inputs={"medium": lambda x: 1.0 + 0.2 * x[:1]})
    for grid in ("0", "12"):
        given = {"pc_lrsa_checkpoint": str(folder), "pc_lrsa_grid": grid, "pc_lrsa_min_gain": "0"}
        with solver(waves.matrix, waves.stiffness, **FGMRES, **given) as ksp:
            b, x = random(waves.matrix, 1), waves.matrix.createVecRight()
            ksp.solve(b, x)
            assert ksp.getPC().getPythonContext().dimension == 6
            assert (b - waves.matrix * x).norm() <= 1.001e-8 * b.norm()


def test_an_operator_as_preconditioner_has_real_and_imaginary_parts(shared_path: Path) -> None:
    problem = magnetic(cells=12)
    matrix = jacobian(problem)
    describe(matrix, problem.node_space, bcs=problem.bcs, inputs={"medium": lambda x: 1.0 + 0.2 * x[:1]})
    python = {"pc_type": "python", "pc_python_type": "lrsa_coupled.petsc.neural.NeuralPC", "ksp_type": "fgmres"}
    inputs = (Field("medium"), Field("residual", 2))
    good = operator(shared_path / "complex", Field("correction", 2), inputs=inputs, scale=0.1)
    b, x = random(matrix, 1), matrix.createVecRight()
    with solver(matrix, **python, pc_lrsa_checkpoint=str(good), pc_lrsa_precision="fp32") as ksp:
        ksp.solve(b, x)
        assert ksp.getConvergedReason() > 0 and (b - matrix * x).norm() <= 1.001e-8 * b.norm()
    wrong = operator(shared_path / "real", Field("correction"), inputs=("medium", "residual"), scale=0.1)
    with pytest.raises(PETSc.Error) as caught, solver(matrix, **python, pc_lrsa_checkpoint=str(wrong)):
        pass
    assert "has 2 real numbers, the operator predicts 1" in str(caught.value.__cause__)
