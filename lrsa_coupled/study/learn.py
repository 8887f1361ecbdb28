"""Learning from the solves of a problem: each is described and collected, and the next begins from what is known.

``attach(problem, learn="folder", inputs=..., scalars=...)`` makes a ``Learner``. Nothing that goes wrong in it reaches
the solves: it ends the learning, with a warning.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np
import numpy.typing as npt
from mpi4py import MPI
from petsc4py import PETSc

from lrsa_coupled.coupling.compat import assign
from lrsa_coupled.coupling.quantities import Quantities
from lrsa_coupled.coupling.unnamed import Unnamed
from lrsa_coupled.data.format import SampleRecord
from lrsa_coupled.generation.sample_arrays import SampleGatherer
from lrsa_coupled.guess.guarded import kind_of, unknowns_of
from lrsa_coupled.guess.policy import Adaptive
from lrsa_coupled.guess.record import DEFAULT, LEARNED
from lrsa_coupled.guess.solutions import Solutions, owned_values
from lrsa_coupled.interfaces import Described, Features, InitialGuess, SolveResult, Unknown
from lrsa_coupled.mpi import agree, collective_errors, share
from lrsa_coupled.study.on_mesh import OnMesh, Seen
from lrsa_coupled.study.study import TIME, Study

if TYPE_CHECKING:
    from lrsa_coupled.config import GuessConfig
    from lrsa_coupled.guess.learned import LearnedGuess

logger = logging.getLogger(__name__)

ENDED = "after learning had ended"
"""Why a solve is not kept."""


@final
class Learner:
    """A problem of a study: what its solves add to it, and the guesses that it has for them.

    What its mesh needs is set up once the solves so far have taken long enough. Collective: all methods.

    Args:
        study: The study.
        what: The unknown.
        described: Inputs, scalars and outputs.
        policy: Chooses among the guesses.
        settings: Of the evaluation of a model.

    Attributes:
        broken: The error that has ended the learning, None while there was none.
        quantities: Numbers of the solution that are kept with each sample, None without any.
        unnamed: What the problem has and the description has not, None where that is not known.
    """

    def __init__(self, study: Study, what: Unknown, described: Described, *, policy: Adaptive,
                 settings: GuessConfig) -> None:  # fmt: skip
        self.study, self.what, self.policy, self.settings = study, what, policy, settings
        self.seen = Seen(described)
        self.comm: MPI.Comm = what.mesh.comm
        self.broken: str | None = None
        self.quantities: Quantities | None = None
        self.unnamed: Unnamed | None = None
        self._left = ""
        self._mesh: OnMesh | None = None
        self._model: LearnedGuess | None = None
        self._learned: LearnedGuess | None = None
        self._own: npt.NDArray[Any] | None = None
        self._features: Features | None = None
        self._gatherer: SampleGatherer | None = None
        if policy.prospects is None:
            policy.prospects = {}

    @property
    def solutions(self) -> Solutions | None:
        """What is known on this mesh, None before a solve."""
        return None if self._mesh is None else self._mesh.solutions

    @property
    def guesses(self) -> list[InitialGuess]:
        """The guesses for the solve at hand; none where nothing is known of it."""
        if self._own is None or self._mesh is None:
            return []
        return [*self._mesh.guesses, *([] if self._learned is None else [self._learned])]

    def adopt(self, guess: LearnedGuess) -> None:
        """Take an operator as the learned guess, until a newer one is there. ValueError if it does not fit."""
        errors = list(guess.predictor.card.errors.values())
        guess.predictor.check(self.seen)
        self.study.take(guess, float(np.mean(errors)) if errors else math.nan)
        self.policy.forget(LEARNED)

    def before(self, gatherer: SampleGatherer | None = None, *, from_zero: bool = False) -> None:
        """Describe the problem that is solved next; its unknown holds what a default solve begins with, or zeros do.

        ``gatherer`` is one of its mesh that is there already.
        """
        self._own, self._gatherer, self._left = None, gatherer, ENDED
        self.seen.forget()
        if self.broken is None:
            self._safely(lambda: self._before(from_zero))

    def after(
        self, result: SolveResult, x: PETSc.Vec | None = None, *, index: int = -1, parameters: str = "{}"
    ) -> None:
        """Take the solution, in the unknown or in ``x``; the unknown is left as it is.

        The sample has an index and parameters where it is one of a case.
        """
        seconds = self.policy.decisions[-1].seconds if self.policy.decisions else 0.0
        self.study.count(seconds, solved=result.converged)
        rest = result.reason, parameters, result.iterations, result.residual, seconds
        record = SampleRecord(index, "ok" if result.converged else "failed", *rest, arrays=None)
        left = self._left if result.converged else "that failed"
        if self._own is not None and not left:
            self._safely(lambda: self._after(record, x))
        else:
            self.study.left[left] += 1
            if self.quantities is not None and not result.converged and self.comm.rank == 0:
                self.study.keep(record)  # without it nobody would know that means are of a choice

    def raised(self, error: BaseException) -> None:
        """Count a solve that has ended in an error of the user's. Collective: no."""
        self.study.left["that raised an error"] += 1
        if self.quantities is not None and self.comm.rank == 0:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            self.study.keep(SampleRecord(-1, "failed", reason, "{}", 0, math.nan, 0.0, arrays=None))

    def _before(self, from_zero: bool) -> None:
        study, costs = self.study, self._costs()
        self._notice()
        collect, model = share(self.comm, lambda: study.news(costs))
        if model is not None:
            self._load(model)
        self._left = "" if collect else TIME
        if not collect:
            return
        try:
            self._features = self.seen.look(self.what)
        except ValueError as error:  # on all ranks
            self._left = "that cannot be described"
            if self.comm.rank == 0 and not study.left[self._left]:
                logger.warning("nothing is learned from this solve: %s", error)
            return
        own = owned_values(self.what)
        if from_zero:
            own[:] = 0.0
        self._own = own
        self._expect()

    def _expect(self) -> None:
        """Prepare the guesses for the problem that is described, once the mesh is set up."""
        study, mesh = self.study, self._set_up()
        if mesh is None:
            return
        if self._model is not study.model and study.model is not None:
            nodes, self._model = mesh.gatherer.nodes, study.model
            self._learned = study.model.bind(self.seen, nodes=nodes, max_distance=self.policy.max_distance)
        assert self._features is not None
        mesh.expect(self._features)

    def _after(self, record: SampleRecord, x: PETSc.Vec | None) -> None:
        study, own = self.study, self._own
        if self._mesh is None:
            self._expect()
        mesh = self._mesh
        if mesh is None or own is None:
            study.left[TIME] += 1
            return
        with self._solution(x):
            self._note(mesh.add(own))
            arrays = mesh.gatherer(self.what)
            numbers = "{}" if self.quantities is None else self.quantities.text()
        repeats = record.index < 0 and self.quantities is None and mesh.solutions.repeats
        study.left["known already"] += repeats
        if arrays is not None and not repeats:
            assert study.library is not None
            study.library.add(mesh.description, arrays)
            study.keep(dataclasses.replace(record, arrays=arrays, quantities=numbers))
        study.saved = _saved(self.policy)
        if self.comm.rank == 0:
            study.consider(self._costs(), self.policy.prospects or {})

    def _notice(self) -> None:
        """Warn of what changes and is not named, once of each."""
        if self.unnamed is None or self.comm.rank != 0:
            return
        for name in self.unnamed.changed():
            text = "%s changes from solve to solve: name it in inputs= or scalars=, or guesses do not know of it%s"
            logger.warning(text, name, " (the Constant itself, not its number)" if "Constant" in name else "")

    @contextmanager
    def _solution(self, x: PETSc.Vec | None) -> Iterator[None]:
        """Have the solution in the unknown for a while."""
        kept = [function.x.array.copy() for function in self.what.functions]
        try:
            if x is not None:
                agree(self.comm)
                assign(x, self.what.solution)
                for function in self.what.functions:
                    function.x.scatter_forward()
            yield
        finally:
            for function, values in zip(self.what.functions, kept, strict=True):
                function.x.array[:] = values

    def _set_up(self) -> OnMesh | None:
        """Return what is known on the mesh, set up if need be; the time is that of collecting, but for the first."""
        study, first, started = self.study, self.study.library is None, time.perf_counter()
        if self._mesh is not None:
            return self._mesh
        if first and not share(self.comm, lambda: study.can_begin(unknowns_of(self.what))):
            return None
        known: OnMesh | None = study.on_mesh
        if known is not None and known.take_over(self.what, self.seen):
            self._mesh = known
            return known
        self._mesh = study.on_mesh = mesh = OnMesh(study, self.what, self.seen, self._gatherer)
        with self._solution(None):
            for errors in mesh.recall():
                self._note(errors)
        if first:
            seconds = time.perf_counter() - started
            study.setup += seconds
            study.spent -= seconds
        return mesh

    def _safely(self, step: Callable[[], None]) -> None:
        """Take a step of the study; an error on any rank ends the learning of this problem on all."""
        started = time.perf_counter()
        try:
            with collective_errors(self.comm):
                step()
        except Exception as error:  # noqa: BLE001 - nothing of the study may reach the user's program
            self.broken, self._own, self._left = f"{type(error).__name__}: {error}", None, ENDED
            self.study.ended = self.broken
            if self.comm.rank == 0:
                logger.warning("this study learns no more: %s", self.broken)
        self.study.spent += time.perf_counter() - started

    def _note(self, errors: Mapping[str, float]) -> None:
        """Give the errors in hindsight to the policy."""
        self.study.note(errors)
        prospects = self.study.prospects()
        if self._learned is not None and math.isfinite(self.study.model_error):
            prospects[LEARNED] = self.study.model_error
        self.policy.prospects = prospects

    def _load(self, folder: Path) -> None:
        """Load a model; one that cannot be loaded is left where it is."""
        from lrsa_coupled.guess.learned import LearnedGuess  # torch comes with it

        started = time.perf_counter()
        try:
            with collective_errors(self.comm):
                self.adopt(LearnedGuess.load(folder, self.settings))
        except (ValueError, OSError, RuntimeError, ImportError) as error:
            if self.comm.rank == 0:
                logger.warning("the model in %s is not used: %s", folder, error)
            return
        seconds = time.perf_counter() - started
        self.study.setup += seconds
        self.study.spent -= seconds
        if self.comm.rank == 0:
            text = "learning: the model in %s, validation error %.3g, is a guess from here on (loaded in %.2g s)"
            logger.info(text, folder, self.study.model_error, seconds)

    def _costs(self) -> dict[str, float]:
        return {name: cost for name, (cost, _) in self.policy.costs(kind_of(self.what)).items()}


def _saved(policy: Adaptive) -> float:
    """Return what the solves from guesses have saved against the median of the solves from the user's own [s]."""
    own = [each.seconds for each in policy.decisions if each.choice == DEFAULT and each.number > 1]
    if not own:
        return 0.0
    usual = float(np.median(own))
    return sum(usual - each.seconds for each in policy.decisions if each.choice != DEFAULT)
