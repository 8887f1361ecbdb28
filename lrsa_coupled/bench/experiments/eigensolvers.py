"""Lowest modes by SLEPc from a random and from a predicted subspace.

Times go from the pencil to the modes, with the ``inference`` of the operator: on a grid as fine as the meshes of its
training, interpolated as for ``CoarseSpacePC`` and smoothed. In the rows ``values`` holds the ``count`` of modes
wanted and the ``error``, the largest relative difference to the eigenvalues of shift-and-invert Krylov-Schur at a
small tolerance. LOBPCG ends at the same residuals from either subspace.

The last modes of a predicted basis are its worst; the best combinations of all of them have eigenvalues right to the
square of the angles. So an eighth and a quarter as many modes are wanted as the operator predicts.
"""

from __future__ import annotations

import math
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace
from mpi4py import MPI
from dolfinx.fem.petsc import assemble_matrix
from petsc4py import PETSc

from lrsa_coupled.bench.experiments import OnRanks, add_model, add_samples
from lrsa_coupled.bench.report import align, heading, solved_count
from lrsa_coupled.bench.rows import Results, Row, Seconds
from lrsa_coupled.bench.samples import Samples, load_guess
from lrsa_coupled.coupling.background import BackgroundGrid
from lrsa_coupled.coupling.transfer import NodeSet
from lrsa_coupled.guess.learned import LearnedGuess
from lrsa_coupled.interfaces import Case, Pencil, Spectrum
from lrsa_coupled.logs import progress
from lrsa_coupled.mpi import collective_errors
from lrsa_coupled.petsc.blocks import Block, smoothed
from lrsa_coupled.petsc.learned_basis import GridBasis

ON_RANKS = True
STUDY = "eigensolvers"
KRYLOV_SCHUR, RANDOM, LEARNED = "krylov-schur", "lobpcg", "lobpcg, learned guess"


@dataclass(frozen=True)
class Limits:
    """Numbers of the comparison.

    Args:
        reference_rtol: Tolerance of the eigenvalues that count as exact.
        rtol: Tolerance of the residuals, at which the eigenvalues, quadratic in them, are right to 1e-8.
        smoothing: Degree of the smoothing of the predicted basis.
        shares: Modes predicted, to a mode that is wanted.
    """

    reference_rtol: float = 1e-10
    rtol: float = 1.5e-6
    smoothing: int = 1
    shares: tuple[int, ...] = (8, 4)


LIMITS = Limits()


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    add_samples(parser)
    add_model(parser)


def run(args: Namespace, place: OnRanks) -> Results:
    """Find modes of samples never trained on. Collective.

    Raises:
        ValueError: If the case is not one of modes, or the model does not fit or has seen the samples; on all ranks.
    """
    return measure(place, place.needed_model())


