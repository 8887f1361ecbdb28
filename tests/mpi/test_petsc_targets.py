"""Solves from a guess in a twin of the user's SNES, and in the user's KSP: tolerances, bounds, null spaces."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import ufl
from mpi4py import MPI

pytest.importorskip("dolfinx", reason="the targets need DOLFINx")

from dolfinx import fem
from dolfinx.fem.petsc import LinearProblem, NonlinearProblem, assign
from dolfinx.mesh import create_unit_square
from petsc4py import PETSc

from lrsa_coupled.guess.petsc_targets import KSPTarget, SNESTarget
from lrsa_coupled.interfaces import Unknown

pytestmark = pytest.mark.two_ranks

COMM = MPI.COMM_WORLD
DIRECT = {"ksp_type": "preonly", "pc_type": "lu", "pc_factor_mat_solver_type": "mumps"}


@contextmanager
def target_of(problem: LinearProblem | NonlinearProblem, own: float = 0.0) -> Iterator[SNESTarget | KSPTarget]:
    """A target at the moment when the problem solves, from a constant guess of the user's."""
    u = problem.u
    u.x.array[:] = own
    assign(u, problem.x)
    what = Unknown(mesh=u.function_space.mesh, solution=u, bcs=[], node_space=u.function_space)
    linear = isinstance(problem, LinearProblem)
    target = (KSPTarget if linear else SNESTarget)(problem.solver, what, problem.b if linear else None, problem.x)
    yield target
    target.destroy()


@pytest.mark.parametrize("kind", ["vinewtonrsls", "vinewtonssls"])
def test_bounds(kind: str) -> None:
    """The tolerance is PETSc's, of the residual projected on the bounds; a solution is accepted and stays one."""
    space = fem.functionspace(create_unit_square(COMM, 16, 16), ("P", 1))
    damage, drive, lower, upper = (fem.Function(space) for _ in range(4))
    upper.x.array[:] = 1.0
    energy = (
        (1 - damage) ** 2 * drive + damage + damage**4 + 0.0025 * ufl.inner(ufl.grad(damage), ufl.grad(damage))
    ) * ufl.dx
    settings = {"snes_type": kind, "snes_rtol": 1e-6, "snes_stol": 0.0, "snes_atol": 1e-14}
    problem = NonlinearProblem(
        ufl.derivative(energy, damage), damage, petsc_options_prefix=f"bounds_{kind}_", petsc_options=DIRECT | settings
    )
    problem.solver.setVariableBounds(lower.x.petsc_vec, upper.x.petsc_vec)
    norms: list[float] = []
    problem.solver.setMonitor(lambda _, iteration, norm: norms.append(norm))
    for height, width in ((3.0, 1.0), (0.75, 4.0), (0.52, 6.0)):
        drive.interpolate(lambda x: height * np.exp(-width * ((x[0] - 0.5) ** 2 + (x[1] - 0.4) ** 2)))
        damage.x.array[:] = 0.0
        norms.clear()
        problem.solve()
        exact, expected = damage.x.array.copy(), 1e-6 * norms[0]
        with target_of(problem) as target:
            assert target.tolerance() == pytest.approx(expected, rel=1e-8)
            damage.x.array[:] = exact - 5e-9  # partly below the lower bound
            norms.clear()
            found = target.from_guess(None, None)
            assert found.converged and found.iterations <= 2 and norms == []
            assert target.deliver(found).converged and len(norms) == 1
            assign(problem.x, damage)
            assert np.abs(damage.x.array - exact).max(initial=0.0) < 1e-4
            assert COMM.allreduce(damage.x.array.min(initial=0.0), op=MPI.MIN) >= 0.0


def heat(prefix: str, **options: object) -> NonlinearProblem:
    space = fem.functionspace(create_unit_square(COMM, 8, 8), ("P", 1))
    u, v = fem.Function(space), ufl.TestFunction(space)
    form = ((1 + u**2) * ufl.inner(ufl.grad(u), ufl.grad(v)) + ufl.inner(u - 1.0, v)) * ufl.dx
    return NonlinearProblem(form, u, petsc_options_prefix=prefix, petsc_options=DIRECT | options)


def test_a_long_guess_does_not_converge_by_short_steps() -> None:
    problem = heat("long_", snes_rtol=1e-8, snes_linesearch_type="none")
    for own in (0.0, 3.0):
        with target_of(problem, own) as target:
            problem.u.x.array[:] = 1e12 * np.sin(np.arange(problem.u.x.array.size))
            assert not target.from_guess(None, 3).converged
            assert target.by_default().converged
            assert np.abs(problem.x.array_r - 1.0).max(initial=0.0) < 1e-6


def test_a_solver_whose_only_tolerance_is_the_length_of_a_step() -> None:
    problem = heat("steps_", snes_rtol=0.0, snes_atol=0.0, snes_stol=1e-6)
    for factor, converged in ((1.001, True), (1e12, False)):
        with target_of(problem) as target:
            problem.u.x.array[:] = factor
            result = target.from_guess(None, 3)
            assert result.converged is converged
            if converged:
                assert target.deliver(result).converged
                assert np.abs(problem.x.array_r - 1.0).max(initial=0.0) < 1e-6


@pytest.mark.parametrize("own", [0.0, 2.0])
def test_a_null_space_keeps_the_users_part(own: float) -> None:
    space = fem.functionspace(create_unit_square(COMM, 8, 8), ("P", 1))
    trial, v, source = ufl.TrialFunction(space), ufl.TestFunction(space), fem.Function(space)
    source.interpolate(lambda x: np.cos(np.pi * x[0]))
    problem = LinearProblem(
        ufl.inner(ufl.grad(trial), ufl.grad(v)) * ufl.dx, ufl.inner(source, v) * ufl.dx, u=fem.Function(space),
        petsc_options_prefix=f"null_{own:g}_", petsc_options={"ksp_type": "cg", "pc_type": "jacobi", "ksp_rtol": 1e-10},
    )  # fmt: skip
    constant = PETSc.NullSpace().create(constant=True, comm=COMM)
    problem.A.setNullSpace(constant)
    problem.solver.setInitialGuessNonzero(own > 0.0)
    problem.x.set(own)
    problem.solve()
    truth = problem.x.array_r.copy()
    with target_of(problem, own) as target:
        problem.u.x.array[:] = 7.0
        problem.u.x.array[: truth.size] += truth
        assert target.accept().accepted
        assert target.deliver(target.from_guess(None, None)).iterations <= 2
        assert np.abs(problem.x.array_r - truth).max(initial=0.0) < 1e-8


def test_gmres_of_the_twin_restarts_as_the_users() -> None:
    problem = heat("restart_", ksp_type="gmres", pc_type="jacobi", ksp_gmres_restart=77)
    with target_of(problem) as target:
        target.tolerance()
        assert "restart=77" in _view(target)


def _view(target: SNESTarget | KSPTarget) -> str:
    from lrsa_coupled.guess.twin import _restart

    assert isinstance(target, SNESTarget) and target._twin is not None
    return f"restart={_restart(target._twin.snes.getKSP())}"
