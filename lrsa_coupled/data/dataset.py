"""Solved samples as float32 tables, as many in memory as allowed, and random point subsets of them as batches.

Shapes: B batch, N points of a batch, T points of all samples, S samples, d dimension of space, F nodal inputs,
G scalars, K outputs, E cells of a batch, V vertices of a cell.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, final
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lrsa_coupled.data.cells import are_simplices, simplices
from lrsa_coupled.data.format import SampleArrays, array_digest
from lrsa_coupled.data.store import DataStore
from lrsa_coupled.logs import progress

CORRUPT = "the data set is corrupt, generate it again"


@dataclass(frozen=True)
class Batch:
    """Samples of one size, the contract between data and training; float32.

    ``free_BNK`` is 0 where a Dirichlet condition fixes the output, else 1. ``cells_EV`` holds row numbers of points
    that are the vertices of a simplex, the same for all samples; None without cells. ``indices_B`` are those of whole
    samples in the data set.

    Raises:
        ValueError: If the shapes do not fit each other.
    """

    points_BNd: Tensor
    inputs_BNF: Tensor
    scalars_BG: Tensor
    mass_BN: Tensor
    outputs_BNK: Tensor
    free_BNK: Tensor
    cells_EV: Tensor | None = None
    indices_B: Tensor | None = None

    def __post_init__(self) -> None:
        rows = self.points_BNd.shape[:2]
        for name, tensor in (("inputs", self.inputs_BNF), ("mass", self.mass_BN), ("outputs", self.outputs_BNK)):
            if tensor.shape[:2] != rows:
                raise ValueError(f"batch: {name} of shape {tuple(tensor.shape)} do not fit {tuple(rows)} (B, N)")
        if self.free_BNK.shape != self.outputs_BNK.shape or len(self.scalars_BG) != rows[0]:
            raise ValueError("batch: constraints or scalars do not fit the outputs")

    def to(self, device: torch.device) -> Batch:
        """Return the batch on ``device``."""
        given = {name: each for name, each in vars(self).items() if each is not None}
        return Batch(**{name: tensor.to(device, non_blocking=True) for name, tensor in given.items()})


@dataclass(frozen=True)
class Draw:
    """Points drawn from samples: their rows, all when None, and the cells whose vertices come before them."""

    samples_B: Tensor
    rows_BN: Tensor | None
    cells_BE: Tensor | None
    with_cells: bool

    def part(self, places: slice) -> Draw:
        """Return what was drawn from some of the samples."""
        rows_BN, cells_BE = (None if each is None else each[places] for each in (self.rows_BN, self.cells_BE))
        return Draw(self.samples_B[places], rows_BN, cells_BE, self.with_cells)


@dataclass(frozen=True)
class _Geometry:
    """What samples on the same mesh share: points, masses and free outputs side by side, and the cells."""

    table: Tensor
    cells: Tensor


@dataclass(frozen=True)
class _Sample:
    """A sample in memory: inputs and outputs side by side, scalars."""

    geometry: _Geometry
    table: Tensor
    scalars: Tensor
    num_bytes: int


@final
class PointDataset:
    """The solved samples of a store, read once and cached while they fit in memory.

    A set that fits is read at once, of a larger one every byte is checked at once: a damaged set is refused before
    training. Collective: no.

    Memory: ``4 (F + K)`` bytes a node of the cached samples and, once a mesh, ``4 (d + 1 + K)`` bytes a node and
    ``4 V`` bytes a cell, together ``memory_gib`` at most; and 2 kB a sample.

    Attributes:
        indices: Index in the data set of each sample.
        sizes_S: Number of nodes of each sample.
        fits: Whether all samples are in memory.

    Args:
        store: The data set on disk.
        indices: Which samples, all solved ones when None.
        memory_gib: Limit of the cache [GiB]; the least recently used samples are dropped.
        labels: Whether outputs are to be solutions; those of ``generate --unsolved`` are not.

    Raises:
        ValueError: If there is no solved sample, or one is damaged, does not fit the schema or is not finite.
    """

    def __init__(self, store: DataStore, indices: Sequence[int] | None = None, *, memory_gib: float = 4.0,
                 labels: bool = True) -> None:  # fmt: skip
        if not isinstance(store, DataStore):
            raise TypeError(f"a PointDataset is made of a DataStore, got {store!r}; DataStore(folder) opens a data set")
        self.indices = list(store.solved if indices is None else indices)
        self.card, self.schema = store.card, store.card.schema
        if not self.indices:
            raise ValueError(f"the data set of case '{self.schema.name}' holds no solved sample: generate some first")
        if labels and store.card.is_unsolved:
            use = "they are for training.loss=energy or residual"
            raise ValueError(f"{store.folder} holds samples without solutions: {use}")
        self.sizes_S = torch.tensor([store.entries[index].num_nodes for index in self.indices])
        self._store = store
        self._memory_bytes = memory_gib * 2**30
        self._cache: OrderedDict[int, _Sample] = OrderedDict()
        self._cached_bytes = 0
        self._num_vertices = 0
        self._geometries: WeakValueDictionary[str, _Geometry] = WeakValueDictionary()
        least = 4 * int(self.sizes_S.sum()) * (self.schema.num_inputs + self.schema.num_outputs)
        self.fits = least <= self._memory_bytes and self._read_all()
        if not self.fits and (damages := store.verify()):
            raise ValueError(f"{damages[0]}; run generate again: it makes just those")

    def __len__(self) -> int:
        return len(self.indices)

    @cached_property
    def _num_cells(self) -> Tensor:
        """Number of simplices of each sample."""
        num_cells = [self._store.entries[index].num_cells for index in self.indices]
        return torch.tensor(num_cells) * (len(self._sample(0).geometry.cells) // max(1, num_cells[0]))

    def moments(self, samples_S: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return points ``(T, d)``, inputs ``(T, F)``, scalars ``(S, G)`` and outputs ``(T, K)`` of whole samples.

        Of more than 512 samples as many are taken, evenly spread.
        """
        chosen = samples_S[torch.linspace(0, len(samples_S) - 1, min(len(samples_S), 512)).long()]
        samples = [self._sample(sample) for sample in chosen.tolist()]
        sizes = (self.schema.num_inputs, self.schema.num_outputs)
        inputs, outputs = torch.cat([sample.table for sample in samples]).split(sizes, dim=-1)
        points = torch.cat([sample.geometry.table[:, : self.schema.dim] for sample in samples])
        return points, inputs, torch.stack([sample.scalars for sample in samples]), outputs

    def draw(
        self, samples_B: Tensor, num_points: int | None, *, generator: torch.Generator, with_cells: bool = False
    ) -> Draw:
        """Draw a subset of the points of each sample; reads the first one at most.

        One point is drawn from each of equal runs of a sample's numbering, so every node is equally likely and few are
        drawn twice. With cells, half of the points are the vertices of random cells: row ``j (d + 1) + k`` is vertex k
        of cell j.

        Args:
            samples_B: Positions of the samples in the data set.
            num_points: Points of a sample, at most those of the smallest sample here; None for all points of each.
            generator: Source of the draws.
            with_cells: Whether to draw cells, for losses that see gradients.
        """
        if num_points is None:
            return Draw(samples_B, None, None, with_cells)
        sizes_B, cells_BE = self.sizes_S[samples_B], None
        count = min(num_points, int(sizes_B.min()))
        if with_cells:
            vertices, num_cells_B = self.schema.dim + 1, self._num_cells[samples_B]
            num_drawn = max(1, min(count // 2 // vertices, int(num_cells_B.min())))
            cells_BE = _draw(num_cells_B, num_drawn, generator=generator)
            count -= vertices * cells_BE.shape[1]
        return Draw(samples_B, _draw(sizes_B, count, generator=generator), cells_BE, with_cells)

    def gather(self, draw: Draw) -> list[Batch]:
        """Return what was drawn, on the CPU: one batch, or for whole samples one for each mesh.

        ValueError when cells are asked for and they are not simplices.
        """
        places = draw.samples_B.tolist()
        samples = [self._sample(sample) for sample in places]
        if draw.with_cells and not are_simplices(vertices := samples[0].geometry.cells.shape[1], self.schema.dim):
            found = f"the gradient loss needs simplices, the cells have {vertices} vertices"
            raise ValueError(f"{found}: set training.gradient_weight to 0")
        if draw.rows_BN is None:
            meshes: dict[int, list[int]] = {}
            for place, sample in zip(places, samples, strict=True):
                meshes.setdefault(id(sample.geometry), []).append(place)
            return [self._whole(group, with_cells=draw.with_cells) for group in meshes.values()]
        rows_BN, cells_EV = draw.rows_BN, None
        if draw.cells_BE is not None:
            corners = [sample.geometry.cells[drawn_E] for sample, drawn_E in zip(samples, draw.cells_BE, strict=True)]
            vertices_BX = torch.stack(corners).flatten(start_dim=1).to(torch.int64)
            rows_BN = torch.cat((vertices_BX, rows_BN), dim=1)
            cells_EV = torch.arange(vertices_BX.shape[1]).view(draw.cells_BE.shape[1], -1)
        pairs = [*zip(samples, rows_BN, strict=True)]
        geometry_BNX = torch.stack([sample.geometry.table[rows_N] for sample, rows_N in pairs])
        values_BNX = torch.stack([sample.table[rows_N] for sample, rows_N in pairs])
        return [self._batch(samples, geometry_BNX, values=values_BNX, cells_EV=cells_EV)]

    def whole(self, sample: int, *, with_cells: bool = False) -> Batch:
        """Return all nodes of one sample, in the order of the node set, and all cells when asked."""
        return self._whole([sample], with_cells=with_cells)

    def _whole(self, places: Sequence[int], *, with_cells: bool) -> Batch:
        """The samples are on one mesh."""
        samples = [self._sample(place) for place in places]
        geometry_BNX = samples[0].geometry.table.expand(len(samples), -1, -1)
        values_BNX = torch.stack([sample.table for sample in samples])
        cells_EV = samples[0].geometry.cells.to(torch.int64) if with_cells else None
        batch = self._batch(samples, geometry_BNX, values=values_BNX, cells_EV=cells_EV)
        return replace(batch, indices_B=torch.tensor([self.indices[place] for place in places]))

    def _batch(self, samples: Sequence[_Sample], geometry: Tensor, *, values: Tensor, cells_EV: Tensor | None) -> Batch:
        schema = self.schema
        points, mass, free = geometry.split((schema.dim, 1, schema.num_outputs), dim=-1)
        inputs, outputs = values.split((schema.num_inputs, schema.num_outputs), dim=-1)
        scalars = torch.stack([sample.scalars for sample in samples])
        return Batch(points, inputs, scalars, mass.squeeze(-1), outputs, free, cells_EV)

    def _read_all(self) -> bool:
        """Read all samples; False when they do not fit in memory."""
        places = progress(range(len(self)), description="reading samples", delay=2.0)
        return all(self._sample(place) and len(self._cache) > place for place in places)

    def _sample(self, sample: int) -> _Sample:
        """Return a sample, read when it is not in memory."""
        if sample in self._cache:
            self._cache.move_to_end(sample)
            return self._cache[sample]
        index = self.indices[sample]
        arrays = self._store.arrays(index)
        geometry, added = self._geometry(index, arrays)
        table = _side_by_side(arrays.inputs, arrays.outputs)
        scalars = torch.from_numpy(np.asarray(arrays.scalars, dtype=np.float32))
        read = _Sample(geometry, table, scalars, added + table.nbytes)
        self._cache[sample] = read
        self._cached_bytes += read.num_bytes
        while self._cached_bytes > self._memory_bytes and len(self._cache) > 1:
            self._cached_bytes -= self._cache.popitem(last=False)[1].num_bytes
        return read

    def _geometry(self, index: int, arrays: SampleArrays) -> tuple[_Geometry, int]:
        """Return the geometry of a sample, shared by those on the same mesh, and the bytes that it adds to memory."""
        name = array_digest(arrays, values=False)
        if (known := self._geometries.get(name)) is not None:
            return known, 0
        self._num_vertices = self._num_vertices or arrays.cells.shape[1]
        if arrays.cells.shape[1] != self._num_vertices:
            found = f"cells of {arrays.cells.shape[1]} vertices, expected the {self._num_vertices} of the others"
            raise ValueError(f"sample {index}: {found}: {CORRUPT}")
        table = _side_by_side(arrays.points, arrays.mass[:, None], 1 - arrays.constrained)
        cells = np.array(simplices(arrays.cells, self.schema.dim), dtype=np.int32)
        geometry = _Geometry(table, torch.from_numpy(cells))
        self._geometries[name] = geometry
        return geometry, geometry.table.nbytes + geometry.cells.nbytes


def _draw(sizes_B: Tensor, count: int, *, generator: torch.Generator) -> Tensor:
    """Draw ``count`` numbers below each of ``sizes_B``, one from each of ``count`` equal runs: ``(B, count)``."""
    places = torch.arange(count) + torch.rand(len(sizes_B), count, generator=generator, dtype=torch.float64)
    drawn = (places * (sizes_B.unsqueeze(1) / count)).to(torch.int64)
    return torch.minimum(drawn, sizes_B.unsqueeze(1) - 1)


def _side_by_side(*columns: npt.NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.concatenate([column.astype(np.float32) for column in columns], axis=1))
