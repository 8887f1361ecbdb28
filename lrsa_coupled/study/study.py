"""A study: the data, the trainer and the account of all problems of one folder in a process.

A script that makes a new problem for each solve goes on with it.
"""

from __future__ import annotations

import atexit
import dataclasses
import logging
import math
import os
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, final

from msgspec import Meta
from mpi4py import MPI

from lrsa_coupled.coupling.unnamed import NONE
from lrsa_coupled.data.card import NAME, DataCard, read_card
from lrsa_coupled.data.format import SampleRecord
from lrsa_coupled.guess.interpolated import INTERPOLATED
from lrsa_coupled.guess.record import LEARNED
from lrsa_coupled.guess.regression import RULES
from lrsa_coupled.mpi import allreduce, collective_errors
from lrsa_coupled.schema import Schema
from lrsa_coupled.settings import Section, setting
from lrsa_coupled.study import economy
from lrsa_coupled.study.library import Library
from lrsa_coupled.study.samples import SampleLog, Samples, WrittenElsewhere
from lrsa_coupled.study.trainer import Trainer

if TYPE_CHECKING:
    from lrsa_coupled.guess.learned import LearnedGuess

logger = logging.getLogger(__name__)

NAMES = (*RULES, INTERPOLATED, LEARNED)
SETUP = 1.5e-6
"""Time to set up for a mesh, about, for each unknown [s]."""
TIME = "for the time that it takes (a larger overhead keeps more)"
"""Why a solve is not kept."""
EAGER = 32
"""Samples until which collecting may take twice its share: a regression needs some to begin with."""
RECENT = 8
"""Solves whose errors in hindsight are averaged."""
UNLIMITED = 1e9
"""Share of the time of the solves for collecting where every sample is wanted."""
PATIENCE, RELUCTANT = 40, 0.25
"""Solves after which, as long as nothing has been saved, collecting may take this part of its share."""


@dataclass(frozen=True)
class Learning(Section):
    """How a study learns: the argument ``learn`` of ``attach``; a folder alone takes the defaults.

    Args:
        folder: The data set, with the models in its folder ``models``. A second run goes on with both.
        name: Name of the family of problems; the options prefix of the solver by default.
        outputs: Fields of the unknown that a model predicts, see ``Collector``; all of it by default.
        solves: How many solves the script will make; by default as many are expected to come as there have been.
        when: Whether models are trained beside the solves, when they have ended, or not at all.
        overhead: Share of the time of the solves that collecting may take, beside half of what is saved, and half of
            what setting up may take; solves that are shorter are not all kept, nor the first ones. Twice of it for the
            first 32 samples, a quarter of it after 40 solves that have saved nothing. Where quantities are kept it is
            ``UNLIMITED``: those of some solves would have other means.
    """

    folder: str = setting("", "data set and models")
    name: str | None = setting(None, "name of the family of problems")
    outputs: dict[str, tuple[int, ...]] | None = setting(None, "fields of the unknown to predict")
    solves: Annotated[int, Meta(ge=1)] | None = setting(None, "solves that the script will make")
    when: Literal["beside", "at_end", "never"] = setting("beside", "when models are trained")
    overhead: Annotated[float, Meta(gt=0)] = setting(0.01, "share of the time of the solves for collecting")


