"""An operator as a PETSc preconditioner, chosen by options alone; it is applied to the residual, so that only flexible methods may use it.

``-pc_type python -pc_python_type lrsa_coupled.petsc.neural.NeuralPC``; its options stand under the prefix of the PC:

* ``-pc_lrsa_checkpoint FOLDER``: an operator trained on corrections, ``generate.target=correction``; see ``petsc/description.py`` for what it sees.
* ``-pc_lrsa_sweeps 1``: applications of the inner preconditioner before and after the operator; 0 leaves the operator alone.
* ``-pc_lrsa_inner_pc_type sor``, ``-pc_lrsa_inner_...``: the inner preconditioner, a smoother.
* ``-pc_lrsa_precision bf16|fp32``: precision inside the operator; vectors stay in double.

The operator N sees the residual r divided by the lumped mass and by its L2 norm, and its answer is multiplied by the norm: a preconditioner that is
homogeneous, N(c r) = c N(r) for c > 0, but not linear. With FCG and stored directions (``-ksp_type fcg -ksp_fcg_mmax 50``) and no sweeps this is
the deep conjugate direction method, with sweeps of a smoother the hybrid of HINTS; FGMRES and GCR take both. Where the operator's answer is not
finite the residual itself takes its place.

Source: Kaneda et al. (2023), "A deep conjugate direction method for iteratively solving linear systems", ICML; Zhang et al. (2024), "Blending neural
operators and relaxation methods in PDE numerical solvers", Nature Machine Intelligence 6.
"""

from __future__ import annotations

import logging
import time
from typing import final

import numpy as np
from mpi4py import MPI
from petsc4py import PETSc

from lrsa_coupled.generation.corrections import CORRECTION, RESIDUAL
from lrsa_coupled.guess.learned import LearnedGuess
from lrsa_coupled.interfaces import Features
from lrsa_coupled.petsc.base import InnerPC, choice, load_operator
from lrsa_coupled.petsc.description import Description, description_of

logger = logging.getLogger(__name__)

FLEXIBLE = ("fgmres", "pipefgmres", "fcg", "pipefcg", "gcr", "pipegcr", "fbcgs", "fbcgsr", "richardson", "preonly")
"""Methods that take a preconditioner which is not linear."""

PRECISIONS = ("bf16", "fp32")


@final
class NeuralPC:
    """Context of the Python PC; ``pc.getPythonContext()`` returns it. Collective: all methods.

    Attributes:
        inference: What the operator has taken so far [s].
    """

    def __init__(self) -> None:
        self.checkpoint, self.sweeps, self.precision = "", 1, PRECISIONS[0]
        self._guess: LearnedGuess | None = None
        self._inner: InnerPC | None = None
        self._description: Description | None = None
        self._features = Features(np.empty((0, 0)), np.empty(0))
        self._vectors: list[PETSc.Vec] = []
        self.inference = 0.0
        self._warned = False
        self._event = PETSc.Log.Event("LRSANeural")

    def setFromOptions(self, pc: PETSc.PC) -> None:
        options = PETSc.Options(pc.getOptionsPrefix())
        self.checkpoint = options.getString("pc_lrsa_checkpoint", self.checkpoint)
        self.sweeps = options.getInt("pc_lrsa_sweeps", self.sweeps)
        self.precision = choice(options, "pc_lrsa_precision", self.precision, PRECISIONS)
        if self.sweeps < 0:
            raise ValueError(f"-{options.prefix or ''}pc_lrsa_sweeps must be 0 or more, got {self.sweeps}")

    def setUp(self, pc: PETSc.PC) -> None:
        if self._guess is None:
            self._guess = load_operator(pc, self.checkpoint, self.precision)
            given, found = (
                [item.name for item in items]
                for items in (self._guess.card.schema.inputs, self._guess.card.schema.outputs)
            )
            if given[-1:] != [RESIDUAL.name] or found != [CORRECTION.name]:
                raise ValueError(
                    f"-pc_lrsa_checkpoint: expected an operator from a residual to its correction, got one from {given} to {found}"
                )
        self._description = description_of(pc)
        self._features = self._description.features(self._guess, without=RESIDUAL.name)
        if not self._vectors:
            self._vectors = [
                pc.getOperators()[0].createVecLeft(),
                *(pc.getOperators()[0].createVecRight() for _ in range(2)),
            ]
        if self.sweeps:
            self._inner = self._inner or InnerPC(pc, default=PETSc.PC.Type.SOR)
            self._inner.set_up(pc)

    def preSolve(self, pc: PETSc.PC, ksp: PETSc.KSP, b: PETSc.Vec, x: PETSc.Vec) -> None:
        if ksp.getType() not in FLEXIBLE:
            raise ValueError(f"NeuralPC is not linear: -{ksp.getOptionsPrefix() or ''}ksp_type must be a flexible method ({', '.join(FLEXIBLE)}), "
                             f"got {ksp.getType()}")  # fmt: skip

    def apply(self, pc: PETSc.PC, x: PETSc.Vec, y: PETSc.Vec) -> None:
        matrix = pc.getOperators()[0]
        y.set(0.0)
        for sweep in range(2 * self.sweeps + 1):
            residual, product, correction = self._vectors
            x.copy(residual)
            if sweep:
                matrix.mult(y, product)
                residual.axpy(-1.0, product)
            if sweep == self.sweeps:
                started = time.perf_counter()
                with self._event:
                    correction.array[:] = self._corrected(residual.array_r, pc.getComm().tompi4py())
                self.inference += time.perf_counter() - started
            else:
                self._inner.pc.apply(residual, correction)
            y.axpy(1.0, correction)

    def view(self, pc: PETSc.PC, viewer: PETSc.Viewer) -> None:
        viewer.printfASCII(
            f"  operator of {self.checkpoint} in {self.precision}, {self.sweeps} sweeps before and after\n"
        )
        if self._inner is not None:
            self._inner.pc.view(viewer)

    def reset(self, pc: PETSc.PC) -> None:
        if self._inner is not None:
            self._inner.destroy()
        for vector in self._vectors:
            vector.destroy()
        self._inner, self._description, self._vectors = None, None, []

    def destroy(self, pc: PETSc.PC) -> None:
        self.reset(pc)
        self._guess = None

    def _corrected(self, residual: np.ndarray, comm: MPI.Comm) -> np.ndarray:
        """Return the operator's correction of the owned residual; constrained rows are those of the identity."""
        about = self._description
        density = np.where(about.fixed, 0.0, residual / about.nodes.mass)
        scale = float(np.sqrt(comm.allreduce(float(about.nodes.mass @ density**2))))
        if scale == 0.0:
            return residual
        nodal = np.column_stack([self._features.nodal, density / scale])
        outputs = (
            self._guess.evaluate(about.arrays(self._guess, nodal), self._features.scalars, comm)[0].cpu().numpy()[:, 0]
        )
        if comm.allreduce(bool(np.isfinite(outputs).all()), op=MPI.LAND):
            return np.where(about.fixed, residual, scale * outputs.astype(np.float64))
        if not self._warned:
            logger.warning("the operator's correction is not finite: the residual takes its place")
            self._warned = True
        return residual
