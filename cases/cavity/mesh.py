"""Unstructured triangles for the cavity, graded towards the walls, by gmsh."""

from __future__ import annotations

from types import ModuleType

import numpy as np
from mpi4py import MPI
from dolfinx.io import gmsh as gmsh_io
from dolfinx.mesh import Mesh
from lrsa_coupled.mpi import collective_errors

AT_WALL, INSIDE, DEPTH = 0.4, 1.6, 0.2
"""Cell size at the walls and inside, in units of 1 / resolution, and the distance over which it grows [L]."""


def cavity_mesh(comm: MPI.Comm, centre: tuple[float, float], semi_axes: tuple[float, float], *, angle: float, resolution: int) -> Mesh:
    """Mesh the unit square less an ellipse; no ellipse when the semi-axes are zero.

    Collective: rank 0 meshes, the cells are then distributed.

    Raises:
        ValueError: If the ellipse does not lie inside the square or the resolution is below 4, on all ranks.
        ImportError: If gmsh or a system library it needs is missing, on all ranks.
    """
    if resolution < 4:
        raise ValueError(f"the cavity needs a resolution of at least 4 cells a side, got {resolution}")
    along, across = np.multiply(semi_axes, (np.cos(angle), np.sin(angle))), np.multiply(semi_axes, (np.sin(angle), np.cos(angle)))
    reach = np.array([np.hypot(*along), np.hypot(*across)])
    if np.any(np.asarray(centre) - reach <= 0.0) or np.any(np.asarray(centre) + reach >= 1.0):
        raise ValueError(f"the obstacle must lie inside the unit square, got centre {centre}, semi-axes {semi_axes}, angle {angle}")
    model = None
    with collective_errors(comm):
        if comm.rank == 0:
            model = _gmsh_model(centre, semi_axes, angle, resolution)
    mesh = gmsh_io.model_to_mesh(model, comm, 0, gdim=2).mesh
    if comm.rank == 0:
        _import_gmsh().finalize()
    return mesh


def _gmsh_model(centre: tuple[float, float], semi_axes: tuple[float, float], angle: float, resolution: int) -> object:
    gmsh = _import_gmsh()
    gmsh.initialize(interruptible=False)
    gmsh.option.setNumber("General.Terminal", 0)
    gmsh.option.setNumber("General.NumThreads", 1)
    _geometry(gmsh, centre, semi_axes, angle)
    _size_field(gmsh, resolution)
    gmsh.model.mesh.generate(2)
    return gmsh.model


def _geometry(gmsh: ModuleType, centre: tuple[float, float], semi_axes: tuple[float, float], angle: float) -> None:
    shapes = gmsh.model.occ
    square = shapes.addRectangle(0, 0, 0, 1, 1)
    if min(semi_axes) > 0.0:
        turn = 0.0 if semi_axes[0] >= semi_axes[1] else np.pi / 2  # gmsh wants the longer axis first
        ellipse = shapes.addDisk(0, 0, 0, max(semi_axes), min(semi_axes))
        shapes.rotate([(2, ellipse)], 0, 0, 0, 0, 0, 1, angle + turn)
        shapes.translate([(2, ellipse)], *centre, 0)
        shapes.cut([(2, square)], [(2, ellipse)])
    shapes.synchronize()
    gmsh.model.addPhysicalGroup(2, [tag for _, tag in gmsh.model.getEntities(2)], 1)


def _size_field(gmsh: ModuleType, resolution: int) -> None:
    field = gmsh.model.mesh.field
    field.add("Distance", 1)
    field.setNumbers(1, "CurvesList", [tag for _, tag in gmsh.model.getEntities(1)])
    field.setNumber(1, "Sampling", 200)
    field.add("Threshold", 2)
    sizes = {"InField": 1, "SizeMin": AT_WALL / resolution, "SizeMax": INSIDE / resolution, "DistMin": 0.0, "DistMax": DEPTH}
    for key, value in sizes.items():
        field.setNumber(2, key, value)
    field.setAsBackgroundMesh(2)
    for source in ("ExtendFromBoundary", "FromPoints", "FromCurvature"):
        gmsh.option.setNumber(f"Mesh.MeshSize{source}", 0)


def _import_gmsh() -> ModuleType:
    try:
        import gmsh
    except (ImportError, OSError) as error:
        raise ImportError(f"the mesh needs gmsh, and gmsh needs libGLU and libXft of the system: {error}") from error
    return gmsh
