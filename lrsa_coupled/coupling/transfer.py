"""Between function spaces and arrays at the node set, without communication but for ghosts.

The node set of a problem is the owned degrees of freedom of its ``node_space``, a scalar Lagrange space. Where it is
continuous all fields are continuous Lagrange of that degree or lower; at the nodes a lower-degree field has its
interpolated values, and is restricted back from the nodes it shares. Where it is discontinuous every cell has nodes of
its own, coordinates repeat, and the fields may be of any element that DOLFINx interpolates: they have their values
there, and what comes back is the interpolation into their element. The round trip from a function to the nodes and back
is exact. Only elements that are mapped (Nedelec, Raviart-Thomas ...) on cells that are not affine are interpolated.

A node space on a mesh of its own (often a coarser one) comes with the two matrices of the problem that map values there
and back.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import basix
import numpy as np
import numpy.typing as npt
import ufl
from mpi4py import MPI
from dolfinx import la
from dolfinx.fem import Function, FunctionSpace, assemble_vector, form, functionspace, locate_dofs_topological
from dolfinx.mesh import exterior_facet_indices
from petsc4py import PETSc

from lrsa_coupled.coupling.compat import conditions_of
from lrsa_coupled.coupling.elements import is_continuous, lagrange, nodal, scalar_element
from lrsa_coupled.coupling.field_maps import FieldMap
from lrsa_coupled.coupling.scalars import Scalars, from_columns, to_columns
from lrsa_coupled.interfaces import Unknown
from lrsa_coupled.mpi import agree
from lrsa_coupled.schema import Field


class NodeSet:
    """The nodes of a problem on this rank, and the transfer of the output fields to and from them.

    Args:
        problem: Unknown whose ``node_space`` gives the nodes.
        outputs: Fields of the solution.

    Attributes:
        num_owned: Number of nodes owned by this rank.
        coordinates: Coordinates of the owned nodes, then the ghosts ``(num_local, dim)`` [m].
        points: Those of the owned nodes ``(num_owned, dim)`` [m].
        cells: Nodes of each local cell, ghosts included, ``(num_local_cells, num_cell_nodes)``; vertices come first.
        num_cells: Number of cells owned by this rank.
        num_values: Number of values at a node, K: of a complex field its real parts, then its imaginary parts.
        is_continuous: Whether cells share nodes, so that no coordinates repeat where they meet.

    Raises:
        ValueError: If the node space is not scalar Lagrange with nodes at the vertices, or cannot hold a field; if it
            has a mesh of its own without matrices of the right sizes, or with a solution of several components.
    """

    def __init__(self, problem: Unknown, outputs: Sequence[Field]) -> None:
        space = problem.node_space
        element = lagrange(space)
        if space.dofmap.bs != 1 or element is None:
            raise ValueError(f"the node space must be scalar Lagrange, got {space.ufl_element()}")
        self._matrices = _matrices(problem, outputs)
        self.space, self.element, self.outputs = space, element, tuple(outputs)
        self.is_continuous = is_continuous(space)
        self.num_owned: int = space.dofmap.index_map.size_local
        self.coordinates = space.tabulate_dof_coordinates()[:, : problem.mesh.geometry.dim]
        self.points = self.coordinates[: self.num_owned]
        self.cells: npt.NDArray[np.int32] = space.dofmap.list
        self.num_cells: int = space.mesh.topology.index_map(space.mesh.topology.dim).size_local
        self.num_vertices = len(basix.topology(space.mesh.basix_cell())[0])
        self._maps: list[FieldMap] = []
        self.num_values = 0
        for field in outputs:
            if self._matrices is None:
                self._maps.append(FieldMap(problem.solution, field, self.num_values, space))
            self.num_values += field.components
        self._vectors = [function.x for function in problem.functions]
        self._bcs = [conditions_of(problem, function) for function in problem.functions]

    @property
    def on_simplices(self) -> bool:
        """Whether the cells are simplices."""
        return self.num_vertices == self.space.mesh.topology.dim + 1

    @property
    def can_prolong(self) -> bool:
        """Whether values at the vertices give those at the other nodes: on simplices that share their nodes."""
        return self.on_simplices and self.is_continuous

    @cached_property
    def midpoints(self) -> npt.NDArray[np.float64]:
        """Mean of the midpoints of the cells around each owned node ``(num_owned, dim)`` [m]. Collective at first."""
        corners = self.cells[: self.num_cells, : self.num_vertices]
        centres = self.coordinates[corners].mean(axis=1)
        values = np.column_stack([centres, np.ones(len(centres))])
        agree(self.space.mesh.comm)
        total = la.vector(self.space.dofmap.index_map, bs=values.shape[1])
        sums = total.array.reshape(-1, values.shape[1])
        for column, target in zip(values.T, sums.T, strict=True):
            repeated = np.repeat(column, self.cells.shape[1])
            target[:] = np.bincount(self.cells[: self.num_cells].ravel(), repeated, minlength=len(target))
        total.scatter_reverse(la.InsertMode.add)
        owned = sums[: self.num_owned]
        return owned[:, :-1] / np.maximum(owned[:, -1:], 1.0)

    @cached_property
    def mass(self) -> npt.NDArray[np.float64]:
        """Positive lumped mass of the owned nodes ``(num_owned,)``. Collective at the first use."""
        agree(self.space.mesh.comm)
        return _lumped_mass(self)

    @cached_property
    def boundary(self) -> npt.NDArray[np.uint8]:
        """1 at the owned nodes on the boundary of their mesh, else 0, ``(num_owned,)``. Collective at the first use."""
        mesh, dim = self.space.mesh, self.space.mesh.topology.dim
        agree(mesh.comm)
        mesh.topology.create_connectivity(dim - 1, dim)
        shared = self._shared_nodes
        dofs = locate_dofs_topological(shared, dim - 1, exterior_facet_indices(mesh.topology))
        marked = la.vector(shared.dofmap.index_map, dtype=np.int32)
        marked.array[dofs] = 1
        marked.scatter_forward()
        at_nodes = np.zeros(len(self.coordinates), dtype=np.uint8)
        at_nodes[self.cells] = marked.array[shared.dofmap.list]
        return at_nodes[: self.num_owned]

    @cached_property
    def constrained(self) -> npt.NDArray[np.bool_]:
        """Whether Dirichlet conditions fix the value, ``(num_owned, K)``. Collective: for nodes on a mesh of their own.

        They do where it depends on no other degree of freedom: random numbers there leave it zero.
        """
        agree(self.space.mesh.comm)
        arrays, rng = [], np.random.default_rng(0)
        for vector, bcs in zip(self._vectors, self._bcs, strict=True):
            probe = 1.0 + rng.random(vector.array.size)
            for bc in bcs:
                probe[bc.dof_indices()[0]] = 0.0
            arrays.append(probe * (1 + 1j) if np.iscomplexobj(vector.array) else probe)
        columns = np.abs(np.ascontiguousarray(self._gathered(arrays).T))  # along which the maximum is quick
        return np.ascontiguousarray((columns <= 1e-10 * columns.max(axis=1, keepdims=True, initial=0.0)).T)

    def gather(self, solution: Function | Sequence[Function]) -> npt.NDArray[np.float64]:
        """Copy the fields of a solution, side by side ``(num_owned, K)``, to the owned nodes in their local order.

        A list of functions where the unknown is one. Their ghosts must be up to date. Collective: for nodes on a mesh
        of their own. Memory: copy.
        """
        return self._gathered([function.x.array for function in _functions(solution)])

    def scatter(self, values: npt.NDArray[np.float64], solution: Function | Sequence[Function]) -> None:
        """Put values ``(num_owned, K)``, finite or not, into the fields of a solution, ghosts included. Collective.

        Other fields of ``solution``, which is on the space of the unknown, stay as they are. A degree of freedom of a
        scalar element that several cells share, each with nodes of its own, gets the mean over the cells; of others the
        value of one of them. ValueError for values of another shape.
        """
        if values.shape != (self.num_owned, self.num_values):
            raise ValueError(f"expected values of shape {(self.num_owned, self.num_values)}, got {values.shape}")
        functions = _functions(solution)
        if self._matrices:
            array = functions[0].x.array
            agree(self.space.mesh.comm)
            result = matrix_product(self._matrices[1], from_columns(values, array.dtype)[:, 0])
            array[: result.size] = result
        for field in self._maps:
            field.scatter(values[:, field.columns], functions[field.number].x.array)
        agree(self.space.mesh.comm)
        for function in functions:
            function.x.scatter_forward()

    def dirichlet_values(self) -> npt.NDArray[np.float64]:
        """Return the Dirichlet values at the owned nodes ``(num_owned, K)``, valid where ``constrained``.

        Collective: for nodes on a mesh of their own.
        """
        arrays = [np.zeros_like(vector.array) for vector in self._vectors]
        for array, bcs in zip(arrays, self._bcs, strict=True):
            for bc in bcs:
                bc.set(array)
        return self._gathered(arrays)

    @cached_property
    def _shared_nodes(self) -> FunctionSpace:
        """The continuous space whose degrees of freedom in a cell are numbered like the nodes. Collective at first."""
        if self.is_continuous:
            return self.space
        element = scalar_element(self.space)
        arguments = element.cell_type, element.embedded_superdegree, element.lagrange_variant
        return functionspace(self.space.mesh, nodal(*arguments))

    def _gathered(self, arrays: Sequence[Scalars]) -> npt.NDArray[np.float64]:
        if self._matrices:
            return to_columns(
                matrix_product(self._matrices[0], arrays[0][: self._matrices[0].getLocalSize()[1]])[:, None]
            )
        values = np.zeros((self.num_owned, self.num_values))
        for field in self._maps:
            values[:, field.columns] = field.gather(arrays[field.number])
        return values


def _functions(solution: Function | Sequence[Function]) -> Sequence[Function]:
    return [solution] if isinstance(solution, Function) else solution


def _matrices(problem: Unknown, outputs: Sequence[Field]) -> tuple[PETSc.Mat, PETSc.Mat] | None:
    """Return the matrices to and from a node space on a mesh of its own, None when it shares the problem's."""
    nodes = problem.node_space
    if nodes.mesh is problem.mesh:
        return None
    if problem.to_nodes is None or problem.from_nodes is None:
        raise ValueError("a node space on a mesh of its own needs the matrices to_nodes and from_nodes, got none")
    solution = problem.functions[0].function_space
    parts = 2 if np.iscomplexobj(problem.functions[0].x.array) else 1
    scalar = len(problem.functions) == 1 and solution.dofmap.bs == 1 and lagrange(solution) is not None
    if not scalar or [f.components for f in outputs] != [parts]:
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


