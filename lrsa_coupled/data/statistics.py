"""Mean and variance of the fields of a data set, and of the quantities kept with its samples."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from lrsa_coupled.data.claims import jobs_of
from lrsa_coupled.data.store import DataStore


@dataclass(frozen=True)
class Statistics:
    """Of a component of a field over all samples and their domains, or of a quantity; ``name`` has its number or count.

    ``standard_error`` is that of the mean, from the spread of the samples' means; NaN for a single sample. ``interval``
    has the mean with 95 % confidence (Student's t).
    """

    name: str
    mean: float
    standard_error: float
    variance: float
    count: int

    @property
    def interval(self) -> tuple[float, float]:
        width = float(stdtrit(self.count - 1, 0.975)) * self.standard_error if self.count > 1 else math.nan
        return self.mean - width, self.mean + width


def field_statistics(store: DataStore, indices: Sequence[int]) -> list[Statistics]:
    """Return the statistics of inputs and outputs; integrals over a domain use the lumped masses. Reads these samples.

    ``indices`` are those of ``counted``. ValueError when there are none.
    """
    if not indices:
        raise ValueError(f"{store.folder} has no solved sample")
    means, squares = [], []
    for index in indices:
        arrays = store.arrays(index)
        weights = arrays.mass / arrays.mass.sum()
        values = np.concatenate([arrays.inputs, arrays.outputs], axis=1, dtype=np.float64)
        means.append(weights @ values)
        squares.append(weights @ values**2)
    mean = np.mean(means, axis=0)
    variance = np.maximum(np.mean(squares, axis=0) - mean**2, 0.0)  # below zero by rounding
    error = np.std(means, axis=0, ddof=1) / np.sqrt(len(means)) if len(means) > 1 else np.full_like(mean, math.nan)
    fields = [*store.card.schema.inputs, *store.card.schema.outputs]
    names = [f"{f.name}[{c}]" if f.components > 1 else f.name for f in fields for c in range(f.components)]
    numbers = zip(mean.tolist(), error.tolist(), variance.tolist(), strict=True)
    return [Statistics(name, *each, len(means)) for name, each in zip(names, numbers, strict=True)]


def counted(store: DataStore) -> list[int]:
    """Return the indices of the solved samples that count; all but those of a script that another run has made, too.

    Of equal samples those of one run count, that with most of them: a parameter may have few values, and a run that was
    interrupted begins again. Reads all of a script.
    """
    if store.card.resolution:
        return store.solved
    jobs = jobs_of(store.folder, store.solved)
    found: dict[object, dict[object, list[tuple[bool, int]]]] = {}
    for index in store.solved:
        record = store.read(index)
        arrays = record.arrays
        assert arrays is not None
        same = arrays.inputs.tobytes(), arrays.scalars.tobytes(), f"{np.linalg.norm(arrays.outputs):.6g}"
        has_quantities = record.quantities != "{}"
        found.setdefault(same, {}).setdefault(jobs.get(index, index), []).append((has_quantities, index))
    most = [
        max(by_job.values(), key=lambda each: (sum(has for has, _ in each), len(each))) for by_job in found.values()
    ]
    return sorted(index for each in most for _, index in each)


def quantity_statistics(store: DataStore, indices: Sequence[int]) -> list[Statistics]:
    """Return the statistics of the quantities of samples, those of ``counted``; how many have one, where not all."""
    kept = [json.loads(store.read(index).quantities) for index in indices]
    found = []
    for name in dict.fromkeys(name for each in kept for name in each):
        values = np.array([each[name] for each in kept if name in each], dtype=np.float64)
        label = name if len(values) == len(kept) else f"{name} (of {len(values)} of {len(kept)} samples)"
        variance = float(np.var(values, ddof=1)) if len(values) > 1 else math.nan
        error = math.sqrt(variance / len(values))
        found.append(Statistics(label, float(values.mean()), error, variance, len(values)))
    return found
