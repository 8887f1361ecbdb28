"""A training run: its data, model and optimisers, and what it is identified by."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from lrsa_coupled.config import Config, Precision
from lrsa_coupled.data.batches import BatchPlan, split_samples
from lrsa_coupled.data.card import DataCard
from lrsa_coupled.data.dataset import PointDataset
from lrsa_coupled.data.symmetries import SymmetryGroup
from lrsa_coupled.operators.grid import find_grid
from lrsa_coupled.operators.model import Operator
from lrsa_coupled.operators.precision import choose_device, cpu_has_bf16
from lrsa_coupled.schema import Schema
from lrsa_coupled.training import checkpoint
from lrsa_coupled.training.checkpoint import DataInfo, ModelCard
from lrsa_coupled.training.evaluate import Forward
from lrsa_coupled.training.group import ProcessGroup
from lrsa_coupled.training.initial import begin_with
from lrsa_coupled.training.losses import FieldColumns, field_columns
from lrsa_coupled.training.optimiser import make_average, make_optimisers
from lrsa_coupled.training.physics import Physics

LOGGER = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Run:
    """All that stays the same during a run.

    ``forward`` is the model, compiled when asked, ``average`` that of its weights if any; ``data_seconds`` is the cost
    of the data set, ``initial_seconds`` that of training the model that this one begins with, as if on the ranks of
    this run.
    """

    config: Config
    out: Path
    group: ProcessGroup
    dataset: PointDataset
    train_samples: Tensor
    valid_samples: Tensor
    model: Operator
    average: AveragedModel | None
    forward: Forward
    fields: tuple[FieldColumns, ...]
    optimisers: list[Optimizer]
    device: torch.device
    symmetries: SymmetryGroup | None
    initial_seconds: float
    data_seconds: float = 0.0
    physics: Physics | None = None

    @property
    def batch_size(self) -> int:
        """Samples of an optimiser step, over all ranks."""
        return min(self.config.training.batch_size, len(self.train_samples))

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of an epoch."""
        return len(self.train_samples) // self.batch_size

    def precision(self, step: int) -> Precision:
        """Return the number format of the blocks at an optimiser step."""
        training = self.config.training
        last = training.fp32_epochs if training.minutes is None else 0
        full = last > 0 and step >= (training.epochs - last) * self.steps_per_epoch
        return "fp32" if full else training.precision

    @property
    def validated(self) -> Operator:
        """The model that is validated and saved."""
        return self.model if self.average is None else cast(Operator, self.average.module)

    @property
    def models(self) -> nn.ModuleDict:
        """What a state to resume from holds."""
        return nn.ModuleDict({"model": self.model} | ({} if self.average is None else {"average": self.average}))

    @property
    def plan(self) -> BatchPlan:
        """How an epoch is cut into steps and shares."""
        training, group = self.config.training, self.group
        return BatchPlan(
            self.batch_size,
            None if self.physics else training.num_points,
            with_cells=training.gradient_weight > 0.0 and not self.physics,
            micro_batch_size=training.micro_batch_size,
            rank=group.rank,
            num_ranks=group.size,
            symmetries=self.symmetries,
        )


