"""GCRO-DR as a PETSc KSP: flexible GMRES that reuses a deflation space from one linear system to the next.

Chosen by ``-ksp_type python -ksp_python_type lrsa_coupled.solvers.gcrodr.GCRODR``; its options stand under the prefix
of the KSP:

* ``-ksp_gcrodr_recycle 20``: dimension k of the recycled space; 0 is restarted FGMRES.
* ``-ksp_gcrodr_restart 100``: Krylov vectors m of a cycle, more than k.
* ``-ksp_gcrodr_ritz harmonic|galerkin``: what is recycled. ``harmonic``: the harmonic Ritz vectors of A nearest to
zero, for any A and PC;
  ``galerkin``: the lowest Ritz vectors of A y = mu M y, negative mu first, for a symmetric (Hermitian) A and such a
  positive PC M^-1.

The recycled space survives new operators (``KSPSetOperators``), PCs and tolerances. It is dropped by ``KSPReset``, by
another size, by other options, and by a second ``KSPSetFromOptions``, for which petsc4py makes a new context. Memory: 2
(k + m) vectors, touched when needed. The PC works on the right and the norm is that of b - A x, whatever
``-ksp_pc_side`` and ``-ksp_norm_type`` are beside ``-ksp_type``.

Source: Parks, de Sturler, Mackey, Johnson, Maiti (2006), "Recycling Krylov subspaces for sequences of linear systems",
    SIAM J. Sci. Comput. 28.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, final

import numpy as np
import numpy.typing as npt
from scipy.linalg import block_diag, eigh, lstsq, solve_triangular
from mpi4py import MPI
from petsc4py import PETSc

Array = npt.NDArray[Any]
"""Of PETSc's scalars."""

Reason = PETSc.KSP.ConvergedReason

CACHE = 2**17  # numbers in a block of the basis that is read twice while it is in the cache
LOSS = 1e-8  # of orthogonality, that GMRES does not feel
STALLED = 0.99  # residual after a cycle that ended early, relative to the one before, that is no progress
ROUNDING = 1e-13  # what is left of a vector, and eigenvalues of a Gram matrix, relative to the whole


