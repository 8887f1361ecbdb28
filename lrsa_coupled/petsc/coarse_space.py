"""A coarse space as a PETSc preconditioner, around any other: chosen by options alone.

``-pc_type python -pc_python_type lrsa_coupled.petsc.coarse_space.CoarseSpacePC``; its options stand under the prefix of
the PC:

* ``-pc_lrsa_inner_pc_type gamg``, ``-pc_lrsa_inner_...``: the inner preconditioner M^-1, of the preconditioning
  matrix P.
* ``-pc_lrsa_combine deflated|symmetric|additive``: how it is combined, below.
* ``-pc_lrsa_basis given|nearnullspace|learned|coarse``: the basis Z: ``given`` by ``set_basis``, the near-null space
  attached to P, predicted (the default with a checkpoint), or the lowest modes on a coarse mesh.
* ``-pc_lrsa_checkpoint FOLDER``: an operator that predicts the basis; see ``petsc/describe.py`` for its inputs.
* ``-pc_lrsa_coarse_modes 64``: number of modes on the coarse mesh; see ``petsc/coarse_modes.py``.
* ``-pc_lrsa_grid 0``: cells, along the longest side, of a Cartesian grid behind the mesh on which the operator is
  evaluated, for media and modes that are smooth on it. The basis is made zero there where Dirichlet conditions hold
  and interpolated to the mesh by cubics. 0: the operator is evaluated at all nodes.
* ``-pc_lrsa_smoothing 0``: degree of a Chebyshev polynomial of P that smooths a basis from a coarse mesh, or from an
  operator at all nodes.
* ``-pc_lrsa_inverse_iterations 0``: steps of preconditioned inverse iteration on the basis.
* ``-pc_lrsa_rank_tolerance 1e-6``: directions of the basis, relative to its columns of unit length, that are dropped.
* ``-pc_lrsa_min_gain 0.5``, ``-pc_lrsa_max_defect 0.3``: gain below which, and invariance defect above which, the
  coarse space is not used.

With Q = Z E^-1 Z', E = Z' A Z, Z' the conjugate transpose, the preconditioner is

* deflated: Q + M^-1 (I - A Q), for GMRES and any A;
* symmetric: Z |E|^-1 Z' + (I - Q A) M^-1 (I - A Q), symmetric (Hermitian) where A and M are, and definite where M is,
  even for an indefinite A: for CG and MINRES;
* additive: Q + M^-1.

**Useless bases.** A Galerkin coarse space cannot harm conjugate gradients, but it costs time. Two numbers are measured
on two random z in the span of Z and their images y = (I - w M^-1 A) z, with the scale w at which y is least for white
noise. The gain, the norm of y over that of z, is what the inner preconditioner leaves for the coarse space to do. The
invariance defect is the share of y that is not in the span: small where Z spans an invariant subspace, which deflation
then removes from the spectrum, and near 1 for unrelated vectors. Where one of them is not good enough a
warning reports it, and the inner preconditioner is used alone; a computed basis is not tried in the next set-ups: 1,
then 3, 7, 15.

Source: Tang, Nabben, Vuik, Erlangga (2009), "Comparison of two-level preconditioners derived from deflation, domain
decomposition and multigrid methods", J. Sci. Comput. 39 (A-DEF1, BNN, AD); Neymeyr (2001), "A geometric theory for
preconditioned inverse iteration", Linear Algebra Appl. 322.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
from scipy.linalg import eigh
from mpi4py import MPI
from petsc4py import PETSc

from lrsa_coupled.petsc.basis import Basis, StoredBasis, measure
from lrsa_coupled.petsc.blocks import Block, Dense, by_column, inner_products, multiply, smoothed, span, total
from lrsa_coupled.petsc.context import PREFIX, InnerPC, load_operator, read_settings, setting

if TYPE_CHECKING:
    from lrsa_coupled.coupling.predictor import Predictor

logger = logging.getLogger(__name__)

COMBINATIONS = ("deflated", "symmetric", "additive")
COMPUTED = ("learned", "coarse")
SYMMETRIC, SINGULAR = 1e-8, 1e-12
"""Relative asymmetry of E up to which A is symmetric; eigenvalues of E, relative to the largest, that count as zero."""


@dataclass(frozen=True)
class CoarseSpaceSettings:
    """See the module."""

    combine: str = setting("deflated", *COMBINATIONS)
    checkpoint: str = setting("")
    basis: str = setting("given", "given", "nearnullspace", *COMPUTED)
    coarse_modes: int = setting(64)
    grid: int = setting(0)
    smoothing: int = setting(0)
    inverse_iterations: int = setting(0)
    rank_tolerance: float = setting(1e-6)
    min_gain: float = setting(0.5)
    max_defect: float = setting(0.3)


@final
class CoarseSpacePC:
    """Context of the Python PC; ``pc.getPythonContext()`` returns it. Collective: all methods.

    Attributes:
        settings: Values of the options.
        dimension: Of the coarse space in use, 0 when the inner preconditioner works alone; known after the set-up.
        gain: What the inner preconditioner leaves of the basis, see above; nan without a basis.
        defect: Invariance defect of its span there, see above; nan without a basis.
        inference: Wall time of the prediction of the basis at the last set-up [s].
    """

    def __init__(self) -> None:
        self.settings = CoarseSpaceSettings()
        self.dimension, self.gain, self.defect, self.inference = 0, float("nan"), float("nan"), 0.0
        self._comm: MPI.Comm = MPI.COMM_SELF
        self._given: Block | None = None
        self._predictor: Predictor | None = None
        self._inner = InnerPC()
        self._vectors: list[PETSc.Vec] = []
        self._space = self._weights = np.empty((0, 0))  # Z, and W with which Z W is orthonormal
        self._inverse = self._definite = np.empty((0, 0))  # W E^-1 W', W |E|^-1 W' with E = W' Z' A Z W
        self._rejections, self._pause = 0, 0  # times that it did not pay, set-ups until the next try
        self._projected = (0, 0)  # handle and state of the A that they belong to
        self._event = PETSc.Log.Event("LRSACoarse")

    def set_basis(self, basis: Block | Sequence[PETSc.Vec]) -> None:
        """Give the basis for the next set-up: vectors, or their owned rows ``(num_owned, m)``. Memory: copy."""
        columns = basis.T if isinstance(basis, np.ndarray) else [vector.array_r for vector in basis]
        self._given = np.array(columns, dtype=PETSc.ScalarType).T.copy(order="F")

    def setFromOptions(self, pc: PETSc.PC) -> None:
        if PETSc.Options(pc.getOptionsPrefix()).hasName(PREFIX + "checkpoint"):
            self.settings = dataclasses.replace(self.settings, basis="learned")
        self.settings = read_settings(pc, self.settings)

    def setUp(self, pc: PETSc.PC) -> None:
        self._comm = pc.getComm().tompi4py()
        matrix, stiffness = pc.getOperators()
        if not self._vectors:
            self._vectors = [matrix.createVecRight(), matrix.createVecLeft(), matrix.createVecLeft()]
        self._inner.set_up(pc)
        with self._event:
            space, weights = self._useful_span(pc)
            if self.settings.smoothing and weights.shape[1]:
                space, weights = self._span(smoothed(space, stiffness, self.settings.smoothing))
            for _ in range(self.settings.inverse_iterations if weights.shape[1] else 0):
                space, weights = self._span(self._inverse_iteration(space @ weights, matrix, stiffness))
            # A basis of real vectors is cast once, not in each product.
            self._space = space.astype(PETSc.ScalarType, order="K", copy=False)
            self._weights, self.dimension = weights, weights.shape[1]
        self._project(matrix)

    def apply(self, pc: PETSc.PC, x: PETSc.Vec, y: PETSc.Vec) -> None:
        self._apply(pc, x, y, transposed=False)

    def applyTranspose(self, pc: PETSc.PC, x: PETSc.Vec, y: PETSc.Vec) -> None:
        self._apply(pc, x, y, transposed=True)

    def view(self, pc: PETSc.PC, viewer: PETSc.Viewer) -> None:
        chosen = self.settings
        viewer.printfASCII(
            f"  coarse space of {self.dimension} vectors ({chosen.basis}), {chosen.combine}, "
            f"{chosen.smoothing} smoothing steps, {chosen.inverse_iterations} inverse iterations\n"
        )
        if self._inner.pc:
            viewer.printfASCII(f"  gain {self.gain:.2g}, invariance defect {self.defect:.2g}\n")
            self._inner.pc.view(viewer)

    def reset(self, pc: PETSc.PC) -> None:
        self._inner.pc.destroy()
        for vector in self._vectors:
            vector.destroy()
        self._vectors, self.dimension = [], 0
        self._rejections = self._pause = 0
        self._space = self._weights = np.empty((0, 0))

    def destroy(self, pc: PETSc.PC) -> None:
        self.reset(pc)
        self._given = None

    def _span(self, block: Block) -> tuple[Block, Dense]:
        return span(block, self._comm, self.settings.rank_tolerance)

    def _useful_span(self, pc: PETSc.PC) -> tuple[Block, Dense]:
        """Return the basis, empty where it would not pay or is not tried."""
        if self._pause:
            self._pause, self.inference = self._pause - 1, 0.0
            return self._space[:, :0], self._weights[:0, :0]
        basis = self._basis(pc)
        if self._pays(basis, pc.getOperators()[0]):
            return self._span(basis.rows(slice(None)))
        self._rejections += self.settings.basis in COMPUTED
        self._pause = min(2**self._rejections - 1, 15)
        return np.empty((basis.shape[0], 0)), np.empty((0, 0))

    def _basis(self, pc: PETSc.PC) -> Basis:
        """Return the basis, once it has the same number of columns on all ranks."""
        stiffness = pc.getOperators()[1]
        basis: Basis | None = None if self._given is None else StoredBasis(self._given)
        where = "by pc.getPythonContext().set_basis(...)"
        if self.settings.basis == "nearnullspace":
            near = stiffness.getNearNullSpace()
            basis = StoredBasis(np.array([vector.array_r for vector in near.getVecs()]).T) if near else None
            where = "in the near-null space of the preconditioning matrix"
        elif self.settings.basis in COMPUTED:
            basis, where = self._computed(pc), "as the space described"
        rows = stiffness.getLocalSize()[0]
        shapes = self._comm.allgather((0, 0) if basis is None else (basis.shape[0] - rows, basis.shape[1]))
        if basis is None or len(set(shapes)) != 1 or shapes[0][0] or not shapes[0][1]:
            found = "none" if basis is None else f"{basis.shape[1]} of {basis.shape[0]} on rank {self._comm.rank}"
            raise ValueError(f"the coarse space needs vectors of {rows} owned rows, {where}; got {found}")
        return basis

    def _computed(self, pc: PETSc.PC) -> Basis:
        if self.settings.basis == "coarse":
            from lrsa_coupled.petsc.coarse_modes import coarse_modes  # SLEPc: only where it is asked for

            return coarse_modes(pc, self.settings.coarse_modes)
        from lrsa_coupled.petsc.learned_basis import learned_basis  # torch: as SLEPc

        if self._predictor is None:
            self._predictor = load_operator(pc, self.settings.checkpoint)
        started = time.perf_counter()
        basis = learned_basis(pc, self._predictor, cells=self.settings.grid)
        self.inference = time.perf_counter() - started
        return basis

    def _pays(self, basis: Basis, matrix: PETSc.Mat) -> bool:
        """Measure what a coarse space on the basis would give; warn where that is too little."""
        chosen = self.settings
        rank, self.gain, self.defect = measure(basis, self._inner.pc, matrix, chosen.rank_tolerance)
        if not rank:
            why = "it has rank 0"
        elif not self.gain >= chosen.min_gain:
            why = f"the inner preconditioner leaves {self.gain:.2g} of it, {chosen.min_gain:g} would pay"
        elif not self.defect <= chosen.max_defect:
            why = f"its invariance defect is {self.defect:.2g}, {chosen.max_defect:g} would pay"
        else:
            return True
        logger.warning("the coarse space is not used: %s", why)
        return False

    def _inverse_iteration(self, space: Block, matrix: PETSc.Mat, stiffness: PETSc.Mat) -> Block:
        """Do one step of preconditioned inverse iteration for the pencil (P, P - A), or (P, I) when A is P.

        For a Helmholtz operator A = P - k^2 B, P the stiffness matrix, these are the modes of P and the mass matrix B.
        """
        images = multiply(stiffness, space)
        masses = space if matrix.handle == stiffness.handle else images - multiply(matrix, space)
        projected, mass = (inner_products(space, item, self._comm) for item in (images, masses))
        wanted = "-pc_lrsa_inverse_iterations needs P - A positive on the basis, as for A = P - k^2 B, or P equal to A"
        if max(asymmetry(projected), asymmetry(mass)) > 1e-6:
            raise ValueError(f"{wanted}, and both symmetric (Hermitian), got another one")
        try:
            values, vectors = self._comm.bcast(eigh(projected, mass))
        except np.linalg.LinAlgError as error:
            raise ValueError(wanted) from error
        defects = by_column(self._inner.pc.apply, images @ vectors - masses @ (vectors * values), matrix.createVecs())
        return space @ vectors - defects

    def _project(self, matrix: PETSc.Mat) -> None:
        """Find W E^-1 W' and W |E|^-1 W', the same on all ranks."""
        self._projected = (matrix.handle, matrix.stateGet())
        if not self.dimension:
            return
        with self._event:
            products = inner_products(self._space, multiply(matrix, self._space), self._comm)
            adjoint = self._weights.conj().T
            projected = adjoint @ products @ self._weights
            skew = asymmetry(projected)
            if skew > SYMMETRIC:
                if self.settings.combine == "symmetric":
                    raise ValueError(
                        "-pc_lrsa_combine symmetric needs a symmetric matrix, "
                        f"got one with an asymmetry of {skew:.1g}; use deflated"
                    )
                inverse = self._weights @ np.linalg.pinv(projected, rcond=SINGULAR) @ adjoint
                self._inverse = self._comm.bcast(inverse)
                return
            values, vectors = np.linalg.eigh(0.5 * (projected + projected.conj().T))
            kept = np.abs(values) > SINGULAR * np.abs(values).max()
            inverses, vectors = np.where(kept, 1.0 / np.where(kept, values, 1.0), 0.0), self._weights @ vectors
            self._inverse = self._comm.bcast((vectors * inverses) @ vectors.conj().T)
            self._definite = self._comm.bcast((vectors * np.abs(inverses)) @ vectors.conj().T)

    def _apply(self, pc: PETSc.PC, x: PETSc.Vec, y: PETSc.Vec, *, transposed: bool) -> None:
        matrix, inner = pc.getOperators()[0], self._inner.pc.applyTranspose if transposed else self._inner.pc.apply
        if not self.dimension:
            inner(x, y)
            return
        # PETSc sets up a preconditioner again only when P has changed.
        if (matrix.handle, matrix.stateGet()) != self._projected:
            self._project(matrix)
        symmetric, deflated = (self.settings.combine == name for name in ("symmetric", "deflated"))
        coarse, image, rest = self._vectors
        product = matrix.multTranspose if transposed else matrix.mult
        inverse = self._inverse.T if transposed else self._inverse
        with self._event:
            overlaps = self._overlaps(x, transposed)
            coarse.array[:] = self._combined(inverse @ overlaps, transposed)  # Q x
            x.copy(rest)
            if symmetric or (deflated and not transposed):
                product(coarse, image)
                rest.axpy(-1.0, image)
        inner(rest, y)
        with self._event:
            if symmetric or (deflated and transposed):
                product(y, image)
                first = inverse if deflated else self._definite.conj() if transposed else self._definite
                values = first @ overlaps - inverse @ self._overlaps(image, transposed)
                coarse.array[:] = self._combined(values, transposed)
            y.axpy(1.0, coarse)

    def _overlaps(self, x: PETSc.Vec, transposed: bool) -> Dense:
        """Return Z' x; with the conjugate of Z for the transposed preconditioner. Collective."""
        values = x.array_r
        overlaps = self._space.T @ values if transposed else (self._space.T @ values.conj()).conj()
        return total(overlaps, self._comm)

    def _combined(self, weights: Dense, transposed: bool) -> Dense:
        """Return Z times the weights; with the conjugate of Z for the transposed preconditioner."""
        return (self._space @ weights.conj()).conj() if transposed else self._space @ weights


def asymmetry(matrix: Dense) -> float:
    """Return the size of the part of a matrix that is not Hermitian, relative to that of the matrix."""
    return float(np.linalg.norm(matrix - matrix.conj().T) / np.linalg.norm(matrix))
