"""Initial guesses in a user's own script: an operator that is loaded, or what a study learns as it goes.

Works with ``dolfinx.fem.petsc.LinearProblem`` and ``NonlinearProblem``, in whose ``solve`` the call of the PETSc solver
goes through a guarded solver, and with a bare KSP or SNES by ``attached.solve(b, x)`` instead of ``ksp.solve(b, x)``.
The default solve is the script's own: it begins with whatever is in the vector of the solution (zeros for a KSP, unless
its initial guess is nonzero). Tolerances mean what they mean without the guess: a relative one of a SNES refers to the
residual of the script's own guess.

Importing this loads no torch: a study needs none before it has a model.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, final

import ufl
from mpi4py import MPI
from dolfinx.fem import DirichletBC, Function
from dolfinx.fem.petsc import LinearProblem, NonlinearProblem
from petsc4py import PETSc

from lrsa_coupled.config import GuessConfig
from lrsa_coupled.coupling.compat import assign
from lrsa_coupled.coupling.failures import cause
from lrsa_coupled.coupling.inputs import Input
from lrsa_coupled.coupling.quantities import of_forms
from lrsa_coupled.coupling.script import Scalar, Script, named, script_for, unknown, unknown_of
from lrsa_coupled.coupling.transfer import NodeSet
from lrsa_coupled.coupling.unnamed import Unnamed, source_of
from lrsa_coupled.guess.guarded import GuardedSolver
from lrsa_coupled.guess.interpose import interpose
from lrsa_coupled.guess.pass_by import objection, stopped_by_count
from lrsa_coupled.guess.petsc_targets import KSPTarget, SNESTarget, result_of
from lrsa_coupled.guess.policy import DEFAULT, SETTINGS, Adaptive, Decision, Policy, policy_for
from lrsa_coupled.interfaces import InitialGuess, Unknown
from lrsa_coupled.settings import parse, update
from lrsa_coupled.study.learn import Learner
from lrsa_coupled.study.scripts import learning_of, studied
from lrsa_coupled.study.study import NAMES, UNLIMITED, Learning, study_for

if TYPE_CHECKING:
    from lrsa_coupled.guess.learned import LearnedGuess

logger = logging.getLogger(__name__)

NO_GUESS = "LearnedGuess.load(folder) reads a trained model, learn=folder begins without one"

type Solver = PETSc.SNES | PETSc.KSP


class _Described(TypedDict):
    inputs: Mapping[str, Input]
    scalars: Mapping[str, Scalar]


def attach(  # noqa: PLR0913 - what a script has, each by its name
    problem: NonlinearProblem | LinearProblem | Solver,
    guess: LearnedGuess | None = None,
    *,
    inputs: Mapping[str, Input] | None = None,
    scalars: Mapping[str, Scalar] | None = None,
    u: Function | Sequence[Function] | None = None,
    bcs: Sequence[DirichletBC] | None = None,
    policy: Policy | None = None,
    learn: Learning | Path | str | None = None,
    quantities: Mapping[str, ufl.Form] | None = None,
) -> AttachedGuess | None:
    """Let the solves of a problem begin with a prediction where that is expected to pay. Collective.

    Args:
        problem: What solves; its options are not touched.
        guess: The operator; None reads the option ``-<prefix>lrsa_checkpoint FOLDER``.
        inputs: The operator's nodal inputs by name.
        scalars: Its scalars by name.
        u: The unknown of a bare SNES or KSP, a function or a list of them; a problem knows its own.
        bcs: Dirichlet conditions of a bare SNES or KSP, or of a problem instead of those it was made with.
        policy: Shared with other solves; None takes that of all solvers with this prefix and operator, adaptive unless
            the settings choose another. The options ``-<prefix>lrsa_guess_<setting>``, see ``GuessConfig``, go before
            the settings of a guess or policy that is given.
        learn: Folder in which the solves are collected and operators trained as long as that pays, or a ``Learning``;
            None reads the option ``-<prefix>lrsa_learn FOLDER``. Without an operator and this, nothing is done.
        quantities: Numbers that ``learn`` keeps with each sample, by name: forms of the unknown without test functions.
            Then every solve is kept, whatever ``overhead`` says.

    Returns:
        What is attached, None without an operator and a folder to learn in.

    Raises:
        TypeError: If ``guess`` is something else; on all ranks.
        ValueError: If an input or scalar is missing, unknown or of the wrong size, an output is of an element that is
            not supported, a bare solver comes without ``u``, or the folder holds other data; on all ranks.
    """
    u, bcs = unknown_of(problem, u, bcs)
    solver = problem if isinstance(problem, (PETSc.SNES, PETSc.KSP)) else problem.solver
    options = PETSc.Options(solver.getOptionsPrefix() or "")
    folder = "" if guess is not None else options.getString("lrsa_checkpoint", "")
    if folder:
        from lrsa_coupled.guess.learned import LearnedGuess as Learned

        guess = Learned.load(folder)
    if guess is not None and not isinstance(guess, InitialGuess):
        raise TypeError(f"attach takes a LearnedGuess, got {guess!r}; {NO_GUESS}")
    learning = learning_of(learn, options)
    if quantities and learning is None:
        raise ValueError("quantities are kept with the samples that learn collects, got no learn: give a folder, too")
    if quantities and learning is not None:
        learning = dataclasses.replace(learning, overhead=UNLIMITED)
    described: _Described = {"inputs": named("inputs", inputs), "scalars": named("scalars", scalars)}
    if learning is not None:
        what, script = studied(solver, u, bcs, learning=learning, **described)
        forms = named("quantities", quantities)
        source, kept = source_of(problem, forms), of_forms(forms, what)  # before the folder is made
        attached = _learning(solver, what, guess, script=script, learning=learning, policy=policy, source=source)
        if attached.learner is not None:
            attached.learner.quantities = kept
            sources = [*described["inputs"].values(), *described["scalars"].values()]
            attached.learner.unnamed = Unnamed(problem, what, sources)
    elif guess is not None:
        card = guess.predictor.card
        what = unknown(u, bcs, card.schema.outputs)
        script = script_for(card, card.schema.inputs, **described, node_space=what.node_space)
        attached = _loaded(solver, what, guess, script=script, policy=policy)
    else:
        if solver.comm.rank == 0:
            prefix = solver.getOptionsPrefix() or ""
            logger.warning(
                "attach does nothing: give guess=, learn=, -%slrsa_checkpoint or -%slrsa_learn", prefix, prefix
            )
        return None
    if not isinstance(problem, (PETSc.SNES, PETSc.KSP)):
        attached.take_over(problem)
    return attached


def _loaded(solver: Solver, what: Unknown, guess: LearnedGuess, *, script: Script,
            policy: Policy | None) -> AttachedGuess:  # fmt: skip
    """Return an operator at work in a solver."""
    given, predictor = _given(solver), guess.predictor
    settings = update(predictor.settings, given, where="PETSc options", prefix="lrsa_guess_")
    guess, card = guess.with_settings(settings), predictor.card
    if policy is None:
        prefix = solver.getOptionsPrefix() or ""
        policy = policy_for(what.mesh.comm, prefix, settings, names=[guess.name], operator=repr(card))
    else:
        policy.configure({name: value for name, value in given.items() if name in SETTINGS})
    nodes = NodeSet(what, script.schema.outputs)
    guess = guess.bind(script, nodes=nodes, max_distance=policy.max_distance)
    return AttachedGuess(solver, what, [guess], policy)


def _learning(solver: Solver, what: Unknown, guess: LearnedGuess | None, *, script: Script, learning: Learning,
              policy: Policy | None, source: str | None) -> AttachedGuess:  # fmt: skip
    """Return a study at work in a solver; it begins with an operator where one is given."""
    given, comm = _given(solver), what.mesh.comm
    known = GuessConfig() if guess is None else guess.predictor.settings
    settings = update(known, given, where="PETSc options", prefix="lrsa_guess_")
    study = study_for(learning, script.schema, comm, source=source)
    if policy is None:
        prefix, folder = solver.getOptionsPrefix() or "", Path(learning.folder).resolve()
        policy = policy_for(comm, prefix, settings, names=NAMES, operator=f"learn {folder}")
    else:
        policy.configure({name: value for name, value in given.items() if name in SETTINGS})
    if not isinstance(policy, Adaptive):
        raise ValueError(f"learn needs the adaptive policy, got {type(policy).__name__}")
    learner = Learner(study, what, script, policy=policy, settings=settings)
    if guess is not None:
        learner.adopt(guess.with_settings(settings))
    return AttachedGuess(solver, what, [], policy, learner)


@final
class AttachedGuess:
    """Initial guesses at work in a user's solver; made by ``attach``.

    Attributes:
        policy: Its decisions and their record; ``policy.summary()`` for people.
        learner: What learns from the solves, None where nothing does.
        passed_by: Why the solver is left alone, None while it is not.
    """

    def __init__(self, solver: Solver, what: Unknown, guesses: Sequence[InitialGuess], policy: Policy,
                 learner: Learner | None = None) -> None:  # fmt: skip
        self.solver, self.what, self.guesses, self.policy, self.learner = solver, what, guesses, policy, learner
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

    def summary(self) -> str:
        """Return lines about the guesses and, of a study, about what it has collected, learned and gained."""
        lines = [self.policy.summary()]
        return "\n".join(lines if self.learner is None else [*lines, self.learner.study.summary()])

    def detach(self) -> None:
        """Give a problem its own solver back. Collective: no."""
        self._release()

    def _guarded(self, b: PETSc.Vec | None, x: PETSc.Vec | None) -> None:
        """Solve as ``solver.solve(b, x)``. Collective."""
        self._look(b)
        if self.passed_by is not None or x is None:
            self._solve_as_ever(b, x)
            return
        if self.learner is not None:
            linear = isinstance(self.solver, PETSc.KSP)
            self.learner.before(from_zero=linear and not self.solver.getInitialGuessNonzero())
            self.guesses = self.learner.guesses
        make = SNESTarget if isinstance(self.solver, PETSc.SNES) else KSPTarget
        guarded = GuardedSolver(self.guesses, make(self.solver, self.what, b, x), self.policy)
        try:
            guarded.solve()
        except Exception as error:
            if self.learner is not None and isinstance(cause(error), Exception):  # no Ctrl-C in a callback of PETSc
                self.learner.raised(error)
            raise
        finally:
            guarded.destroy()
        self._counts = stopped_by_count(self.solver)
        if self.learner is not None and not self._counts:
            self.learner.after(result_of(self.solver, 0.0), x=x)

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


def _given(solver: Solver) -> dict[str, Any]:
    """Return the settings of the guess that are in PETSc's options."""
    options = PETSc.Options(solver.getOptionsPrefix() or "")
    names = [f.name for f in dataclasses.fields(GuessConfig) if options.hasName(f"lrsa_guess_{f.name}")]
    return {name: parse(options.getString(f"lrsa_guess_{name}")) for name in names}