@final
class GCRODR:
    """Context of the Python KSP, ``ksp.getPythonContext()``; ``dimension`` is that of the recycled space now."""

    def __init__(self) -> None:
        self.recycle, self.restart, self.ritz, self.dimension = 20, 100, "harmonic", 0
        self._comm: MPI.Comm = MPI.COMM_SELF
        self._layout: tuple[object, ...] = ()  # sizes and options the arrays are made for
        self._space = self._images = np.empty((0, 0))  # owned rows of [U Z], [C V]
        self._vecs: list[PETSc.Vec] = []  # the residual, and two that borrow columns
        self._imaged = False  # C is A U already
        # W, H, U' M U, C' r: C = A U W, A Z = [C V] H, ' the conjugate transpose
        self._weights = self._hessenberg = self._mass = self._shift = np.empty((0, 0))
        self._squares: LeastSquares | None = None  # of the cycle under way
        self._events = {name: PETSc.Log.Event(f"GCRODR{name}") for name in ("Deflate", "Orthog", "Recycle")}

    def configure(self, *, recycle: int = 20, restart: int = 100, ritz: str = "harmonic") -> None:
        """Set what the options set; a change drops the recycled space at the next solve. Same values on all ranks."""
        if recycle < 0:
            raise ValueError(f"-ksp_gcrodr_recycle must be 0 or more, got {recycle}")
        if restart <= recycle:
            raise ValueError(f"-ksp_gcrodr_restart must be more than -ksp_gcrodr_recycle {recycle}, got {restart}")
        if ritz not in ("harmonic", "galerkin"):
            raise ValueError(f"-ksp_gcrodr_ritz must be harmonic or galerkin, got {ritz!r}")
        self.recycle, self.restart, self.ritz = recycle, restart, ritz

    def drop(self) -> None:
        """Forget the recycled space. Call it on all ranks."""
        self.dimension = 0

    def create(self, ksp: PETSc.KSP) -> None:
        ksp.setPCSide(PETSc.PC.Side.RIGHT)
        ksp.setNormType(PETSc.KSP.NormType.UNPRECONDITIONED)

    def setFromOptions(self, ksp: PETSc.KSP) -> None:
        options = PETSc.Options(ksp.getOptionsPrefix())
        recycle = options.getInt("ksp_gcrodr_recycle", self.recycle)
        restart = options.getInt("ksp_gcrodr_restart", self.restart)
        self.configure(recycle=recycle, restart=restart, ritz=options.getString("ksp_gcrodr_ritz", self.ritz))

    def view(self, ksp: PETSc.KSP, viewer: PETSc.Viewer) -> None:
        recycled = f"{self.dimension} of {self.recycle} ({self.ritz} Ritz)"
        viewer.printfASCII(f"  recycled vectors {recycled}, restart {self.restart}\n")

    def destroy(self, ksp: PETSc.KSP) -> None:
        for vec in self._vecs:
            vec.destroy()
        self._vecs, self._layout, self.dimension = [], (), 0
        self._space = self._images = np.empty((0, 0))

    reset = destroy

    def buildSolution(self, ksp: PETSc.KSP, v: PETSc.Vec) -> None:
        ksp.getSolution().copy(v)  # PETSc's default applies the PC to it
        if self._squares is not None:
            v.array[:] += self._correction()

    def solve(self, ksp: PETSc.KSP, b: PETSc.Vec, x: PETSc.Vec) -> None:
        """Solve in the norm of b - A x; iteration 1 includes k products for the recycled space. Collective."""
        self._prepare(ksp, b)
        its, most, norm = 0, ksp.getTolerances()[3], self._residual(ksp, b, x)
        reason = self._report(ksp, its, norm)
        while not reason and its < most:
            before, start = norm, its
            its, reason = self._cycle(ksp, its, norm)
            if reason == Reason.DIVERGED_NANORINF:
                break  # x and the recycled space stay as they were
            x.array[:] += self._correction()
            assert self._squares is not None
            steps, self._squares, norm = self._squares.steps, None, self._residual(ksp, b, x)
            ksp.setResidualNorm(norm)
            if reason > 0:  # by the recurrence, which rounding may have led away from the residual
                reason = ksp.callConvergenceTest(its, norm)
            if not reason and its < min(start + self.restart, most) and norm > STALLED * before:
                reason = Reason.DIVERGED_BREAKDOWN  # singular, or a tolerance below rounding
            if self.recycle and steps:
                with self._events["Recycle"]:
                    self._recycle(steps, image=not reason and its < most)
        self._squares = None
        ksp.setConvergedReason(reason or Reason.DIVERGED_MAX_IT)

    def _prepare(self, ksp: PETSc.KSP, b: PETSc.Vec) -> None:
        if ksp.getPCSide() != PETSc.PC.Side.RIGHT or ksp.getNormType() != PETSc.KSP.NormType.UNPRECONDITIONED:
            raise ValueError("GCRODR needs the PC side right and the norm type unpreconditioned")
        self._comm, self._imaged, self._squares = ksp.getComm().tompi4py(), False, None
        k, m = self.recycle, self.restart
        layout = (*b.getSizes(), k, m, self.ritz)
        if self._comm.allreduce(layout != self._layout, op=MPI.LOR):
            self.destroy(ksp)
            self._layout, self._vecs = layout, [b.duplicate() for _ in range(3)]
            # U ends where Z starts, C where V starts: one GEMV serves both; pages are touched when columns are written
            self._space = np.empty((b.local_size, k + m), PETSc.ScalarType, order="F")
            self._images = np.empty((b.local_size, k + m + 1), PETSc.ScalarType, order="F")

    def _residual(self, ksp: PETSc.KSP, b: PETSc.Vec, x: PETSc.Vec) -> float:
        ksp.getOperators()[0].mult(x, self._vecs[0])
        self._vecs[0].aypx(-1.0, b)
        return self._vecs[0].norm()

    def _report(self, ksp: PETSc.KSP, its: int, norm: float) -> int:
        ksp.setIterationNumber(its)
        if not math.isfinite(norm):  # petsc4py refuses to test it
            return Reason.DIVERGED_NANORINF
        ksp.setResidualNorm(norm)
        ksp.logConvergenceHistory(norm)
        ksp.monitor(its, norm)
        return ksp.callConvergenceTest(its, norm)

    def _cycle(self, ksp: PETSc.KSP, its: int, norm: float) -> tuple[int, int]:
        """Minimise the residual over recycled and up to m Krylov directions; return iterations and reason so far."""
        with self._events["Deflate"]:
            self._deflate(ksp.getOperators()[0])
        matrix, k, rank = ksp.getOperators()[0], self.recycle, self._weights.shape[1]
        space, images = self._space, self._images
        images[:, k] = self._vecs[0].array_r
        self._shift, below = orthogonalise(images[:, k - rank : k], images[:, k], self._comm)
        self._hessenberg = np.zeros((rank + self.restart + 1, self.restart), PETSc.ScalarType)
        self._squares = LeastSquares(self.restart, below)
        if below <= ROUNDING * norm:
            return its + 1, self._report(ksp, its + 1, below)
        for j in range(min(self.restart, ksp.getTolerances()[3] - its)):
            images[:, k + j] /= below
            self._apply(ksp.getPC().apply, images[:, k + j], space[:, k + j])
            self._apply(matrix.mult, space[:, k + j], images[:, k + j + 1])
            with self._events["Orthog"]:
                h, below = orthogonalise(images[:, k - rank : k + j + 1], images[:, k + j + 1], self._comm)
            below = below if below > ROUNDING * math.hypot(*np.abs(h)) else 0.0
            self._hessenberg[: rank + j + 2, j] = *h, below
            reason = self._report(ksp, its + j + 1, self._squares.append(h[rank:], below))
            if reason or not below:
                break
        images[:, k + j + 1] *= 1.0 / below if below else 0.0
        return its + j + 1, reason

    def _apply(self, operation: Callable[[PETSc.Vec, PETSc.Vec], None], source: Array, target: Array) -> None:
        _, u, v = self._vecs
        u.placeArray(source)
        v.placeArray(target)
        try:
            operation(u, v)
        finally:
            u.resetArray()
            v.resetArray()

    def _multiply(self, matrix: PETSc.Mat, columns: Array, images: Array) -> None:
        if matrix.getType() in ("seqaij", "mpiaij"):
            sizes = matrix.getSizes()[1], (None, columns.shape[1])
            dense = PETSc.Mat().createDense(sizes, array=columns, comm=matrix.comm)
            product = matrix.matMult(dense)
            images[:] = product.getDenseArray(readonly=True)
            product.destroy()
            dense.destroy()
        else:
            for column, image in zip(columns.T, images.T, strict=True):
                self._apply(matrix.mult, column, image)

    def _deflate(self, matrix: PETSc.Mat) -> None:
        """Find W such that C = A U W is orthonormal, without what depends on other columns; U stays as it is."""
        k, size = self.recycle, self.dimension
        if size and not self._imaged:
            self._multiply(matrix, self._space[:, k - size : k], self._images[:, k - size : k])
        self._imaged, self._weights = False, np.eye(size)
        for _ in range(2 if size else 0):
            images = self._images[:, k - self._weights.shape[1] : k]
            weights = self._comm.bcast(whitening(total(images.conj().T @ images, self._comm)))
            self._weights = self._weights @ weights
            self._images[:, k - weights.shape[1] : k] = images @ weights
            if not weights.size or np.linalg.cond(weights) < 1000:
                break  # one pass has left an error of 1e6 eps at most

    def _correction(self) -> Array:
        """Return the owned values of the update of x that the cycle has found so far."""
        assert self._squares is not None
        y, k, rank = self._squares.solve(), self.recycle, self._weights.shape[1]
        recycled = self._weights @ (self._shift - self._hessenberg[:rank, : len(y)] @ y)
        return self._space[:, k - self.dimension : k + len(y)] @ np.concatenate((recycled, y))

    def _recycle(self, steps: int, *, image: bool) -> None:
        """Replace U by combinations of [U Z], and C by their images if the solve goes on. Collective."""
        k, size, rank = self.recycle, self.dimension, self._weights.shape[1]
        space, images = self._space[:, k - size : k + steps], self._images[:, k - rank : k + steps + 1]
        whole, g = (
            block_diag(self._weights, np.eye(steps)),
            np.eye(rank + steps + 1, rank + steps, dtype=PETSc.ScalarType),
        )
        g[:, rank:] = self._hessenberg[: rank + steps + 1, :steps]  # A [U Z] diag(W, 1) = [C V] G
        cross = total(space.conj().T @ images, self._comm)
        if self.ritz == "harmonic":
            ritz = harmonic(g, cross.conj().T @ whole)
        else:  # M Z = V and M = M'
            between = cross[:size, rank:-1]
            mass = np.block([[self._mass[:size, :size], between], [between.conj().T, cross[size:, rank:-1]]])
            adjoint = whole.conj().T
            basis, stiff = whitening(adjoint @ (mass + mass.conj().T) @ whole), adjoint @ cross @ g
            ritz = basis @ eigh(basis.conj().T @ (stiff + stiff.conj().T) @ basis)[1]
        sizes = np.linalg.norm(g @ ritz, axis=0)
        # Not the null space of A.
        seen = np.flatnonzero(sizes > ROUNDING * np.linalg.norm(g) * np.linalg.norm(ritz, axis=0))[:k]
        ritz = self._comm.bcast(ritz[:, seen] / sizes[seen])  # the same bits on all ranks
        weights, self.dimension, self._imaged = whole @ ritz, ritz.shape[1], image
        self._space[:, k - self.dimension : k] = space @ weights
        if self.ritz == "galerkin":
            self._mass = weights.conj().T @ mass @ weights
        if image:
            self._images[:, k - self.dimension : k] = images @ (g @ ritz)


