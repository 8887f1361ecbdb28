"""Nodal inputs of an operator: functions, UFL expressions and callables of a script, at the nodes of its unknown.

The values do not depend on the partition of the mesh. At a node between cells, what may be discontinuous has the mean
of the cells around it; nodes of a discontinuous space have their own cell's value. Of a quadrature function, or an
expression with one, the mean of a cell by the weights of the rule counts. What lives on another mesh, also a submesh or
the parent of the unknown's, is evaluated where the nodes are, and zero at nodes outside that mesh.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from numbers import Number
from typing import Any

import basix
import basix.ufl
import numpy as np
import numpy.typing as npt
import ufl
from ufl.algorithms.comparison_checker import CheckComparisons, ComplexComparisonError
from ufl.corealg.map_dag import map_expr_dag
from ufl.corealg.traversal import unique_pre_traversal
from mpi4py import MPI
from dolfinx import la
from dolfinx.fem import Constant, Expression, Function, FunctionSpace, create_interpolation_data, functionspace
from dolfinx.mesh import Mesh

from lrsa_coupled import mpi
from lrsa_coupled.coupling.scalars import to_columns

type Input = Function | ufl.core.expr.Expr | complex | Callable[[npt.NDArray[np.float64]], npt.NDArray[Any]]
"""A nodal input: a function, a UFL expression, a number, or values ``(components, num_points)`` at points ``(3,
num_points)``. What is complex has the columns of its real parts, then of its imaginary parts."""

type Columns = npt.NDArray[np.float64]
type Evaluate = Callable[[], Columns]

PULL = 1e-2
"""How far points go towards the midpoint of their cell, to fall into one cell of another mesh; DOLFINx takes a point
within 1e-7 of a cell for one inside."""


def input_columns(name: str, source: Input, mesh: Mesh) -> int:
    """Return how many real numbers an input has at a node; a callable is called. Collective.

    ValueError when it cannot be an input.
    """
    with mpi.collective_errors(mesh.comm):
        if not _is_expression(source):
            corners = mpi.allreduce(mesh.comm, [mesh.geometry.x[:1]], lambda one, two: one + two)
            points = np.tile(np.concatenate(corners)[:1].T, 2)  # on ranks without nodes too
            return _called(name, source, points).shape[1]
        expression = _checked(name, source, mesh)
        return int(np.prod(expression.ufl_shape)) * (2 if _is_complex(expression) else 1)


def at_nodes(name: str, source: Input, space: FunctionSpace) -> Evaluate:
    """Return what evaluates an input at the owned nodes of a scalar Lagrange space, ``(num_owned, columns)``.

    Collective, what is returned too: errors of one rank reach the others inside ``mpi.collective_errors``. Meshes must
    not move. Values are cast to float64.

    Raises:
        ValueError: If it cannot be an input; from the evaluation, if a callable returns another shape.
    """
    if not _is_expression(source):
        num_owned = space.dofmap.index_map.size_local
        return lambda: _called(name, source, space.tabulate_dof_coordinates()[:num_owned].T)
    expression = _checked(name, source, space.mesh)
    domains = _domains(expression)
    if domains and domains[0] != space.mesh.ufl_domain():
        return _from_another_mesh(name, expression, space, Mesh(domains[0].ufl_cargo(), domains[0]))
    return _interpolated(expression, space) if _is_continuous(expression) else _by_cells(name, expression, space)


def _is_expression(source: Input) -> bool:
    return isinstance(source, (ufl.core.expr.Expr, Number))


def _called(name: str, source: Any, points: npt.NDArray[np.float64]) -> Columns:
    """Call a function of points ``(3, num_points)`` for its columns ``(num_points, columns)``."""
    if not callable(source) or isinstance(source, ufl.form.BaseForm):
        kinds = "a Function, a UFL expression, a number or a function of points"
        raise ValueError(f"inputs: '{name}' must be {kinds}, got {type(source).__name__}")
    values = np.asarray(called(f"inputs: '{name}'", source, points))
    num_points = points.shape[1]
    if values.dtype.kind not in "biufc" or values.ndim not in (1, 2) or values.shape[-1] != num_points:
        wanted = f"numbers of shape (components, {num_points}), or ({num_points},) for one component"
        raise ValueError(f"inputs: the function of '{name}' must return {wanted}, got {_described(values)}")
    return to_columns(np.atleast_2d(values).T).astype(np.float64)


def called(what: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function of a script; ValueError, by the name ``what``, when it takes other arguments."""
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError as error:
        wanted = "the points, an array (3, num_points)" if arguments else "no argument"
        raise ValueError(f"{what} must be a function that takes {wanted}: {error}") from error
    except ValueError:  # a built-in one that does not say what it takes
        pass
    return function(*arguments)


