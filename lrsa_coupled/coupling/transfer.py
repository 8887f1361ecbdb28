"""Between function spaces and arrays at the node set, exactly and without communication but for ghosts.

The node set of a problem is the owned degrees of freedom of its ``node_space``, a scalar Lagrange space. Every field is
Lagrange of that degree or lower; at the nodes a lower-degree field has its interpolated values, and is restricted back
from the nodes it shares.

A node space on a mesh of its own (often a coarser one) comes with the two matrices of the problem that map values there
and back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import basix
import numpy as np
import numpy.typing as npt
import ufl
from mpi4py import MPI
from dolfinx import la
from dolfinx.fem import Function, FunctionSpace, assemble_vector, form, functionspace, locate_dofs_topological
from dolfinx.mesh import exterior_facet_indices
from petsc4py import PETSc

from lrsa_coupled.interfaces import Unknown
from lrsa_coupled.schema import Field

type Element = basix.finite_element.FiniteElement


@dataclass(frozen=True)
class _FieldMap:
    """Where the degrees of freedom of a field sit.

    ``columns`` are those of the field among the values at a node. ``nodes`` are the local nodes that carry degrees of
    freedom, ascending, and ``dofs`` their unrolled local numbers in the space of the solution, ``(num_nodes,
    components)``. ``cell_dofs`` ``(num_cells, num_field_nodes, components)`` and
    ``interpolation`` to the nodes of a cell serve a field of lower degree than the nodes.
    """

    columns: slice
    nodes: npt.NDArray[np.intp]
    dofs: npt.NDArray[np.int32]
    cell_dofs: npt.NDArray[np.int32]
    interpolation: npt.NDArray[np.float64]


class NodeSet:
    """The nodes of a problem on this rank, and the exact transfer of the output fields to and from them.

    Args:
        problem: Unknown whose ``node_space`` gives the nodes.
        outputs: Fields of the solution.

    Attributes:
        num_owned: Number of nodes owned by this rank.
        coordinates: Coordinates of the owned nodes, then the ghosts ``(num_local, dim)`` [m].
        points: Those of the owned nodes ``(num_owned, dim)`` [m].
        cells: Nodes of each local cell, ghosts included, ``(num_local_cells, num_cell_nodes)``; vertices come first.
        num_cells: Number of cells owned by this rank.
        num_values: Number of values at a node, K.

    Raises:
        ValueError: If the node space is not scalar Lagrange, or a field's space is not Lagrange of at most its degree;
            if it has a mesh of its own without matrices of the right sizes, or with a solution of several components.
    """

    def __init__(self, problem: Unknown, outputs: Sequence[Field]) -> None:
        space = problem.node_space
        element = _lagrange(space)
        if space.dofmap.bs != 1 or element is None:
            raise ValueError(f"the node space must be scalar Lagrange, got {space.ufl_element()}")
        self._matrices = _matrices(problem, outputs)
        self.space, self.element, self.outputs = space, element, tuple(outputs)
        self.num_owned: int = space.dofmap.index_map.size_local
        self.coordinates = space.tabulate_dof_coordinates()[:, : problem.mesh.geometry.dim]
        self.points = self.coordinates[: self.num_owned]
        self.cells: npt.NDArray[np.int32] = space.dofmap.list
        self.num_cells: int = space.mesh.topology.index_map(space.mesh.topology.dim).size_local
        self.num_vertices = len(basix.topology(space.mesh.basix_cell())[0])
        self._maps: list[_FieldMap] = []
        self.num_values = 0
        for field in outputs:
            columns = slice(self.num_values, self.num_values + field.components)
            self.num_values = columns.stop
            if self._matrices is None:
                self._maps.append(_field_map(problem.solution, field, columns, space, element))
        self._bcs = tuple(problem.bcs)
        self._num_dofs: int = problem.solution.x.array.size

    @property
    def on_simplices(self) -> bool:
        """Whether the cells are simplices."""
        return self.num_vertices == self.space.mesh.topology.dim + 1

    @cached_property
    def mass(self) -> npt.NDArray[np.float64]:
        """Positive lumped mass of the owned nodes ``(num_owned,)``. Collective at the first use."""
        return _lumped_mass(self)

    @cached_property
    def boundary(self) -> npt.NDArray[np.uint8]:
        """1 at the owned nodes on the boundary of their mesh, else 0, ``(num_owned,)``. Collective at the first use."""
        mesh, dim = self.space.mesh, self.space.mesh.topology.dim
        mesh.topology.create_connectivity(dim - 1, dim)
        dofs = locate_dofs_topological(self.space, dim - 1, exterior_facet_indices(mesh.topology))
        marked = np.zeros(self.num_owned, dtype=np.uint8)
        marked[dofs[dofs < self.num_owned]] = 1
        return marked

    @cached_property
    def constrained(self) -> npt.NDArray[np.bool_]:
        """Whether a Dirichlet condition fixes the value, ``(num_owned, K)``. Collective at the first use."""
        fixed = np.zeros(self._num_dofs, dtype=np.bool_)
        for bc in self._bcs:
            fixed[bc.dof_indices()[0]] = True
        return self._gathered(fixed.astype(np.float64)) > 1.0 - 1e-12

    def gather(self, function: Function) -> npt.NDArray[np.float64]:
        """Copy the fields of ``function``, side by side ``(num_owned, K)``, to the owned nodes in their local order.

        Ghosts of ``function`` must be up to date. Collective: for nodes on a mesh of their own. Memory: copy.
        """
        return self._gathered(function.x.array)

    def scatter(self, values: npt.NDArray[np.float64], function: Function) -> None:
        """Copy values ``(num_owned, K)``, finite or not, into the fields of ``function``, ghosts included. Collective.

        Other fields of ``function``, which is on the space of the solution, stay as they are. ValueError for values of
        another shape.
        """
        if values.shape != (self.num_owned, self.num_values):
            raise ValueError(f"expected values of shape {(self.num_owned, self.num_values)}, got {values.shape}")
        array = function.x.array
        if self._matrices:
            result = _product(self._matrices[1], values[:, 0])
            array[: result.size] = result
        for field in self._maps:
            owned = np.searchsorted(field.nodes, self.num_owned)
            array[field.dofs[:owned]] = values[field.nodes[:owned], field.columns]
        function.x.scatter_forward()

    def dirichlet_values(self) -> npt.NDArray[np.float64]:
        """Return the Dirichlet values at the owned nodes ``(num_owned, K)``, valid where ``constrained``.

        Collective: for nodes on a mesh of their own.
        """
        fixed = np.zeros(self._num_dofs)
        for bc in self._bcs:
            bc.set(fixed)
        return self._gathered(fixed)

    def _gathered(self, array: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        if self._matrices:
            return _product(self._matrices[0], array[: self._matrices[0].getLocalSize()[1]])[:, None]
        values = np.zeros((len(self.coordinates), self.num_values))
        for field in self._maps:
            if len(field.nodes) == len(values):  # every node carries a degree of freedom
                values[:, field.columns] = array[field.dofs]
            else:
                at_nodes = np.einsum("nf,cfk->cnk", field.interpolation, array[field.cell_dofs])
                values[self.cells, field.columns] = at_nodes
        return values[: self.num_owned]


def part_of(solution: Function | tuple[Function, ...], name: str, path: Sequence[int]) -> FunctionSpace:
    """Return the part of the space of a solution that a field has; ValueError when there is none. Collective: no."""
    if isinstance(solution, tuple):
        if not path or not 0 <= path[0] < len(solution):
            wanted = f"the number, from 0, of one of the {len(solution)} functions of the solution"
            raise ValueError(f"field '{name}': expected a path that begins with {wanted}, got {tuple(path)}")
        solution, path = solution[path[0]], path[1:]
    whole = part = solution.function_space
    for index in path:
        if not 0 <= index < part.num_sub_spaces:
            raise ValueError(
                f"field '{name}': the space {whole.ufl_element()} of the solution has no part {tuple(path)}"
            )
        part = part.sub(index)
    return part


def lagrange_degree(solution: Function, field: Field) -> int:
    """Return the degree of a field of a solution; ValueError when it is not Lagrange or not there. Collective: no."""
    part = part_of(solution, field.name, field.subspace)
    element = _lagrange(part)
    if element is None:
        raise ValueError(f"field '{field.name}' must be Lagrange, got {part.ufl_element()}")
    return element.degree


def _matrices(problem: Unknown, outputs: Sequence[Field]) -> tuple[PETSc.Mat, PETSc.Mat] | None:
    """Return the matrices to and from a node space on a mesh of its own, None when it shares the problem's."""
    nodes, solution = problem.node_space, problem.solution.function_space
    if nodes.mesh is problem.mesh:
        return None
    if problem.to_nodes is None or problem.from_nodes is None:
        raise ValueError("a node space on a mesh of its own needs the matrices to_nodes and from_nodes, got none")
    if solution.dofmap.bs != 1 or _lagrange(solution) is None or [f.components for f in outputs] != [1]:
        raise ValueError(
            "a node space on a mesh of its own needs a scalar solution that is the only output, "
            f"got {solution.ufl_element()}"
        )
    num_nodes, num_dofs = (space.dofmap.index_map.size_local for space in (nodes, solution))
    sizes = [problem.to_nodes.getLocalSize(), problem.from_nodes.getLocalSize()]
    expected = [(num_nodes, num_dofs), (num_dofs, num_nodes)]
    if sizes != expected:
        raise ValueError(f"to_nodes and from_nodes must have local sizes {expected}, got {sizes}")
    return problem.to_nodes, problem.from_nodes


