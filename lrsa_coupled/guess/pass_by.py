"""Solvers that a guess must not touch: their answer depends on where they begin, or they gain nothing from it."""

from __future__ import annotations

from petsc4py import PETSc

from lrsa_coupled.guess.twin import TYPES


def objection(solver: PETSc.SNES | PETSc.KSP, b: PETSc.Vec | None = None) -> str | None:
    """Say why a guess is of no use to a solver as it is set now, None where it may be of some. Collective: no.

    ``b`` is the right-hand side of the solve, where it is known.
    """
    if isinstance(solver, PETSc.SNES) and b is not None:
        return "the SNES has a right-hand side"
    return _to_snes(solver) if isinstance(solver, PETSc.SNES) else _to_ksp(solver)


def stopped_by_count(solver: PETSc.SNES | PETSc.KSP) -> bool:
    """Return whether the last solve ended after a number of iterations, not at a tolerance. Collective: no."""
    return solver.getConvergedReason() == type(solver).ConvergedReason.CONVERGED_ITS


def _to_ksp(ksp: PETSc.KSP) -> str | None:
    if ksp.getType() == PETSc.KSP.Type.PREONLY:
        return "a direct solve (-ksp_type preonly) gains nothing from an initial guess"
    if ksp.getNormType() == PETSc.KSP.NormType.NONE:
        return "without norms (-ksp_norm_type none) the answer depends on the initial guess"
    if ksp.getConvergenceTest() is not None:
        return "the KSP has a convergence test of its own"
    if ksp.getInitialGuessKnoll():
        return "the KSP makes its own initial guess (-ksp_knoll)"
    return None


def _to_snes(snes: PETSc.SNES) -> str | None:
    kind = snes.getType()
    if kind == PETSc.SNES.Type.KSPONLY:
        return "one linear solve (-snes_type ksponly) gives an answer that depends on the initial guess"
    if kind not in TYPES:
        return f"guesses are for SNES types {', '.join(sorted(TYPES))}, got {kind}"
    if snes.getNormSchedule() == PETSc.SNES.NormSchedule.NORM_NONE:
        return "without norms (-snes_norm_schedule none) the answer depends on the initial guess"
    if snes.getConvergenceTest() is not None:
        return "the SNES has a convergence test of its own"
    if snes.getInitialGuess() is not None:
        return "the SNES makes its own initial guess"
    if snes.hasNPC():
        return "the SNES has a nonlinear preconditioner"
    if snes.getUseMF() or snes.getUseFD() or snes.getJacobian()[2] is None or snes.getFunction()[1] is None:
        return "residual and Jacobian of the SNES are not both Python functions"
    return None
