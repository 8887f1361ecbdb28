"""Interpolation between Lagrange spaces on two meshes as a parallel matrix, and the two-grid preconditioner it makes.

Legend of array shapes: n points found on this rank, d dimension of space, e degrees of freedom of a cell.
"""

from __future__ import annotations

import basix
import numpy as np
import numpy.typing as npt
from mpi4py import MPI
from dolfinx.fem import FunctionSpace, locate_dofs_topological
from dolfinx.geometry import (
    BoundingBoxTree,
    PointOwnershipData,
    bb_tree,
    compute_collisions_points,
    determine_point_ownership,
)
from dolfinx.mesh import CellType, Mesh, exterior_facet_indices
from petsc4py import PETSc

from lrsa_coupled.coupling.compat import cell_nodes, coordinate_degree
from lrsa_coupled.coupling.options import default_options
from lrsa_coupled.solvers.petsc import index_set

SNAP = 1e-12  # basis values this near to 0 or 1 are 0 or 1: rounding of the pull-back at shared nodes
OUTSIDE = 1e-8  # how far a point may lie outside its cell, in barycentric coordinates; relative padding of the search
NEARLY = 1e-6  # as OUTSIDE, where DOLFINx has chosen the cell: beside a face it takes the cell on either side
Array = npt.NDArray[np.float64]
Dofs = npt.NDArray[np.int32]
Located = tuple[npt.NDArray[np.int64], Dofs, Array]
"""Points found on this rank: global rows ``(n,)``, local cells ``(n,)``, reference coordinates there ``(n, d)``."""


def interpolation_matrix(source: FunctionSpace, target: FunctionSpace, *, reach: float = 0.0) -> PETSc.Mat:
    """Make the matrix that takes a function on one mesh to its values at the nodes of a space on another mesh.

    The meshes may be partitioned in any way. A node of ``target`` that is also one of ``source``, to ``SNAP`` of a
    cell, gets an exact unit row.

    Collective: yes. Memory: the search and the values of the basis at the points of the cells of this rank.

    Args:
        source: Scalar Lagrange space on affine simplices.
        target: Scalar Lagrange space on a mesh over the same ranks, all of it inside the mesh of ``source``.
        reach: How far nodes of ``target`` may lie outside, as those at a curved boundary do; the nearest cell is
            continued to there.

    Returns:
        Assembled AIJ matrix ``(dofs of target, dofs of source)``, in PETSc's numbering of the two index maps.

    Raises:
        ValueError: If a space is not scalar Lagrange, the source mesh not affine simplices, the ranks differ, or points
            of ``target`` lie farther outside the source mesh than ``reach``; the same on all ranks.
    """
    _check(source, target)
    rows_map, columns_map = target.dofmap.index_map, source.dofmap.index_map
    points = target.tabulate_dof_coordinates()[: rows_map.size_local]
    rows_n, cells_n, reference_nd = _located(source.mesh, points, first=rows_map.local_range[0], reach=reach)
    values_ne = source.element.basix_element.tabulate(0, reference_nd)[0, :, :, 0]
    values_ne[np.abs(values_ne - 1.0) < SNAP] = 1.0
    columns_ne = columns_map.local_to_global(source.dofmap.list[cells_n].ravel()).reshape(values_ne.shape)
    point, basis = np.nonzero(np.abs(values_ne) >= SNAP)
    matrix = PETSc.Mat().create(source.mesh.comm)
    matrix.setSizes(((rows_map.size_local, rows_map.size_global), (columns_map.size_local, columns_map.size_global)))
    matrix.setType(PETSc.Mat.Type.AIJ)
    matrix.setPreallocationCOO(rows_n[point].astype(PETSc.IntType), columns_ne[point, basis].astype(PETSc.IntType))
    matrix.setValuesCOO(values_ne[point, basis])
    return matrix


def boundary_dofs(space: FunctionSpace) -> Dofs:
    """Return the local degrees of freedom on the boundary, blocked ones as ``dirichletbc`` takes them. Collective."""
    mesh, dim = space.mesh, space.mesh.topology.dim
    mesh.topology.create_connectivity(dim - 1, dim)
    return locate_dofs_topological(space, dim - 1, exterior_facet_indices(mesh.topology))


