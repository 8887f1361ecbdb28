"""Meshes by gmsh, distributed over the ranks."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

from mpi4py import MPI
from dolfinx.io import gmsh as gmsh_io
from dolfinx.mesh import Mesh

from lrsa_coupled.interfaces import NumericalError
from lrsa_coupled.mpi import collective_errors, rearm_signals


def gmsh_mesh(comm: MPI.Comm, draw: Callable[[ModuleType], None], dim: int) -> Mesh:
    """Mesh a geometry with simplices of first order.

    Collective: rank 0 meshes, the cells are then distributed.

    Args:
        comm: Ranks to share the mesh.
        draw: Called on rank 0 with the module gmsh; makes geometry and size fields in the current model.
        dim: Dimension of the cells and of space.

    Raises:
        ImportError: If gmsh or a system library it needs is missing, on all ranks; or whatever ``draw`` raises.
        NumericalError: If gmsh cannot mesh what is drawn, on all ranks.
    """
    gmsh = None
    try:
        with collective_errors(comm):
            if comm.rank == 0:
                gmsh = _import_gmsh()
                _generate(gmsh, draw, dim)
        return gmsh_io.model_to_mesh(gmsh and gmsh.model, comm, 0, gdim=dim).mesh
    finally:  # the next mesh begins with an empty model
        if gmsh is not None:
            gmsh.finalize()


def _generate(gmsh: ModuleType, draw: Callable[[ModuleType], None], dim: int) -> None:
    gmsh.initialize(interruptible=False)
    rearm_signals()
    gmsh.option.setNumber("General.Terminal", 0)
    gmsh.option.setNumber("General.NumThreads", 1)
    draw(gmsh)
    gmsh.model.addPhysicalGroup(dim, [tag for _, tag in gmsh.model.getEntities(dim)], 1)
    try:
        gmsh.model.mesh.generate(dim)
    except Exception as error:  # gmsh knows no other type
        raise NumericalError(f"gmsh gave up: {error}") from error


def _import_gmsh() -> ModuleType:
    try:
        import gmsh
    except (ImportError, OSError) as error:
        raise ImportError(f"the mesh needs gmsh, and gmsh needs libGLU and libXft of the system: {error}") from error
    return gmsh
