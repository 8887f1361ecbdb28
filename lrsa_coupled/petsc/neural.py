"""An operator as a PETSc preconditioner, chosen by options alone; for flexible methods only.

``-pc_type python -pc_python_type lrsa_coupled.petsc.neural.NeuralPC``; its options stand under the prefix of the PC:

* ``-pc_lrsa_checkpoint FOLDER``: an operator trained on corrections (a case ``<name>:correction``); see
  ``petsc/describe.py`` for its inputs.
* ``-pc_lrsa_sweeps 1``: applications of the inner preconditioner before and after the operator; 0 leaves the operator
  alone.
* ``-pc_lrsa_inner_pc_type sor``, ``-pc_lrsa_inner_...``: the inner preconditioner, a smoother.
* ``-pc_lrsa_precision bf16|fp32``: precision inside the operator; vectors stay in double.

The operator N is applied to the residual r divided by the lumped mass and by its L2 norm, and its answer is multiplied
by the norm: a preconditioner that is homogeneous, N(c r) = c N(r) for c > 0, but not linear. With FCG and stored
directions (``-ksp_type fcg -ksp_fcg_mmax 50``) and no sweeps this is the deep conjugate direction method, with sweeps
of a smoother the hybrid of HINTS; FGMRES and GCR work with both. Where the operator's answer is not finite the residual
itself takes its place.

Source: Kaneda et al. (2023), "A deep conjugate direction method for iteratively solving linear systems", ICML;
Zhang et al. (2024), "Blending neural operators and relaxation methods in PDE numerical solvers", Nature Machine
Intelligence 6.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
from mpi4py import MPI
from petsc4py import PETSc

from lrsa_coupled.coupling.scalars import PARTS, Scalars, from_columns, to_columns
from lrsa_coupled.petsc.context import InnerPC, load_operator, read_settings, setting
from lrsa_coupled.petsc.describe import description_of

if TYPE_CHECKING:
    from lrsa_coupled.coupling.predictor import Predictor

logger = logging.getLogger(__name__)

FLEXIBLE = ("fgmres", "pipefgmres", "fcg", "pipefcg", "gcr", "pipegcr", "fbcgs", "fbcgsr", "richardson", "preonly")
"""Methods that work with a preconditioner which is not linear."""

RESIDUAL, CORRECTION = "residual", "correction"
"""Last input and only output of an operator trained on corrections."""


@dataclass(frozen=True)
class NeuralSettings:
    """See the module."""

    checkpoint: str = setting("")
    sweeps: int = setting(1)
    precision: str = setting("bf16", "bf16", "fp32")


@final
class NeuralPC:
    """Context of the Python PC; ``pc.getPythonContext()`` returns it. Collective: all methods.

    Attributes:
        settings: Values of the options.
        inference: Wall time of the operator so far [s].
    """

    def __init__(self) -> None:
        self.settings = NeuralSettings()
        self.inference = 0.0
        self._predictor: Predictor | None = None
        self._correction: Callable[[Scalars], Scalars | None] | None = None
        self._warned = False
        self._inner = InnerPC(PETSc.PC.Type.SOR)
        self._vectors: list[PETSc.Vec] = []
        self._event = PETSc.Log.Event("LRSANeural")

    def setFromOptions(self, pc: PETSc.PC) -> None:
        self.settings = read_settings(pc, self.settings)

    def setUp(self, pc: PETSc.PC) -> None:
        if self._predictor is None:
            self._predictor = load_operator(pc, self.settings.checkpoint, self.settings.precision)
        self._correction = _correction(self._predictor, pc)
        if not self._vectors:
            matrix = pc.getOperators()[0]
            self._vectors = [matrix.createVecLeft(), matrix.createVecRight(), matrix.createVecRight()]
        if self.settings.sweeps:
            self._inner.set_up(pc)

    def preSolve(self, pc: PETSc.PC, ksp: PETSc.KSP, b: PETSc.Vec, x: PETSc.Vec) -> None:
        if ksp.getType() not in FLEXIBLE:
            raise ValueError(
                f"NeuralPC is not linear: -{ksp.getOptionsPrefix() or ''}ksp_type must be a flexible method "
                f"({', '.join(FLEXIBLE)}), got {ksp.getType()}"
            )

    def apply(self, pc: PETSc.PC, x: PETSc.Vec, y: PETSc.Vec) -> None:
        matrix, sweeps = pc.getOperators()[0], self.settings.sweeps
        residual, product, correction = self._vectors
        y.set(0.0)
        for sweep in range(2 * sweeps + 1):
            x.copy(residual)
            if sweep:
                matrix.mult(y, product)
                residual.axpy(-1.0, product)
            if sweep == sweeps:
                started = time.perf_counter()
                with self._event:
                    self._apply_operator(residual, correction)
                self.inference += time.perf_counter() - started
            else:
                self._inner.pc.apply(residual, correction)
            y.axpy(1.0, correction)

    def view(self, pc: PETSc.PC, viewer: PETSc.Viewer) -> None:
        chosen = self.settings
        viewer.printfASCII(
            f"  operator of {chosen.checkpoint} in {chosen.precision}, {chosen.sweeps} sweeps before and after\n"
        )
        if self._inner.pc:
            self._inner.pc.view(viewer)

    def reset(self, pc: PETSc.PC) -> None:
        self._inner.pc.destroy()
        for vector in self._vectors:
            vector.destroy()
        self._correction, self._vectors = None, []

    def destroy(self, pc: PETSc.PC) -> None:
        self.reset(pc)
        self._predictor = None

    def _apply_operator(self, residual: PETSc.Vec, correction: PETSc.Vec) -> None:
        assert self._correction is not None  # PETSc calls setUp first
        found = self._correction(residual.array_r)
        correction.array[:] = residual.array_r if found is None else found
        if found is None and not self._warned:
            logger.warning("the operator's correction is not finite: the residual takes its place")
            self._warned = True


def _correction(predictor: Predictor, pc: PETSc.PC) -> Callable[[Scalars], Scalars | None]:
    """Return the operator as a function of the owned residual, None where its correction is not finite. Collective.

    So is the function. Constrained rows are those of the identity.

    Raises:
        ValueError: If the operator was not trained on corrections, or needs inputs that the description lacks.
    """
    schema = predictor.card.schema
    inputs, outputs = ([item.name for item in items] for items in (schema.inputs, schema.outputs))
    if inputs[-1:] != [RESIDUAL] or outputs != [CORRECTION]:
        raise ValueError(
            "-pc_lrsa_checkpoint: expected an operator from a residual to its correction, "
            f"got one from {inputs} to {outputs}"
        )
    if schema.outputs[0].components != PARTS:
        found = f"{PARTS} real number{'s' * (PARTS > 1)}, the operator predicts {schema.outputs[0].components}"
        raise ValueError(f"-pc_lrsa_checkpoint: a correction of this PETSc's scalars has {found}")
    description, comm = description_of(pc), pc.getComm().tompi4py()
    features = description.features(predictor, without=RESIDUAL)

    def correction(residual: Scalars) -> Scalars | None:
        density = to_columns(np.where(description.fixed, 0.0, residual / description.nodes.mass)[:, None])
        scale = float(np.sqrt(comm.allreduce(float(description.nodes.mass @ np.sum(density**2, axis=1)))))
        if scale == 0.0:
            return residual
        arrays = description.arrays(predictor, np.column_stack([features.nodal, density / scale]))
        outputs = predictor.evaluate(arrays, features.scalars, comm)[0].cpu().numpy()
        if not comm.allreduce(bool(np.isfinite(outputs).all()), op=MPI.LAND):
            return None
        return np.where(description.fixed, residual, scale * from_columns(outputs.astype(np.float64))[:, 0])

    return correction