def _described(values: npt.NDArray[Any]) -> str:
    return f"shape {values.shape}" if values.dtype.kind in "biufc" else f"{values.dtype} of shape {values.shape}"


def _checked(name: str, source: Any, mesh: Mesh) -> ufl.core.expr.Expr:
    """Return an expression that can be evaluated in the cells of one mesh."""
    expression = ufl.as_ufl(source)
    what = f"inputs: '{name}'"
    if expression.ufl_free_indices:
        raise ValueError(f"{what} must be a scalar, vector or tensor, got the free indices of {expression}")
    if ufl.algorithms.extract_arguments(expression):
        raise ValueError(f"{what} must not contain test or trial functions, got {expression}")
    domains = _domains(expression)
    if len(domains) > 1:
        raise ValueError(f"{what} must have functions on one mesh only, got {len(domains)}: make it several inputs")
    for other in (domain.ufl_cargo() for domain in domains):
        if MPI.Comm.Compare(other.comm, mesh.comm) not in (MPI.IDENT, MPI.CONGRUENT):
            raise ValueError(
                f"{what} must be on a mesh with the communicator of the unknown's, {mesh.comm.size} ranks, "
                f"got another of {other.comm.size}"
            )
        if other.geometry.dim != mesh.geometry.dim:
            raise ValueError(f"{what} must be in {mesh.geometry.dim} dimensions of space, got {other.geometry.dim}")
    types = {str(item.dtype) for item in unique_pre_traversal(expression) if isinstance(item, (Function, Constant))}
    if len(types) > 1:
        raise ValueError(f"{what} must have functions and constants of one type, got {', '.join(sorted(types))}")
    if not np.issubdtype(_dtype(expression), np.complexfloating) or isinstance(expression, Function):
        return expression
    try:
        return map_expr_dag(CheckComparisons(), expression)
    except ComplexComparisonError as error:  # not an Exception
        raise ValueError(f"{what} compares complex numbers: compare ufl.real(...) of them") from error


def _domains(expression: ufl.core.expr.Expr) -> list[Any]:
    """Return the meshes of an expression; a constant is the same on all."""
    found: list[Any] = []
    for item in unique_pre_traversal(expression):
        if isinstance(item, ufl.core.terminal.Terminal) and not isinstance(item, Constant):
            found += [domain for domain in item.ufl_domains() if domain not in found]
    return found


def _dtype(expression: ufl.core.expr.Expr) -> np.dtype[Any]:
    """Return the type of the numbers of an expression, real where it has neither functions nor constants."""
    items = list(unique_pre_traversal(expression))
    literals = [np.complex128 for item in items if isinstance(item, ufl.constantvalue.ComplexValue)]
    return np.result_type(
        np.float64, *literals, *(item.dtype for item in items if isinstance(item, (Function, Constant)))
    )


def _is_complex(expression: ufl.core.expr.Expr) -> bool:
    """Whether values may have an imaginary part: not ``ufl.real(f)``, ``abs(f)`` or the coordinates."""
    if not np.issubdtype(_dtype(expression), np.complexfloating):
        return False
    checker = CheckComparisons()
    return checker.nodetype[map_expr_dag(checker, expression)] == "complex"


def _is_continuous(expression: ufl.core.expr.Expr) -> bool:
    """Whether it is a continuous Lagrange function, of independent components."""
    if not isinstance(expression, Function):
        return False
    element = expression.function_space.ufl_element()
    scalar = element.sub_elements[0] if element.block_size > 1 else element
    symmetric = element.block_size != int(np.prod(element.reference_value_shape))
    return scalar.element_family == basix.ElementFamily.P and not scalar.discontinuous and not symmetric


def _blocked(space: FunctionSpace, shape: tuple[int, ...]) -> FunctionSpace:
    """Return the space of this shape with the nodes of a scalar one."""
    element = space.ufl_element()
    return functionspace(space.mesh, basix.ufl.blocked_element(element, shape=shape) if shape else element)


def _interpolated(source: Function, space: FunctionSpace) -> Evaluate:
    values = Function(_blocked(space, source.ufl_shape), dtype=source.dtype)

    def evaluate() -> Columns:
        values.interpolate(source)
        return _owned(values, space)

    return evaluate


