"""The learned guess in a user's own script: load, attach.

Works with ``dolfinx.fem.petsc.LinearProblem`` and ``NonlinearProblem``, in whose ``solve`` the call of the PETSc solver
goes through a guarded solver, and with a bare KSP or SNES by ``attached.solve(b, x)`` instead of ``ksp.solve(b, x)``.
The default solve is the script's own: it begins with whatever is in the vector of the solution (zeros for a KSP, unless
its initial guess is nonzero). Tolerances mean what they mean without the guess: a relative one of a SNES refers to the
residual of the script's own guess.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

from mpi4py import MPI
from dolfinx.fem import DirichletBC, Function
from dolfinx.fem.petsc import LinearProblem, NonlinearProblem
from petsc4py import PETSc

from lrsa_coupled.config import GuessConfig
from lrsa_coupled.coupling.compat import assign
from lrsa_coupled.coupling.inputs import Input
from lrsa_coupled.coupling.predictor import Predictor
from lrsa_coupled.coupling.script import Scalar, script_for, unknown, unknown_of
from lrsa_coupled.coupling.transfer import NodeSet
from lrsa_coupled.guess.guarded import GuardedSolver
from lrsa_coupled.guess.interpose import interpose
from lrsa_coupled.guess.learned import LearnedGuess
from lrsa_coupled.guess.pass_by import objection, stopped_by_count
from lrsa_coupled.guess.petsc_targets import KSPTarget, SNESTarget, result_of
from lrsa_coupled.guess.policy import DEFAULT, SETTINGS, Decision, Policy, policy_for
from lrsa_coupled.interfaces import InitialGuess, Unknown
from lrsa_coupled.settings import parse, update

logger = logging.getLogger(__name__)

type Solver = PETSc.SNES | PETSc.KSP


def attach(
    problem: NonlinearProblem | LinearProblem | Solver,
    guess: LearnedGuess | None = None,
    *,
    inputs: Mapping[str, Input] | None = None,
    scalars: Mapping[str, Scalar] | None = None,
    u: Function | Sequence[Function] | None = None,
    bcs: Sequence[DirichletBC] | None = None,
    policy: Policy | None = None,
) -> AttachedGuess | None:
    """Let the solves of a problem begin with an operator's prediction where that is expected to pay. Collective.

    Args:
        problem: What solves; its options are not touched.
        guess: The operator; None reads the option ``-<prefix>lrsa_checkpoint FOLDER`` and does nothing without it.
        inputs: The operator's nodal inputs by name.
        scalars: Its scalars by name.
        u: The unknown of a bare SNES or KSP, a function or a list of them; a problem knows its own.
        bcs: Dirichlet conditions of a bare SNES or KSP, or of a problem instead of those it was made with.
        policy: Shared with other solves; None takes that of all solvers with this prefix and operator, adaptive unless
            the settings choose another. The options ``-<prefix>lrsa_guess_<setting>``, see ``GuessConfig``, go before
            the settings of a guess or policy that is given.

    Returns:
        What is attached, None without a guess.

    Raises:
        ValueError: If an input or scalar is missing, unknown or of the wrong size, an output is of an element that is
            not supported, or a bare solver comes without ``u``; on all ranks.
    """
    u, bcs = unknown_of(problem, u, bcs)
    solver = problem if isinstance(problem, (PETSc.SNES, PETSc.KSP)) else problem.solver
    options = PETSc.Options(solver.getOptionsPrefix() or "")
    if guess is None:
        folder = options.getString("lrsa_checkpoint", "")
        if not folder:
            return None
        guess = LearnedGuess.load(folder)
    given, predictor = _given(options), guess.predictor
    settings = update(predictor.settings, given, where="PETSc options", prefix="lrsa_guess_")
    guess, card = LearnedGuess(Predictor(predictor.model, predictor.card, settings)), predictor.card
    what = unknown(u, bcs, card.schema.outputs)
    script = script_for(card, card.schema.inputs, inputs or {}, scalars=scalars or {}, node_space=what.node_space)
    if policy is None:
        prefix = solver.getOptionsPrefix() or ""
        policy = policy_for(what.mesh.comm, prefix, settings, names=[guess.name], operator=repr(card))
    else:
        policy.configure({name: value for name, value in given.items() if name in SETTINGS})
    nodes = NodeSet(what, script.schema.outputs)
    guess = guess.bind(script, nodes=nodes, max_distance=policy.max_distance)
    attached = AttachedGuess(solver, what, [guess], policy)
    if not isinstance(problem, (PETSc.SNES, PETSc.KSP)):
        attached.take_over(problem)
    return attached


@final
class AttachedGuess:
    """Initial guesses at work in a user's solver; made by ``attach``.

    Attributes:
        policy: Its decisions and their record; ``policy.summary()`` for people.
        passed_by: Why the solver is left alone, None while it is not.
    """

    def __init__(self, solver: Solver, what: Unknown, guesses: Sequence[InitialGuess], policy: Policy) -> None:
        self.solver, self.what, self.guesses, self.policy = solver, what, guesses, policy
        self.passed_by: str | None = None
        self._counts = False
        self._release: Callable[[], None] = lambda: None
        self._look()

    def take_over(self, problem: NonlinearProblem | LinearProblem) -> None:
        """Stand in for the solver of a problem whenever its ``solve`` runs. Collective: no."""
        self._release = interpose(problem, self.solver, self._guarded)

    def solve(self, b: PETSc.Vec | None, x: PETSc.Vec) -> None:
        """Solve with a bare SNES or KSP as ``solver.solve(b, x)``; ``x`` holds the script's own guess. Collective."""
        x.ghostUpdate(PETSc.InsertMode.INSERT, PETSc.ScatterMode.FORWARD)
        assign(x, self.what.solution)
        self._guarded(b, x)
        x.ghostUpdate(PETSc.InsertMode.INSERT, PETSc.ScatterMode.FORWARD)
        assign(x, self.what.solution)

    def detach(self) -> None:
        """Give a problem its own solver back. Collective: no."""
        self._release()

    def _guarded(self, b: PETSc.Vec | None, x: PETSc.Vec | None) -> None:
        """Solve as ``solver.solve(b, x)``. Collective."""
        self._look(b)
        if self.passed_by is not None or x is None:
            self._solve_as_ever(b, x)
            return
        make = SNESTarget if isinstance(self.solver, PETSc.SNES) else KSPTarget
        guarded = GuardedSolver(self.guesses, make(self.solver, self.what, b, x), self.policy)
        try:
            guarded.solve()
        finally:
            guarded.destroy()
        self._counts = stopped_by_count(self.solver)

    def _solve_as_ever(self, b: PETSc.Vec | None, x: PETSc.Vec | None) -> None:
        started, decisions = time.perf_counter(), self.policy.decisions
        self.solver.solve(b, x)
        result = result_of(self.solver, time.perf_counter() - started)
        outcome, seconds = "converged" if result.converged else f"failed: {result.reason}", result.seconds["solve"]
        decisions.append(Decision(len(decisions) + 1, DEFAULT, f"passed by: {self.passed_by}", outcome, 0.0, seconds))

    def _look(self, b: PETSc.Vec | None = None) -> None:
        """Look whether the solver is to be passed by as it is set now, and say so when that is new."""
        before, self.passed_by = self.passed_by, objection(self.solver, b)
        if self.passed_by is None and self._counts:
            self.passed_by = "the solver stops after a number of iterations, not at a tolerance"
        if self.passed_by not in (None, before) and self.what.mesh.comm.rank == 0:
            logger.warning("no initial guesses for '%s': %s", self.solver.getOptionsPrefix() or "", self.passed_by)


def _given(options: PETSc.Options) -> dict[str, Any]:
    """Return the settings of the guess that are in PETSc's options."""
    names = [f.name for f in dataclasses.fields(GuessConfig) if options.hasName(f"lrsa_guess_{f.name}")]
    return {name: parse(options.getString(f"lrsa_guess_{name}")) for name in names}
