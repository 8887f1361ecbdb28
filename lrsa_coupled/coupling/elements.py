"""Which parts the fields of a solution have, of which elements they are, and the node space that holds them all.

The nodes are those of a continuous Lagrange space when all fields are continuous Lagrange, else of a discontinuous one:
there each cell has nodes of its own, and coordinates repeat where cells meet. The degree is the highest one among the
fields, at least 1: on affine cells the space contains each of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import basix
import basix.ufl
import numpy as np
import numpy.typing as npt
from dolfinx.fem import Function, FunctionSpace, functionspace
from dolfinx.mesh import CellType

from lrsa_coupled.schema import Field

type Element = basix.finite_element.FiniteElement
type Solution = Function | tuple[Function, ...]

VARIANTS = tuple(basix.LagrangeVariant[name] for name in ("equispaced", "gll_warped", "gll_isaac", "gll_centroid"))
"""Variants of Lagrange elements with nodes at the vertices; others are discontinuous, or have moments."""

CELLS = (CellType.interval, CellType.triangle, CellType.quadrilateral, CellType.tetrahedron, CellType.hexahedron)


def part_of(solution: Solution, name: str, path: Sequence[int]) -> FunctionSpace:
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


def num_columns(solution: Solution, name: str, path: Sequence[int]) -> int:
    """Return the number of values at a node, real ones, that a field of a solution has. Collective: no."""
    values = int(np.prod(part_of(solution, name, path).value_shape))
    function = solution[path[0]] if isinstance(solution, tuple) else solution
    return 2 * values if np.iscomplexobj(function.x.array) else values


def leaves(space: FunctionSpace) -> list[FunctionSpace]:
    """Return the parts of a space that are of one element, scalar, blocked or vector-valued, in their order.

    Collective: no.
    """
    if space.ufl_element().is_mixed:
        return [leaf for number in range(space.num_sub_spaces) for leaf in leaves(space.sub(number))]
    return [space]


def scalar_element(space: FunctionSpace) -> Any:
    """Return the element, in the sense of UFL, of a component of a blocked space, or of another space."""
    element = space.ufl_element()
    while not element.is_mixed and element.sub_elements:
        element = element.sub_elements[0]
    return element


def lagrange(space: FunctionSpace) -> Element | None:
    """Return the continuous Lagrange element of the nodes of a space, None unless it is nodal with vertices as nodes.

    The space may be discontinuous, of a degree above 0.
    """
    element = scalar_element(space)
    if element.is_mixed or element.element_family != basix.ElementFamily.P or element.embedded_superdegree < 1:
        return None
    if element.lagrange_variant not in VARIANTS:
        return None
    return reference(element.cell_type, element.embedded_superdegree, element.lagrange_variant)


def is_continuous(space: FunctionSpace) -> bool:
    """Whether a space is continuous Lagrange, scalar or blocked."""
    return lagrange(space) is not None and not scalar_element(space).discontinuous


def is_cellwise(space: FunctionSpace) -> bool:
    """Whether values in a cell are those of scalar reference functions, the degrees of freedom at most permuted."""
    element = scalar_element(space)
    identity = element.map_type == basix.MapType.identity and element.reference_value_size == 1
    return identity and element.basix_element.dof_transformations_are_permutations


def symmetry(space: FunctionSpace) -> npt.NDArray[np.intp] | None:
    """Return the number of the block that each component ``(i, j)`` of a symmetric tensor is, None for others."""
    element = space.ufl_element()
    if not element.is_symmetric:
        return None
    rows, columns = np.indices(element.block_shape)
    high, low = np.maximum(rows, columns), np.minimum(rows, columns)
    return (high * (high + 1) // 2 + low).ravel()


def node_space(solution: Solution, outputs: Sequence[Field]) -> FunctionSpace:
    """Return the node space of some fields of a solution. Collective.

    Raises:
        ValueError: If a field is not there, of an element or on cells that are not supported, or the fields are on
            several meshes; on all ranks.
    """
    parts = []
    for field in outputs:
        for part in (found := leaves(part_of(solution, field.name, field.subspace))):
            check(field.name, part)
        parts += found
    mesh = parts[0].mesh
    if any(part.mesh != mesh for part in parts):
        names = ", ".join(f"'{field.name}'" for field in outputs)
        raise ValueError(f"expected fields on one mesh, got {names} on several: name those on one mesh in outputs")
    elements = [scalar_element(part) for part in parts]
    degree = max(1, *(element.embedded_superdegree for element in elements))
    variants = [element.lagrange_variant for element in elements if element.embedded_superdegree == degree]
    variant = next((each for each in variants if each in VARIANTS), basix.LagrangeVariant.gll_warped)
    discontinuous = not all(map(is_continuous, parts))
    return functionspace(mesh, nodal(mesh.basix_cell(), degree, variant, discontinuous=discontinuous))


def nodal(cell: basix.CellType, degree: int, variant: basix.LagrangeVariant, *, discontinuous: bool = False,
          shape: tuple[int, ...] = ()) -> Any:  # fmt: skip
    """Return a Lagrange element in the sense of UFL."""
    return basix.ufl.element(
        "P", cell, degree, lagrange_variant=variant, discontinuous=discontinuous, shape=shape or None
    )


@lru_cache
def reference(cell: basix.CellType, degree: int, variant: basix.LagrangeVariant) -> Element:
    """Return the continuous Lagrange element, the same object for the same arguments."""
    return basix.create_element(basix.ElementFamily.P, cell, degree, variant)


def check(name: str, space: FunctionSpace) -> None:
    """Raise ValueError when a part of a field is of an element or on cells that are not supported. Collective: no."""
    element, cell = scalar_element(space), space.mesh.topology.cell_type
    if cell not in CELLS:
        raise ValueError(f"field '{name}': cells of type {cell.name} are not supported")
    if objection := next(_objections(space, element), None):
        raise ValueError(f"field '{name}': {objection} is not supported, got {space.ufl_element()}")


def _objections(space: FunctionSpace, element: Any) -> Iterator[str]:
    if element.is_quadrature:
        yield "an unknown of a quadrature element"
    elif element.is_real or space.dofmap.index_map.size_global == 1 < _num_cells(space):
        yield "a Real element, one number for the whole mesh,"
    elif element.polyset_type != basix.PolysetType.standard:
        yield "a macro element"
    elif element.embedded_superdegree < 0:
        yield "an element of unknown degree"
    elif space.mesh.topology.dim < space.mesh.geometry.dim and element.map_type != basix.MapType.identity:
        yield "a mapped element (Nedelec ...) on a surface or curve, where DOLFINx does not interpolate,"
    elif symmetry(space) is not None and not is_cellwise(space):
        yield "a symmetric tensor whose components are not scalar functions of a cell"


def _num_cells(space: FunctionSpace) -> int:
    return space.mesh.topology.index_map(space.mesh.topology.dim).size_global
