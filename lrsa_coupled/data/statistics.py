"""Mean and variance of the fields of a data set, and of the quantities kept with its samples."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

import numpy as np

from lrsa_coupled.data.store import DataStore


@dataclass(frozen=True)
class FieldStatistics:
    """Of one component of a field over all samples and their domains; ``name`` has its number when there are several.

    ``standard_error`` is that of the mean, from the spread of the samples' means; NaN for a single sample.
    """

    name: str
    mean: float
    standard_error: float
    variance: float


def field_statistics(store: DataStore) -> list[FieldStatistics]:
    """Return the statistics of inputs and outputs; integrals over a domain use the lumped masses. Reads everything.

    What a script has solved again counts once. ValueError when no sample is solved.
    """
    if not store.solved:
        raise ValueError(f"{store.folder} has no solved sample")
    means, squares = [], []
    for index in _distinct(store):
        arrays = store.arrays(index)
        weights = arrays.mass / arrays.mass.sum()
        values = np.concatenate([arrays.inputs, arrays.outputs], axis=1, dtype=np.float64)
        means.append(weights @ values)
        squares.append(weights @ values**2)
    mean = np.mean(means, axis=0)
    variance = np.mean(squares, axis=0) - mean**2
    error = np.std(means, axis=0, ddof=1) / np.sqrt(len(means)) if len(means) > 1 else np.full_like(mean, math.nan)
    fields = [*store.card.schema.inputs, *store.card.schema.outputs]
    names = [f"{f.name}[{c}]" if f.components > 1 else f.name for f in fields for c in range(f.components)]
    numbers = zip(mean.tolist(), error.tolist(), variance.tolist(), strict=True)
    return [FieldStatistics(name, *each) for name, each in zip(names, numbers, strict=True)]


def _distinct(store: DataStore) -> list[int]:
    """Return the indices of the solved samples; one of a script that has been made again counts once."""
    if store.card.resolution:
        return store.solved
    found = dict[object, int]()
    for index in store.solved:
        record = store.read(index)
        arrays = record.arrays
        assert arrays is not None
        same = arrays.inputs.tobytes(), arrays.scalars.tobytes(), f"{np.linalg.norm(arrays.outputs):.6g}"
        if same not in found or json.loads(record.quantities):
            found[same] = index
    return [*found.values()]


def quantity_statistics(store: DataStore) -> list[FieldStatistics]:
    """Return the statistics of the quantities of the solved samples; how many have one, where not all. Reads all."""
    kept = [json.loads(store.read(index).quantities) for index in _distinct(store)]
    found = []
    for name in dict.fromkeys(name for each in kept for name in each):
        values = np.array([each[name] for each in kept if name in each], dtype=np.float64)
        label = name if len(values) == len(kept) else f"{name} (of {len(values)} of {len(kept)} samples)"
        error = float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else math.nan
        found.append(FieldStatistics(label, float(values.mean()), error, float(values.var())))
    return found
