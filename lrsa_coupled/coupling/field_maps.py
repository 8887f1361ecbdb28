"""The values at the nodes of a field, from the degrees of freedom of its space and back.

Three maps know each one part of a space: ``_Nodal`` copies degrees of freedom that sit at nodes, ``_Cellwise`` applies
the same small matrix in each cell, ``_Interpolated`` leaves both ways to DOLFINx. What they return is exact for every
function of the space on affine cells; the first two are exact on all cells.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, final

import basix
import numpy as np
import numpy.typing as npt
from dolfinx import la
from dolfinx.fem import Function, FunctionSpace, functionspace

from lrsa_coupled.coupling.elements import (
    Element,
    Solution,
    check,
    is_cellwise,
    is_continuous,
    lagrange,
    leaves,
    nodal,
    part_of,
    scalar_element,
    symmetry,
)
from lrsa_coupled.coupling.scalars import Scalars, from_columns, to_columns
from lrsa_coupled.mpi import agree
from lrsa_coupled.schema import Field


@final
class FieldMap:
    """The columns of a field among the values at the nodes; made from its parts, each of one element.

    A symmetric tensor has one column for each of its different components, or one for each component. ValueError when
    the field has another number of columns than its space has values. Making it is collective.
    """

    def __init__(self, solution: Solution, field: Field, start: int, nodes: FunctionSpace) -> None:
        spaces = leaves(part_of(solution, field.name, field.subspace))
        _check(field.name, spaces, nodes)
        self.number = field.subspace[0] if isinstance(solution, tuple) else 0
        function = solution[self.number] if isinstance(solution, tuple) else solution
        self.dtype = function.x.array.dtype
        self.columns = slice(start, start + field.components)
        self._parts = [_part(space, nodes) for space in spaces]
        self._blocks: list[npt.NDArray[np.intp] | None] = [symmetry(space) for space in spaces]
        sizes = [part.size for part in self._parts]
        full = [s if b is None else len(b) for s, b in zip(sizes, self._blocks, strict=True)]
        factor = 2 if np.issubdtype(self.dtype, np.complexfloating) else 1
        if field.components == factor * sum(sizes):
            self._blocks = [None] * len(sizes)
        elif field.components != factor * sum(full):
            found = factor * sum(full)
            raise ValueError(f"field '{field.name}' has {field.components} components, its space has {found}")

    def gather(self, array: Scalars) -> npt.NDArray[np.float64]:
        """Return the columns ``(num_owned, components)``. Collective: no."""
        values = [part.gather(array) for part in self._parts]
        whole = [v if b is None else v[:, b] for v, b in zip(values, self._blocks, strict=True)]
        return to_columns(whole[0] if len(whole) == 1 else np.concatenate(whole, axis=1))

    def scatter(self, columns: npt.NDArray[np.float64], array: Scalars) -> None:
        """Write the owned degrees of freedom; of components that are the same one the mean counts. Collective."""
        values, start = from_columns(columns, self.dtype), 0
        for part, blocks in zip(self._parts, self._blocks, strict=True):
            stop = start + (part.size if blocks is None else len(blocks))
            own = values[:, start:stop]
            if blocks is not None:
                own = own @ np.equal.outer(blocks, np.arange(part.size)) / np.bincount(blocks)
            part.scatter(own, array)
            start = stop


class _Part(ABC):
    """The values ``(num_owned, size)`` at the owned nodes of a part of a space, from and to the array of a function."""

    size: int

    @abstractmethod
    def gather(self, array: Scalars) -> Scalars:
        """Return the values; ghosts of the array are up to date. Collective: no. Memory: copy."""

    @abstractmethod
    def scatter(self, values: Scalars, array: Scalars) -> None:
        """Write what is owned. Collective."""


def _check(name: str, spaces: Sequence[FunctionSpace], nodes: FunctionSpace) -> None:
    """Raise ValueError when a part of a field is of an element that is not supported or that the nodes cannot hold."""
    degree, continuous = scalar_element(nodes).embedded_superdegree, is_continuous(nodes)
    for space in spaces:
        check(name, space)
        if scalar_element(space).embedded_superdegree > degree or (continuous and not is_continuous(space)):
            wanted = "continuous Lagrange" if continuous else "of an element"
            raise ValueError(f"field '{name}' must be {wanted} of degree <= {degree}, got {space.ufl_element()}")


def _part(space: FunctionSpace, nodes: FunctionSpace) -> _Part:
    own, at = lagrange(space), lagrange(nodes)
    assert at is not None
    if own is not None and is_continuous(space) == is_continuous(nodes) and own.degree <= at.degree:
        interpolation, shared = _shared(own, at)
        if len(shared) == own.dim:
            return _Nodal(space, nodes, interpolation, shared)
    return _Cellwise(space, nodes, at) if is_cellwise(space) else _Interpolated(space, nodes)


@final
class _Nodal(_Part):
    """Degrees of freedom that sit at nodes; at the other nodes, of higher degree, the field is interpolated.

    Both number the points of a cell alike. ``_nodes`` are the local nodes that carry degrees of freedom, ascending, and
    ``_dofs`` their unrolled local numbers ``(num_nodes, size)``.
    """

    def __init__(self, space: FunctionSpace, nodes: FunctionSpace, interpolation: npt.NDArray[np.float64],
                 shared: npt.NDArray[np.intp]) -> None:  # fmt: skip
        self._cell_dofs = _cell_dofs(space, len(shared))
        self.size = self._cell_dofs.shape[2]
        self._interpolation, self._cells = interpolation, nodes.dofmap.list
        self._num_owned, self._num_local = _sizes(nodes)
        dofs_at = np.full((self._num_local, self.size), -1, dtype=np.int32)
        dofs_at[self._cells[:, shared]] = self._cell_dofs
        self._nodes = np.flatnonzero(dofs_at[:, 0] >= 0)
        self._dofs = dofs_at[self._nodes]
        owned = np.searchsorted(self._nodes, self._num_owned)
        self._owned_nodes, self._owned_dofs = self._nodes[:owned], self._dofs[:owned]

    def gather(self, array: Scalars) -> Scalars:
        if len(self._nodes) == self._num_local:  # every node carries a degree of freedom
            return array[self._owned_dofs]
        values = np.zeros((self._num_local, self.size), dtype=array.dtype)
        values[self._cells] = np.einsum("nf,cfk->cnk", self._interpolation, array[self._cell_dofs])
        return values[: self._num_owned]

    def scatter(self, values: Scalars, array: Scalars) -> None:
        array[self._owned_dofs] = values[self._owned_nodes]


@final
class _Cellwise(_Part):
    """Interpolation by a matrix in each cell; a degree of freedom that cells share gets the mean over the cells."""

    def __init__(self, space: FunctionSpace, nodes: FunctionSpace, at: Element) -> None:
        element = scalar_element(space).basix_element
        self._to_nodes, self._from_nodes = _operator(element, at), _operator(at, element)
        self._cell_dofs = _cell_dofs(space, element.dim)
        self.size = self._cell_dofs.shape[2]
        self._node_map, self._cells = nodes.dofmap.index_map, nodes.dofmap.list
        self._num_owned, self._num_local = _sizes(nodes)
        self._num_cells: int = nodes.mesh.topology.index_map(nodes.mesh.topology.dim).size_local
        self._map, self._block_size = _whole(space)
        ones = np.ones((self._num_cells, element.dim, self.size))
        self._counts = self._sums(ones)
        self._dofs = np.flatnonzero(self._counts)

    def gather(self, array: Scalars) -> Scalars:
        values = np.zeros((self._num_local, self.size), dtype=array.dtype)
        values[self._cells] = np.einsum("nf,cfk->cnk", self._to_nodes, array[self._cell_dofs])
        return values[: self._num_owned]

    def scatter(self, values: Scalars, array: Scalars) -> None:
        agree(self._node_map.comm)
        local = la.vector(self._node_map, bs=self.size, dtype=values.dtype)
        local.array[: values.size] = values.ravel()
        agree(self._node_map.comm)
        local.scatter_forward()
        at_nodes = local.array.reshape(-1, self.size)[self._cells[: self._num_cells]]
        sums = self._sums(np.einsum("fn,cnk->cfk", self._from_nodes, at_nodes))
        array[self._dofs] = sums[self._dofs] / self._counts[self._dofs]

    def _sums(self, values: Scalars) -> Scalars:
        """Add up the values of the owned cells ``(num_cells, dim, size)`` at the owned degrees of freedom."""
        agree(self._map.comm)
        total, dofs = la.vector(self._map, bs=self._block_size, dtype=values.dtype), self._cell_dofs[: self._num_cells]
        count = total.array.size
        parts = (np.bincount(dofs.ravel(), part.ravel(), count) for part in (values.real, values.imag))
        total.array[:] = next(parts) + (1j * next(parts) if np.iscomplexobj(values) else 0.0)
        agree(self._map.comm)
        total.scatter_reverse(la.InsertMode.add)
        return total.array[: self._map.size_local * self._block_size]


@final
class _Interpolated(_Part):
    """What DOLFINx interpolates into discontinuous Lagrange at the nodes, and back: exact on affine cells only."""

    def __init__(self, space: FunctionSpace, nodes: FunctionSpace) -> None:
        self._dofs: Any = slice(None)
        self._own = space
        if space.component():
            self._own, dofs = space.collapse()
            self._dofs = np.ravel(dofs)  # a list of one array from DOLFINx 0.11 on
        element, shape = scalar_element(nodes), tuple(space.value_shape)
        arguments = element.cell_type, element.embedded_superdegree, element.lagrange_variant
        self._at = functionspace(nodes.mesh, nodal(*arguments, discontinuous=True, shape=shape))
        self.size = int(np.prod(shape))
        self._num_owned, num_local = _sizes(nodes)
        self._rows = np.empty(num_local, dtype=np.intp)  # that of each node among those of the blocked space
        self._rows[nodes.dofmap.list] = self._at.dofmap.list
        self._functions: dict[Any, tuple[Function, Function]] = {}

    def gather(self, array: Scalars) -> Scalars:
        own, at = self._of_type(array.dtype)
        own.x.array[:] = array[self._dofs]
        at.interpolate(own)
        return at.x.array.reshape(-1, self.size)[self._rows[: self._num_owned]]

    def scatter(self, values: Scalars, array: Scalars) -> None:
        own, at = self._of_type(array.dtype)
        at.x.array.reshape(-1, self.size)[self._rows[: self._num_owned]] = values
        agree(self._at.mesh.comm)
        at.x.scatter_forward()
        own.interpolate(at)
        array[self._dofs] = own.x.array

    def _of_type(self, dtype: npt.DTypeLike) -> tuple[Function, Function]:
        """Return two functions to work with, on the space of the field and at the nodes."""
        if dtype not in self._functions:
            self._functions[dtype] = Function(self._own, dtype=dtype), Function(self._at, dtype=dtype)
        return self._functions[dtype]


def _sizes(space: FunctionSpace) -> tuple[int, int]:
    """Return the numbers of owned and of local nodes, ghosts included."""
    index_map = space.dofmap.index_map
    return index_map.size_local, index_map.size_local + index_map.num_ghosts


def _cell_dofs(space: FunctionSpace, dim: int) -> npt.NDArray[np.int32]:
    """Return the unrolled local numbers of the degrees of freedom in each local cell ``(num_cells, dim, size)``."""
    block, dofs = space.dofmap.bs, space.dofmap.list
    unrolled = dofs[:, :, None] * block + np.arange(block, dtype=np.int32)
    return unrolled.reshape(-1, dim, dofs.shape[1] * block // dim)


def _whole(space: FunctionSpace) -> tuple[Any, int]:
    """Return the index map and block size of the space that a part belongs to."""
    dofmap = space.dofmap
    return dofmap.index_map, dofmap.index_map_bs


@lru_cache
def _shared(element: Element, nodes: Element) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.intp]]:
    """Return the interpolation from the points of an element in a cell to its nodes, and the node at each point.

    Points that are no nodes are left out.
    """
    interpolation = _operator(element, nodes)
    is_shared = np.abs(interpolation).sum(1) == 1.0
    places = [np.flatnonzero((column == 1.0) & is_shared) for column in interpolation.T]
    return interpolation, np.array([place[0] for place in places if len(place)], dtype=np.intp)


def _operator(source: Element, target: Element) -> npt.NDArray[np.float64]:
    """Return the matrix of interpolation in a cell; a value that is copied is so to the last bit."""
    matrix = basix.compute_interpolation_operator(source, target)
    whole = np.round(matrix)
    return np.where(np.abs(matrix - whole) < 1e-12, whole, matrix)