def measure(place: OnRanks, model: Path) -> Results:
    """Measure, see ``run``. Collective."""
    case, samples = place.case, Samples(place.case, place.config, place.comm)
    with collective_errors(place.comm):
        if case.spectrum is None or not case.schema.outputs[0].span:
            raise ValueError(f"this experiment is for a case whose output is modes; '{case.name}' predicts a field")
        guess = load_guess(case, place.config, model)
    counts = sorted({max(case.schema.outputs[0].components // share, 1) for share in LIMITS.shares})
    rows = []
    for index in progress(range(-1, place.config.bench.samples), description=f"modes of {case.name}"):
        pencil: Any = samples.problem(max(index, 0))
        exact = case.spectrum.modes(pencil, counts[-1], rtol=LIMITS.reference_rtol).values
        for count in counts:
            for method in (KRYLOV_SCHUR, RANDOM, LEARNED):
                solve = _Solve(samples, case.spectrum, pencil, exact[:count], guess, method)
                if index < 0:  # not counted: compiles the forms, wakes torch
                    solve.row(0)
                else:
                    rows.append(solve.row(index))
    return samples.results(STUDY, rows, rtol=LIMITS.rtol)


def table(results: Results) -> str:
    """Format results: times are medians, ratios against LOBPCG from a random subspace."""
    lines = [
        ["modes", "eigensolver", "solved", "iterations", "fewer by", "inference [s]", "total [s]", "speed-up", "error"]
    ]
    for count in dict.fromkeys(int(row.number("count")) for row in results.rows):
        methods = {name: [r for r in rows if r.number("count") == count] for name, rows in results.methods.items()}
        random = methods[RANDOM]
        for name, rows in methods.items():
            iterations, seconds = _mean_iterations(rows), _median_time(rows)
            fewer = "-" if name == KRYLOV_SCHUR else f"{_mean_iterations(random) / iterations:.2f}"
            cells = [str(count), name, solved_count(rows), f"{iterations:.1f}", fewer]
            cells += [f"{np.median([row.seconds.inference for row in rows]):.3f}", f"{seconds:.3f}"]
            error = max(math.inf if math.isnan(row.number("error")) else row.number("error") for row in rows)
            lines.append([*cells, f"{_median_time(random) / seconds:.2f}", f"{error:.1e}"])
    return f"{heading(results)}; error: of the eigenvalues, relative\n\n{align(lines)}"


def _mean_iterations(rows: Sequence[Row]) -> float:
    return float(np.mean([row.iterations for row in rows]))


def _median_time(rows: Sequence[Row]) -> float:
    return float(np.median([row.seconds.total for row in rows]))


@dataclass(frozen=True)
class _Solve:
    """One eigensolver on one sample, for as many modes as there are exact values."""

    samples: Samples
    spectrum: Spectrum
    pencil: Pencil
    exact: npt.NDArray[np.float64]
    guess: LearnedGuess
    method: str

    def row(self, index: int) -> Row:
        """Find the modes. Collective."""
        comm, count = self.samples.comm, len(self.exact)
        comm.Barrier()
        started = time.perf_counter()
        initial = predicted_basis(self.samples.case, self.pencil, self.guess) if self.method == LEARNED else None
        predicted = time.perf_counter()
        eigensolver = "krylov-schur" if self.method == KRYLOV_SCHUR else "lobpcg"
        modes = self.spectrum.modes(self.pencil, count, rtol=LIMITS.rtol, initial=initial, eigensolver=eigensolver)
        inference, total = (comm.allreduce(end - started, op=MPI.MAX) for end in (predicted, time.perf_counter()))
        error = float(np.abs(modes.values / self.exact - 1.0).max()) if modes.converged else None
        seconds = Seconds(total=total, inference=inference, solve=total - inference)
        row = Row(
            method=self.method, sample=index, seconds=seconds, solved=modes.converged, iterations=modes.iterations
        )
        unknowns = self.pencil.node_space.dofmap.index_map.size_global
        reason = None if modes.converged else modes.reason
        return replace(row, unknowns=unknowns, reason=reason, values={"count": count, "error": error})


def predicted_basis(case: Case, pencil: Pencil, guess: LearnedGuess) -> Block:
    """Predict the modes on a grid, interpolate and smooth them. Collective."""
    nodes, comm, predictor = NodeSet(pencil, case.schema.outputs), pencil.mesh.comm, guess.predictor
    fixed = nodes.constrained.any(axis=1)
    grid = BackgroundGrid(nodes.points, nodes.mass, predictor.card.resolution, comm=comm, fixed=fixed)
    basis = GridBasis(predictor, grid, case.features(pencil), fixed=fixed, comm=comm).rows(slice(None))
    stiffness = assemble_matrix(pencil.stiffness)
    stiffness.assemble()
    stiffness.zeroRowsColumns((np.flatnonzero(fixed) + stiffness.getOwnershipRange()[0]).astype(PETSc.IntType))
    basis = smoothed(basis, stiffness, LIMITS.smoothing)
    stiffness.destroy()
    return basis
