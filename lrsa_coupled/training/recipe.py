"""The settings of a training that nobody has chosen: by the samples, their cells, the machine and the time."""

from __future__ import annotations

import shutil
from dataclasses import dataclass

from lrsa_coupled.config import Config, LrsaConfig, TrainingConfig
from lrsa_coupled.data.cells import are_simplices, simplices
from lrsa_coupled.data.store import DataStore
from lrsa_coupled.operators.precision import choose_device, cpu_has_bf16
from lrsa_coupled.schema import Schema

OPERATOR = LrsaConfig(
    width=64, num_blocks=3, num_heads=2, num_latents=64, ffn_ratio=2, num_frequencies=6, weight_std=None, score_gain=3.0
)
STEPS = 3000
"""Optimiser steps of a training whose time is not given."""
VALIDATED = 24
"""Most validation samples: all of their points count, and 48 samples of 7225 took half of a minute's training."""
COMPILES_FROM = 10.0
"""Time from which compiling pays: it takes 20 s, 90 s beside other work; a step then takes 0.6 of its time [min]."""


@dataclass(frozen=True)
class DataFacts:
    """What the settings depend on: schema, number of solved samples, kind of cells."""

    schema: Schema
    samples: int
    has_simplices: bool

    @classmethod
    def of(cls, store: DataStore) -> DataFacts:
        """Look at a data set; ValueError when it has no solved sample."""
        schema, solved = store.card.schema, store.solved
        if not solved:
            raise ValueError(f"the data set of case '{schema.name}' holds no solved sample: generate some first")
        cells = simplices(store.arrays(solved[0]).cells, schema.dim)
        return cls(schema, len(solved), len(cells) > 0 and are_simplices(cells.shape[1], schema.dim))


def recipe(facts: DataFacts, *, minutes: float | None, operator: LrsaConfig | None = None) -> Config:
    """Return the settings for a data set and a wall time, None for as long as it takes.

    ``operator`` is that of a model to begin with, if any.
    """
    return Config(operator=operator or OPERATOR, training=_training(facts, minutes))


def _training(facts: DataFacts, minutes: float | None) -> TrainingConfig:
    schema = facts.schema
    is_fast = choose_device("auto").type == "cuda" or cpu_has_bf16()
    batch_size = 4 if facts.samples < 1000 else 8
    valid = min(0.15, max(8, min(VALIDATED, 0.05 * facts.samples)) / facts.samples)
    steps = max(1, round((1.0 - valid) * facts.samples) // batch_size)
    has_span = any(item.span for item in schema.outputs)
    return TrainingConfig(
        epochs=max(20, STEPS // steps),
        batch_size=batch_size,
        num_points=512,
        optimizer="muon",
        learning_rate=4e-3,
        schedule="cosine",
        gradient_weight=0.3 if facts.has_simplices else 0.0,
        augment=len({symmetry.centre for symmetry in schema.symmetries}) == 1,
        precision="bf16" if is_fast and not has_span else "fp32",
        compile=minutes is not None and minutes >= COMPILES_FROM and shutil.which("g++") is not None,
        valid_fraction=valid,
        validate_every=max(1, STEPS // steps // 12),
    )
