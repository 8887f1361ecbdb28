"""A model of the block so coarse that it costs next to nothing: an input of the operator, a guess for Newton."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, final

import numpy as np
import numpy.typing as npt
from mpi4py import MPI
from dolfinx.mesh import CellType, Mesh, create_box

from lrsa_coupled.coupling.compat import cell_nodes
from lrsa_coupled.coupling.residual import set_dirichlet
from lrsa_coupled.coupling.transfer import NodeSet
from lrsa_coupled.interfaces import Guess, InitialGuess, Problem, Solver
from lrsa_coupled.schema import Field

Array = npt.NDArray[np.float64]

ELEMENTS = 4
"""Hexahedra of degree two along the block, one across: 243 unknowns."""

RTOL = 1e-5
"""Tolerance relative to the residual norm of the zero guess."""


@final
class CoarseModel:
    """Solves the block on a few hexahedra, on each rank by itself, and evaluates the displacement anywhere in it.

    Args:
        corners: Two opposite corners of the block, ``(2, 3)``; the first axis is the long one.
        make_problem: Sets up the problem of degree two with some parameters on a mesh.
        update: Gives the problem other parameters, in place, and zeros for the solution.
        make_solver: Makes its solver, which begins with zeros.
    """

    def __init__(self, corners: Array, make_problem: Callable[[Mesh, Any], Problem],
                 update: Callable[[Any, Any], Problem], make_solver: Callable[[Problem], Solver]) -> None:  # fmt: skip
        self._corners, self._make_problem, self._update, self._make_solver = corners, make_problem, update, make_solver
        self._problem: Problem | None = None
        self._mesh = create_box(MPI.COMM_SELF, list(corners), [ELEMENTS, 1, 1], CellType.hexahedron)
        vertices = self._mesh.geometry.x[cell_nodes(self._mesh)]
        self._cell_of = np.argsort(vertices[:, :, 0].mean(axis=1))
        self._origins, self._edges = vertices[:, 0], (vertices[:, [1, 2, 4]] - vertices[:, :1]).transpose(0, 2, 1)

    def displacement(self, parameters: Any, points: Array) -> Array:
        """Return the displacement at points ``(N, 3)``, zeros if the coarse model cannot be solved. Collective: no."""
        if self._problem is None:
            self._problem = self._make_problem(self._mesh, parameters)
        problem = self._problem = self._update(self._problem, parameters)
        if not self._make_solver(problem).solve_once().converged:
            return np.zeros_like(points)
        low, high = self._corners[:, 0]
        cells = self._cell_of[
            np.clip(((points[:, 0] - low) / (high - low) * ELEMENTS).astype(np.int64), 0, ELEMENTS - 1)
        ]
        reference = np.linalg.solve(self._edges[cells], (points - self._origins[cells])[:, :, None])[:, :, 0]
        space = problem.solution.function_space
        basis = space.element.basix_element.tabulate(0, reference)[0, :, :, 0]
        return np.einsum("nb,nbc->nc", basis, problem.solution.x.array.reshape(-1, 3)[space.dofmap.list[cells]])


@final
class CoarseModelGuess(InitialGuess):
    """The displacement of the coarse model, which ``displacement`` gives at the owned nodes ``(N, 3)``."""

    name = "coarse-model"

    def __init__(self, outputs: Sequence[Field], displacement: Callable[[Problem], Array]) -> None:
        self.outputs, self.displacement = outputs, displacement

    def put(self, problem: Problem) -> Guess:
        NodeSet(problem, self.outputs).scatter(self.displacement(problem), problem.solution)
        set_dirichlet(problem)
        return Guess()
