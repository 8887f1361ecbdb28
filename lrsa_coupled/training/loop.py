"""Training of an operator on the samples of a data set, by one or several ranks; crash-safe and resumable.

Written to the output folder: ``config.json``, ``metrics.jsonl`` (one line an epoch), the best checkpoint by validation
error (``model.safetensors``, ``model.json``; the wall time of the whole run is added to the card at its end), and
``last/`` (state to go on from, see ``resume.py``).
"""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lrsa_coupled import config as configuration
from lrsa_coupled.config import Config
from lrsa_coupled.data.batches import drawn_ahead, epoch_generator, split_samples, training_batches
from lrsa_coupled.data.dataset import PointDataset
from lrsa_coupled.data.store import DataStore
from lrsa_coupled.files import check_kind, remove_abandoned
from lrsa_coupled.logs import progress as progress_bar
from lrsa_coupled.operators.precision import choose_device
from lrsa_coupled.reading import Damaged
from lrsa_coupled.schema import Schema
from lrsa_coupled.training import checkpoint
from lrsa_coupled.training.group import ProcessGroup, sole_writer
from lrsa_coupled.training.limits import what_limits
from lrsa_coupled.training.losses import weighted_mean
from lrsa_coupled.training.metrics import Metrics
from lrsa_coupled.training.optimiser import make_schedules, move
from lrsa_coupled.training.pace import ClockPace, Pace, StepPace
from lrsa_coupled.training.physics import Physics
from lrsa_coupled.training.resume import REMEDY, Progress, clear, load_state, read_progress, save_state
from lrsa_coupled.training.run import Run, card, identity, prepare
from lrsa_coupled.training.step import take_step, validate

LOGGER = logging.getLogger(__name__)