@final
class Study:
    """The data, the trainer and the account of all problems of a folder in this process.

    Args:
        learning: Its folder and how it learns.
        card: Of the data set; its source, if any, is that of the quantities that are kept.
        comm: Ranks of the problems.
        groups: Groups of ranks at work on the data set, of which this is one, where somebody else writes the samples;
            None where this study writes them.
        cores: Cores of the machine of rank 0 that no rank uses; None: those not used by ``comm``.

    Attributes:
        solving: Time of the solves so far [s].
        spent: Time spent on describing and collecting solves [s].
        setup: Time spent on setting up for each problem, and on loading models [s].
        saved: Time saved against the user's own guess, as measured by the median of its solves [s].
        model: The learned guess, None before there is one.
        model_error: Its relative error on validation samples.
        log: What writes samples; None above rank 0, and after a write that has failed.
        left: Number of solves that were not kept by reason.
        ended: The error that has ended the learning of a problem, None while there was none.
        library: Solutions on all meshes, None before the first solve.
        on_mesh: What is known on the mesh that was set up last, see ``learn``; None before.

    Raises:
        ValueError: If the folder holds another data set; on all ranks.
    """

    def __init__(
        self, learning: Learning, card: DataCard, comm: MPI.Comm, *, groups: int | None = None, cores: int | None = None
    ) -> None:
        self.learning, self.comm, self.groups = learning, comm, groups
        self.folder = Path(learning.folder).resolve()  # a script may change its folder
        self.solving = self.spent = self.setup = self.saved = 0.0
        self.solves = 0
        self.model: LearnedGuess | None = None
        self.model_error = math.nan
        self.log: Samples | None = None
        self.left: Counter[str] = Counter()
        self.ended: str | None = None
        self.library: Library | None = None
        self.on_mesh: Any = None
        self._progress = economy.ASSUMPTIONS.doubled
        self._errors: dict[str, list[float]] = {}
        self.cores = free_cores(comm) if cores is None else cores
        self.trainer = Trainer(self.folder, niceness=19 if self.cores > 0 else 0)
        self.schema, self.source = card.schema, card.source
        self.closed = self._warned = self._told = False
        self._next = economy.FIRST
        self._trained: list[str] = []
        self._newest: Path | None = None
        self._waiting_model: Path | None = None
        with collective_errors(comm):
            if comm.rank == 0:
                if self.folder.is_file():
                    raise ValueError(f"learn: expected a folder for data and models, {learning.folder} is a file")
                held = read_card(self.folder).source if (self.folder / NAME).is_file() else None
                self.compare(held, card.source)
                if groups is None:
                    self.log = SampleLog(self.folder, card, learning.overhead / 4)
                else:
                    self.log = WrittenElsewhere(self.folder, groups)
                newest = self.trainer.newest()
                self._next = max(economy.FIRST, 2 * int(newest.name) if newest is not None else 0)
        if comm.rank == 0:
            atexit.register(self._end)

    @property
    def affordable(self) -> bool:
        """Whether the time for collecting is within its share."""
        in_vain = self.solves > PATIENCE and self.saved <= 0.0
        few = self.log is not None and self.log.count < EAGER
        share = self.learning.overhead * (2.0 if few else RELUCTANT if in_vain else 1.0)
        return self.spent <= share * self.solving + 0.5 * max(self.saved, 0.0)

    def can_begin(self, unknowns: int) -> bool:
        """Whether to set up for the first mesh: there is something to begin with, or the solves have taken long enough.

        For rank 0.
        """
        if self.model is not None or (self.log is not None and self.log.earlier):
            return True
        return SETUP * unknowns <= 2.0 * self.learning.overhead * self.solving

    def news(self, costs: Mapping[str, float]) -> tuple[bool, Path | None]:
        """Return whether to learn from the next solve, and the folder of a new model; for rank 0."""
        self.trainer.poll()
        found, model = self.trainer.newest(), None
        if found is not None and found != self._newest:
            self._newest = self._waiting_model = found
        if self._waiting_model is not None and economy.worth_loading(self._situation(costs, {})):
            model, self._waiting_model = self._waiting_model, None
        return self.solves == 0 or self.affordable, model

    def take(self, model: LearnedGuess, error: float) -> None:
        """Take a model and its error on validation samples, NaN where that is not known. Collective: no."""
        ratio = error / self.model_error if self.model_error else math.nan
        if math.isfinite(ratio):  # one that has learned little more says little of the next: half-way
            self._progress = math.sqrt(ratio * economy.ASSUMPTIONS.doubled)
        self.model, self.model_error = model, error

    def count(self, seconds: float, *, solved: bool) -> None:
        """Count a solve. Collective: no."""
        self.solves += 1
        self.solving += seconds
        if solved and self.log is not None:
            self.log.note_solved()

    def note(self, errors: Mapping[str, float]) -> None:
        """Note the relative errors that the choices would have had in a solve. Collective: no."""
        for name, error in errors.items():
            self._errors.setdefault(name, []).append(math.log(max(error, 1e-12)))

    def looks(self, name: str) -> bool:
        """Return whether to look for the error of a choice after this solve: at first, then now and then."""
        return len(self._errors.get(name, ())) < RECENT or self.solves % RECENT == 0

    def prospects(self) -> dict[str, float]:
        """Return the relative errors that are to be expected of the choices. Collective: no."""
        means = {name: sum(logs[-RECENT:]) / len(logs[-RECENT:]) for name, logs in self._errors.items()}
        return {name: math.exp(mean) for name, mean in means.items()}

    def keep(self, record: SampleRecord) -> None:
        """Write a sample, with the next index where it has none (-1); after a failure no more. For rank 0."""
        if self.log is None or self.closed:
            return
        try:
            index = self.log.take_index() if record.index < 0 else record.index
            self.log.add(dataclasses.replace(record, index=index))
        except OSError as error:
            logger.warning("the solves of this study are no longer collected: %s", error)
            self.log = None

    def consider(self, costs: Mapping[str, float], errors: Mapping[str, float]) -> None:
        """Start a training if that will pay; for rank 0."""
        busy = self.closed or self.trainer.running or self.trainer.given_up
        if busy or self.learning.when != "beside" or self.log is None:
            return
        if len(self.log) < self._next:
            return
        verdict = economy.decide(self._situation(costs, errors), LEARNED)
        logger.info("learning: %s", verdict.why)
        self._next = math.ceil(1.25 * len(self.log))
        if verdict.seconds is not None:
            self._train(verdict.seconds)

    def summary(self) -> str:
        """Return lines about data, models, costs and gain; what is on disk is known on rank 0 only."""
        self._told = True
        whose = "study" if self.groups is None else "study of the first group of ranks"
        lines = [f"{whose}: {self.solves} solves in {self.solving:.4g} s, without what makes the problems"]
        if self.comm.rank == 0:
            kept = f"in {self.folder}" if self.log is not None else "no longer collected"
            if self.log is not None and self.groups is None:  # what other groups have made is a guess
                kept = f"{len(self.log)} {kept}"
            left = ", ".join(f"{count} {reason}" for reason, count in self.left.most_common() if count)
            if self.groups is None and left:
                kept += f"; not kept: {left}"
            lines += [f"samples: {kept}", f"models: {'; '.join(self._trained) or 'none trained'}"]
        if self.ended is not None:
            lines += [f"learning has ended early: {self.ended}"]
        took = self.spent + self.setup
        gain = self.saved - took
        text = f"saved {self.saved:.3g} s against the own guess, learning took {took:.3g} s"
        return "\n".join([*lines, f"{text}: {'gained' if gain >= 0 else 'lost'} {abs(gain):.3g} s"])

    def compare(self, present: str | None, source: str | None) -> None:
        """Warn once of other equations than those of the folder; ValueError for other quantities. Collective: no."""
        if _check_source(self.learning.folder, present, source) or self._warned:
            return
        self._warned = True
        if self.comm.rank == 0:
            logger.warning(
                "%s has solves of other equations, such as with another number in a form: guesses do not know of it; "
                "make what changes a Constant and name it, or give another folder", self.learning.folder
            )  # fmt: skip

    def close(self) -> None:
        """End collecting and the trainer, and log the summary: on rank 0, also at the end of the program."""
        if self.closed:
            return
        self.closed = True
        if self.comm.rank != 0:
            return
        self.trainer.stop()
        if self.log is not None:
            try:
                self.log.close()
            except (OSError, ValueError) as error:
                logger.warning("the data set of the study is not in order: %s", error)
        if self.learning.when == "at_end" and self.log is not None and len(self.log) >= economy.FIRST:
            seconds = min(max(0.25 * self.solving, economy.ASSUMPTIONS.shortest), economy.ASSUMPTIONS.longest)
            self._train(seconds)
            while self.trainer.running:
                self.trainer.poll()
                time.sleep(0.2)
        if self.solves and not self._told:
            logger.info("%s", self.summary())

    def _end(self) -> None:
        """Close at the end of the program, where the stream of its log may be closed already."""
        kept, logging.raiseExceptions = logging.raiseExceptions, False
        try:
            self.close()
        finally:
            logging.raiseExceptions = kept

    def _train(self, seconds: float) -> None:
        assert self.log is not None
        try:
            if not self.closed:
                self.log.flush()
            self.trainer.start(len(self.log), seconds / 60.0)
        except OSError as error:
            logger.warning("no model is trained: %s", error)
            self.trainer.given_up = True
            return
        self._trained.append(f"{seconds:.0f} s on {len(self.log)} samples")
        self._next = 2 * len(self.log)

    def _situation(self, costs: Mapping[str, float], errors: Mapping[str, float]) -> economy.Situation:
        samples = 0 if self.log is None else len(self.log)
        total = self.learning.solves
        remaining = max(samples, self.solves) if total is None else max(total - self.solves, 0)
        return economy.Situation(
            samples, remaining, costs, errors, self.model is not None, self.cores, groups=self.groups or 1,
            progress=self._progress,
        )  # fmt: skip


