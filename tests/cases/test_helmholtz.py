"""Helmholtz: order of the discretisation, what the methods find, the medium, variants."""

from __future__ import annotations

import dataclasses
from argparse import Namespace

import numpy as np
import pytest
from mpi4py import MPI

pytest.importorskip("dolfinx", reason="the case needs DOLFINx")

import ufl
from dolfinx import fem
from dolfinx.fem.petsc import assemble_matrix

from lrsa_coupled import catalog
from lrsa_coupled.bench.experiments import preconditioners
from lrsa_coupled.bench.samples import Samples
from lrsa_coupled.cases.helmholtz.case import HelmholtzCase, HelmholtzOptions, helmholtz
from lrsa_coupled.config import BenchConfig, Config, ProblemConfig
from lrsa_coupled.coupling.residual import reference_norm, residual_norm
from lrsa_coupled.generation.plan import sample_parameters
from lrsa_coupled.interfaces import Reuse
from lrsa_coupled.solvers.interpolation import boundary_dofs
from lrsa_coupled.solvers.linear import LinearSolver


def manufactured_errors(dim: int, resolution: int) -> tuple[float, float]:
    """Return the errors in L2 and the H1 seminorm for a product of sines in the medium of a sample, at k = 3."""
    case = HelmholtzCase(HelmholtzOptions(dim=dim, wave_number=3.0))
    parameters = sample_parameters(case, 0, 0)
    problem = case.problem(case.mesh(MPI.COMM_SELF, parameters, resolution), parameters)
    x = ufl.SpatialCoordinate(problem.mesh)
    exact = ufl.sin(ufl.pi * x[0]) * ufl.sin(2 * ufl.pi * x[1]) * (ufl.sin(ufl.pi * x[2]) if dim == 3 else 1)
    squared = 9.0 * problem.slowness
    source = ((5 if dim == 2 else 6) * ufl.pi**2 - squared) * exact
    problem = dataclasses.replace(problem, residual=fem.form(helmholtz(problem.solution, squared, source)))
    solver = LinearSolver(problem, 1e-10)
    assert solver.solve().converged
    solver.destroy()
    error = problem.solution - exact
    return tuple(
        np.sqrt(fem.assemble_scalar(fem.form(form * ufl.dx)))
        for form in (error**2, ufl.inner(ufl.grad(error), ufl.grad(error)))
    )


@pytest.mark.parametrize(("dim", "resolutions"), [(2, (40, 80)), (3, (12, 24))])
def test_manufactured_orders(dim: int, resolutions: tuple[int, int]) -> None:
    coarse, fine = (np.array(manufactured_errors(dim, n)) for n in resolutions)
    assert np.log2(coarse / fine) == pytest.approx([2.0, 1.0], abs=0.1)


@pytest.mark.parametrize(("dim", "resolution", "wave_number"), [(2, 60, 20.0), (3, 16, 8.0)])
def test_methods_find_the_same_field(dim: int, resolution: int, wave_number: float) -> None:
    case = HelmholtzCase(HelmholtzOptions(dim=dim, wave_number=wave_number))
    parameters = sample_parameters(case, 1, 0)
    problem = case.problem(case.mesh(MPI.COMM_SELF, parameters, resolution), parameters)
    atol = 1e-10 * reference_norm(problem)
    found = {}
    for name, make in case.methods().items():
        problem.solution.x.array[:] = 0.0
        solver = make(problem, atol)
        assert solver.solve().converged
        solver.destroy()
        assert residual_norm(problem) <= 1.01 * atol
        found[name] = problem.solution.x.array.copy()
    assert max(np.abs(v - found["mumps"]).max() for v in found.values()) < 1e-7 * np.abs(found["mumps"]).max()


def test_the_problem_is_indefinite_and_multigrid_alone_fails() -> None:
    case = HelmholtzCase(HelmholtzOptions(dim=2))
    parameters = sample_parameters(case, 1, 0)
    problem = case.problem(case.mesh(MPI.COMM_SELF, parameters, 120), parameters)
    options = {"ksp_type": "gmres", "ksp_pc_side": "right", "pc_type": "gamg"}
    solver = LinearSolver(problem, case.rtol * reference_norm(problem), options=options, max_iterations=200)
    assert solver.solve().reason == "DIVERGED_MAX_IT"
    solver.destroy()


@pytest.mark.parametrize(("method", "reuse"), [("mumps", Reuse(preconditioner=True)), ("two-grid", Reuse()),
                                                 ("two-grid", Reuse(recycle=8)),
                                                 ("gamg", Reuse(recycle=20))])  # fmt: skip