def train(
    data: Path, out: Path, config: Config, *, resume: bool = True, group: ProcessGroup | None = None,
    stop: Callable[[], str] | None = None, physics: Physics | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train an operator.

    The number of threads is left to the environment. Collective: over the ranks of ``group``; the first one writes.
    With the same ``training.batch_size`` the losses are the same on any number of ranks, to rounding. A run that was
    interrupted, at any moment, goes on from its last state and on a CPU ends bit for bit as if it had not been, with
    the same ranks and threads; not so with ``training.minutes``, where the clock decides, and what was left of the time
    remains.

    Args:
        data: Folder of the data set.
        out: Folder of the results.
        config: Configuration; ``operator`` and ``training`` are read, and ``case`` when not empty.
        resume: Go on with the run in ``out`` if there is one; a finished one returns at once. Otherwise start again.
        group: The ranks that train together, None for this process alone.
        stop: Returns why to end, empty while there is no reason; the run ends after the step at hand, and the best
            model so far stays, if there is one.
        physics: Losses of ``training.loss`` other than ``data``.

    Returns:
        Summary: ``case``, ``epochs``, ``steps``, ``train_samples``, ``valid_samples``, ``parameters``, ``best_epoch``,
        ``best_error``, ``errors`` (relative L2 on the validation samples by output, of the best epoch; without labels
        the residual, that of the zero field being 1), ``seconds``,
        ``limit`` (what limits the model, in words).
        Of a run that was ended also ``stopped``, why.

    Raises:
        ValueError: If the data set is empty, too small, damaged or of another case, a setting is invalid, or ``out``
            holds a run with other settings or data, or results of another kind.
        BlockingIOError: If another process trains into ``out``.
        FloatingPointError: If the loss is not finite; the best and the last checkpoint stay as they were.
    """
    group, begun = group or ProcessGroup(), time.perf_counter()
    store = DataStore(data)
    about = store.card
    if config.case not in (None, about.schema.name):
        raise ValueError(f"{data} holds samples of case '{about.schema.name}', not of '{config.case}'")
    check_kind(out, checkpoint.CARD)
    with sole_writer(out, group, choose_device(config.training.device, rank=group.rank)):
        progress, stopped = _train(
            store, out, config, resume=resume, group=group, stop=stop, begun=begun, physics=physics
        )
    summary = _summary(config, about.schema, progress=progress, num_samples=len(store.solved))
    return summary | ({"stopped": (stop() if stop else "") or "on another rank"} if stopped else {})


def _train(
    store: DataStore, out: Path, config: Config, *, resume: bool, group: ProcessGroup,
    stop: Callable[[], str] | None, begun: float, physics: Physics | None,
) -> tuple[Progress, bool]:  # fmt: skip
    """Train from the beginning or the last state; return how far that came, and whether it ended before its time."""
    identified = identity(config, store.card, solved=store.solved)
    if not resume and group.rank == 0:
        clear(out / "last")
    progress = read_progress(out / "last", identified) if resume else None
    if progress is not None and progress.ended:
        LOGGER.info("the training into %s has ended before: nothing is left to do", out)
        return progress, False
    dataset = PointDataset(store, memory_gib=config.data.memory_gib, labels=physics is None)
    run = prepare(dataset, config, out, group=group, physics=physics)
    if group.rank == 0:
        run = dataclasses.replace(run, data_seconds=store.seconds())
    if progress is None:
        progress = Progress()
        if config.training.minutes is None:
            epochs, steps = config.training.epochs, run.steps_per_epoch
            LOGGER.info("%d epochs of %d steps; --minutes M ends by the clock instead", epochs, steps)
    else:
        load_state(out / "last", run.models, optimisers=run.optimisers)
        if len(progress.losses) >= run.steps_per_epoch:
            raise Damaged(f"{out / 'last'}: damaged ({len(progress.losses)} steps in an epoch): {REMEDY}")
        _check_best(progress, out)
        LOGGER.info("going on after epoch %d, step %d", progress.epoch, len(progress.losses))
    return progress, _Loop(run, identified, progress, pace=_pace(run, progress, begun, stop)).finish()


def _pace(run: Run, progress: Progress, begun: float, stop: Callable[[], str] | None) -> Pace:
    training, group = run.config.training, run.group
    if training.minutes is not None:
        seconds, begun = 60.0 * training.minutes, begun - progress.seconds
        return ClockPace(seconds, begun=begun, group=group, device=run.device, stop=stop)
    steps, every, done = run.steps_per_epoch, training.validate_every, progress.steps + len(progress.losses)
    return StepPace(
        training.epochs, steps_per_epoch=steps, every=every, done=done, group=group, device=run.device, stop=stop
    )


class _Loop:
    """The epochs of a run, which move ``progress`` on; the first rank writes."""

    def __init__(self, run: Run, identified: dict[str, Any], progress: Progress, *, pace: Pace) -> None:
        self.run, self.training = run, run.config.training
        self.identified, self.progress, self.pace = identified, progress, pace
        self.writes = run.group.rank == 0
        self.done = progress.steps + len(progress.losses)
        self.schedules = make_schedules(run.optimisers, self.training, num_steps=pace.num_ticks, done=pace.tick)
        self.saved = time.perf_counter()
        self.started = self.saved - progress.seconds

    def finish(self) -> bool:
        """Train until the end, and return whether that is one before its time."""
        run, progress, pace, metrics = self.run, self.progress, self.pace, None
        if self.writes:
            remove_abandoned(run.out / "last")
            configuration.save(run.config, run.out)
            metrics = Metrics(run.out, epoch=progress.epoch, tensorboard=self.training.tensorboard)
        total, unit = (pace.num_ticks, "step") if self.training.minutes is None else (100, "%")
        done = total * pace.tick // pace.num_ticks
        with progress_bar(description="training", unit=unit, total=total, done=done) as bar:
            while not progress.ended and (values := self._epoch(bar)):
                begun = time.perf_counter()
                if validates := progress.ended or pace.validates(progress.epoch):
                    values |= self._validate()
                    bar.set_postfix(loss=f"{values['loss']:.4f}", valid=f"{values['valid_error']:.4f}")
                if metrics is not None:
                    metrics.write(values | {"seconds": round(progress.seconds, 3)})
                # Before the state records the end: a run that is killed in between comes here again.
                if progress.ended:
                    self._end()
                if validates:
                    self._save()
                    pace.validated(time.perf_counter() - begun)
                elif pace.stopped:
                    self._save()
                if pace.stopped:
                    break
        if metrics is not None:
            metrics.close()
        return not progress.ended

    def _epoch(self, bar: Any) -> dict[str, Any]:
        """Take the steps of the next epoch that are not taken yet; nothing is returned when a signal has come."""
        run, training, progress = self.run, self.training, self.progress
        losses, rate = [torch.tensor(loss) for loss in progress.losses], 0.0
        run.model.train()
        generator = epoch_generator(training.seed, progress.epoch + 1)
        batches = training_batches(run.dataset, run.train_samples, run.plan, generator=generator, first=len(losses))
        for micro_batches in drawn_ahead(batches):
            rate = float(self.schedules[0].get_last_lr()[0])
            losses.append(take_step(run, micro_batches, number=self.done))
            self.done += 1
            self.pace.step(self.done)
            move(self.schedules, self.pace.tick)
            bar.update(bar.total * self.pace.tick // self.pace.num_ticks - bar.n)
            late = time.perf_counter() - self.saved > training.save_every
            if len(losses) == run.steps_per_epoch or self.pace.pauses:
                break
            if self.pace.stopped or (self.writes and late):
                progress.losses, progress.seconds = self._finite(losses), time.perf_counter() - self.started
                self._save()
            if self.pace.stopped:
                return {}
        values = self._finite(losses)
        progress.epoch, progress.steps, progress.losses = progress.epoch + 1, self.done, ()
        progress.seconds = time.perf_counter() - self.started
        progress.ended = self.pace.ends(progress.epoch)
        return {"epoch": progress.epoch, "loss": sum(values) / len(values), "learning_rate": rate}

    def _validate(self) -> dict[str, Any]:
        """Validate, save the model when it is the best so far, and end the run when it has been so for too long."""
        run, training, progress = self.run, self.training, self.progress
        run.model.eval()
        errors_SP = validate(run, run.valid_samples, precision=run.precision(self.done - 1))
        error = float(weighted_mean(errors_SP, run.fields))
        if not math.isfinite(error):
            raise FloatingPointError(self._diverged(f"the validation error of epoch {progress.epoch}"))
        errors = {item.name: float(value) for item, value in zip(run.fields, errors_SP.mean(dim=0), strict=True)}
        progress.without += 1
        if error < progress.best_error:
            progress.best_epoch, progress.best_error, progress.best_errors = progress.epoch, error, errors
            progress.without = 0
            if self.writes:
                checkpoint.save(run.out, run.validated, card(run, errors, seconds=progress.seconds))
        elif training.patience is not None and progress.without >= training.patience:
            LOGGER.info(
                "ended at epoch %d: the validation error of %d is the best", progress.epoch, progress.best_epoch
            )
            progress.ended = True
        return {"valid_error": error, "valid": errors}

    def _end(self) -> None:
        """Note what limits the model, and what all of the run has taken."""
        run, progress = self.run, self.progress
        progress.limit = what_limits(run, progress.best_error)
        if self.writes:
            checkpoint.set_seconds(run.out, round(run.initial_seconds + progress.seconds, 3))

    def _finite(self, losses: list[Tensor]) -> tuple[float, ...]:
        """Return the losses, waiting for the device; FloatingPointError when one is not finite."""
        values = torch.stack([loss.to(self.run.device, torch.float64) for loss in losses]).tolist()
        for place, value in enumerate(values):
            if not math.isfinite(value):
                where = f"epoch {self.progress.epoch + 1}, step {place + 1}"
                raise FloatingPointError(self._diverged(f"the loss or its gradient at {where}"))
        return tuple(values)

    def _save(self) -> None:
        if self.writes:
            run, last = self.run, self.run.out / "last"
            save_state(last, run.models, optimisers=run.optimisers, progress=self.progress, identity=self.identified)
            self.saved = time.perf_counter()

    def _diverged(self, what: str) -> str:
        return (
            f"training diverged: {what} is not finite; the checkpoints in {self.run.out} are from before; "
            "lower training.learning_rate or use training.precision=fp32"
        )


def _summary(config: Config, schema: Schema, *, progress: Progress, num_samples: int) -> dict[str, Any]:
    train_samples, valid_samples = split_samples(num_samples, config.training.valid_fraction, seed=config.training.seed)
    return {
        "case": schema.name,
        "epochs": progress.epoch,
        "steps": progress.steps,
        "train_samples": len(train_samples),
        "valid_samples": len(valid_samples),
        "parameters": checkpoint.parameter_count(config.operator, schema),
        "best_epoch": progress.best_epoch,
        "best_error": progress.best_error,
        "errors": progress.best_errors,
        "seconds": progress.seconds,
        "limit": progress.limit,
    }


def _check_best(progress: Progress, out: Path) -> None:
    """Forget the best validation so far when its checkpoint is damaged; OSError when it cannot be read."""
    try:
        checkpoint.load(out)
    except ValueError as error:
        if progress.best_epoch > 0:
            LOGGER.warning("%s; the best checkpoint is written again at the next validation", error)
        progress.best_epoch, progress.best_error, progress.best_errors = 0, math.inf, {}
