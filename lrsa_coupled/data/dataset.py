"""Solved samples in memory as one float32 table, and random point subsets of them as batches.

Shapes: B batch, N points of a batch, T points of all samples, S samples, d dimension of space, F nodal inputs, G scalars, K outputs,
E cells of a batch, V vertices of a cell.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from lrsa_coupled.data.format import SampleArrays, SampleRecord
from lrsa_coupled.interfaces import Field
from lrsa_coupled.logs import progress


class Store(Protocol):
    """What is read of ``data.store.DataStore``."""

    meta: dict[str, Any]
    solved: list[int]

    def read(self, index: int) -> SampleRecord:
        """Read one sample."""


@dataclass(frozen=True)
class Description:
    """What the samples of a data set are."""

    case: str
    dim: int
    inputs: tuple[Field, ...]
    scalars: tuple[str, ...]
    outputs: tuple[Field, ...]
    seed: int
    resolution: int

    @property
    def num_inputs(self) -> int:
        """Number of nodal input values at a point."""
        return sum(item.components for item in self.inputs)

    @property
    def num_outputs(self) -> int:
        """Number of output values at a point."""
        return sum(item.components for item in self.outputs)


@dataclass(frozen=True)
class Batch:
    """Samples of one size, the contract between data and training; float32, checked when made.

    ``free_BNK`` is 0 where a Dirichlet condition fixes the output, else 1. ``cells_EV`` holds row numbers of points that are the vertices
    of a simplex, the same for all samples; None when the subset was drawn without cells.
    """

    points_BNd: Tensor
    inputs_BNF: Tensor
    scalars_BG: Tensor
    mass_BN: Tensor
    outputs_BNK: Tensor
    free_BNK: Tensor
    cells_EV: Tensor | None = None

    def __post_init__(self) -> None:
        rows = self.points_BNd.shape[:2]
        for name, tensor in (("inputs", self.inputs_BNF), ("mass", self.mass_BN), ("outputs", self.outputs_BNK)):
            if tensor.shape[:2] != rows:
                raise ValueError(f"batch: {name} of shape {tuple(tensor.shape)} do not fit {tuple(rows)} (samples, points)")
        if self.free_BNK.shape != self.outputs_BNK.shape or len(self.scalars_BG) != rows[0]:
            raise ValueError("batch: constraints or scalars do not fit the outputs")

    def to(self, device: torch.device) -> Batch:
        """Return the batch on ``device``."""
        tensors = (self.points_BNd, self.inputs_BNF, self.scalars_BG, self.mass_BN, self.outputs_BNK, self.free_BNK)
        cells_EV = None if self.cells_EV is None else self.cells_EV.to(device)
        return Batch(*(tensor.to(device, non_blocking=True) for tensor in tensors), cells_EV=cells_EV)


class PointDataset:
    """The solved samples of a store.

    Memory: ``4 (d + F + 1 + 2 K)`` bytes a node and 4 V bytes a cell, twice that while it is read.

    Args:
        store: The data set on disk.
        indices: Which samples, all solved ones when None.
    Raises:
        ValueError: If the data set is empty, its description is incomplete, or a sample does not fit it or is not finite.
    """

    def __init__(self, store: Store, indices: Sequence[int] | None = None) -> None:
        self.indices = list(store.solved if indices is None else indices)
        self.description = describe(store.meta)
        if not self.indices:
            raise ValueError(f"the data set of case '{self.description.case}' holds no solved sample: generate some first")
        tables, cells, scalars = [], [], []
        for index in progress(self.indices, description="reading samples", delay=2.0):
            arrays = store.read(index).arrays
            _check_sample(index, arrays, description=self.description)
            if cells and arrays.cells.shape[1] != cells[0].shape[1]:
                vertices = f"{arrays.cells.shape[1]} vertices, not the {cells[0].shape[1]} of the samples before it"
                raise ValueError(f"sample {index}: its cells have {vertices}: the data set is corrupt")
            tables.append(_pack(arrays))
            cells.append(torch.from_numpy(np.ascontiguousarray(arrays.cells, dtype=np.int32)))
            scalars.append(torch.from_numpy(np.asarray(arrays.scalars, dtype=np.float32)))
        self.sizes_S = torch.tensor([len(table) for table in tables])
        self.offsets_S = self.sizes_S.cumsum(0) - self.sizes_S
        self._num_cells_S = torch.tensor([len(sample) for sample in cells])
        self._cell_offsets_S = self._num_cells_S.cumsum(0) - self._num_cells_S
        self._table = torch.cat(tables)
        self._cells = torch.cat(cells)
        self._scalars_SG = torch.stack(scalars)

    def __len__(self) -> int:
        return len(self.indices)

    def moments(self, samples_S: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return points ``(T, d)``, inputs ``(T, F)``, scalars ``(S, G)`` and outputs ``(T, K)`` of some samples, all their nodes."""
        rows_T = torch.cat([torch.arange(self.sizes_S[s]) + self.offsets_S[s] for s in samples_S.tolist()])
        points, inputs, _, outputs, _ = self._columns(self._table[rows_T])
        return points, inputs, self._scalars_SG[samples_S], outputs

    def batch(self, samples_B: Tensor, num_points: int, *, generator: torch.Generator, with_cells: bool = False) -> Batch:
        """Draw a subset of the points of each sample.

        One point is drawn from each of equal runs of a sample's numbering, so every node is equally likely and few are drawn twice.
        With cells, half of the points are the vertices of random cells: row ``j (d + 1) + k`` is vertex k of cell j.

        Args:
            samples_B: Positions of the samples in the data set.
            num_points: Points of a sample; 0 or more than the smallest of these samples has: as many as that has.
            generator: Source of the draws.
            with_cells: Whether to draw cells, for losses that see gradients.
        Returns:
            The batch, on the CPU.
        Raises:
            ValueError: If cells are asked for and they are not simplices.
        """
        sizes_B = self.sizes_S[samples_B]
        smallest = int(sizes_B.min())
        count = min(num_points, smallest) if num_points > 0 else smallest
        cells_EV, rows = None, []
        if with_cells:
            vertices_BX, cells_EV = self._draw_cells(samples_B, count // 2, generator=generator)
            rows.append(vertices_BX)
            count -= vertices_BX.shape[1]
        rows.append(_draw(sizes_B, count, generator=generator))
        rows_BN = torch.cat(rows, dim=1) + self.offsets_S[samples_B].unsqueeze(1)
        return self._gather(samples_B, rows_BN, cells_EV=cells_EV)

    def whole(self, sample: int) -> Batch:
        """Return all nodes of one sample, in the order of the node set."""
        rows_BN = torch.arange(self.sizes_S[sample]).unsqueeze(0) + self.offsets_S[sample]
        return self._gather(torch.tensor([sample]), rows_BN, cells_EV=None)

    def _draw_cells(self, samples_B: Tensor, num_points: int, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        vertices = self._cells.shape[1]
        if vertices != self.description.dim + 1:
            raise ValueError(f"the gradient loss needs simplices, the cells have {vertices} vertices: set training.gradient_weight to 0")
        num_cells_B = self._num_cells_S[samples_B]
        count = max(1, min(num_points // vertices, int(num_cells_B.min())))
        cells_BE = _draw(num_cells_B, count, generator=generator) + self._cell_offsets_S[samples_B].unsqueeze(1)
        vertices_BX = self._cells[cells_BE].flatten(start_dim=1).to(torch.int64)
        return vertices_BX, torch.arange(count * vertices).view(count, vertices)

    def _gather(self, samples_B: Tensor, rows_BN: Tensor, *, cells_EV: Tensor | None) -> Batch:
        points, inputs, mass, outputs, free = self._columns(self._table[rows_BN])
        return Batch(points, inputs, self._scalars_SG[samples_B], mass.squeeze(-1), outputs, free, cells_EV)

    def _columns(self, table: Tensor) -> tuple[Tensor, ...]:
        sizes = (self.description.dim, self.description.num_inputs, 1, self.description.num_outputs, self.description.num_outputs)
        return table.split(sizes, dim=-1)


def describe(meta: Mapping[str, Any]) -> Description:
    """Read the description of a data set.

    Raises:
        ValueError: If an entry is missing or of the wrong kind.
    """
    try:
        return Description(
            case=str(meta["case"]),
            dim=int(meta["dim"]),
            inputs=fields_from(meta["inputs"]),
            scalars=tuple(str(name) for name in meta["scalars"]),
            outputs=fields_from(meta["outputs"]),
            seed=int(meta["seed"]),
            resolution=int(meta["resolution"]),
        )
    except KeyError as error:
        raise ValueError(f"dataset.json: missing entry {error}") from error
    except (TypeError, AttributeError) as error:
        raise ValueError(f"dataset.json: an entry is of the wrong kind ({error})") from error


def fields_from(items: Sequence[Mapping[str, Any]]) -> tuple[Field, ...]:
    """Make fields of their JSON form; KeyError, TypeError or ValueError when an entry is missing or of the wrong kind."""
    return tuple(
        Field(
            name=str(item["name"]),
            components=int(item["components"]),
            unit=str(item["unit"]),
            subspace=tuple(int(i) for i in item["subspace"]),
            loss_weight=float(item["loss_weight"]),
        )
        for item in items
    )


def epoch_generator(seed: int, epoch: int) -> torch.Generator:
    """Return a generator that depends on the seed and the epoch alone; epoch 0 is for validation, training starts with 1."""
    state = np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


def training_batches(
    dataset: PointDataset, samples: Tensor, *, batch_size: int, num_points: int, generator: torch.Generator, with_cells: bool
) -> Iterator[Batch]:  # fmt: skip
    """Yield the batches of one epoch in random order; all have ``batch_size`` samples, an incomplete one is left out."""
    batch_size = min(batch_size, len(samples))
    shuffled = samples[torch.randperm(len(samples), generator=generator)]
    for step in range(len(samples) // batch_size):
        chosen = shuffled[step * batch_size : (step + 1) * batch_size]
        yield dataset.batch(chosen, num_points, generator=generator, with_cells=with_cells)


def split_samples(count: int, fraction: float, *, seed: int) -> tuple[Tensor, Tensor]:
    """Return the positions of the training and the validation samples: the last ``fraction`` of a permutation validates, at least one.

    Raises:
        ValueError: If fewer than two samples are given or ``fraction`` leaves nothing to train on.
    """
    if count < 2:
        raise ValueError(f"training needs at least 2 solved samples (one validates), the data set has {count}: generate more")
    num_valid = max(1, round(fraction * count))
    if not 0.0 <= fraction < 1.0 or num_valid >= count:
        raise ValueError(f"training.valid_fraction = {fraction} leaves no sample of {count} to train on")
    order = torch.from_numpy(np.random.default_rng(seed).permutation(count))
    return order[:-num_valid], order[-num_valid:]


def _draw(sizes_B: Tensor, count: int, *, generator: torch.Generator) -> Tensor:
    """Draw ``count`` numbers below each of ``sizes_B``, one from each of ``count`` equal runs: ``(B, count)``."""
    places = torch.arange(count) + torch.rand(len(sizes_B), count, generator=generator, dtype=torch.float64)
    drawn = (places * (sizes_B.unsqueeze(1) / count)).to(torch.int64)
    return torch.minimum(drawn, sizes_B.unsqueeze(1) - 1)


def _pack(arrays: SampleArrays) -> Tensor:
    columns = (arrays.points, arrays.inputs, arrays.mass[:, None], arrays.outputs, 1 - arrays.constrained)
    return torch.from_numpy(np.concatenate([column.astype(np.float32) for column in columns], axis=1))


def _check_sample(index: int, arrays: SampleArrays | None, *, description: Description) -> None:
    if arrays is None:
        raise ValueError(f"sample {index} is listed as solved but holds no arrays: the data set is corrupt, generate it again")
    num_points = len(arrays.points)
    num_outputs = description.num_outputs
    expected = {
        "points": (arrays.points, (num_points, description.dim)),
        "mass": (arrays.mass, (num_points,)),
        "inputs": (arrays.inputs, (num_points, description.num_inputs)),
        "outputs": (arrays.outputs, (num_points, num_outputs)),
        "constrained": (arrays.constrained, (num_points, num_outputs)),
        "scalars": (arrays.scalars, (len(description.scalars),)),
    }
    for name, (values, shape) in expected.items():
        if values.shape != shape:
            raise ValueError(f"sample {index}: '{name}' has shape {values.shape}, expected {shape}: the data set is corrupt")
        if not np.isfinite(values).all():
            raise ValueError(f"sample {index}: '{name}' holds values that are not finite: the data set is corrupt")
    if num_points == 0 or arrays.mass.min() <= 0.0:
        raise ValueError(f"sample {index}: it has no points or a mass that is not positive: the data set is corrupt")
    if arrays.cells.ndim != 2 or (arrays.cells.size > 0 and not 0 <= arrays.cells.min() <= arrays.cells.max() < num_points):
        raise ValueError(f"sample {index}: 'cells' names nodes beyond the {num_points} it has: the data set is corrupt")