def test_sequences_reach_the_tolerance(method: str, reuse: Reuse) -> None:
    case, solver = HelmholtzCase(HelmholtzOptions(wave_number=9.0)), None
    parameters = sample_parameters(case, 2, 0)
    problem = case.problem(case.mesh(MPI.COMM_SELF, parameters, 14), parameters)
    iterations = []
    for index in range(4):
        problem = case.fixed_mesh.update(problem, sample_parameters(case, 2, index))
        atol = case.rtol * reference_norm(problem)
        if solver is None:
            solver = case.fixed_mesh.sequence(problem, atol, method=method, reuse=reuse)
        else:
            solver.update(problem, atol)
        result = solver.solve()
        assert result.converged
        assert residual_norm(problem) <= 1.01 * atol
        iterations.append(result.iterations)
    solver.destroy()
    if reuse.recycle:
        assert max(iterations[1:]) < iterations[0]


@pytest.mark.parametrize("dim", [2, 3])
def test_the_medium_has_its_heterogeneity(dim: int) -> None:
    case = HelmholtzCase(HelmholtzOptions(dim=dim, heterogeneity=0.3))
    parameters = sample_parameters(case, 0, 0)
    problem = case.problem(case.mesh(MPI.COMM_SELF, parameters, 8), parameters)
    values = [
        case.features(case.fixed_mesh.update(problem, sample_parameters(case, 0, i))).nodal[:, 0] for i in range(200)
    ]
    assert np.std(values) == pytest.approx(0.3, rel=0.15)
    assert np.exp(np.mean(values)) == pytest.approx(1.0, abs=0.05)


def test_bad_options_are_refused() -> None:
    with pytest.raises(ValueError, match="dim is 2 or 3"):
        HelmholtzCase(HelmholtzOptions(dim=1))
    with pytest.raises(ValueError, match="at least 4 cells"):
        HelmholtzCase().mesh(MPI.COMM_SELF, None, 2)


def test_modes_are_those_of_the_medium() -> None:
    """The solution holds what the eigensolver finds on the linear problem, each mode with its residual."""
    count = 5
    variant, case = catalog.load_case("helmholtz:modes", {"modes": count}), HelmholtzCase()
    parameters = sample_parameters(case, 2, 0)
    pencil = variant.problem(variant.mesh(MPI.COMM_SELF, parameters, 10), parameters)
    assert variant.features(pencil).nodal.shape[1] == len(variant.schema.inputs) == 1
    solver = variant.solver(pencil, 1e-9)
    assert reference_norm(pencil) == 1.0 and solver.solve().converged
    problem = case.problem(case.mesh(MPI.COMM_SELF, parameters, 10), parameters)
    of_problem = case.spectrum.pencil(problem)
    exact = case.spectrum.modes(of_problem, count)
    vectors = pencil.solution.x.array.reshape(-1, count)
    stiffness, mass = (assemble_matrix(form) for form in (of_problem.stiffness, of_problem.mass))
    free = np.setdiff1d(np.arange(len(vectors)), boundary_dofs(problem.solution.function_space))
    for matrix in (stiffness, mass):
        matrix.assemble()
    for value, vector, other in zip(exact.values, vectors.T, exact.vectors.T, strict=True):
        x = stiffness.createVecRight()
        x.array[:] = vector
        residual = ((stiffness * x).array - value * (mass * x).array)[free]
        assert np.linalg.norm(residual) < 1e-7 * value and np.linalg.norm(np.delete(vector, free)) == 0.0
        assert abs(vector @ other) == pytest.approx(np.linalg.norm(vector) * np.linalg.norm(other), rel=1e-6)


def test_the_box_has_its_symmetries() -> None:
    for dim, size in ((2, 8), (3, 48)):
        case = HelmholtzCase(HelmholtzOptions(dim=dim))
        elements, new = set(), {tuple(map(tuple, np.eye(dim, dtype=int)))}
        while new:
            elements |= new
            new = {
                tuple(map(tuple, np.array(s.points) @ np.array(e))) for e in new for s in case.schema.symmetries
            } - elements
        assert len(elements) == size


def test_modes_reuse_nothing() -> None:
    case = catalog.load_case("helmholtz:modes", {"modes": 3})
    parameters = sample_parameters(case, 2, 0)
    problem = case.problem(case.mesh(MPI.COMM_SELF, parameters, 8), parameters)
    with pytest.raises(ValueError, match="nothing to reuse"):
        case.fixed_mesh.sequence(problem, 1.0, method="krylov-schur", reuse=Reuse())


def test_the_shipped_basis_deflates() -> None:
    """Unseen media on a coarse mesh: at most half the iterations of the same multigrid without a basis."""
    (folder,) = catalog.shipped_operators("helmholtz")
    assert folder.name == "basis" and (folder / "model.safetensors").stat().st_size < 4e6
    config = Config(problem=ProblemConfig(seed=3, resolution=16), bench=BenchConfig(samples=1))
    args = Namespace(models=[folder], only=["gamg of P", "learned basis"])
    alone, learned = preconditioners.run(args, Samples(HelmholtzCase(), config, MPI.COMM_SELF)).rows
    assert alone.solved and learned.solved and learned.values["dimension"] == 64
    assert 2 * learned.iterations <= alone.iterations