def _product(matrix: PETSc.Mat, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Multiply owned values by a matrix; the owned part of the result. Collective."""
    source, target = matrix.createVecs()
    source.array_w[:] = values
    matrix.mult(source, target)
    result = target.array_r.copy()
    source.destroy()
    target.destroy()
    return result


def _field_map(
    solution: Function, field: Field, columns: slice, node_space: FunctionSpace, node_element: Element
) -> _FieldMap:
    """Match the degrees of freedom of a field with the nodes, cell by cell: both number the points of a cell alike."""
    sub = part_of(solution, field.name, field.subspace)
    element = _lagrange(sub)
    if element is None or element.degree > node_element.degree:
        raise ValueError(
            f"field '{field.name}' must be Lagrange of degree <= {node_element.degree}, got {sub.ufl_element()}"
        )
    block = sub.dofmap.bs
    components = sub.dofmap.list.shape[1] * block // element.dim
    if components != field.components:
        raise ValueError(f"field '{field.name}' has {field.components} components, its space has {components}")
    dofs = (sub.dofmap.list[:, :, None] * block + np.arange(block, dtype=np.int32)).reshape(-1, element.dim, components)
    interpolation, shared = _interpolation(element, node_element)
    node_map = node_space.dofmap
    dofs_at = np.full((node_map.index_map.size_local + node_map.index_map.num_ghosts, components), -1, dtype=np.int32)
    dofs_at[node_map.list[:, shared]] = dofs
    nodes = np.flatnonzero(dofs_at[:, 0] >= 0)
    return _FieldMap(columns, nodes, dofs_at[nodes], dofs, interpolation)


@lru_cache
def _interpolation(element: Element, node_element: Element) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.intp]]:
    """Return the interpolation from the field's nodes of a cell to its nodes, and the node at each of the field's."""
    interpolation = basix.compute_interpolation_operator(element, node_element)
    whole = np.round(interpolation)
    # A shared node has its value to the last bit.
    interpolation = np.where(np.abs(interpolation - whole) < 1e-12, whole, interpolation)
    is_shared = np.abs(interpolation).sum(1) == 1.0
    return interpolation, np.array([np.flatnonzero((column == 1.0) & is_shared)[0] for column in interpolation.T])


def _lagrange(space: FunctionSpace) -> Element | None:
    """Return the scalar Lagrange element under a scalar or blocked space, None for another family."""
    ufl_element = space.ufl_element()
    scalar = ufl_element.sub_elements[0] if ufl_element.block_size > 1 else ufl_element
    if scalar.element_family != basix.ElementFamily.P:
        return None
    return _element(scalar.cell_type, scalar.embedded_superdegree, scalar.lagrange_variant)


@lru_cache
def _element(cell: basix.CellType, degree: int, variant: basix.LagrangeVariant) -> Element:
    return basix.create_element(basix.ElementFamily.P, cell, degree, variant)


def _lumped_mass(nodes: NodeSet) -> npt.NDArray[np.float64]:
    """Distribute each cell's volume to its nodes in proportion to the diagonal of the mass matrix. Collective.

    Source: Hinton, Rock & Zienkiewicz (1976).
    """
    space, element = nodes.space, nodes.element
    if element.degree == 1 and nodes.on_simplices:  # the integrals of the basis functions: the same, and faster
        mass = assemble_vector(form(ufl.TestFunction(space) * ufl.dx))
    else:
        constants = functionspace(space.mesh, ("DG", 0))
        volumes = assemble_vector(form(ufl.TestFunction(constants) * ufl.dx)).array
        points, weights = basix.make_quadrature(element.cell_type, 2 * element.degree)
        diagonal = weights @ element.tabulate(0, points)[0, :, :, 0] ** 2
        share = volumes[constants.dofmap.list[: nodes.num_cells]] * (diagonal / diagonal.sum())
        mass, dofs = la.vector(space.dofmap.index_map), nodes.cells[: nodes.num_cells].ravel()
        mass.array[:] = np.bincount(dofs, weights=share.ravel(), minlength=len(mass.array))  # five times np.add.at
    mass.scatter_reverse(la.InsertMode.add)
    return mass.array[: nodes.num_owned].copy()
