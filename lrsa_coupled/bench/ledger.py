"""The ledger: every start strategy of a case on the same unseen problems, each ended at the same true residual.

A ledger is a dictionary for JSON::

    case, resolution, seed, ranks     what was measured
    tolerance                         residual norm at the end, relative to that of the zero start
    versions, machine                 texts
    cost                              {"data", "training"} of the operator: wall time x ranks [s]; null where its card does not say
    gate                              {"summary", "decisions"} of the gated strategy, in the order of the samples and their repeats
    strategies                        list of {"name", "samples"}, the classical ones in the case's order, the learned one last

and each sample of a strategy holds ``index``, ``unknowns`` (of the discrete problem, on all ranks), ``solved`` (the true residual is within
``atol``), ``iterations``, ``residual``, ``atol`` (Euclidean norms; null when not finite), ``relative_error`` (of the start against the
converged first output field, mass-weighted L2; null for a cold start), ``seconds`` (``transfer``, ``inference``, ``solve``, ``total``: the
slowest rank, median of the repeats, set-up of the solver in ``solve``), ``used_fallback`` and ``reason`` (null when solved).
"""

from __future__ import annotations

import dataclasses
import gc
import math
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from mpi4py import MPI
import dolfinx
from petsc4py import PETSc

from lrsa_coupled.bench.breakeven import cost_of
from lrsa_coupled.bench.compare import STAGES, chosen
from lrsa_coupled.bench.pictures import LEARNED, Example
from lrsa_coupled.bench.strategies import (
    Strategy,
    gated_strategy,
    learned_strategy,
    load_guess,
    nearest_strategy,
    rivals,
)
from lrsa_coupled.config import Config, ProblemConfig
from lrsa_coupled.coupling.residual import reference_norm, residual_norm
from lrsa_coupled.coupling.transfer import NodeSet
from lrsa_coupled.generation.plan import sample_parameters
from lrsa_coupled.guess.learned import LEARNED as LEARNED_GUESS
from lrsa_coupled.guess.policy import Adaptive
from lrsa_coupled.interfaces import Case, Problem, SolveResult
from lrsa_coupled.logs import progress
from lrsa_coupled.mpi import collective_errors
from lrsa_coupled.schema import Field

SLACK = 1e-6
"""Share by which rounding may lift the reassembled residual above the tolerance."""


@dataclass(frozen=True)
class BenchRun:
    """A ledger, and the fields of its first sample (None above rank 0 or without a converged solution)."""

    ledger: dict[str, Any]
    example: Example | None


@dataclass(frozen=True)
class _Sample:
    """Measured sample: one record a strategy, and starts and solution at the owned nodes when they exist."""

    problem: Problem
    nodes: NodeSet
    records: list[dict[str, Any]]
    starts: dict[str, npt.NDArray[np.float64]]
    truth: npt.NDArray[np.float64] | None


def bench(
    case: Case, config: Config, comm: MPI.Comm, *, model: Path, data: Path | None = None, only: Sequence[str] = ()
) -> BenchRun:
    """Measure the strategies of a case on samples never trained on. Collective.

    Args:
        case: The case.
        config: ``config.bench`` says which samples, ``config.guess`` how the operator is used.
        comm: Communicator over which each problem is distributed.
        model: Folder of the trained model.
        data: Its training data, to add the nearest training sample as a rival.
        only: Names of the classical strategies to compare with, all when empty.

    Raises:
        ValueError: If no sample is asked for, a name in ``only`` is unknown, the seed is one that was trained on, or the model or the data belong to another case.
    """
    settings = config.bench
    strategies = chosen(rivals(case, config), only, what="strategy")
    with collective_errors(comm):
        strategies += [nearest_strategy(case, config.problem.test_seed, data)] if data else []
        guess = load_guess(case, config, model)
        gate = Adaptive(config.guess, [LEARNED_GUESS])
        warming = Adaptive(dataclasses.replace(config.guess, record=None), [LEARNED_GUESS])
    strategies.append(learned_strategy(case, guess))
    measure = partial(_measure_sample, case, comm=comm, settings=config.problem)
    measure(
        [*strategies, gated_strategy(case, warming, guess)], settings.samples, repeats=1
    )  # compiles the forms, wakes MUMPS and torch
    strategies.insert(-1, gated_strategy(case, gate, guess))
    samples: list[list[dict[str, Any]]] = []
    example = None
    for index in progress(range(settings.samples), description=f"bench {case.name}"):
        sample = measure(strategies, index, repeats=settings.repeats)
        samples.append(sample.records)
        if index == 0 and case.dim == 2:
            example = _example(case.schema.outputs[0], sample, comm)
    gating = {"summary": gate.summary(), "decisions": [vars(decision) for decision in gate.decisions]}
    measured = {"cost": cost_of(guess.predictor.card), "gate": gating, "strategies": _by_strategy(strategies, samples)}
    ledger = measured_on(case, config, comm) | measured
    return BenchRun(ledger, example)


