"""Bases of coarse spaces that are computed: predicted by an operator, or the lowest modes on a coarse mesh."""

from __future__ import annotations

from typing import final

import numpy as np
import numpy.typing as npt
from mpi4py import MPI
from petsc4py import PETSc

from lrsa_coupled.coupling.background import BackgroundGrid
from lrsa_coupled.guess.learned import LearnedGuess
from lrsa_coupled.interfaces import Features
from lrsa_coupled.petsc.blocks import Block, Dense, multiply
from lrsa_coupled.petsc.description import description_of
from lrsa_coupled.petsc.worth import Columns, StoredColumns

COARSE_RTOL = 1e-4
"""Relative residual of the coarse modes: far below what the coarse mesh costs them."""


def learned(pc: PETSc.PC, guess: LearnedGuess, *, cells: int = 0) -> Columns:
    """Predict a basis for the matrix of the preconditioner, zero where a Dirichlet condition holds. Collective.

    The operator is evaluated at all nodes or, for ``cells`` above 0, at those of a background grid, from which the basis is interpolated.

    Raises:
        ValueError: If the operator predicts no basis, or the matrix has no description, or another number of rows.
    """
    if not any(item.span for item in guess.card.schema.outputs):
        raise ValueError(
            f"-pc_lrsa_checkpoint: expected an operator that predicts a basis, got one of {[f.name for f in guess.card.schema.outputs]}"
        )
    description, comm = description_of(pc), pc.getComm().tompi4py()
    features = description.features(guess)
    if cells:
        return GridColumns(guess, description.grid(cells), features, fixed=description.fixed, comm=comm)
    outputs = guess.evaluate(description.arrays(guess, features.nodal), features.scalars, comm)[0]
    basis = np.asfortranarray(outputs.cpu().numpy(), dtype=np.float64)
    basis[description.fixed] = 0.0
    return StoredColumns(basis)


@final
class GridColumns(Columns):
    """Values of an operator on a background grid, each rank evaluates a part of it; interpolated to the owned nodes of the mesh when asked for.

    Args:
        guess: The operator.
        grid: The grid, with its own Dirichlet nodes, where the values are made zero.
        features: What the operator is told, at the owned nodes of the mesh.
        fixed: Whether a Dirichlet condition holds at these ``(N,)``.
        comm: Ranks of the mesh; making the object is collective.
    """

    def __init__(
        self,
        guess: LearnedGuess,
        grid: BackgroundGrid,
        features: Features,
        *,
        fixed: npt.NDArray[np.bool_],
        comm: MPI.Comm,
    ) -> None:
        arrays = [grid.nodes, grid.restrict(features.nodal), *([grid.mass] if guess.model.config.mass_weighted else [])]
        ends = np.linspace(0, len(grid.nodes), comm.size + 1).astype(int)
        own = slice(ends[comm.rank], ends[comm.rank + 1])
        outputs = guess.evaluate([array[own] for array in arrays], features.scalars, comm)[0].cpu().numpy()
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


def coarse(pc: PETSc.PC, count: int) -> Columns:
    """Interpolate the lowest modes of the coarse pencil (P, P - A), or (P, I) where A is P, Galerkin with the description's prolongation.

    They are at most half as many as the coarse mesh has unknowns. Collective. Options of SLEPc's EPS stand under ``<prefix>pc_lrsa_coarse_``; by default a Cholesky factorisation by MUMPS is shifted and inverted at zero.

    Raises:
        ValueError: If the description of the matrix has no prolongation, or fewer modes converge.
    """
    from slepc4py import SLEPc

    prolongation = description_of(pc).prolongation
    if prolongation is None:
        raise ValueError(
            "-pc_lrsa_basis coarse: the description of the matrix needs a prolongation from a coarse mesh, got none"
        )
    matrix, stiffness = pc.getOperators()
    same = matrix.handle == stiffness.handle
    left = stiffness.ptap(prolongation)
    right = prolongation.transposeMatMult(prolongation) if same else left - matrix.ptap(prolongation)
    count = max(min(count, left.getSize()[0] // 2), 1)
    solver = SLEPc.EPS().create(pc.comm)
    solver.setOptionsPrefix((pc.getOptionsPrefix() or "") + "pc_lrsa_coarse_")
    solver.setOperators(left, right)
    solver.setProblemType(SLEPc.EPS.ProblemType.GHEP)
    solver.setDimensions(nev=count)
    solver.setTolerances(tol=COARSE_RTOL)
    solver.setWhichEigenpairs(SLEPc.EPS.Which.TARGET_MAGNITUDE)
    solver.setTarget(0.0)
    transform = solver.getST()
    transform.setType(SLEPc.ST.Type.SINVERT)
    transform.getKSP().setType(PETSc.KSP.Type.PREONLY)
    transform.getKSP().getPC().setType(PETSc.PC.Type.CHOLESKY)
    transform.getKSP().getPC().setFactorSolverType(PETSc.Mat.SolverType.MUMPS)
    solver.setFromOptions()
    solver.solve()
    found, vector = solver.getConverged(), left.createVecRight()
    if found < count:
        raise ValueError(
            f"-pc_lrsa_basis coarse: {count} modes asked for on a coarse mesh of {left.getSize()[0]} unknowns, {found} converged"
        )
    basis = np.empty((vector.getLocalSize(), count), order="F")
    for index, column in enumerate(basis.T):
        solver.getEigenpair(index, vector)
        column[:] = vector.array_r
    fine = multiply(prolongation, basis)
    for item in (solver, left, right, vector):
        item.destroy()
    return StoredColumns(fine)
