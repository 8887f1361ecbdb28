"""The comparison of methods: each from its initial guess to the same true residual, on the same unseen samples."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from lrsa_coupled.bench.compare import ADAPTIVE, LEARNED, POD, STAGES, chosen
from lrsa_coupled.bench.methods import Method, adaptive_method, baselines, guarded, learned_method, methods_of_data
from lrsa_coupled.bench.payback import cost_of
from lrsa_coupled.bench.pictures import Example
from lrsa_coupled.bench.rows import Cost, Results, Row, Seconds
from lrsa_coupled.bench.samples import Samples, load_guess
from lrsa_coupled.config import Config
from lrsa_coupled.coupling.transfer import NodeSet
from lrsa_coupled.guess.policy import Always
from lrsa_coupled.interfaces import Case, InitialGuess, Problem, SolveResult
from lrsa_coupled.logs import progress
from lrsa_coupled.mpi import collective_errors
from lrsa_coupled.schema import Field

type Nodal = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """Results, and the fields of the first sample (None above rank 0 or without a converged solution)."""

    results: Results
    example: Example | None


@dataclass(frozen=True)
class _Sample:
    """A measured sample: a row a method, and guesses and solution at the owned nodes when they exist."""

    nodes: NodeSet
    rows: list[Row]
    guesses: dict[str, Nodal]
    truth: Nodal | None


def compare_methods(
    case: Case, config: Config, comm: MPI.Intracomm, *,
    model: Path | None = None, data: Path | None = None, only: Sequence[str] = (),
    guesses: Sequence[InitialGuess] = (),
) -> Comparison:  # fmt: skip
    """Measure the methods of a case on samples never trained on. Collective.

    Args:
        case: The case.
        config: ``problem`` and ``bench`` say which samples, ``guess`` how the operator is used.
        comm: Ranks of a problem.
        model: Folder of a trained model, to add its learned guess.
        data: Training data, to add the nearest training sample and modes of the samples as baselines.
        only: Names of the baselines without data, all when empty.
        guesses: Further guesses, each with the default method behind it.

    Raises:
        ValueError: If a name in ``only`` is unknown, or model or data belong to another case or have seen the samples;
            on all ranks.
    """
    methods = chosen(baselines(case, config, comm), only, what="method")
    costs: dict[str, Cost] = {}
    if data is not None:
        needing, fitting = methods_of_data(case, config, data, comm)
        methods += needing
        costs |= {POD: Cost(training=fitting * comm.size)} if fitting else {}
    with collective_errors(comm):
        warming = list(methods)
        if model is not None:
            guess = load_guess(case, config, model)
            learned = learned_method(case, config, guess)
            methods += [adaptive_method(case, config, guess), learned]
            warming += [adaptive_method(case, config, guess, record=False), learned]
            costs |= dict.fromkeys((LEARNED, ADAPTIVE), cost_of(guess.predictor.card))
    further = [guarded(case, each.name, each, Always(config.guess.max_iterations)) for each in guesses]
    methods, warming = methods + further, warming + further
    samples, settings = Samples(case, config, comm, model), config.bench
    # One sample more, not counted: compiles the forms, wakes MUMPS and torch.
    _measure_sample(samples, warming, settings.samples, repeats=1)
    rows: list[Row] = []
    example = None
    for index in progress(range(settings.samples), description=f"bench {case.name}"):
        sample = _measure_sample(samples, methods, index, repeats=settings.repeats)
        rows += sample.rows
        if index == 0 and case.schema.dim == 2:
            example = _example(case.schema.outputs[0], sample, comm)
    return Comparison(samples.results("bench", rows, costs, rtol=samples.case.rtol), example)


def _measure_sample(samples: Samples, methods: Sequence[Method], index: int, *, repeats: int) -> _Sample:
    problem = samples.problem(index)
    nodes, atol = NodeSet(problem, samples.case.schema.outputs), samples.atol(problem)
    rows: list[Row] = []
    guesses: dict[str, Nodal] = {}
    truth = None
    for method in methods:
        if method.guess is not None:
            method.guess.prepare(problem)
            _clear(problem)
            if method.guess.put(problem).accepted:
                guesses[method.name] = nodes.gather(problem.solution)
        rows.append(_measure(samples, method, problem, atol, index=index, repeats=repeats))
        if rows[-1].solved and truth is None:
            truth = nodes.gather(problem.solution)
    for place, row in enumerate(rows):
        if row.method in guesses and truth is not None:
            error = _relative_error(guesses[row.method], truth, nodes, comm=samples.comm)
            rows[place] = msgspec.structs.replace(row, start_error=error)
    return _Sample(nodes, rows, guesses, truth)


def _measure(samples: Samples, method: Method, problem: Problem, atol: float, *, index: int, repeats: int) -> Row:
    """Solve ``repeats`` times from nothing; times are medians, everything else is of the last time. Collective."""
    runs, decided = [], len(method.policy.decisions) if method.policy else 0
    for _ in range(repeats):
        _clear(problem)
        samples.comm.Barrier()
        started = time.perf_counter()
        solver = method.make(problem, atol)
        made = time.perf_counter()
        result = solver.solve()
        runs.append(_stages(result, made - started, time.perf_counter() - started, samples.comm))
        solver.destroy()
    _set_target(problem)
    seconds = Seconds(**{stage: float(np.median([run[stage] for run in runs])) for stage in STAGES})
    row = samples.row(method.name, index, problem=problem, atol=atol, result=result, seconds=seconds.total)
    decisions = tuple(dataclasses.asdict(d) for d in method.policy.decisions[decided:]) if method.policy else ()
    return msgspec.structs.replace(row, seconds=seconds, decisions=decisions)


def _stages(result: SolveResult, setup: float, total: float, comm: MPI.Comm) -> dict[str, float]:
    """Return the seconds of the slowest rank by stage; what is none of the others counts as solve. Collective."""
    transfer, inference = (result.seconds.get(stage, 0.0) for stage in ("transfer", "inference"))
    local = np.array([transfer, inference, setup, total - transfer - inference - setup, total])
    slowest = np.empty_like(local)
    comm.Allreduce(local, slowest, op=MPI.MAX)
    return dict(zip(STAGES, slowest.tolist(), strict=True))


def _clear(problem: Problem) -> None:
    problem.solution.x.array[:] = 0.0
    _set_target(problem)


def _set_target(problem: Problem) -> None:
    """Undo what a path that ended early left in the forms."""
    if problem.continuation is not None:
        problem.continuation.set_value(problem.continuation.target)


def _relative_error(guess: Nodal, truth: Nodal, nodes: NodeSet, *, comm: MPI.Comm) -> float | None:
    """Return the error of the first output in the mass-weighted L2 norm, None when the truth is zero. Collective."""
    columns = slice(0, nodes.outputs[0].components)
    sums = [float(nodes.mass @ np.sum(values[:, columns] ** 2, axis=1)) for values in (guess - truth, truth)]
    error, scale = comm.allreduce(np.array(sums), op=MPI.SUM)
    return float(np.sqrt(error / scale)) if scale > 0.0 else None


def _example(field: Field, sample: _Sample, comm: MPI.Comm) -> Example | None:
    """Gather the learned guess and the solution to rank 0. Collective."""
    if sample.truth is None or LEARNED not in sample.guesses:
        return None
    nodes = sample.nodes
    cells = nodes.cells[: nodes.num_cells]
    cells = nodes.space.dofmap.index_map.local_to_global(cells.ravel()).reshape(cells.shape)
    columns = slice(0, field.components)
    parts = comm.gather((nodes.points, cells, sample.truth[:, columns], sample.guesses[LEARNED][:, columns]), root=0)
    if parts is None:
        return None
    points, cells, truth, guess = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Example(field.label, points, cells, truth, guess, sample.rows[-1].start_error or 0.0)