def _measure_sample(
    case: Case, strategies: Sequence[Strategy], index: int, *, comm: MPI.Comm, settings: ProblemConfig, repeats: int
) -> _Sample:
    gc.collect()  # meshes of earlier samples, whose communicators MPI counts
    parameters = sample_parameters(case, settings.test_seed, index)
    problem = case.problem(case.mesh(comm, parameters, settings.resolution or case.resolution), parameters)
    nodes = NodeSet(problem, case.schema.outputs)
    atol = (settings.rtol or case.rtol) * reference_norm(problem)
    records, starts, truth = [], {}, None
    for strategy in strategies:
        if strategy.guess is not None:
            strategy.guess.prepare(problem)
            _clear(problem)
            if strategy.guess.put(problem).accepted:
                starts[strategy.name] = nodes.gather(problem.solution)
        record = _measure(strategy, problem, atol, repeats=repeats)
        records.append({"index": index, "unknowns": _num_unknowns(problem), **record})
        if record["solved"] and truth is None:
            truth = nodes.gather(problem.solution)
    for strategy, record in zip(strategies, records, strict=True):
        if strategy.name in starts and truth is not None:
            record["relative_error"] = _relative_error(starts[strategy.name], truth, nodes, comm=comm)
    return _Sample(problem, nodes, records, starts, truth)


def _measure(strategy: Strategy, problem: Problem, atol: float, *, repeats: int) -> dict[str, Any]:
    """Solve ``repeats`` times from scratch; times are medians, everything else is of the last time. Collective."""
    comm = problem.mesh.comm
    runs = []
    for _ in range(repeats):
        _clear(problem)
        comm.Barrier()
        started = time.perf_counter()
        solver = strategy.make(problem, atol)
        result = solver.solve()
        runs.append(_stages(result, time.perf_counter() - started, comm))
        solver.destroy()
    _set_target(problem)
    residual = residual_norm(problem)
    solved = result.converged and residual <= (1.0 + SLACK) * atol
    return {
        "solved": bool(solved),
        "iterations": int(result.iterations),
        "residual": residual if math.isfinite(residual) else None,
        "atol": atol,
        "relative_error": None,
        "seconds": {stage: float(np.median([run[stage] for run in runs])) for stage in STAGES},
        "used_fallback": bool(result.used_fallback),
        "reason": None
        if solved
        else result.reason
        if not result.converged
        else "the true residual misses the tolerance",
    }


def _stages(result: SolveResult, total: float, comm: MPI.Comm) -> dict[str, float]:
    """Return the seconds of the slowest rank by stage; all that is neither transfer nor inference counts as solve. Collective."""
    transfer, inference = (result.seconds.get(stage, 0.0) for stage in STAGES[:2])
    local = np.array([transfer, inference, total - transfer - inference, total])
    slowest = np.empty_like(local)
    comm.Allreduce(local, slowest, op=MPI.MAX)
    return dict(zip(STAGES, slowest.tolist(), strict=True))


def _num_unknowns(problem: Problem) -> int:
    dofmap = problem.solution.function_space.dofmap
    return int(dofmap.index_map.size_global * dofmap.index_map_bs)


def _clear(problem: Problem) -> None:
    problem.solution.x.array[:] = 0.0
    _set_target(problem)


def _set_target(problem: Problem) -> None:
    """Undo what a path that ended early left in the forms."""
    if problem.continuation is not None:
        problem.continuation.set_value(problem.continuation.target)


def _relative_error(
    start: npt.NDArray[np.float64], truth: npt.NDArray[np.float64], nodes: NodeSet, *, comm: MPI.Comm
) -> float | None:
    """Return the error of the first output field in the mass-weighted L2 norm, None when the truth is zero. Collective."""
    columns = slice(0, nodes.outputs[0].components)
    sums = [float(nodes.mass @ np.sum(values[:, columns] ** 2, axis=1)) for values in (start - truth, truth)]
    error, scale = comm.allreduce(np.array(sums), op=MPI.SUM)
    return float(np.sqrt(error / scale)) if scale > 0.0 else None


def _example(field: Field, sample: _Sample, comm: MPI.Comm) -> Example | None:
    """Gather the learned start and the solution to rank 0. Collective."""
    if sample.truth is None or LEARNED not in sample.starts:
        return None
    nodes = sample.nodes
    cells = nodes.cells[: nodes.num_cells]
    cells = nodes.space.dofmap.index_map.local_to_global(cells.ravel()).reshape(cells.shape)
    columns = slice(0, field.components)
    parts = comm.gather((nodes.points, cells, sample.truth[:, columns], sample.starts[LEARNED][:, columns]), root=0)
    if parts is None:
        return None
    points, cells, truth, start = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Example(field.label, points, cells, truth, start, sample.records[-1]["relative_error"])


def _by_strategy(strategies: Sequence[Strategy], samples: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    return [
        {"name": strategy.name, "samples": list(records)}
        for strategy, records in zip(strategies, zip(*samples, strict=True), strict=True)
    ]


def measured_on(case: Case, config: Config, comm: MPI.Comm) -> dict[str, Any]:
    """Return the entries of a ledger that say what was measured, with which versions, on which machine. Collective: no."""
    return {
        "case": case.name,
        "resolution": config.problem.resolution or case.resolution,
        "seed": config.problem.test_seed,
        "ranks": comm.size,
        "tolerance": config.problem.rtol or case.rtol,
        "versions": {
            "python": platform.python_version(),
            "dolfinx": dolfinx.__version__,
            "petsc": ".".join(map(str, PETSc.Sys.getVersion())),
            "torch": torch.__version__,
        },
        "machine": {"processor": _processor(), "cores": os.cpu_count(), "threads_per_rank": torch.get_num_threads()},
    }


def _processor() -> str:
    """Return the name of the processor, as Linux tells it, or else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
