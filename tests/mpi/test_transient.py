"""Time stepping: orders of the schemes, starts of a step, the two forms of the unknown."""

from __future__ import annotations

import numpy as np
import pytest
from mpi4py import MPI

pytest.importorskip("dolfinx", reason="solvers need DOLFINx")

import ufl
from dolfinx import fem
from dolfinx.mesh import create_unit_square, exterior_facet_indices

from lrsa_coupled.solvers.newton import NewtonSolver
from lrsa_coupled.solvers.transient import (
    BDF1,
    BDF2,
    KSP_GUESSES,
    Evolution,
    Scheme,
    TimeStepper,
    theta_scheme,
)

pytestmark = pytest.mark.two_ranks

COMM = MPI.COMM_WORLD
END = 1.0


def amplitude(t: float) -> float:
    return 1.0 + 0.5 * np.sin(3.0 * t)


def shape(x: np.ndarray) -> np.ndarray:
    return 0.5 + x[0] ** 2 - x[0] * x[1]


class Manufactured:
    """du/dt - div((1 + u^2) grad u) = f, u = amplitude(t) shape(x), exact in P2: the error is the scheme's."""

    def __init__(self, scheme: Scheme, *, corrections: bool, comm: MPI.Comm = COMM) -> None:
        mesh = create_unit_square(comm, 3, 3)
        self.comm = comm
        self.space = space = fem.functionspace(mesh, ("P", 2))
        mesh.topology.create_connectivity(1, 2)
        self.boundary = fem.Function(space)
        bc = fem.dirichletbc(
            self.boundary, fem.locate_dofs_topological(space, 1, exterior_facet_indices(mesh.topology))
        )
        x = ufl.SpatialCoordinate(mesh)
        place = 0.5 + x[0] ** 2 - x[0] * x[1]

        def rate(u: fem.Function, v: fem.Function, t: fem.Constant) -> ufl.Form:
            exact = (1.0 + 0.5 * ufl.sin(3.0 * t)) * place
            source = 1.5 * ufl.cos(3.0 * t) * place - ufl.div((1.0 + exact**2) * ufl.grad(exact))
            return ((1.0 + u**2) * ufl.inner(ufl.grad(u), ufl.grad(v)) - source * v) * ufl.dx(degree=8)

        self.stepper = TimeStepper(
            Evolution(space, lambda w, v: w * v * ufl.dx, rate, [bc], self.set_time), scheme, corrections=corrections
        )

    def set_time(self, t: float) -> None:
        self.boundary.x.array[:] = self.exact(t)

    def exact(self, t: float) -> np.ndarray:
        return amplitude(t) * shape(self.space.tabulate_dof_coordinates().T)

    def run(self, steps: int, start: str = "linear", options: dict[str, str] | None = None) -> tuple[float, int]:
        """Return the largest error at the end and the Newton iterations."""
        stepper, iterations = self.stepper, 0
        stepper.begin(self.exact(0.0), END / steps)
        newton = NewtonSolver(stepper.problem, 1e-11, options=options)
        for _ in range(steps):
            newton.update(stepper.problem, 1e-11)
            stepper.put(start)
            result = newton.solve()
            assert result.converged, result.reason
            iterations += result.iterations
            stepper.advance()
        newton.destroy()
        difference = np.abs(stepper.history[0].x.array - self.exact(END)).max(initial=0.0)
        return self.comm.allreduce(float(difference), op=MPI.MAX), iterations


@pytest.mark.parametrize(
    ("scheme", "order"),
    [(theta_scheme(1.0), 1), (theta_scheme(0.5), 2), (BDF2, 2)],
    ids=["backward-euler", "crank-nicolson", "bdf2"],
)
@pytest.mark.parametrize("corrections", [False, True])
def test_orders(scheme: Scheme, order: int, corrections: bool) -> None:
    case = Manufactured(scheme, corrections=corrections, comm=MPI.COMM_SELF)
    errors = [case.run(steps)[0] for steps in (20, 40, 80)]
    assert np.log2(errors[-2] / errors[-1]) == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize("corrections", [False, True])
def test_steps_do_not_depend_on_the_ranks(corrections: bool) -> None:
    (shared, _), (alone, _) = (
        Manufactured(BDF2, corrections=corrections, comm=comm).run(6) for comm in (COMM, MPI.COMM_SELF)
    )
    assert 0.0 < shared < 0.1 and abs(shared - alone) < 1e-8


def test_both_forms_of_the_unknown_and_all_guesses_lead_to_the_same_states() -> None:
    plain, corrected = (Manufactured(BDF2, corrections=corrections) for corrections in (False, True))
    errors, iterations = zip(
        *[case.run(8, start) for case in (plain, corrected) for start in ("previous", "linear", "quadratic")],
        strict=True,
    )
    assert np.ptp(errors) < 1e-9
    assert iterations[:3] == iterations[3:]
    assert iterations[1] < iterations[0]


def test_extrapolations_are_exact_for_polynomials_and_of_lower_order_at_first() -> None:
    stepper = Manufactured(BDF1, corrections=True).stepper
    stepper.begin(np.zeros_like(stepper.base.x.array), 1.0)
    for number, value in enumerate((1.0, 4.0, 9.0)):
        stepper.problem.solution.x.array[:] = (value - stepper.base.x.array) / float(stepper.scale.value)
        stepper.advance()
        found = [stepper.extrapolated(name)[:1] for name in ("previous", "linear", "quadratic")]
        expected = [(1.0, 2.0, 2.0), (4.0, 7.0, 9.0), (9.0, 14.0, 16.0)][number]
        assert all(np.allclose(values, exact) for values, exact in zip(found, expected, strict=True))
    assert (stepper.known, stepper.number) == (3, 3)


@pytest.mark.parametrize("name", KSP_GUESSES)
def test_guesses_of_petsc(name: str) -> None:
    options = {"ksp_type": "gmres", "ksp_rtol": "1e-8", "pc_type": "bjacobi", **KSP_GUESSES[name]}
    case = Manufactured(BDF2, corrections=False)
    assert case.run(6, "previous", options)[0] == pytest.approx(case.run(6)[0], abs=1e-9)


def test_what_cannot_be_is_refused() -> None:
    case = Manufactured(BDF2, corrections=False)
    with pytest.raises(ValueError, match="theta must be between"):
        theta_scheme(1.5)
    with pytest.raises(ValueError, match="step must be positive"):
        case.stepper.begin(case.exact(0.0), 0.0)
    newton = NewtonSolver(case.stepper.problem, 1e-8)
    other = Manufactured(BDF2, corrections=False).stepper.problem
    with pytest.raises(ValueError, match="the same forms"):
        newton.update(other, 1e-8)
