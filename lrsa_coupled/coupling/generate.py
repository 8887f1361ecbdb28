"""Data generation: samples shared out over the ranks, each solved by the case's first classical strategy."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mpi4py import MPI

from lrsa_coupled import config as configuration
from lrsa_coupled.config import Config
from lrsa_coupled.coupling.residual import reference_norm
from lrsa_coupled.coupling.transfer import NodeSet
from lrsa_coupled.data import store
from lrsa_coupled.data.format import SampleArrays, SampleRecord
from lrsa_coupled.interfaces import Case, Problem
from lrsa_coupled.logs import progress
from lrsa_coupled.mpi import collective_errors


@dataclass(frozen=True)
class GenerateSummary:
    """What a data set holds after ``generate``; ``failed`` counts samples by reason, ``seconds`` is the wall time of this run."""

    samples: int
    solved: int
    failed: dict[str, int]
    seconds: float


def sample_parameters(case: Case, seed: int, index: int) -> Any:
    """Draw the parameters of sample ``index`` of the sequence ``seed``; independent of any other sample."""
    return case.sample(np.random.default_rng([seed, index]))


def generate(case: Case, config: Config, folder: Path, comm: MPI.Comm) -> GenerateSummary:
    """Make the samples that ``folder`` lacks.

    Collective. Sample i of the missing ones is solved by rank i modulo P on a mesh of its own, so that nothing depends on P. A shard
    appears when a rank has ``samples_per_shard`` samples or a minute has passed: a killed run loses that much at most.

    Raises:
        ValueError: For zero samples, or a folder that holds another data set; on all ranks.
        OSError: If the folder cannot be written; on all ranks.
    """
    started = time.perf_counter()
    settings = config.generate
    with collective_errors(comm):
        if settings.samples < 1 or settings.samples_per_shard < 1:
            raise ValueError(f"generate needs at least one sample and one sample a shard, got {settings.samples} and "
                             f"{settings.samples_per_shard}")  # fmt: skip
        if comm.rank == 0:
            store.create(folder, _meta(case, config))
            configuration.save(config, folder)
    comm.Barrier()
    with collective_errors(comm):
        missing = sorted(set(range(settings.samples)) - set(store.DataStore(folder).status))
    comm.Barrier()
    with collective_errors(comm):
        _solve_and_write(case, config, folder, missing[comm.rank :: comm.size])
    with collective_errors(comm):
        data = store.DataStore(folder)
    return GenerateSummary(len(data.status), len(data.solved), data.failures(), time.perf_counter() - started)


def solve_sample(case: Case, seed: int, index: int, resolution: int) -> SampleRecord:
    """Sample, mesh and solve on this process alone; a failure becomes a record with its reason."""
    started = time.perf_counter()
    parameters = sample_parameters(case, seed, index)
    text = json.dumps(dataclasses.asdict(parameters))
    try:
        mesh = case.mesh(MPI.COMM_SELF, parameters, resolution)
        problem = case.problem(mesh, parameters)
        solver = next(iter(case.strategies().values()))(problem, case.rtol * reference_norm(problem))
        result = solver.solve()
        solver.destroy()
        arrays = sample_arrays(case, problem) if result.converged else None
    except (ImportError, OSError, TypeError, ValueError):
        raise
    except Exception as error:  # gmsh raises nothing more specific; a sample that cannot be made is recorded, not dropped
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        return SampleRecord(index, "failed", reason, text, 0, float("nan"), time.perf_counter() - started, None)
    status = "ok" if result.converged else "failed"
    return SampleRecord(index, status, result.reason, text, result.iterations, result.residual, time.perf_counter() - started, arrays)


def sample_arrays(case: Case, problem: Problem) -> SampleArrays:
    """Take the arrays of a solved problem on a serial mesh."""
    nodes = NodeSet(problem, case.outputs)
    features = case.features(problem)
    return SampleArrays(
        points=nodes.points,
        mass=nodes.mass,
        inputs=features.nodal.astype(np.float32),
        outputs=nodes.gather(problem.solution),
        constrained=nodes.constrained.astype(np.uint8),
        cells=nodes.cells[:, : nodes.num_vertices].astype(np.int32),
        scalars=features.scalars,
    )


def _solve_and_write(case: Case, config: Config, folder: Path, indices: list[int]) -> None:
    settings = config.generate
    resolution = settings.resolution or case.resolution
    pending: list[SampleRecord] = []
    published = time.perf_counter()
    for index in progress(indices, description="samples of rank 0"):
        pending.append(solve_sample(case, settings.seed, index, resolution))
        if len(pending) == settings.samples_per_shard or time.perf_counter() - published > 60.0:
            store.write_shard(folder, pending)
            pending, published = [], time.perf_counter()
    if pending:
        store.write_shard(folder, pending)


def _meta(case: Case, config: Config) -> dict[str, Any]:
    return {
        "case": case.name,
        "dim": case.dim,
        "seed": config.generate.seed,
        "resolution": config.generate.resolution or case.resolution,
        "rtol": case.rtol,
        "inputs": [dataclasses.asdict(f) for f in case.inputs],
        "scalars": list(case.scalars),
        "outputs": [dataclasses.asdict(f) for f in case.outputs],
        "versions": {"lrsa-coupled": _version("lrsa-coupled"), "fenics-basix": _version("fenics-basix"), "gmsh": _version("gmsh")},
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