_studies: dict[tuple[object, ...], Study] = {}


def _check_source(folder: Path | str, present: str | None, source: str | None) -> bool:
    """Return whether a script solves the equations of a folder, so far as that is known; see ``source_of``.

    Collective: no. ValueError where it keeps other quantities, or none where the folder has some, or has them of other
    equations: means would be of both.
    """
    if present is None or source is None or " " not in present:  # a card of an older version
        return True
    (equations, quantities), (own, asked) = present.split(), source.split()
    same = NONE in (equations, own) or equations == own
    if quantities not in (NONE, asked):
        given = "none" if asked == NONE else "others"
        raise ValueError(f"{folder} has quantities with its solves, got {given}: give the same, or another folder")
    if quantities != NONE and not same:
        raise ValueError(f"{folder} holds quantities of other equations; choose another folder")
    return same


def study_for(learning: Learning, schema: Schema, comm: MPI.Comm, *, source: str | None = None) -> Study:
    """Return the study of a folder in this process, made at the first call; errors as ``Study``. Collective.

    ``source`` says what it solves and what quantities it keeps, see ``source_of``; None where that is not known.
    """
    key = str(Path(learning.folder).resolve()), comm.size, comm.rank
    study = _studies.get(key)
    if study is None or allreduce(comm, study.closed, lambda one, two: one or two):
        study = _studies[key] = Study(learning, DataCard(schema, seed=0, resolution=0, source=source), comm)
    elif (difference := study.schema.difference(schema)) is not None:
        raise ValueError(f"{learning.folder} is the folder of a study with other problems, these have {difference}")
    elif source is not None and not source.endswith(NONE) and (study.source or NONE).endswith(NONE):
        raise ValueError(f"{learning.folder} is the folder of a study without quantities; choose another folder")
    else:
        study.compare(study.source, source)
    study.learning = learning
    return study


def end_studies() -> None:
    """End all studies of this process, as at its end. Collective: no."""
    for study in _studies.values():
        study.close()
    _studies.clear()


def free_cores(comm: MPI.Comm) -> int:
    """Return how many cores of this machine are left by its ranks. Collective."""
    node = comm.Split_type(MPI.COMM_TYPE_SHARED)
    cores = set().union(*node.allgather(os.sched_getaffinity(0)))
    threads = os.environ.get("OMP_NUM_THREADS", "1")
    free = len(cores) - node.size * max(1, int(threads) if threads.isdigit() else 1)
    node.Free()
    return free
