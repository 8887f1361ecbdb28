"""Training of an operator on the samples of a data set; crash-safe and resumable.

Written to the output folder: ``config.json``, ``metrics.jsonl`` (one line an epoch), the best checkpoint by validation error
(``model.safetensors``, ``model.json``), and ``last/`` (state to go on from, see ``resume.py``).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lrsa_coupled import config as configuration
from lrsa_coupled.config import Config, TrainingConfig
from lrsa_coupled.data.batches import drawn_ahead, epoch_generator, split_samples, training_batches
from lrsa_coupled.data.dataset import Batch, PointDataset
from lrsa_coupled.data.description import Description, describe
from lrsa_coupled.data.store import DataStore
from lrsa_coupled.files import write_text_atomically
from lrsa_coupled.logs import progress as progress_bar
from lrsa_coupled.operators.model import Operator
from lrsa_coupled.training import checkpoint
from lrsa_coupled.training.checkpoint import DataInfo, ModelCard
from lrsa_coupled.training.evaluate import Forward, predict, validate
from lrsa_coupled.training.losses import FieldColumns, field_columns, relative_h1, relative_l2, weighted_mean
from lrsa_coupled.training.optimiser import learning_rate, make_optimisers, set_learning_rate
from lrsa_coupled.operators.precision import choose_device, cpu_has_bf16
from lrsa_coupled.training.resume import Progress, clear, load_state, read_progress, save_state

LOGGER = logging.getLogger(__name__)
SAVE_SECONDS = 20.0
METRICS = "metrics.jsonl"


@dataclasses.dataclass(frozen=True)
class Run:
    """All that stays the same during a run; ``forward`` is the model, compiled when asked."""

    config: Config
    out: Path
    dataset: PointDataset
    train_samples: Tensor
    valid_samples: Tensor
    model: Operator
    forward: Forward
    fields: tuple[FieldColumns, ...]
    optimisers: list[Optimizer]
    device: torch.device

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of an epoch."""
        return max(1, len(self.train_samples) // self.config.training.batch_size)


def train(data: Path, out: Path, config: Config, *, resume: bool = True) -> dict[str, Any]:
    """Train an operator.

    Call on one process; the number of threads is left to the environment.

    Args:
        data: Folder of the data set.
        out: Folder of the results.
        config: Configuration; ``operator`` and ``training`` are read, and ``case`` when not empty.
        resume: Go on with the run in ``out`` if there is one; a finished one returns at once. Otherwise start anew.
    Returns:
        Summary: ``case``, ``epochs``, ``train_samples``, ``valid_samples``, ``parameters``, ``best_epoch``, ``best_error``, ``errors``
        (relative L2 on the validation samples by output, of the best epoch), ``seconds``.
    Raises:
        ValueError: If the data set is empty, too small, damaged or of another case, a setting is invalid, or ``out`` holds a run with
            other settings or data.
        RuntimeError: If the loss is not finite; the best and the last checkpoint stay as they were.
    """
    _check_settings(config.training)
    store = DataStore(data)
    about = describe(store.meta)
    if config.case and config.case != about.case:
        raise ValueError(f"{data} holds samples of case '{about.case}', not of '{config.case}'")
    identity = _identity(config, about, solved=store.solved)
    if not resume:
        clear(out / "last")
    progress = read_progress(out / "last", identity)
    if progress is None or progress.epoch < config.training.epochs:
        run = _prepare(PointDataset(store, memory_gib=config.data.memory_gib), config, out=out)
        if progress is None:
            progress = Progress()
        else:
            load_state(out / "last", run.model, optimisers=run.optimisers)
            progress = _with_readable_best(progress, out)
            LOGGER.info("going on after epoch %d of %d", progress.epoch, config.training.epochs)
        configuration.save(config, out)
        _trim_metrics(out / METRICS, progress.epoch)
        progress = _run_epochs(run, progress, identity=identity)
    return _summary(config, about, progress=progress, num_samples=len(store.solved))


def _prepare(dataset: PointDataset, config: Config, *, out: Path) -> Run:
    """Split the samples and make the model, its normaliser fitted to the training samples, and the optimisers."""
    training = config.training
    device = choose_device(training.device)
    if device.type == "cpu" and not cpu_has_bf16():
        if training.precision == "bf16":
            LOGGER.warning("this CPU has no bfloat16 instructions: training.precision=fp32 is faster here")
        if training.optimizer == "muon":
            LOGGER.warning("this CPU has no bfloat16 instructions, in which Muon orthogonalises: steps take some three times longer")
    train_samples, valid_samples = split_samples(len(dataset), training.valid_fraction, seed=training.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        model = checkpoint.make_model(config.operator, dataset.description)
    points, inputs, scalars, outputs = dataset.moments(train_samples)
    model.normaliser.fit(points, inputs, scalars_SG=scalars, outputs_TK=outputs)
    fields = field_columns(dataset.description.outputs, model.normaliser.outputs_std.tolist())
    model.to(device)
    forward = torch.compile(model) if training.compile else model
    optimisers = make_optimisers(model, training)
    return Run(config, out, dataset, train_samples, valid_samples, model, forward, fields, optimisers, device)


def _run_epochs(run: Run, progress: Progress, *, identity: dict[str, Any]) -> Progress:
    training = run.config.training
    started, saved = time.perf_counter() - progress.seconds, time.perf_counter()
    total = training.epochs * run.steps_per_epoch
    with progress_bar(description="training", unit="step", total=total, done=progress.epoch * run.steps_per_epoch) as bar:
        for epoch in range(progress.epoch + 1, training.epochs + 1):
            metrics = _train_epoch(run, epoch, bar=bar)
            last = epoch == training.epochs
            progress = dataclasses.replace(progress, epoch=epoch, seconds=time.perf_counter() - started)
            if last or epoch % training.validate_every == 0:
                progress, valid = _validated(run, progress)
                metrics |= valid
                bar.set_postfix(loss=f"{metrics['loss']:.4f}", valid=f"{metrics['valid_error']:.4f}")
            _append_metrics(run.out / METRICS, metrics | {"seconds": round(progress.seconds, 3)})
            if last or epoch % training.validate_every == 0 or time.perf_counter() - saved > SAVE_SECONDS:
                save_state(run.out / "last", run.model, optimisers=run.optimisers, progress=progress, identity=identity)
                saved = time.perf_counter()
    return progress


def _train_epoch(run: Run, epoch: int, *, bar: Any) -> dict[str, Any]:
    training = run.config.training
    total_steps, first = training.epochs * run.steps_per_epoch, (epoch - 1) * run.steps_per_epoch
    run.model.train()
    batches = training_batches(
        run.dataset,
        run.train_samples,
        batch_size=training.batch_size,
        num_points=training.num_points,
        generator=epoch_generator(training.seed, epoch),
        with_cells=training.gradient_weight > 0.0,
    )
    losses, rate = [], 0.0
    for place, batch in enumerate(drawn_ahead(batches)):
        rate = learning_rate(training, first + place, num_steps=total_steps)
        set_learning_rate(run.optimisers, rate)
        losses.append(_step(run, batch.to(run.device)))
        if not math.isfinite(losses[-1]):
            raise RuntimeError(_diverged(run, f"the loss or its gradient at epoch {epoch}, step {place + 1}"))
        bar.update()
    return {"epoch": epoch, "loss": sum(losses) / len(losses), "learning_rate": rate}


def _step(run: Run, batch: Batch) -> float:
    """Take one optimiser step; return the loss, not a number when the loss or the gradient is not finite."""
    training = run.config.training
    predicted = predict(run.forward, batch, precision=training.precision)
    exact, free = batch.outputs_BNK, batch.free_BNK
    loss = weighted_mean(relative_l2(predicted, exact, mass_BN=batch.mass_BN, free_BNK=free, fields=run.fields), run.fields)
    if batch.cells_EV is not None:
        errors = relative_h1(
            predicted, exact, points_BNd=batch.points_BNd, free_BNK=free, cells_EV=batch.cells_EV, fields=run.fields
        )  # fmt: skip
        loss = loss + training.gradient_weight * weighted_mean(errors, run.fields)
    for optimiser in run.optimisers:
        optimiser.zero_grad(set_to_none=True)
    loss.backward()
    limit = training.gradient_clip if training.gradient_clip > 0.0 else math.inf
    norm = torch.nn.utils.clip_grad_norm_(run.model.parameters(), limit)
    value = float(torch.where(torch.isfinite(norm), loss.detach(), torch.nan))
    if math.isfinite(value):
        for optimiser in run.optimisers:
            optimiser.step()
    return value


def _validated(run: Run, progress: Progress) -> tuple[Progress, dict[str, Any]]:
    """Validate; save the model when it is the best so far."""
    training = run.config.training
    run.model.eval()
    errors_SP = validate(
        run.model,
        run.dataset,
        samples=run.valid_samples,
        fields=run.fields,
        training=training,
        device=run.device,
    )
    error = float(weighted_mean(errors_SP, run.fields))
    if not math.isfinite(error):
        raise RuntimeError(_diverged(run, f"the validation error of epoch {progress.epoch}"))
    errors = {item.name: float(value) for item, value in zip(run.fields, errors_SP.mean(dim=0), strict=True)}
    if error < progress.best_error:
        progress = dataclasses.replace(progress, best_epoch=progress.epoch, best_error=error, best_errors=errors)
        checkpoint.save(run.out, run.model, _card(run, errors))
    return progress, {"valid_error": error, "valid": errors}


def _diverged(run: Run, what: str) -> str:
    return (
        f"training diverged: {what} is not finite; the checkpoints in {run.out} are from before; "
        "lower training.learning_rate or use training.precision=fp32"
    )


def _card(run: Run, errors: dict[str, float]) -> ModelCard:
    about = run.dataset.description
    return ModelCard(
        case=about.case,
        dim=about.dim,
        inputs=about.inputs,
        scalars=about.scalars,
        outputs=about.outputs,
        resolution=about.resolution,
        operator=run.config.operator,
        training=run.config.training,
        data=DataInfo(samples=len(run.train_samples), seed=about.seed),
        errors=errors,
    )


def _summary(config: Config, about: Description, *, progress: Progress, num_samples: int) -> dict[str, Any]:
    train_samples, valid_samples = split_samples(num_samples, config.training.valid_fraction, seed=config.training.seed)
    return {
        "case": about.case,
        "epochs": progress.epoch,
        "train_samples": len(train_samples),
        "valid_samples": len(valid_samples),
        "parameters": checkpoint.parameter_count(config.operator, about),
        "best_epoch": progress.best_epoch,
        "best_error": progress.best_error,
        "errors": progress.best_errors,
        "seconds": progress.seconds,
    }


def _identity(config: Config, about: Description, *, solved: list[int]) -> dict[str, Any]:
    """Return what must not change between the parts of a run; the samples are a function of what is listed under ``data``."""
    indices = hashlib.sha256(json.dumps(solved).encode()).hexdigest()
    data = {"case": about.case, "seed": about.seed, "resolution": about.resolution, "samples": len(solved), "indices": indices}
    return {"operator": configuration.to_dict(config.operator), "training": configuration.to_dict(config.training), "data": data}


def _with_readable_best(progress: Progress, out: Path) -> Progress:
    """Forget the best validation so far when its checkpoint cannot be read."""
    try:
        checkpoint.load(out)
    except ValueError as error:
        if progress.best_epoch > 0:
            LOGGER.warning("%s; the best checkpoint is written again at the next validation", error)
        return dataclasses.replace(progress, best_epoch=0, best_error=math.inf, best_errors={})
    return progress


def _append_metrics(path: Path, metrics: dict[str, Any]) -> None:
    with open(path, "a", encoding="utf-8") as stream:
        stream.write(json.dumps(metrics) + "\n")


def _trim_metrics(path: Path, epoch: int) -> None:
    """Keep the lines of the first ``epoch`` epochs; those after are written again."""
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines()
        write_text_atomically(path, "".join(f"{line}\n" for line in lines[:epoch]))


def _check_settings(training: TrainingConfig) -> None:
    for name in ("epochs", "batch_size", "validate_every"):
        if getattr(training, name) < 1:
            raise ValueError(f"training.{name} must be at least 1, got {getattr(training, name)}")
    if training.num_points < 0 or training.gradient_weight < 0.0 or training.seed < 0:
        raise ValueError("training.num_points, training.gradient_weight and training.seed cannot be negative")
    if not training.learning_rate > 0.0:
        raise ValueError(f"training.learning_rate must be positive, got {training.learning_rate}")
