"""What DOLFINx 0.10 and 0.11 do differently and what they do not document; no torch here.

===================================  ==========================  =======================================
What                                 0.10                        0.11
===================================  ==========================  =======================================
``assemble_residual`` begins with    the unknown and the forms   the SNES
conditions of a NonlinearProblem     in a partial function       in the context of the callback
geometry of a mesh                   ``cmap``, ``dofmap``        ``cmaps[0]``, ``dofmaps[0]``
===================================  ==========================  =======================================

Importing this module raises ImportError under any other version. The tests run with 0.11; what is said of 0.10 is from
its source and documentation.

Sources: ``dolfinx/fem/petsc.py`` of both, DOLFINx pull requests 4139 and 4227.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from mpi4py import MPI
import dolfinx
from dolfinx.fem import Constant, DirichletBC, Function, petsc
from dolfinx.mesh import Mesh
from petsc4py import PETSc

from lrsa_coupled.interfaces import Unknown

SUPPORTED = ("0.10", "0.11")


def release(version: str) -> str:
    """Return major and minor number of a version of DOLFINx; ImportError unless it is supported."""
    found = ".".join(version.split(".")[:2])
    if found not in SUPPORTED:
        raise ImportError(f"lrsa-coupled needs DOLFINx {' or '.join(SUPPORTED)}, found {version}", name="dolfinx")
    return found


RELEASE = release(dolfinx.__version__)
assign, create_vector = petsc.assign, petsc.create_vector  # not in 0.9: whoever imports them here reads why


def assemble_residual(u: Function, residual: Any, jacobian: Any, *, bcs: Sequence[DirichletBC],
                      x: PETSc.Vec, b: PETSc.Vec) -> None:  # fmt: skip
    """Copy ``x`` into ``u`` and assemble the residual there into ``b``, with the rows of Dirichlet conditions.

    ``residual`` and ``jacobian`` are compiled forms. Collective.
    """
    petsc.assemble_residual(_snes=None, x=x, b=b, u=u, residual=residual, jacobian=jacobian, bcs=list(bcs))


def dirichlet_conditions(problem: petsc.LinearProblem | petsc.NonlinearProblem) -> list[DirichletBC] | None:
    """Return the Dirichlet conditions of a problem, None when callbacks of the user's own hide them. Collective: no."""
    if isinstance(problem, petsc.LinearProblem):
        return list(problem.bcs or ())
    bound: list[Any] = []
    for callback in filter(None, (problem.solver.getFunction()[1], problem.solver.getJacobian()[2])):
        function, positional, keywords = _unwrapped(*callback)
        if "bcs" in keywords:
            return list(keywords["bcs"] or ())
        if function in (petsc.assemble_residual, petsc.assemble_jacobian) and len(positional) > 3:
            return list(positional[3] or ())
        bound += [*positional, *keywords.values()]
    lists = (item for item in bound if isinstance(item, (list, tuple)) and item)
    return next((list(item) for item in lists if all(isinstance(bc, DirichletBC) for bc in item)), None)


def conditions_of(problem: Unknown, function: Function) -> list[DirichletBC]:
    """Return the conditions of one function of an unknown: on its space or a part of it. Collective: no."""
    if not isinstance(problem.solution, tuple):
        return list(problem.bcs)
    space = function.function_space._cpp_object  # noqa: SLF001 - a condition has one of that kind
    return [bc for bc in problem.bcs if space.contains(bc.function_space)]


type _Callback = tuple[Any, Sequence[Any], dict[str, Any]]


def is_value_of(bc: DirichletBC, variable: Function | Constant) -> bool:
    """Return whether a condition prescribes a function or constant. Collective: no."""
    return bc.g is variable._cpp_object  # noqa: SLF001 - a condition has one of that kind


def _unwrapped(function: Any, positional: Sequence[Any], keywords: dict[str, Any]) -> _Callback:
    """Return function and arguments of a callback, those of a partial function among them."""
    if isinstance(function, partial):
        return _unwrapped(function.func, [*function.args, *positional], {**function.keywords, **keywords})
    return function, [*positional], keywords


def coordinate_degree(mesh: Mesh) -> int:
    """Return the degree of the geometry of a mesh of one type of cells. Collective: no."""
    geometry: Any = mesh.geometry
    return int((geometry.cmap if RELEASE == "0.10" else geometry.cmaps[0]).degree)


def cell_nodes(mesh: Mesh) -> npt.NDArray[np.int32]:
    """Return the rows of ``geometry.x`` of each local cell ``(num_cells, num_cell_nodes)``. Collective: no."""
    geometry: Any = mesh.geometry
    return geometry.dofmap if RELEASE == "0.10" else geometry.dofmaps[0]
