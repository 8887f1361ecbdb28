"""A user's program with attach: whatever goes wrong in an attempt, it prints what it prints without."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import ufl
from mpi4py import MPI

pytest.importorskip("dolfinx", reason="the attachment needs DOLFINx")

from dolfinx import fem
from dolfinx.fem.petsc import LinearProblem, NonlinearProblem
from dolfinx.mesh import create_unit_square, exterior_facet_indices
from petsc4py import PETSc

from lrsa_coupled import attach
from lrsa_coupled.coupling import predictor as predictor_module
from lrsa_coupled.coupling.predictor import Predictor
from lrsa_coupled.coupling.transfer import NodeSet
from lrsa_coupled.guess import learned as learned_module, petsc_targets, twin as twin_module
from lrsa_coupled.guess.monitor import Monitor
from lrsa_coupled.guess.policy import Choice, Policy
from tests.mpi.test_attach import guess_of

pytestmark = pytest.mark.two_ranks

COMM = MPI.COMM_WORLD
NUMBERS = itertools.count()


class Watched(Policy):
    """Takes the guess every time and has it monitored."""

    def choose(self, kind: str, names: Sequence[str]) -> Choice:
        return Choice("learned", "test", None, 1e9, 100.0, 100.0)


class Program:
    """A script that solves four problems, hooks into its solver and writes down all that it sees.

    Nonlinear: a subclass that asserts convergence and returns a pair. Linear: conjugate gradients.
    """

    def __init__(self, kind: str, **options: Any) -> None:
        mesh = create_unit_square(COMM, 8, 8)
        self.prefix = f"user{next(NUMBERS)}_"  # DOLFINx leaves the options in the database
        self.kind, self.lines, self.space = kind, [], fem.functionspace(mesh, ("P", 1))
        self.source, self.load, self.u = fem.Function(self.space), fem.Constant(mesh, 2.0), fem.Function(self.space)
        self.source.interpolate(lambda x: 10.0 * np.sin(3 * x[0]) * x[1])
        mesh.topology.create_connectivity(1, 2)
        dofs = fem.locate_dofs_topological(self.space, 1, exterior_facet_indices(mesh.topology))
        self.bc = fem.dirichletbc(0.1, dofs, self.space)
        self.problem = self._linear(options) if kind == "linear" else self._nonlinear(options)
        say = self.lines.append  # not self: PETSc's objects are not seen by Python's collector of cycles
        ksp = self.problem.solver if kind == "linear" else self.problem.solver.getKSP()
        if kind != "linear":
            self.problem.solver.setMonitor(lambda _, i, norm: say(f"snes {i} {np.log10(norm):.1f}"))
            self.problem.solver.setUpdate(lambda _, i: say(f"update {i}"))
        ksp.setMonitor(lambda _, i, norm: say(f"ksp {i} {np.log10(norm):.1f}"))
        ksp.setPreSolve(lambda *_: say("before"))
        ksp.setPostSolve(lambda *_: say("after"))

    def say(self, line: str) -> None:
        self.lines.append(line)

    def run(self) -> str:
        """Solve; what was seen, and the answers. The last digits differ between two runs anyway."""
        for load in (1.0, 2.0, 4.0, 3.0):
            self.load.value = load
            if self.kind != "linear":
                self.u.x.array[:] = 0.0
            try:
                result: Any = self.problem.solve()
            except (PETSc.Error, AssertionError) as error:
                result = error
                self.say(str(error).partition("at /")[0])
            solver = self.problem.solver
            self.say(f"{type(result).__name__} {solver.getConvergedReason()} {solver.getIterationNumber()}")
            self.say(" ".join(f"{value:.8e}" for value in self.u.x.array))
        return "\n".join(self.lines)

    def attach(self, values: Any = None, **arguments: Any) -> Any:
        size = self.space.dofmap.index_map.size_local
        guess = guess_of(np.full(size, 0.3) if values is None else values)
        sources = {"inputs": {"source": self.source}, "scalars": {"load": self.load}, "policy": Watched()}
        return attach(self.problem, guess, **sources | arguments)

    def _linear(self, options: dict[str, Any]) -> LinearProblem:
        trial, v = ufl.TrialFunction(self.space), ufl.TestFunction(self.space)
        a = ufl.inner(ufl.grad(trial), ufl.grad(v)) * ufl.dx
        settings = {"ksp_type": "gmres", "pc_type": "jacobi", "ksp_rtol": 1e-9} | options
        rhs = ufl.inner(self.load * self.source, v) * ufl.dx
        return LinearProblem(a, rhs, u=self.u, bcs=[self.bc], petsc_options_prefix=self.prefix, petsc_options=settings)

    def _nonlinear(self, options: dict[str, Any]) -> NonlinearProblem:
        class Own(NonlinearProblem):
            def solve(own) -> tuple[int, bool]:  # noqa: N805 - self is the program
                super().solve()
                if own.solver.getConvergedReason() <= 0:
                    raise AssertionError("Newton has not converged")
                return own.solver.getIterationNumber(), True

        v = ufl.TestFunction(self.space)
        flux = ufl.inner((1 + 5 * self.u**2) * ufl.grad(self.u), ufl.grad(v))
        form = (flux - ufl.inner(self.load * self.source, v)) * ufl.dx
        settings = {"ksp_type": "gmres", "pc_type": "jacobi", "snes_rtol": 1e-9, "snes_error_if_not_converged": True}
        return Own(form, self.u, bcs=[self.bc], petsc_options_prefix=self.prefix, petsc_options=settings | options)


def raises(error: Callable[[], Exception], ranks: str, then: Callable[..., Any]) -> Callable[..., Any]:
    def fail(*args: Any, **kwargs: Any) -> Any:
        if ranks == "all" or COMM.rank == COMM.size - 1:
            raise error()
        return then(*args, **kwargs)

    return fail


PLACES: dict[str, tuple[Any, str]] = {
    "features": (learned_module.LearnedGuess, "_too_far"),
    "prediction": (Predictor, "predict"),
    "evaluation": (Predictor, "evaluate"),
    "encoding": (Predictor, "_encode"),
    "range": (Predictor, "_objection"),
    "batch": (Predictor, "_batch"),
    "reduction": (predictor_module, "allreduce"),
    "transfer": (NodeSet, "scatter"),
    "boundary values": (NodeSet, "dirichlet_values"),
    "boundary": (learned_module, "set_dirichlet"),
    "vector": (petsc_targets, "assign"),
    "acceptance, SNES": (petsc_targets.SNESTarget, "accept"),
    "acceptance, KSP": (petsc_targets.KSPTarget, "accept"),
    "tolerance": (petsc_targets.SNESTarget, "tolerance"),
    "twin": (twin_module, "_twin_ksp"),
    "guess": (petsc_targets.SNESTarget, "_take_guess"),
    "solve": (twin_module.Twin, "solve"),
    "monitor": (Monitor, "__call__"),
    "monitor of the twin": (twin_module.Twin, "_monitor"),
    "agreement": (twin_module, "agree"),
}
ERRORS: list[Callable[[], Exception]] = [
    lambda: RuntimeError("injected"),
    lambda: MemoryError("injected"),
    lambda: torch.OutOfMemoryError("injected"),
    StopIteration,
    AssertionError,
    lambda: KeyError("injected"),
    lambda: PETSc.Error(63),
    lambda: OSError(5, "injected"),
]


@pytest.fixture(scope="module")
def plain() -> dict[str, str]:
    return {kind: Program(kind).run() for kind in ("linear", "nonlinear")}


@pytest.mark.parametrize("ranks", ["all", "one"])
@pytest.mark.parametrize("place", PLACES)
def test_an_exception_in_an_attempt(plain: dict[str, str], place: str, ranks: str, monkeypatch: Any) -> None:
    owner, name = PLACES[place]
    used = 0
    for kind in ("linear", "nonlinear"):
        program = Program(kind)
        attached = program.attach()
        error = ERRORS[(list(PLACES).index(place) + used) % len(ERRORS)]
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, raises(error, ranks, getattr(owner, name)))
            found = program.run()
        failed = [d.outcome.startswith("failed: ") for d in attached.policy.decisions]
        if any(failed):  # else the place belongs to the other kind
            used += 1
            assert all(failed) and found == plain[kind]
    assert used


@pytest.mark.parametrize("kind", ["linear", "nonlinear"])
@pytest.mark.parametrize("values", [np.nan, np.inf, -1e30, 1e300])
def test_a_useless_prediction(plain: dict[str, str], kind: str, values: float) -> None:
    program = Program(kind)
    bad = np.full(program.space.dofmap.index_map.size_local, values)
    attached = program.attach(bad if COMM.rank == COMM.size - 1 else np.zeros_like(bad))
    assert program.run() == plain[kind]
    assert len(attached.policy.decisions) == 4 and not any(d.good for d in attached.policy.decisions)


@pytest.mark.parametrize("kind", ["linear", "nonlinear"])
def test_a_good_guess_is_used_and_the_hooks_see_one_solve(plain: dict[str, str], kind: str) -> None:
    reference = Program(kind)
    reference.load.value = 3.0
    reference.problem.solve()
    program = Program(kind)
    size = program.space.dofmap.index_map.size_local
    attached = program.attach(reference.u.x.array[:size].copy())
    program.run()
    assert [d.outcome for d in attached.policy.decisions[-1:]] == ["converged"]
    assert program.lines.count("snes 0") <= 1
    assert np.abs(program.u.x.array - reference.u.x.array).max(initial=0.0) < 1e-8


@pytest.mark.parametrize(
    ("kind", "options", "reason"),
    [
        ("linear", {"ksp_type": "preonly", "pc_type": "lu", "pc_factor_mat_solver_type": "mumps"}, "direct solve"),
        ("linear", {"ksp_type": "richardson", "ksp_norm_type": "none", "ksp_max_it": 5}, "answer depends"),
        ("linear", {"ksp_knoll": True}, "own initial guess"),
        ("nonlinear", {"snes_type": "ksponly", "snes_error_if_not_converged": False}, "answer that depends"),
        ("nonlinear", {"snes_type": "qn"}, "SNES types"),
        ("nonlinear", {"snes_type": "newtonls", "snes_max_it": 3, "snes_norm_schedule": "none",
                       "snes_convergence_test": "skip", "snes_error_if_not_converged": False}, "answer depends"),
        ("nonlinear", {"snes_mf": True, "pc_type": "none"}, "Python functions"),
    ],
)  # fmt: skip
def test_solvers_that_are_passed_by(kind: str, options: dict[str, Any], reason: str) -> None:
    plain = Program(kind, **options).run()
    program = Program(kind, **options)
    attached = program.attach()
    assert program.run() == plain
    assert reason in attached.passed_by
    assert {d.choice for d in attached.policy.decisions[1:]} == {"default"}


def test_an_own_convergence_test_is_called_as_without_attach() -> None:
    texts = []
    for attached in (False, True):
        for kind in ("linear", "nonlinear"):
            program = Program(kind)

            def test(solver: Any, its: int, *norms: float, program: Program = program) -> int:
                program.say(f"test {its}")
                return int(its >= 3) * 2

            program.problem.solver.setConvergenceTest(test)
            if attached:
                program.attach()
            texts.append(program.run())
    assert texts[:2] == texts[2:]
