"""Preconditioners against each other on a linear case with a spectrum, every cost counted.

The ledger is a dictionary for JSON: what was measured as in ``bench/ledger.py``, ``unknowns``, and a list ``preconditioners`` of

    name
    samples        list of {"index", "solved", "iterations", "setup", "inference", "solve", "residual", "dimension"}, one a sample
    cost           {"data", "training"} of its operator, wall time x ranks [s], null where the card does not say; null without one
    memory         bytes, of all ranks, that the first sample needed beyond the matrix, at its peak; null where it was not measured

Every way starts from the compiled forms, the assembled matrix A, the right side and zero, and ends at the true residual ``rtol`` times that of zero; but
the strategies of the case assemble A themselves, and set up most of their preconditioner in ``solve``. What a way needs besides is made anew for each sample and is in ``setup``: the preconditioning matrix P, interpolation from a coarse mesh, modes, nodes and inputs of an operator,
of which ``inference`` is the evaluation. An operator that is applied in each iteration has its ``inference`` in ``solve``. Seconds are of the
slowest rank.

Ways: the strategies of the case; ILU in blocks; SuperLU_DIST; algebraic multigrid on A, on P and on P + s B / 2 where A = P - s B; deflation of that
on P by exact modes of (P, B), by those of a coarse mesh, and by a predicted basis with 0 to 2 steps of cleaning; operators as preconditioners.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mpi4py import MPI

from lrsa_coupled.bench.breakeven import compared, note_of, rows_of
from lrsa_coupled.bench.compare import chosen
from lrsa_coupled.bench.ledger import measured_on
from lrsa_coupled.bench.memory import PeakMemory
from lrsa_coupled.bench.report import align
from lrsa_coupled.bench.ways import LEARNED, System, Way, all_ways
from lrsa_coupled.config import Config
from lrsa_coupled.coupling.norms import jacobian
from lrsa_coupled.coupling.residual import residual_vector
from lrsa_coupled.generation.plan import sample_parameters
from lrsa_coupled.interfaces import Case
from lrsa_coupled.logs import progress
from lrsa_coupled.mpi import collective_errors


def bench_preconditioners(
    case: Case, config: Config, comm: MPI.Comm, *, models: Sequence[Path] = (), only: Sequence[str] = ()
) -> dict[str, Any]:
    """Measure the ways on ``config.bench.samples`` samples never trained on. Collective.

    Args:
        case: A linear case with a ``spectrum``.
        config: Settings.
        comm: Ranks.
        models: Folders of operators that predict a basis or a correction.
        only: Names of the ways, all when empty.

    Returns:
        A ledger as described above.

    Raises:
        ValueError: If the case is of another kind, an operator of another case or kind, the seed one that was trained on, or a way unknown; on all ranks.
    """
    settings = config.bench
    with collective_errors(comm):
        ways = chosen(all_ways(case, config, models), only, what="preconditioner")
    samples: dict[str, list[dict[str, Any]]] = {way.name: [] for way in ways}
    memory: dict[str, int | None] = {}
    rtol, unknowns = config.problem.rtol or case.rtol, 0
    for index in progress(range(-1, settings.samples), description=f"preconditioners of {case.name}"):
        gc.collect()  # meshes of earlier samples, whose communicators MPI counts
        parameters = sample_parameters(case, config.problem.test_seed, max(index, 0))
        problem = case.problem(case.mesh(comm, parameters, config.problem.resolution or case.resolution), parameters)
        unknowns = problem.solution.function_space.dofmap.index_map.size_global
        right = residual_vector(problem)
        right.scale(-1.0)
        system = System(
            case,
            case.spectrum,
            problem,
            jacobian(problem),
            right,
            case.spectrum.pencil(problem),
            reference=right.norm(),
            rtol=rtol,
        )
        for way in ways:
            if index < 0:  # not counted: compiles the forms, wakes torch
                memory[way.name] = _measured_memory(way, system)
            else:
                samples[way.name].append({"index": index} | way.solve(system))
        system.matrix.destroy()
        system.right.destroy()
    entries = [
        {"name": way.name, "samples": samples[way.name], "memory": memory[way.name], "cost": way.cost} for way in ways
    ]
    return measured_on(case, config, comm) | {
        "unknowns": unknowns,
        "options": vars(case.options),
        "preconditioners": entries,
    }


def preconditioners_table(ledger: Mapping[str, Any]) -> str:
    """Format a ledger for the terminal: times are medians over the samples, ratios against the quickest way without an operator."""
    ways = ledger["preconditioners"]
    totals = {way["name"]: _total(way["samples"]) for way in ways}
    best = min(
        (name for name in totals if not name.startswith(LEARNED)), key=totals.__getitem__, default=next(iter(totals))
    )
    rows = [
        [
            "preconditioner",
            "solved",
            "iterations",
            "set-up [s]",
            "inference [s]",
            "solve [s]",
            "total [s]",
            "memory [MB]",
            "residual",
            f"against {best}",
        ]
    ]
    for way in ways:
        samples, total = way["samples"], totals[way["name"]]
        seconds = (f"{np.median([sample[key] for sample in samples]):.3f}" for key in ("setup", "inference", "solve"))
        rows.append([
            way["name"], f"{sum(sample['solved'] for sample in samples)}/{len(samples)}", f"{np.mean([s['iterations'] for s in samples]):.1f}",
            *seconds, f"{total:.3f}" if math.isfinite(total) else "-", "-" if way["memory"] is None else f"{way['memory'] / 1e6:.0f}",
            f"{max(sample['residual'] for sample in samples):.1e}", f"{totals[best] / total:.2f}" if math.isfinite(total) else "-",
        ])  # fmt: skip
    head = (f"{ledger['case']}: {len(ways[0]['samples'])} unseen samples (seed {ledger['seed']}), {ledger['unknowns']} unknowns, {ledger['ranks']} ranks; "
            f"to a true residual {ledger['tolerance']:.0e} times that of zero")  # fmt: skip
    return "\n\n".join([head, align(rows), *_break_even(ledger, best)])


def _break_even(ledger: Mapping[str, Any], best: str) -> list[str]:
    """Say after how many solves data and training of the operators have paid for themselves against the best of the others."""
    times = {
        way["name"]: {s["index"]: s["setup"] + s["solve"] for s in way["samples"] if s["solved"]}
        for way in ledger["preconditioners"]
    }
    ours = [way for way in ledger["preconditioners"] if way["cost"] is not None and way["name"] != best]
    found = []
    for way in ours:
        spent = {
            sample["index"]: sample["setup"] + sample["solve"] for sample in way["samples"]
        }  # time of a failure is lost
        savings = [
            (rival if index in times[way["name"]] else 0.0) - spent[index] for index, rival in times[best].items()
        ]
        found.append(
            compared(f"{best}, by {way['name']}", way["cost"], [ledger["ranks"] * saving for saving in savings])
        )
    notes = sorted({note_of(way["cost"]) for way in ours})
    return ["\n".join([align(rows_of(found)), *notes])] if found else []


def _total(samples: Sequence[Mapping[str, Any]]) -> float:
    """Return the median time of a way [s], infinite when it fails on a sample."""
    return (
        float(np.median([s["setup"] + s["solve"] for s in samples])) if all(s["solved"] for s in samples) else math.inf
    )


def _measured_memory(way: Way, system: System) -> int | None:
    """Solve, not counted, and return the memory of all ranks; None where the system does not tell it. Collective."""
    comm = system.problem.mesh.comm
    try:
        peak = PeakMemory()
    except OSError:
        peak = None
    way.solve(system)
    grown = comm.allgather(None if peak is None else peak.grown())
    return None if None in grown else sum(grown)
