"""Lowest modes by SLEPc from a cold start and from a predicted subspace.

The ledger is a dictionary for JSON: what was measured as in ``bench/ledger.py``, ``unknowns``, and a list ``eigensolvers`` of

    name
    count          modes wanted
    samples        list of {"index", "solved", "iterations", "inference", "seconds", "error"}, one a sample

``seconds`` are of the slowest rank, from the pencil to the modes, with the ``inference`` of the operator: on a grid as fine as the meshes of its
training, interpolated as for ``CoarseSpacePC`` and smoothed; ``error`` is the largest relative difference
to the eigenvalues of shift-and-invert Krylov-Schur at ``REFERENCE_RTOL``. Cold and predicted starts of LOBPCG end at the same residuals.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from mpi4py import MPI
from dolfinx.fem.petsc import assemble_matrix
from petsc4py import PETSc

from lrsa_coupled.bench.ledger import measured_on
from lrsa_coupled.bench.report import align
from lrsa_coupled.bench.strategies import load_guess
from lrsa_coupled.config import Config
from lrsa_coupled.coupling.background import BackgroundGrid
from lrsa_coupled.coupling.transfer import NodeSet
from lrsa_coupled.generation.plan import sample_parameters
from lrsa_coupled.guess.learned import LearnedGuess
from lrsa_coupled.interfaces import Case, Pencil, Spectrum
from lrsa_coupled.logs import progress
from lrsa_coupled.mpi import collective_errors
from lrsa_coupled.petsc.blocks import Block, smoothed
from lrsa_coupled.petsc.learned_basis import GridBasis

REFERENCE_RTOL = 1e-10
RTOL = 1.5e-6
"""Tolerance of the residuals, at which the eigenvalues, quadratic in them, are right to 1e-8."""

SMOOTHING = 1
"""Degree of the smoothing of the predicted basis."""

SHARES = (8, 4)
"""Modes predicted, to a mode that is wanted."""

KRYLOV_SCHUR, COLD, LEARNED = "krylov-schur", "lobpcg", "lobpcg, learned start"


def bench_modes(case: Case, config: Config, comm: MPI.Comm, *, model: Path) -> dict[str, Any]:
    """Find an eighth and a quarter as many modes as the operator predicts on ``config.bench.samples`` samples never trained on. Collective.

    The last modes of a predicted basis are its worst; the best combinations of all of them have eigenvalues right to the square of the angles.

    Returns:
        A ledger as described above.

    Raises:
        ValueError: If the case is no variant of modes, the seed one that was trained on, or the model of another case; on all ranks.
    """
    with collective_errors(comm):
        spectrum = case.spectrum
        if spectrum is None or not case.schema.outputs[0].span:
            raise ValueError(
                f"bench --what modes is for the modes of a case with a spectrum, such as helmholtz:modes; got '{case.name}'"
            )
        guess = load_guess(case, config, model)
    settings, unknowns = config.bench, 0
    counts = sorted({max(case.schema.outputs[0].components // share, 1) for share in SHARES})
    samples: dict[tuple[str, int], list[dict[str, Any]]] = {
        (name, count): [] for count in counts for name in (KRYLOV_SCHUR, COLD, LEARNED)
    }
    for index in progress(range(-1, settings.samples), description=f"modes of {case.name}"):
        gc.collect()  # meshes of earlier samples, whose communicators MPI counts
        parameters = sample_parameters(case, config.problem.test_seed, max(index, 0))
        pencil = case.problem(case.mesh(comm, parameters, config.problem.resolution or case.resolution), parameters)
        unknowns = pencil.node_space.dofmap.index_map.size_global
        values = spectrum.modes(pencil, counts[-1], rtol=REFERENCE_RTOL).values
        for (name, count), entries in samples.items():
            entry = _solve(case, spectrum, pencil, name=name, guess=guess, values=values[:count])
            if index >= 0:  # the first is not counted: it compiles the forms and wakes torch
                entries.append({"index": index} | entry)
    entries = [{"name": name, "count": count, "samples": found} for (name, count), found in samples.items()]
    return measured_on(case, config, comm) | {"tolerance": RTOL, "unknowns": unknowns, "eigensolvers": entries}


def modes_table(ledger: Mapping[str, Any]) -> str:
    """Format a ledger for the terminal: times are medians, ratios against the cold LOBPCG."""
    rows = [
        [
            "modes",
            "eigensolver",
            "solved",
            "iterations",
            "fewer by",
            "inference [s]",
            "total [s]",
            "quicker by",
            "error",
        ]
    ]
    means = {
        (entry["name"], entry["count"]): (
            np.mean([s["iterations"] for s in entry["samples"]]),
            _median(entry["samples"], "seconds"),
        )
        for entry in ledger["eigensolvers"]
    }
    for entry in ledger["eigensolvers"]:
        name, count, samples = (entry[key] for key in ("name", "count", "samples"))
        fewer, quicker = (cold / own for cold, own in zip(means[COLD, count], means[name, count], strict=True))
        rows.append([
            str(count), name, f"{sum(s['solved'] for s in samples)}/{len(samples)}", f"{means[name, count][0]:.1f}", "-" if name == KRYLOV_SCHUR else f"{fewer:.2f}",
            f"{_median(samples, 'inference'):.3f}", f"{means[name, count][1]:.3f}", f"{quicker:.2f}", f"{max(s['error'] for s in samples):.1e}",
        ])  # fmt: skip
    return (f"{ledger['case']}: lowest modes of {len(samples)} unseen samples (seed {ledger['seed']}), {ledger['unknowns']} unknowns, "
            f"{ledger['ranks']} ranks; error: of the eigenvalues, relative\n\n{align(rows)}")  # fmt: skip


def _median(samples: Sequence[Mapping[str, Any]], key: str) -> float:
    return float(np.median([sample[key] for sample in samples]))


def _solve(
    case: Case, spectrum: Spectrum, pencil: Pencil, *, name: str, guess: LearnedGuess, values: npt.NDArray[np.float64]
) -> dict[str, Any]:
    comm, initial = pencil.mesh.comm, None
    comm.Barrier()
    started = time.perf_counter()
    if name == LEARNED:
        initial = _predicted(case, pencil, guess)
    predicted = time.perf_counter()
    modes = spectrum.modes(
        pencil,
        len(values),
        rtol=RTOL,
        initial=initial,
        eigensolver="krylov-schur" if name == KRYLOV_SCHUR else "lobpcg",
    )
    inference, seconds = (comm.allreduce(end - started, op=MPI.MAX) for end in (predicted, time.perf_counter()))
    error = float(np.abs(modes.values / values - 1.0).max()) if modes.converged else float("inf")
    return {
        "solved": modes.converged,
        "iterations": modes.iterations,
        "inference": inference,
        "seconds": seconds,
        "error": error,
    }


def _predicted(case: Case, pencil: Pencil, guess: LearnedGuess) -> Block:
    nodes, comm = NodeSet(pencil, case.schema.outputs), pencil.mesh.comm
    fixed = nodes.constrained.any(axis=1)
    grid = BackgroundGrid(nodes.points, nodes.mass, guess.predictor.card.resolution, comm=comm, fixed=fixed)
    basis = GridBasis(guess.predictor, grid, case.features(pencil), fixed=fixed, comm=comm).rows(slice(None))
    stiffness = assemble_matrix(pencil.stiffness)
    stiffness.assemble()
    stiffness.zeroRowsColumns((np.flatnonzero(fixed) + stiffness.getOwnershipRange()[0]).astype(PETSc.IntType))
    basis = smoothed(basis, stiffness, SMOOTHING)
    stiffness.destroy()
    return basis