def matrix_product(matrix: PETSc.Mat, values: Scalars, *, transposed: bool = False) -> Scalars:
    """Multiply owned values by a matrix or its transpose; the owned part of the result. Collective. Memory: copy."""
    source, target = reversed(matrix.createVecs()) if transposed else matrix.createVecs()
    source.array_w[:] = values
    (matrix.multTranspose if transposed else matrix.mult)(source, target)
    result = target.array_r.copy()
    source.destroy()
    target.destroy()
    return result


def _lumped_mass(nodes: NodeSet) -> npt.NDArray[np.float64]:
    """Distribute each cell's volume to its nodes in proportion to the diagonal of the mass matrix. Collective.

    Source: Hinton, Rock & Zienkiewicz (1976).
    """
    space, element = nodes.space, nodes.element
    if element.degree == 1 and nodes.on_simplices:  # the integrals of the basis functions: the same, and faster
        mass = assemble_vector(form(ufl.TestFunction(space) * ufl.dx, dtype=np.float64))
    else:
        constants = functionspace(space.mesh, ("DG", 0))
        volumes = assemble_vector(form(ufl.TestFunction(constants) * ufl.dx, dtype=np.float64)).array
        points, weights = basix.make_quadrature(element.cell_type, 2 * element.degree)
        diagonal = weights @ element.tabulate(0, points)[0, :, :, 0] ** 2
        share = volumes[constants.dofmap.list[: nodes.num_cells]] * (diagonal / diagonal.sum())
        mass, dofs = la.vector(space.dofmap.index_map), nodes.cells[: nodes.num_cells].ravel()
        mass.array[:] = np.bincount(dofs, weights=share.ravel(), minlength=len(mass.array))  # five times np.add.at
    mass.scatter_reverse(la.InsertMode.add)
    return mass.array[: nodes.num_owned].copy()