def _owned(values: Function, space: FunctionSpace) -> Columns:
    num_owned = space.dofmap.index_map.size_local
    size = int(np.prod(values.ufl_shape))
    return to_columns(values.x.array[: num_owned * size].reshape(num_owned, size)).astype(np.float64)


def _by_cells(name: str, expression: ufl.core.expr.Expr, space: FunctionSpace) -> Evaluate:
    """Evaluate in each owned cell, then bring the values to the nodes. Collective."""
    mesh, num_nodes = space.mesh, space.element.space_dimension
    size, is_complex, dtype = int(np.prod(expression.ufl_shape)), _is_complex(expression), _dtype(expression)
    rule = _rule(name, expression)
    points, weights = rule or (space.element.interpolation_points, None)
    if not _domains(expression):
        expression = expression + Constant(mesh, np.zeros(expression.ufl_shape, dtype))  # it has no mesh of its own
    compiled = _compiled(name, expression, points, dtype)
    cells = np.arange(mesh.topology.index_map(mesh.topology.dim).size_local, dtype=np.int32)
    sums = _sums(space, size * (2 if is_complex else 1))

    def evaluate() -> Columns:
        values_CNK = compiled.eval(mesh, cells).reshape(len(cells), len(points), size)
        if weights is not None:
            values_CNK = np.einsum("n,cnk->ck", weights, values_CNK)[:, None].repeat(num_nodes, axis=1)
        values = values_CNK.reshape(-1, size)
        columns = to_columns(values) if is_complex else values.real
        return _to_nodes(columns.astype(np.float64), space, sums)

    return evaluate


def _compiled(name: str, expression: ufl.core.expr.Expr, points: Columns, dtype: np.dtype[Any]) -> Expression:
    try:
        return Expression(expression, points, dtype=dtype)
    except Exception as error:  # UFL, FFCx and DOLFINx raise what they like
        kind = type(error).__name__
        raise ValueError(f"inputs: '{name}' cannot be evaluated in cells: {kind}: {str(error)[:500]}") from error


def _rule(name: str, expression: ufl.core.expr.Expr) -> tuple[Columns, Columns] | None:
    """Return points and normalised weights of the rule of the quadrature functions, None when there are none."""
    rules = [element.custom_quadrature() for element in _quadrature_elements(expression)]
    if not rules:
        return None
    points, weights = rules[0]
    if any(each.shape != points.shape or not np.array_equal(each, points) for each, _ in rules):
        raise ValueError(f"inputs: '{name}' must have quadrature functions of one rule, got several")
    return points, weights / weights.sum()


def _quadrature_elements(expression: ufl.core.expr.Expr) -> list[Any]:
    elements = [item.function_space.ufl_element() for item in ufl.algorithms.extract_coefficients(expression)]
    return [element for element in elements if element.has_custom_quadrature]


def _sums(space: FunctionSpace, columns: int) -> la.Vector | None:
    """Return the vector in which means are taken at the nodes, None where each has one cell. Collective."""
    return None if space.ufl_element().discontinuous else la.vector(space.dofmap.index_map, 2 * columns + 1)


def _to_nodes(values: Columns, space: FunctionSpace, sums: la.Vector | None, *,
              found: npt.NDArray[np.bool_] | None = None) -> Columns:  # fmt: skip
    """Bring values at the nodes of owned cells ``(num_cells * num_cell_nodes, K)`` to the owned nodes. Collective.

    They are those of their own cell if the space is discontinuous, else the mean of those ``found``, all if None, and 0
    without any. It is rounded alike on any partition: the two halves of a number's digits are summed by themselves,
    which is exact unless the values around a node differ by a factor of a million (Veltkamp's splitting).
    """
    dofs, num_owned = space.dofmap.list.ravel()[: len(values)], space.dofmap.index_map.size_local
    if sums is None:
        nodal = np.zeros((num_owned, values.shape[1]))
        nodal[dofs] = values
        return nodal
    with np.errstate(all="ignore"):  # an infinite value ends as one that is not finite
        scaled = values * (2.0**27 + 1.0)
        high = scaled - (scaled - values)
        terms = np.column_stack([high, values - high, np.ones(len(values))])
    terms = terms if found is None else np.where(found[:, None], terms, 0.0)
    local = sums.array.reshape(-1, terms.shape[1])
    for column, term in enumerate(terms.T):
        local[:, column] = np.bincount(dofs, weights=term, minlength=len(local))
    mpi.agree(space.mesh.comm)
    sums.scatter_reverse(la.InsertMode.add)
    highs, lows, count = np.split(local[:num_owned], [values.shape[1], -1], axis=1)
    return (highs + lows) / np.maximum(count, 1.0)


