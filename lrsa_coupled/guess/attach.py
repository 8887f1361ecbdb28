"""The learned start in a user's own script, through the gate: load, attach.

Works with ``dolfinx.fem.petsc.LinearProblem`` and ``NonlinearProblem``, whose ``solve`` then goes through the gate, and with a bare KSP or SNES by
``attached.solve(b, x)`` instead of ``ksp.solve(b, x)``. What is learned is one more start; the script's own is the classical one: whatever is
in the solution when the solve begins (zeros for a KSP, unless its initial guess is nonzero). Tolerances mean what they mean without the
guess: a relative one of a SNES refers to the residual of the script's own start.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import final

from mpi4py import MPI  # noqa: F401  (MPI is loaded before PETSc)
from dolfinx.fem import DirichletBC, Function
from dolfinx.fem.petsc import LinearProblem, NonlinearProblem, assign
from petsc4py import PETSc

from lrsa_coupled import config as configuration
from lrsa_coupled.config import GuessConfig
from lrsa_coupled.guess.gate import Gate
from lrsa_coupled.guess.gated import LEARNED, Ways, kind_of, learned_start, solve_through
from lrsa_coupled.guess.learned import LearnedGuess
from lrsa_coupled.guess.petsc_ways import Hooks, LinearWays, NonlinearWays
from lrsa_coupled.coupling.script import Input, Scalar, Script, script_for, unknown, unknown_of
from lrsa_coupled.coupling.transfer import NodeSet
from lrsa_coupled.interfaces import Unknown

Solver = PETSc.SNES | PETSc.KSP


def attach(
    problem: NonlinearProblem | LinearProblem | Solver,
    guess: LearnedGuess | None = None,
    *,
    inputs: Mapping[str, Input] | None = None,
    scalars: Mapping[str, Scalar] | None = None,
    u: Function | None = None,
    bcs: Sequence[DirichletBC] = (),
    gate: Gate | None = None,
) -> AttachedGuess | None:
    """Let the solves of a problem start from an operator's prediction where the gate expects that to pay. Collective.

    Args:
        problem: What solves; its options are not touched.
        guess: The operator; None reads the option ``-<prefix>lrsa_checkpoint FOLDER`` and does nothing without it.
        inputs: The operator's nodal inputs by name.
        scalars: Its scalars by name.
        u: The unknown of a bare SNES or KSP; a problem knows its own.
        bcs: Dirichlet conditions of a bare SNES or KSP.
        gate: Shared with other solves; None makes one from the options ``-<prefix>lrsa_gate_<setting>``, see ``GuessConfig``.

    Returns:
        What is attached, None without a guess.

    Raises:
        ValueError: If an input or scalar is missing, unknown or of the wrong size, the unknown is not Lagrange or consists of several
            functions, or a bare solver comes without ``u``; on all ranks.
    """
    u, bcs = unknown_of(problem, u, bcs)
    solver = problem if isinstance(problem, Solver) else problem.solver
    options = PETSc.Options(solver.getOptionsPrefix() or "")
    if guess is None:
        folder = options.getString("lrsa_checkpoint", "")
        if not folder:
            return None
        guess = LearnedGuess.load(folder)
    card = guess.card
    what = unknown(u, bcs, card.schema.outputs)
    script = script_for(card, card.schema.inputs, inputs or {}, scalars=scalars or {}, node_space=what.node_space)
    guess.check(script)
    attached = AttachedGuess(solver, what, guess=guess, script=script, gate=gate or Gate(_settings(options), [LEARNED]))
    if not isinstance(problem, Solver):
        attached.take_over(problem)
    return attached


@final
class AttachedGuess:
    """A learned guess at work in a user's solver; made by ``attach``.

    Attributes:
        gate: Its decisions and their record; ``gate.summary()`` for people.
    """

    def __init__(self, solver: Solver, what: Unknown, *, guess: LearnedGuess, script: Script, gate: Gate) -> None:
        self.solver, self.what, self.gate = solver, what, gate
        start = learned_start(script, guess, gate.settings.max_distance, NodeSet(what, script.schema.outputs))
        self._start = lambda: start(what)
        self._hooks = Hooks(solver)
        self._problem: Callable[[], LinearProblem | NonlinearProblem | None] = lambda: None

    def take_over(self, problem: NonlinearProblem | LinearProblem) -> None:
        """Put the gate before ``problem.solve``. Collective: no."""
        self._problem = weakref.ref(
            problem
        )  # no cycle: the problem's objects are destroyed on all ranks when the script drops it
        linear = isinstance(problem, LinearProblem)

        def run(nonzero: bool) -> None:
            owner = self._problem()
            if linear and nonzero:
                assign(self.what.solution, owner.x)
            type(owner).solve(owner)

        def solve() -> Function:
            self._solve(run)
            return self.what.solution

        problem.solve = solve

    def solve(self, b: PETSc.Vec | None, x: PETSc.Vec) -> None:
        """Solve with a bare SNES or KSP as ``solver.solve(b, x)`` does; ``x`` holds the script's own start and then the solution. Collective."""

        def run(nonzero: bool) -> None:
            assign(self.what.solution, x)
            self.solver.solve(b, x)
            x.ghostUpdate(PETSc.InsertMode.INSERT, PETSc.ScatterMode.FORWARD)
            assign(x, self.what.solution)

        x.ghostUpdate(PETSc.InsertMode.INSERT, PETSc.ScatterMode.FORWARD)
        assign(x, self.what.solution)
        self._solve(run)

    def detach(self) -> None:
        """Give a problem its own ``solve`` back. Collective: no."""
        owner = self._problem()
        if owner is not None:
            del owner.solve

    def _solve(self, run: Callable[[bool], None]) -> None:
        kind = NonlinearWays if isinstance(self.solver, PETSc.SNES) else LinearWays
        way = kind(self.solver, self.what, run, hooks=self._hooks, max_residual=self.gate.settings.max_residual)
        ways = Ways(way.tolerance, way.judge, way.from_start, way.classically, way.minimises)
        solve_through(self.gate, kind_of(self.what), {LEARNED: self._start}, ways=ways, comm=self.what.mesh.comm)
        way.destroy()


def _settings(options: PETSc.Options) -> GuessConfig:
    """Read the settings of the gate from PETSc's options."""
    names = ("budget", "max_distance", "max_residual", "patience", "rest", "record")
    given = {
        name: configuration.parse(options.getString(f"lrsa_gate_{name}"))
        for name in names
        if options.hasName(f"lrsa_gate_{name}")
    }
    return configuration.update(GuessConfig(), given, where="PETSc options", prefix="lrsa_gate_")