def constrain(prolongation: PETSc.Mat, coarse_dofs: Dofs, fine_dofs: Dofs) -> PETSc.Mat:
    """Return a prolongation ``(fine dofs, free coarse dofs)`` to corrections that vanish at Dirichlet conditions.

    The coarse space loses its constrained degrees of freedom, which would be empty rows of its Galerkin operator; those
    of the fine space become empty rows. Both are local, ghosts allowed (``bc.dof_indices()[0]``).

    Collective: yes. Memory: copy; ``prolongation`` stays as it is.
    """
    (first_row, end_row), columns_range = prolongation.getOwnershipRange(), prolongation.getOwnershipRangeColumn()
    free = np.ones(columns_range[1] - columns_range[0], dtype=np.bool_)
    free[coarse_dofs[coarse_dofs < free.size]] = False
    rows = PETSc.IS().createStride(end_row - first_row, first=first_row, step=1, comm=prolongation.comm)
    columns = index_set(free, columns_range[0], prolongation.comm)
    constrained = prolongation.createSubMatrix(rows, columns)
    constrained.zeroRows((fine_dofs[fine_dofs < end_row - first_row] + first_row).astype(PETSc.IntType), diag=0.0)
    rows.destroy()
    columns.destroy()
    return constrained


def set_two_grid(pc: PETSc.PC, prolongation: PETSc.Mat) -> None:
    """Turn a preconditioner into one V-cycle on two grids with the Galerkin coarse operator.

    One sweep of SOR (of block Jacobi SOR across ranks) before and after a coarse solve by MUMPS. The options under the
    prefix of ``pc`` win: ``-mg_levels_ksp_type``, ``-mg_coarse_pc_type`` and so on, ``-pc_mg_galerkin``, ``-pc_type``
    itself. The defaults are set on the objects where they have setters: the level solvers read their options at the
    set-up, when ours are no longer in the database.

    Collective: yes. Memory: ``pc`` holds a reference to ``prolongation``.

    Args:
        pc: Preconditioner with its prefix set, before its set-up; the operator may be set later and change its values.
        prolongation: Matrix of ``interpolation_matrix``, after ``constrain`` where there are Dirichlet conditions.

    Source: Trottenberg, Oosterlee & Schüller (2001), Multigrid, ch. 2.
    """
    pc.setType(PETSc.PC.Type.MG)
    pc.setMGLevels(2)
    pc.setMGInterpolation(1, prolongation)
    smoother = pc.getMGSmoother(1)
    smoother.setType(PETSc.KSP.Type.RICHARDSON)
    smoother.setTolerances(max_it=1)
    smoother.getPC().setType(PETSc.PC.Type.SOR)
    coarse = pc.getMGCoarseSolve()
    coarse.setType(PETSc.KSP.Type.PREONLY)
    coarse.getPC().setType(PETSc.PC.Type.LU)
    coarse.getPC().setFactorSolverType(PETSc.Mat.SolverType.MUMPS)
    with default_options(pc.getOptionsPrefix() or "", {"pc_mg_galerkin": "both"}):
        pc.setFromOptions()


def _check(source: FunctionSpace, target: FunctionSpace) -> None:
    """Refuse spaces that ``interpolation_matrix`` cannot serve, the same on all ranks. Collective."""
    for name, space in (("source", source), ("target", target)):
        element = space.ufl_element()
        is_scalar = element.block_size == 1 and element.reference_value_shape == ()
        if not (is_scalar and element.element_family == basix.ElementFamily.P and not element.discontinuous):
            raise ValueError(f"the {name} must be a scalar Lagrange space, got {element}")
        if element.lagrange_variant == basix.LagrangeVariant.legendre:
            raise ValueError(f"the {name} must have values at points as degrees of freedom, got {element}")
    mesh = source.mesh
    cell, degree = mesh.topology.cell_type, coordinate_degree(mesh)
    simplices = (CellType.interval, CellType.triangle, CellType.tetrahedron)
    if cell not in simplices or degree != 1 or mesh.geometry.dim != mesh.topology.dim:
        got = f"{cell.name} cells of degree {degree} in dimension {mesh.geometry.dim}"
        raise ValueError(f"the source mesh must be of affine simplices that fill its space, got {got}")
    if MPI.Comm.Compare(mesh.comm, target.mesh.comm) not in (MPI.IDENT, MPI.CONGRUENT):
        sizes = f"{mesh.comm.size} and {target.mesh.comm.size}"
        raise ValueError(f"both meshes must be over the same ranks, got communicators of {sizes}")