@final
class LeastSquares:
    """min ||beta e_1 - H y|| for a Hessenberg matrix H that grows by a column a step, by Givens rotations."""

    def __init__(self, size: int, beta: float) -> None:
        self.steps, self.beta = 0, beta
        self.rotation, self.triangle = (
            np.eye(size + 1, dtype=PETSc.ScalarType),
            np.zeros((size, size), PETSc.ScalarType),
        )

    def append(self, column: Array, below: float) -> float:
        """Add the column (column, below) of H and return the norm of the residual."""
        j, q = self.steps, self.rotation
        h = q[: j + 1, : j + 1] @ column
        length = math.hypot(abs(h[j]), below)
        c, s = (h[j].conjugate() / length, below / length) if length else (1.0, 0.0)
        self.triangle[: j + 1, j] = *h[:j], length
        q[j], q[j + 1] = c * q[j] + s * q[j + 1], c.conjugate() * q[j + 1] - s * q[j]
        self.steps += 1
        return self.beta * float(abs(q[j + 1, 0]))

    def solve(self) -> Array:
        """Return y; one entry short where the last column, of a breakdown, depends on the others."""
        j, sizes = self.steps, np.abs(np.diag(self.triangle))
        if j and sizes[j - 1] <= ROUNDING * sizes.max():
            j -= 1
        return solve_triangular(self.triangle[:j, :j], self.beta * self.rotation[:j, 0]) if j else np.empty(0)