def _from_another_mesh(name: str, source: ufl.core.expr.Expr, space: FunctionSpace, other: Mesh) -> Evaluate:
    """Evaluate at the points of the nodes; what is discontinuous inside the cells around a node, if it has cells there.

    Collective.
    """
    if _is_continuous(source):
        return _at_points(source, space)
    in_cells = other.topology.dim == space.mesh.topology.dim
    degree = _degree(source, space)
    scalar = functionspace(other, ("DG", degree) if in_cells else ("P", max(degree, 1)))
    inner = at_nodes(name, source, scalar)
    size = int(np.prod(source.ufl_shape)) * (2 if _is_complex(source) else 1)
    carrier = Function(_blocked(scalar, (size,) if size > 1 else ()), dtype=np.float64)
    outer = (_inside_cells if in_cells else _at_points)(carrier, space)

    def evaluate() -> Columns:
        values = inner().ravel()
        carrier.x.array[: values.size] = values
        mpi.agree(other.comm)
        carrier.x.scatter_forward()
        return outer()

    return evaluate


def _degree(source: ufl.core.expr.Expr, space: FunctionSpace) -> int:
    """Return the degree in which what is given on another mesh is represented there."""
    if any(
        item.function_space.ufl_element().has_custom_quadrature for item in ufl.algorithms.extract_coefficients(source)
    ):
        return 0
    return (source.function_space if isinstance(source, Function) else space).ufl_element().embedded_superdegree


def _at_points(source: Function, space: FunctionSpace) -> Evaluate:
    cells, values = _local_cells(space.mesh), Function(_blocked(space, source.ufl_shape), dtype=source.dtype)
    data = create_interpolation_data(values.function_space, source.function_space, cells, padding=_padding(space.mesh))

    def evaluate() -> Columns:
        mpi.agree(space.mesh.comm)
        values.interpolate_nonmatching(source, cells, data)
        return _owned(values, space)

    return evaluate


def _inside_cells(source: Function, space: FunctionSpace) -> Evaluate:
    """Evaluate a discontinuous function near the nodes in each cell, and extrapolate to them. Collective."""
    mesh, element = space.mesh, space.element.basix_element
    points = space.element.interpolation_points
    midpoint = basix.geometry(element.cell_type).mean(axis=0)
    pulled = points + PULL * (midpoint - points)
    rule = basix.ufl.quadrature_element(
        space.ufl_element().cell_type.name, source.ufl_shape, points=pulled, weights=np.full(len(points), 1.0)
    )
    to_nodes = np.linalg.inv(element.tabulate(0, pulled)[0, :, :, 0])
    is_constant = source.function_space.ufl_element().embedded_superdegree == 0
    values = Function(functionspace(mesh, rule), dtype=source.dtype)
    cells = _local_cells(mesh)[: mesh.topology.index_map(mesh.topology.dim).size_local]
    data = create_interpolation_data(values.function_space, source.function_space, cells, padding=_padding(mesh))
    found = (np.asarray(data.src_owner) >= 0).reshape(len(cells), len(points))
    whole = found.all(axis=1) & (not is_constant)
    size = int(np.prod(source.ufl_shape))
    sums = _sums(space, size)

    def evaluate() -> Columns:
        mpi.agree(mesh.comm)
        values.interpolate_nonmatching(source, cells, data)
        dofs = values.function_space.dofmap.list[: len(cells)]
        values_CNK = values.x.array.reshape(-1, size)[dofs]
        values_CNK[whole] = np.einsum("nm,cmk->cnk", to_nodes, values_CNK[whole])
        return _to_nodes(values_CNK.reshape(-1, size), space, sums, found=found.ravel())

    return evaluate


def _local_cells(mesh: Mesh) -> npt.NDArray[np.int32]:
    """Return all cells of this rank, ghosts last."""
    cells = mesh.topology.index_map(mesh.topology.dim)
    return np.arange(cells.size_local + cells.num_ghosts, dtype=np.int32)


def _padding(mesh: Mesh) -> float:
    """Return how far outside a mesh a point may be by rounding. Collective."""
    return 1e-10 * mpi.allreduce(mesh.comm, float(np.abs(mesh.geometry.x).max(initial=0.0)), max)
