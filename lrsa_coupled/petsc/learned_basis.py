"""A basis of a coarse space that an operator predicts."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import numpy as np
import numpy.typing as npt
from mpi4py import MPI
from petsc4py import PETSc

from lrsa_coupled.coupling.background import BackgroundGrid
from lrsa_coupled.interfaces import Features
from lrsa_coupled.petsc.basis import Basis, StoredBasis
from lrsa_coupled.petsc.blocks import Block, Dense
from lrsa_coupled.petsc.describe import description_of

if TYPE_CHECKING:
    from lrsa_coupled.coupling.predictor import Predictor


def learned_basis(pc: PETSc.PC, predictor: Predictor, *, cells: int = 0) -> Basis:
    """Predict a basis for the matrix of the preconditioner, zero where a Dirichlet condition holds. Collective.

    The operator is evaluated at all nodes or, for ``cells`` above 0, at those of a background grid, from which the
    basis is interpolated.

    Raises:
        ValueError: If the operator predicts no basis, or the matrix has no description, or another number of rows.
    """
    outputs = predictor.card.schema.outputs
    if not any(item.span for item in outputs):
        names = [item.name for item in outputs]
        raise ValueError(f"-pc_lrsa_checkpoint: expected an operator that predicts a basis, got one of {names}")
    description, comm = description_of(pc), pc.getComm().tompi4py()
    features = description.features(predictor)
    if cells:
        return GridBasis(predictor, description.grid(cells), features, fixed=description.fixed, comm=comm)
    values = predictor.evaluate(description.arrays(predictor, features.nodal), features.scalars, comm)[0]
    basis = np.asfortranarray(values.cpu().numpy(), dtype=np.float64)
    basis[description.fixed] = 0.0
    return StoredBasis(basis)


@final
class GridBasis(Basis):
    """Values of an operator on a background grid, interpolated to the owned nodes of the mesh when asked for.

    Each rank evaluates a part of the grid; making the object is collective. Features and ``fixed`` ``(N,)``, whether a
    Dirichlet condition holds, are those at the owned nodes; values are zero there and at the grid's own such nodes.
    """

    def __init__(self, predictor: Predictor, grid: BackgroundGrid, features: Features, *,
                 fixed: npt.NDArray[np.bool_], comm: MPI.Comm) -> None:  # fmt: skip
        arrays = [grid.nodes, grid.restrict(features.nodal)]
        arrays += [grid.mass] if predictor.model.config.needs_mass else []
        ends = np.linspace(0, len(grid.nodes), comm.size + 1).astype(int)
        own = slice(ends[comm.rank], ends[comm.rank + 1])
        outputs = predictor.evaluate([array[own] for array in arrays], features.scalars, comm)[0].cpu().numpy()
        self._values = np.concatenate(comm.allgather(outputs))
        self._values[grid.fixed] = 0.0
        self._grid, self._fixed = grid, fixed
        self.shape = len(fixed), self._values.shape[1]

    def rows(self, which: slice) -> Block:
        return self._interpolated(self._values, which)

    def combined(self, chosen: npt.NDArray[np.intp], weights: Dense) -> Block:
        return self._interpolated(self._values[:, chosen] @ weights, slice(None))

    def _interpolated(self, values: npt.NDArray[np.floating], which: slice) -> Block:
        block = self._grid.interpolate(values, which)
        block[self._fixed[which]] = 0.0
        return block