def prepare(
    dataset: PointDataset, config: Config, out: Path, *, group: ProcessGroup, physics: Physics | None = None
) -> Run:
    """Split the samples and make the model, its normaliser fitted to the training samples, and the optimisers.

    Raises:
        ValueError: If the samples are too few for the split or the ranks, a size of the model is impossible, or the
            model to begin with has other sizes or none of the outputs.
    """
    training, schema = config.training, dataset.schema
    if (training.loss == "data") != (physics is None):
        raise ValueError(f"training.loss={training.loss} is for lrsa-coupled train, which loads the case")
    if training.minutes is not None and training.fp32_epochs > 0:
        raise ValueError("training.fp32_epochs counts epochs, which training.minutes replaces: set one of the two")
    device = choose_device(training.device, rank=group.rank)
    _warn(dataset, config, device)
    train_samples, valid_samples = split_samples(len(dataset), training.valid_fraction, seed=training.seed)
    if min(training.batch_size, len(train_samples)) < group.size:
        raise ValueError(
            f"training.batch_size = {training.batch_size} of {len(train_samples)} training samples leave none for "
            f"some of {group.size} ranks"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        model = checkpoint.make_model(config.operator, schema)
    points, inputs, scalars, outputs = dataset.moments(train_samples)
    model.normaliser.fit(points, inputs, scalars_SG=scalars, outputs_TK=outputs, base_TK=model.base(inputs))
    initial_seconds = 0.0
    if training.initial is not None:
        initial_seconds = _load_initial(Path(training.initial), model, config, schema) / group.size
    model.to(device)
    return Run(
        config,
        out,
        group,
        dataset,
        train_samples,
        valid_samples,
        model,
        average=None if training.ema is None else make_average(model, training.ema),
        forward=compiled(model, device) if training.compile else model,
        fields=field_columns(schema.outputs, model.normaliser.outputs_std.tolist()),
        optimisers=make_optimisers(model, training),
        device=device,
        symmetries=SymmetryGroup(schema) if training.augment and physics is None else None,
        initial_seconds=initial_seconds,
        physics=physics,
    )


def compiled(model: Operator, device: torch.device) -> Forward:
    """Return a model that is compiled at its first call; ValueError, at once, where torch has no compiler."""
    try:
        torch.compile(torch.neg)(torch.ones(2, device=device))
    except Exception as error:  # torch has no type for all that may be missing
        reason = str(error).partition("\n")[0]
        remedy = "install a C++ compiler such as g++, or use training.compile=false"
        raise ValueError(f"training.compile=true: torch cannot compile here ({reason}); {remedy}") from error
    model.find_grid = torch.compiler.disable(find_grid)  # not by a decorator: that imports the compiler, 1.3 s
    return torch.compile(model)


def _warn(dataset: PointDataset, config: Config, device: torch.device) -> None:
    """Warn of settings that make the training slow or inaccurate here."""
    training = config.training
    if device.type == "cpu" and training.precision == "bf16" and not cpu_has_bf16():
        LOGGER.warning("this CPU has no bfloat16 instructions: training.precision=fp32 is faster here")
    if training.precision == "bf16" and any(item.span for item in dataset.schema.outputs):
        LOGGER.warning(
            "a basis is predicted: rounding to bfloat16 hides the small differences between its columns; train it with "
            "training.precision=fp32"
        )
    if not dataset.fits:
        LOGGER.warning(
            "the data set does not fit into data.memory_gib = %g: samples are read from disk again and again; "
            "raise it if there is memory",
            config.data.memory_gib,
        )


def _load_initial(folder: Path, model: Operator, config: Config, schema: Schema) -> float:
    """Give the model the weights of another of these sizes; return their cost, wall time x ranks [s]."""
    initial, card = checkpoint.load(folder)
    found, expected = (dataclasses.asdict(operator) for operator in (card.operator, config.operator))
    differing = [
        f"{key} = {found.get(key)} instead of {value}"
        for key, value in expected.items()
        if found.get(key) != value and key not in ("weight_std", "score_gain")  # of the first weights
    ]
    if differing:
        raise ValueError(f"training.initial: {folder} is a model of another operator: {', '.join(differing)}")
    try:
        fresh = begin_with(model, schema, initial, card.schema)
    except ValueError as error:
        raise ValueError(f"training.initial: {folder} is not a model of these data: {error}") from error
    zeros = f"; with zero weights begin {', '.join(fresh)}" if fresh else ""
    LOGGER.info("beginning with the weights of %s%s", folder, zeros)
    return (card.seconds or 0.0) * card.ranks


def card(run: Run, errors: dict[str, float], *, seconds: float) -> ModelCard:
    """Return the card of the model with its errors on the validation samples; ``seconds`` is the time of the run."""
    about = run.dataset.card
    return ModelCard(
        schema=about.schema,
        resolution=about.resolution,
        operator=run.config.operator,
        training=run.config.training,
        data=DataInfo(len(run.train_samples), about.seed, round(run.data_seconds, 3), tuple(sorted(about.seeds))),
        errors=errors,
        seconds=round(run.initial_seconds + seconds, 3),
        ranks=run.group.size,
    )


def identity(config: Config, about: DataCard, *, solved: list[int]) -> dict[str, Any]:
    """Return what must not change between the parts of a run; ``data`` lists what the samples are a function of."""
    return {  # what differs first is named: settings of the recipe follow from the samples
        "data": {
            "case": about.schema.name,
            "seed": about.seed,
            "resolution": about.resolution,
            "samples": len(solved),
            "indices": hashlib.sha256(json.dumps(solved).encode()).hexdigest(),
        },
        "operator": dataclasses.asdict(config.operator),
        "training": dataclasses.asdict(config.training),
    }