def orthogonalise(basis: Array, vector: Array, comm: MPI.Comm) -> tuple[Array, float]:
    """Make a vector orthogonal to an orthonormal basis, in place, by classical Gram-Schmidt, twice.

    Returns the coefficients and the norm of what is left. Collective: two sums. The sweep over the basis that subtracts
    the first projection finds the second one, which is applied where it matters.
    """
    h = total((vector.conj() @ basis).conj(), comm)
    again, rows = np.zeros(len(h) + 1, h.dtype), max(CACHE // (len(h) + 1), 64)
    for start in range(0, len(vector), rows):
        block, piece = basis[start : start + rows], vector[start : start + rows]
        piece -= block @ h
        again[:-1] += (piece.conj() @ block).conj()
        again[-1] += piece.conj() @ piece
    again = total(again, comm)
    lost, square = float((again[:-1].conj() @ again[:-1]).real), float(again[-1].real)
    if lost > LOSS**2 * square:
        vector -= basis @ again[:-1]
        h += again[:-1]
        square = square - lost if 2 * lost < square else total(np.array([vector.conj() @ vector]), comm)[0].real
    return h, math.sqrt(square)


def harmonic(g: Array, f: Array) -> Array:
    """Return the y of G' G y = theta G' F y, theta nearest to zero first; real and imaginary part if G is real."""
    values, vectors = np.linalg.eig(lstsq(g, f, lapack_driver="gelsy")[0])
    order = np.argsort(-np.abs(values), kind="stable")
    if np.iscomplexobj(g):
        return vectors[:, order]
    vectors = vectors[:, order[values[order].imag >= 0]]
    parts = np.stack((vectors.real, vectors.imag), axis=2).reshape(len(vectors), -1)
    return parts[:, np.any(parts != 0, axis=0)]


def whitening(gram: Array) -> Array:
    """Return W of full rank with W' G W = 1, without the directions that the symmetric G does not see."""
    scale = np.array([1.0 / math.sqrt(square) if square > 0 else 0.0 for square in np.diag(gram).real])
    values, vectors = np.linalg.eigh(gram * np.outer(scale, scale))
    seen = values > max(ROUNDING * values[-1], 0.0)
    return scale[:, None] * vectors[:, seen] / np.sqrt(values[seen])


def total(array: Array, comm: MPI.Comm) -> Array:
    """Return the sum over the ranks. Collective."""
    array = np.ascontiguousarray(array)
    comm.Allreduce(MPI.IN_PLACE, array)
    return array
