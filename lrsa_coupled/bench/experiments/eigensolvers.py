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
from argparse import Namespace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lrsa_coupled.bench.experiments import add_model
from lrsa_coupled.bench.report import align, heading, mean_iterations, median, solved_count
from lrsa_coupled.bench.rows import Results, Row, Seconds
from lrsa_coupled.interfaces import Case, Pencil
from lrsa_coupled.logs import progress
from lrsa_coupled.mpi import collective_errors

if TYPE_CHECKING:
    from lrsa_coupled.bench.samples import Samples
    from lrsa_coupled.guess.learned import LearnedGuess
    from lrsa_coupled.petsc.blocks import Block

ON_RANKS = True
STUDY = "eigensolvers"
KRYLOV_SCHUR, RANDOM, LEARNED = "krylov-schur", "lobpcg", "lobpcg, learned guess"

REFERENCE_RTOL, RTOL = 1e-10, 1.5e-6
"""Tolerances of the modes that count as exact, and of all others, whose eigenvalues are then right to 1e-8."""
SHARES = (8, 4)
"""Modes predicted, to a mode that is wanted."""

add_arguments = add_model


def run(args: Namespace, samples: Samples) -> Results:
    """Find modes; ValueError, on all ranks, without a case of modes and a model that fits it. Collective."""
    case = samples.case
    with collective_errors(samples.comm):
        if case.spectrum is None or not case.schema.outputs[0].span:
            raise ValueError(f"this experiment is for a case whose output is modes; '{case.name}' predicts a field")
        guess = samples.guess()
    counts = sorted({max(case.schema.outputs[0].components // share, 1) for share in SHARES})
    rows = []
    for index in progress(range(-1, samples.config.bench.samples), description=f"modes of {case.name}"):
        pencil: Any = samples.problem(max(index, 0))
        exact = case.spectrum.modes(pencil, counts[-1], rtol=REFERENCE_RTOL).values
        for count in counts:
            for method in (KRYLOV_SCHUR, RANDOM, LEARNED):
                row = _solve(samples, pencil, method=method, exact=exact[:count], guess=guess, index=max(index, 0))
                rows += [row] if index >= 0 else []  # the first is not counted: compiles the forms, wakes torch
    return samples.results(STUDY, rows, rtol=RTOL)


def table(results: Results) -> str:
    """Format results: times are medians, ratios against LOBPCG from a random subspace."""
    lines = [["modes", "eigensolver", "solved", "iterations", "fewer by"]]
    lines[0] += ["inference [s]", "total [s]", "speed-up", "error"]
    for count in dict.fromkeys(int(row.number("count")) for row in results.rows):
        methods = {name: [r for r in rows if r.number("count") == count] for name, rows in results.methods.items()}
        random = methods[RANDOM]
        for name, rows in methods.items():
            iterations, seconds = mean_iterations(rows), median(rows)
            fewer = "-" if name == KRYLOV_SCHUR else f"{mean_iterations(random) / iterations:.2f}"
            cells = [str(count), name, solved_count(rows), f"{iterations:.1f}", fewer]
            cells += [f"{median(rows, 'inference'):.3f}", f"{seconds:.3f}"]
            error = max(math.inf if math.isnan(row.number("error")) else row.number("error") for row in rows)
            lines.append([*cells, f"{median(random) / seconds:.2f}", f"{error:.1e}"])
    return f"{heading(results)}; error: of the eigenvalues, relative\n\n{align(lines)}"


def _solve(
    samples: Samples, pencil: Pencil, *, method: str, exact: npt.NDArray[np.float64], guess: LearnedGuess, index: int
) -> Row:
    """Find as many modes as there are exact values. Collective."""
    from mpi4py import MPI

    comm, count, spectrum = samples.comm, len(exact), samples.case.spectrum
    assert spectrum is not None
    comm.Barrier()
    started = time.perf_counter()
    initial = predicted_basis(samples.case, pencil, guess) if method == LEARNED else None
    predicted = time.perf_counter()
    eigensolver = "krylov-schur" if method == KRYLOV_SCHUR else "lobpcg"
    modes = spectrum.modes(pencil, count, rtol=RTOL, initial=initial, eigensolver=eigensolver)
    inference, total = (comm.allreduce(end - started, op=MPI.MAX) for end in (predicted, time.perf_counter()))
    return Row(
        method=method,
        sample=index,
        unknowns=pencil.node_space.dofmap.index_map.size_global,
        seconds=Seconds(total=total, inference=inference, solve=total - inference),
        iterations=modes.iterations,
        solved=modes.converged,
        reason=None if modes.converged else modes.reason,
        values={"count": count, "error": float(abs(modes.values / exact - 1.0).max()) if modes.converged else None},
    )


def predicted_basis(case: Case, pencil: Pencil, guess: LearnedGuess) -> Block:
    """Predict the modes on a grid, interpolate and smooth them. Collective."""
    from dolfinx.fem.petsc import assemble_matrix
    from petsc4py import PETSc

    from lrsa_coupled.coupling.background import BackgroundGrid
    from lrsa_coupled.coupling.transfer import NodeSet
    from lrsa_coupled.petsc.blocks import smoothed
    from lrsa_coupled.petsc.learned_basis import GridBasis

    nodes, comm, predictor = NodeSet(pencil, case.schema.outputs), pencil.mesh.comm, guess.predictor
    fixed = nodes.constrained.any(axis=1)
    grid = BackgroundGrid(nodes.points, nodes.mass, predictor.card.resolution, comm=comm, fixed=fixed)
    basis = GridBasis(predictor, grid, case.features(pencil), fixed=fixed, comm=comm).rows(slice(None))
    stiffness = assemble_matrix(pencil.stiffness)
    stiffness.assemble()
    stiffness.zeroRowsColumns((np.flatnonzero(fixed) + stiffness.getOwnershipRange()[0]).astype(PETSc.IntType))
    basis = smoothed(basis, stiffness, 1)
    stiffness.destroy()
    return basis
