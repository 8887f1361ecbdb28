"""A coarse space as a PETSc preconditioner, around any other: chosen by options alone.

``-pc_type python -pc_python_type lrsa_coupled.petsc.coarse_space.CoarseSpacePC``; its options stand under the prefix of the PC:

* ``-pc_lrsa_inner_pc_type gamg``, ``-pc_lrsa_inner_...``: the inner preconditioner M^-1, of the preconditioning matrix P.
* ``-pc_lrsa_combine deflated|symmetric|additive``: how it is combined, below.
* ``-pc_lrsa_checkpoint FOLDER``: an operator that predicts the basis, ``-pc_lrsa_basis learned`` then; see ``petsc/description.py``.
* ``-pc_lrsa_basis given|nearnullspace|learned|coarse``: the basis Z; ``given`` by ``set_basis``, the near-null space attached to P, predicted, or
  the lowest ``-pc_lrsa_coarse_modes 64`` modes on a coarse mesh, see ``petsc/bases.py``.
* ``-pc_lrsa_grid 0``: cells, along the longest side, of a Cartesian grid behind the mesh on which the operator is evaluated, for media and modes that are
  smooth on it; the basis is made zero there where Dirichlet conditions hold and interpolated to the mesh by cubics. 0: the operator is evaluated at all
  nodes.
* ``-pc_lrsa_smoothing 0``: degree of a Chebyshev polynomial of P that takes the roughness out of a basis from a coarse mesh, or from an operator at all
  nodes.
* ``-pc_lrsa_cleaning 0``: steps of preconditioned inverse iteration on the basis.
* ``-pc_lrsa_rank_tolerance 1e-6``: directions of the basis, relative to its columns of unit length, that are dropped.
* ``-pc_lrsa_least_gain 0.5``: of what the inner preconditioner leaves of the basis, below which the coarse space is dropped.
* ``-pc_lrsa_most_leak 0.3``: of what the inner preconditioner moves out of the span, above which the coarse space is dropped.

With Q = Z E^-1 Z', E = Z' A Z, the preconditioner is

* deflated: Q + M^-1 (I - A Q), for GMRES and any A;
* symmetric: Z |E|^-1 Z' + (I - Q A) M^-1 (I - A Q), symmetric where A and M are, and definite where M is, be A indefinite or not: for CG, MINRES;
* additive: Q + M^-1.

**Useless bases.** A Galerkin coarse space cannot harm conjugate gradients, but it costs time. Two numbers are measured on two random z in the span of
Z and their images y = (I - w M^-1 A) z, with the scale w at which y is least for white noise. ``missed``, the norm of y over that of z, is what
the inner preconditioner leaves of z: below ``-pc_lrsa_least_gain`` it does the work already. ``leak`` is the share of y that is not in the span:
small where Z spans an invariant subspace, which deflation then takes out of the spectrum, and near 1 for vectors that have nothing to do with one.
In both cases a warning says so, and the inner preconditioner is used alone; a computed basis is then not tried in the next set-ups: 1, then 3, 7, 15.

Source: Tang, Nabben, Vuik, Erlangga (2009), "Comparison of two-level preconditioners derived from deflation, domain decomposition and multigrid
methods", J. Sci. Comput. 39 (A-DEF1, BNN, AD); Neymeyr (2001), "A geometric theory for preconditioned inverse iteration", Linear Algebra Appl. 322.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, final

import numpy as np
from mpi4py import MPI
from petsc4py import PETSc
from scipy.linalg import eigh

from lrsa_coupled.petsc.base import InnerPC, choice, load_operator
from lrsa_coupled.petsc.blocks import Block, Dense, by_column, inner_products, multiply, project, smoothed, span, total
from lrsa_coupled.petsc.worth import Columns, StoredColumns, measure

if TYPE_CHECKING:
    from lrsa_coupled.guess.learned import LearnedGuess

logger = logging.getLogger(__name__)

COMBINATIONS = ("deflated", "symmetric", "additive")
COMPUTED = ("learned", "coarse")
SOURCES = ("given", "nearnullspace", *COMPUTED)
LONGEST_PAUSE = 15
"""Set-ups in which a computed basis that did not pay is not tried, at most."""

ASYMMETRY = 1e-8
"""Of E, relative, from which A is not symmetric."""

SINGULAR = 1e-12
"""Eigenvalues of E, relative to the largest, that count as zero."""


@final
class CoarseSpacePC:
    """Context of the Python PC; ``pc.getPythonContext()`` returns it. Collective: all methods.

    Attributes:
        dimension: Of the coarse space in use, 0 when the inner preconditioner works alone; known after the set-up.
        missed: What the inner preconditioner leaves of the basis, see above; nan without a basis.
        leak: What leaves its span there, likewise.
        inference: What the prediction of the basis took at the last set-up [s].
    """

    def __init__(self) -> None:
        self.combine, self.source = "deflated", "given"
        self.smoothing = 0
        self.cleaning, self.rank_tolerance, self.least_gain, self.most_leak = 0, 1e-6, 0.5, 0.3
        self.checkpoint, self.coarse_modes, self.grid = "", 64, 0
        self.dimension, self.missed, self.leak, self.inference = 0, float("nan"), float("nan"), 0.0
        self._comm: MPI.Comm = MPI.COMM_SELF
        self._given: Block | None = None
        self._guess: LearnedGuess | None = None
        self._inner: InnerPC | None = None
        self._vectors: list[PETSc.Vec] = []
        self._space = self._weights = np.empty((0, 0))  # Z, and W with which Z W is orthonormal
        self._inverse = self._definite = np.empty((0, 0))  # W E^-1 W', W |E|^-1 W' with E = W' Z' A Z W
        self._refused, self._pause = 0, 0  # times that it did not pay, set-ups until the next try
        self._projected = (0, 0)  # handle and state of the A that they belong to
        self._event = PETSc.Log.Event("LRSACoarse")

    def set_basis(self, basis: Block | Sequence[PETSc.Vec]) -> None:
        """Give the basis: vectors in the layout of the matrix, or their owned rows ``(num_owned, m)``, which are copied; for the next set-up."""
        columns = [vector.array_r for vector in basis] if not isinstance(basis, np.ndarray) else basis.T
        self._given = np.array(columns, dtype=np.float64).T.copy(order="F")

    def setFromOptions(self, pc: PETSc.PC) -> None:
        options = PETSc.Options(pc.getOptionsPrefix())
        self.combine = choice(options, "pc_lrsa_combine", self.combine, COMBINATIONS)
        self.checkpoint = options.getString("pc_lrsa_checkpoint", self.checkpoint)
        self.source = choice(options, "pc_lrsa_basis", "learned" if self.checkpoint else self.source, SOURCES)
        self.coarse_modes = options.getInt("pc_lrsa_coarse_modes", self.coarse_modes)
        self.grid = options.getInt("pc_lrsa_grid", self.grid)
        self.smoothing = options.getInt("pc_lrsa_smoothing", self.smoothing)
        self.cleaning = options.getInt("pc_lrsa_cleaning", self.cleaning)
        self.rank_tolerance = options.getReal("pc_lrsa_rank_tolerance", self.rank_tolerance)
        self.least_gain = options.getReal("pc_lrsa_least_gain", self.least_gain)
        self.most_leak = options.getReal("pc_lrsa_most_leak", self.most_leak)
        for name, number in (("smoothing", self.smoothing), ("cleaning", self.cleaning), ("grid", self.grid)):
            if number < 0:
                raise ValueError(f"-{options.prefix or ''}pc_lrsa_{name} must be 0 or more, got {number}")

    def setUp(self, pc: PETSc.PC) -> None:
        self._comm = pc.getComm().tompi4py()
        matrix, stiffness = pc.getOperators()
        if not self._vectors:
            self._vectors = [matrix.createVecRight(), matrix.createVecLeft(), matrix.createVecLeft()]
        self._inner = self._inner or InnerPC(pc)
        self._inner.set_up(pc)
        with self._event:
            space, weights = self._useful_span(pc, matrix)
            if self.smoothing and weights.shape[1]:
                space, weights = span(smoothed(space, stiffness, self.smoothing), self._comm, self.rank_tolerance)
            for _ in range(self.cleaning if weights.shape[1] else 0):
                space, weights = span(
                    self._cleaned(space @ weights, matrix, stiffness), self._comm, self.rank_tolerance
                )
            self._space, self._weights, self.dimension = space, weights, weights.shape[1]
        self._project(matrix)

    def apply(self, pc: PETSc.PC, x: PETSc.Vec, y: PETSc.Vec) -> None:
        if not self.dimension:
            self._inner.pc.apply(x, y)
            return
        self._follow(pc)
        self._apply(pc, x, y, transposed=False)

    def applyTranspose(self, pc: PETSc.PC, x: PETSc.Vec, y: PETSc.Vec) -> None:
        if not self.dimension:
            self._inner.pc.applyTranspose(x, y)
            return
        self._follow(pc)
        self._apply(pc, x, y, transposed=True)

    def view(self, pc: PETSc.PC, viewer: PETSc.Viewer) -> None:
        viewer.printfASCII(
            f"  coarse space of {self.dimension} vectors ({self.source}), {self.combine}, {self.smoothing} steps of smoothing and {self.cleaning} of cleaning\n"
        )
        if self._inner is not None:
            viewer.printfASCII(
                f"  the inner preconditioner leaves {self.missed:.2g} of the basis, {self.leak:.2g} leaks out of its span\n"
            )
            self._inner.pc.view(viewer)

    def reset(self, pc: PETSc.PC) -> None:
        if self._inner is not None:
            self._inner.destroy()
        for vector in self._vectors:
            vector.destroy()
        self._inner, self._vectors, self.dimension = None, [], 0
        self._refused = self._pause = 0
        self._space = self._weights = np.empty((0, 0))

    def destroy(self, pc: PETSc.PC) -> None:
        self.reset(pc)
        self._given = None

    def _useful_span(self, pc: PETSc.PC, matrix: PETSc.Mat) -> tuple[Block, Dense]:
        """Return the basis, empty where it would not pay or is not tried."""
        if self._pause:
            self._pause, self.inference = self._pause - 1, 0.0
            return self._space[:, :0], self._weights[:0, :0]
        basis = self._basis(pc)
        if self._worth_it(basis, matrix):
            return span(basis.rows(slice(None)), self._comm, self.rank_tolerance)
        self._refused += self.source in COMPUTED
        self._pause = min(2**self._refused - 1, LONGEST_PAUSE)
        return np.empty((basis.shape[0], 0)), np.empty((0, 0))

    def _basis(self, pc: PETSc.PC) -> Columns:
        """Return the basis, once it has the same number of columns on all ranks."""
        stiffness = pc.getOperators()[1]
        basis = None if self._given is None else StoredColumns(self._given)
        if self.source == "nearnullspace":
            near = stiffness.getNearNullSpace()
            basis = StoredColumns(np.array([vector.array_r for vector in near.getVecs()]).T) if near else None
        elif self.source != "given":
            basis = self._computed(pc)
        rows = stiffness.getLocalSize()[0]
        shapes = self._comm.allgather((0, 0) if basis is None else (basis.shape[0] - rows, basis.shape[1]))
        if len(set(shapes)) != 1 or shapes[0][0] or not shapes[0][1]:
            found = "none" if basis is None else f"{basis.shape[1]} of {basis.shape[0]} on rank {self._comm.rank}"
            raise ValueError(f"the coarse space needs vectors of {rows} owned rows, {self._where()}; got {found}")
        return basis

    def _computed(self, pc: PETSc.PC) -> Columns:
        from lrsa_coupled.petsc import bases  # torch, or SLEPc: only where they are asked for

        if self.source == "coarse":
            return bases.coarse(pc, self.coarse_modes)
        if self._guess is None:
            self._guess = load_operator(pc, self.checkpoint)
        started = time.perf_counter()
        basis = bases.learned(pc, self._guess, cells=self.grid)
        self.inference = time.perf_counter() - started
        return basis

    def _where(self) -> str:
        where = {
            "given": "by pc.getPythonContext().set_basis(...)",
            "nearnullspace": "in the near-null space of the preconditioning matrix",
        }
        return where.get(self.source, "as the space described")

    def _worth_it(self, basis: Columns, matrix: PETSc.Mat) -> bool:
        """Measure what a coarse space on the basis would give; warn where that is too little."""
        rank, self.missed, self.leak = measure(basis, self._inner.pc, matrix, self.rank_tolerance)
        if not rank:
            why = "it has rank 0"
        elif not self.missed >= self.least_gain:
            why = f"the inner preconditioner leaves {self.missed:.2g} of it, {self.least_gain:g} would pay"
        elif not self.leak <= self.most_leak:
            why = f"{self.leak:.2g} of what the inner preconditioner leaves of it is outside its span, {self.most_leak:g} would pay"
        else:
            return True
        logger.warning("the coarse space is not used: %s", why)
        return False

    def _cleaned(self, space: Block, matrix: PETSc.Mat, stiffness: PETSc.Mat) -> Block:
        """Do one step of preconditioned inverse iteration for the pencil (P, P - A), or (P, I) when A is P.

        For a Helmholtz operator A = P - k^2 B with the stiffness matrix P these are the modes of P and the weighted mass matrix B.
        """
        images = multiply(stiffness, space)
        masses = space if matrix.handle == stiffness.handle else images - multiply(matrix, space)
        projected, mass = (inner_products(space, item, self._comm) for item in (images, masses))
        try:
            values, vectors = self._comm.bcast(eigh(projected, mass))
        except np.linalg.LinAlgError as error:
            raise ValueError(
                "-pc_lrsa_cleaning needs P - A positive on the basis, as for A = P - k^2 B, or P the very matrix A"
            ) from error
        defects = by_column(self._inner.pc.apply, images @ vectors - masses @ (vectors * values), matrix.createVecs())
        return space @ vectors - defects

    def _follow(self, pc: PETSc.PC) -> None:
        """Project A anew when it has changed: PETSc sets up a preconditioner again only when P has."""
        matrix = pc.getOperators()[0]
        if (matrix.handle, matrix.stateGet()) != self._projected:
            self._project(matrix)

    def _project(self, matrix: PETSc.Mat) -> None:
        self._projected = (matrix.handle, matrix.stateGet())
        if self.dimension:
            with self._event:
                self._factorise(self._weights.T @ project(matrix, self._space) @ self._weights)

    def _factorise(self, projected: Dense) -> None:
        """Find W E^-1 W' and W |E|^-1 W', the same on all ranks."""
        skew = np.linalg.norm(projected - projected.T) / np.linalg.norm(projected)
        if skew > ASYMMETRY:
            if self.combine == "symmetric":
                raise ValueError(
                    f"-pc_lrsa_combine symmetric needs a symmetric matrix, got one with an asymmetry of {skew:.1g}; use deflated"
                )
            self._inverse = self._comm.bcast(
                self._weights @ np.linalg.pinv(projected, rcond=SINGULAR) @ self._weights.T
            )
            return
        values, vectors = np.linalg.eigh(0.5 * (projected + projected.T))
        kept = np.abs(values) > SINGULAR * np.abs(values).max()
        inverses, vectors = np.where(kept, 1.0 / np.where(kept, values, 1.0), 0.0), self._weights @ vectors
        self._inverse = self._comm.bcast((vectors * inverses) @ vectors.T)
        self._definite = self._comm.bcast((vectors * np.abs(inverses)) @ vectors.T)

    def _apply(self, pc: PETSc.PC, x: PETSc.Vec, y: PETSc.Vec, *, transposed: bool) -> None:
        matrix, inner = pc.getOperators()[0], self._inner.pc.applyTranspose if transposed else self._inner.pc.apply
        coarse, image, rest = self._vectors
        inverse = self._inverse.T if transposed else self._inverse
        before, after = (
            self.combine != "additive" and not (transposed and self.combine == "deflated"),
            self.combine == "symmetric" or transposed,
        )
        with self._event:
            overlaps = self._overlaps(x)
            coarse.array[:] = self._space @ (inverse @ overlaps)  # Q x
            x.copy(rest)
            if before:
                matrix.mult(coarse, image)
                rest.axpy(-1.0, image)
        inner(rest, y)
        with self._event:
            if after and self.combine != "additive":
                (matrix.multTranspose if transposed else matrix.mult)(y, image)
                first = self._definite if self.combine == "symmetric" else inverse
                coarse.array[:] = self._space @ (first @ overlaps - inverse @ self._overlaps(image))
            y.axpy(1.0, coarse)

    def _overlaps(self, x: PETSc.Vec) -> Dense:
        """Return Z' x. Collective."""
        return total(self._space.T @ x.array_r, self._comm)
