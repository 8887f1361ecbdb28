"""Unstructured triangles for the cavity, graded towards the walls and further towards the lid's corners, by gmsh."""

from __future__ import annotations

from types import ModuleType

import numpy as np
from mpi4py import MPI
from dolfinx.mesh import Mesh

from lrsa_coupled.meshing import gmsh_mesh

AT_CORNER, AT_WALL, INSIDE = 0.1, 0.4, 1.6
"""Cell size at the corners of the lid, at the walls and inside, in units of 1 / resolution."""

GROWTH = 6.0
"""Growth of the cell size with the distance, in units of 1 / resolution a unit of length."""

LENGTH_PRECISION = 1e-6
"""To which curves are measured in cells; with gmsh's 1e-9 that is four fifths of a mesh of resolution 16."""


def cavity_mesh(
    comm: MPI.Comm, centre: tuple[float, float], semi_axes: tuple[float, float], *, angle: float, resolution: int
) -> Mesh:
    """Mesh the unit square less an ellipse, none when the semi-axes are zero, see ``gmsh_mesh``. Collective.

    Raises:
        ValueError: If the ellipse does not lie inside the square or the resolution is below 4, on all ranks.
    """
    if resolution < 4:
        raise ValueError(f"the cavity needs a resolution of at least 4 cells a side, got {resolution}")
    c, s = np.cos(angle), np.sin(angle)
    reach = np.linalg.norm(np.multiply(semi_axes, [(c, s), (s, c)]), axis=1)
    if np.any(np.asarray(centre) - reach <= 0.0) or np.any(np.asarray(centre) + reach >= 1.0):
        raise ValueError(
            f"the obstacle must lie inside the unit square, got centre {centre}, semi-axes {semi_axes}, angle {angle}"
        )

    def draw(gmsh: ModuleType) -> None:
        _geometry(gmsh, centre, semi_axes, angle)
        _size_field(gmsh, resolution)

    return gmsh_mesh(comm, draw, 2)


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


def _size_field(gmsh: ModuleType, resolution: int) -> None:
    field = gmsh.model.mesh.field
    walls = [tag for _, tag in gmsh.model.getEntities(1)]
    corners = [tag for dim, tag in gmsh.model.getEntities(0) if gmsh.model.getValue(dim, tag, [])[1] == 1.0]
    thresholds = []
    for entities, tags, smallest in (("CurvesList", walls, AT_WALL), ("PointsList", corners, AT_CORNER)):
        distance, threshold = field.add("Distance"), field.add("Threshold")
        field.setNumbers(distance, entities, tags)
        field.setNumber(distance, "Sampling", 200)
        field.setNumber(threshold, "InField", distance)
        field.setNumber(threshold, "SizeMin", smallest / resolution)
        field.setNumber(threshold, "SizeMax", INSIDE / resolution)
        field.setNumber(threshold, "DistMin", 0.0)
        field.setNumber(threshold, "DistMax", (INSIDE - smallest) / GROWTH)
        thresholds.append(threshold)
    gmsh.option.setNumber("Mesh.LcIntegrationPrecision", LENGTH_PRECISION)
    smallest_of = field.add("Min")
    field.setNumbers(smallest_of, "FieldsList", thresholds)
    field.setAsBackgroundMesh(smallest_of)
    for source in ("ExtendFromBoundary", "FromPoints", "FromCurvature"):
        gmsh.option.setNumber(f"Mesh.MeshSize{source}", 0)