def _located(mesh: Mesh, points: Array, *, first: int, reach: float) -> Located:
    """Find a cell for each point, on any rank; ``first`` is the global row of this rank's first point. Collective."""
    padding = OUTSIDE * float(np.abs(mesh.geometry.x).max(initial=0.0))
    tree = bb_tree(mesh, mesh.topology.dim, padding=padding)
    cells, reference_nd, inside = _search_here(mesh, tree, points)
    here, away = np.flatnonzero(inside), np.flatnonzero(~inside)
    if not mesh.comm.allreduce(len(away)):
        return here + first, cells[here], reference_nd[here]
    found = determine_point_ownership(mesh, points[away], padding=padding + reach)
    asked = np.reshape(found.dest_points, (-1, 3))
    own_cells, _, held = _search_here(mesh, tree, asked)
    found_cells = np.where(held, own_cells, found.dest_cells)
    others_nd = _pull_back(mesh, found_cells, asked)
    least_n = np.minimum(others_nd.min(axis=1, initial=np.inf), 1.0 - others_nd.sum(axis=1))
    beyond = np.count_nonzero(least_n < -NEARLY) if reach <= 0.0 else 0
    if total := mesh.comm.allreduce(np.count_nonzero(found.src_owner < 0) + beyond):
        raise ValueError(f"the target must lie inside the source mesh, got {total} points outside")
    rows = np.concatenate([here + first, _rows_of_found(mesh.comm, found, away + first)])
    return rows, np.concatenate([cells[here], found_cells]), np.concatenate([reference_nd[here], others_nd])


def _search_here(mesh: Mesh, tree: BoundingBoxTree, points: Array) -> tuple[Dofs, Array, npt.NDArray[np.bool_]]:
    """Find cell and reference coordinates of each point, and whether a cell of this rank holds it. Collective: no."""
    dim, count = mesh.topology.dim, len(points)
    cells, reference_nd = np.zeros(count, dtype=np.int32), np.zeros((count, dim))
    inside = np.zeros(count, dtype=np.bool_)
    found = compute_collisions_points(tree, points)
    turn, end = found.offsets[:-1].copy(), found.offsets[1:]
    searching = np.flatnonzero(turn < end)
    while len(searching):  # the next candidate of every point that none so far holds
        candidates = found.array[turn[searching]]
        reference = _pull_back(mesh, candidates, points[searching])
        holds = np.minimum(reference.min(axis=1), 1.0 - reference.sum(axis=1)) >= -OUTSIDE
        held = searching[holds]
        cells[held], reference_nd[held], inside[held] = candidates[holds], reference[holds], True
        turn[searching] += 1
        searching = searching[~holds]
        searching = searching[turn[searching] < end[searching]]
    return cells, reference_nd, inside


def _pull_back(mesh: Mesh, cells: Dofs, points: Array) -> Array:
    """Return reference coordinates ``(n, d)`` of points ``(n, 3)``, one a cell, by Cramer's rule. Collective: no."""
    dim = mesh.geometry.dim
    vertices = mesh.geometry.x[cell_nodes(mesh)[cells], :dim]
    edges = np.moveaxis(vertices[:, 1:] - vertices[:, :1], 1, 0)
    if dim == 1:
        normals = np.ones_like(edges)
    elif dim == 2:
        a, b = edges
        normals = np.stack([np.column_stack([b[:, 1], -b[:, 0]]), np.column_stack([-a[:, 1], a[:, 0]])])
    else:
        a, b, c = edges
        normals = np.stack([np.cross(b, c), np.cross(c, a), np.cross(a, b)])
    volumes = np.einsum("nd,nd->n", edges[0], normals[0])
    return np.einsum("knd,nd->nk", normals, points[:, :dim] - vertices[:, 0]) / volumes[:, None]


def _rows_of_found(comm: MPI.Comm, found: PointOwnershipData, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the global row ``(n,)`` of each point found here; ``rows`` are of the points asked for here. Collective.

    DOLFINx lists the points found on a rank by the rank that asked, then in its order.
    """
    sent_counts, counts = (np.bincount(owner, minlength=comm.size) for owner in (found.src_owner, found.dest_owner))
    sent = rows[np.argsort(found.src_owner, kind="stable")].astype(np.int64)
    received = np.empty(len(found.dest_owner), dtype=np.int64)
    comm.Alltoallv([sent, sent_counts], [received, counts])
    return received
