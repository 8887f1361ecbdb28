"""Ledger of data generation: the same samples made in several ways, and what each gives in samples per hour.

The ledger is as in ``bench/ledger.py``; its strategies are the ways. Each has ``settings`` (what differs from the naive loop),
``samples_per_hour``, ``one_rank`` (the same on one rank, in the same run), ``idle`` and ``overhead``; ``seconds`` of a sample has ``solve`` and
``total`` for mesh, problem and solve together.
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from pathlib import Path
from typing import Any

from mpi4py import MPI

from lrsa_coupled.bench.ledger import measured_on
from lrsa_coupled.bench.report import align
from lrsa_coupled.config import Config, GenerateConfig
from lrsa_coupled.data.store import DataStore
from lrsa_coupled.generation.generate import GenerateSummary, generate
from lrsa_coupled.interfaces import Case
from lrsa_coupled.mpi import share

RECYCLE = 20
"""Dimension of the recycled subspace where the case does not set one."""

KEEPS = ("reuse", "recycle", "guess", "sort", "model")
"""Settings that say what is kept."""

NAIVE = {"guess": "none", "reuse": "nothing", "recycle": None, "sort": False, "model": None, "method": None}


def bench_generation(case: Case, config: Config, comm: MPI.Comm, *, model: Path | None) -> dict[str, Any]:
    """Make ``config.bench.samples`` samples in each way, each in a temporary folder; on several ranks also on one of them alone. Collective.

    The naive loop makes a fresh solver for each sample: one way for each classical strategy; the fastest on one rank is the rival of all
    others. Everything counts: mesh, problem, solve, gathering, writing, idle ranks; on one mesh the mesh and its forms are made once, in
    the naive loop too. With a model the learned start is one more way of a case whose meshes differ.

    Returns:
        A ledger as described above.
    """
    if config.problem.rtol:
        raise ValueError(
            f"bench --what generate makes samples to the tolerance of the case, got problem.rtol = {config.problem.rtol}"
        )
    config = dataclasses.replace(config, problem=dataclasses.replace(config.problem, seed=config.problem.test_seed))
    settings = config.generate
    generate_into_nowhere(
        case, config, dataclasses.replace(settings, **NAIVE, samples=2 * comm.size), comm
    )  # not counted: compiles forms
    rows = []
    for name, changes in ways(case, settings, model).items():
        way = dataclasses.replace(settings, **NAIVE | changes, samples=config.bench.samples)
        row = generate_into_nowhere(case, config, way, comm)
        alone = (
            row
            if comm.size == 1
            else share(comm, lambda: generate_into_nowhere(case, config, _serial(way), MPI.COMM_SELF))
        )
        rows.append({"name": name, "settings": changes, "one_rank": alone["samples_per_hour"], **row})
    return measured_on(case, config, comm) | {"strategies": rows}


def ways(case: Case, settings: GenerateConfig, model: Path | None) -> dict[str, dict[str, Any]]:
    """Return the ways to generate by name: what differs from the naive loop with the first strategy; that of the settings is one of them."""
    if case.fixed_mesh is None:
        found = {name: {"method": name} for name in case.methods()} | {"nearest": {"guess": "nearest"}}
        return found | ({"learned": {"guess": "learned", "model": str(model)}} if model else {})
    found = {name: {"method": name} for name in case.methods()}
    strategy = settings.method or case.default_method
    recycle = settings.recycle or RECYCLE
    single = {
        "setup": {"reuse": "setup"},
        "sorted guess": {"guess": "previous", "sort": True},
        "preconditioner": {"reuse": "preconditioner"},
        "recycling": {"reuse": "setup", "recycle": recycle},
        "all": {"reuse": "preconditioner", "recycle": recycle, "guess": "previous", "sort": True},
    }
    if case.trajectory is not None:  # a step starts from the states before it, whatever else is kept
        single = {"setup": single["setup"]}
    found |= {f"{strategy} + {name}": {"method": strategy, **changes} for name, changes in single.items()}
    chosen = {"method": strategy} | {key: value for key in KEEPS if (value := vars(settings)[key]) != NAIVE[key]}
    return found if chosen in found.values() else found | {"chosen by the settings": chosen}


def generate_into_nowhere(case: Case, config: Config, settings: GenerateConfig, comm: MPI.Comm) -> dict[str, Any]:
    """Generate in a temporary folder and return the entries of a way in the ledger, without its name. Collective."""
    folder = share(comm, lambda: Path(tempfile.mkdtemp(prefix="lrsa-coupled-")))
    try:
        summary = generate(case, dataclasses.replace(config, generate=settings), folder, comm)
        return share(comm, lambda: _entries(summary, DataStore(folder)))
    finally:
        comm.Barrier()
        if comm.rank == 0:
            shutil.rmtree(folder, ignore_errors=True)


def generation_table(ledger: dict[str, Any]) -> str:
    """Format the ledger for the terminal."""
    rows = [["way", "solved", "iterations", "samples per hour", "on one rank", "times the naive", "idle", "overhead"]]
    solved = {way["name"]: sum(s["solved"] for s in way["samples"]) for way in ledger["strategies"]}
    naive = max(
        way["one_rank"]
        for way in ledger["strategies"]
        if _is_naive(way) and solved[way["name"]] == max(solved.values())
    )
    for way in ledger["strategies"]:
        samples = way["samples"]
        iterations = sum(s["iterations"] for s in samples) / len(samples)
        rows.append([
            way["name"], f"{solved[way['name']]}/{len(samples)}", f"{iterations:.2f}",
            f"{way['samples_per_hour']:.0f}", f"{way['one_rank']:.0f}", f"{way['one_rank'] / naive:.2f}", f"{way['idle']:.1%}", f"{way['overhead']:.1%}",
        ])  # fmt: skip
    heading = f"{ledger['case']}: data generation, resolution {ledger['resolution']}, seed {ledger['seed']}, ranks {ledger['ranks']}"
    return f"{heading}\n\n{align(rows)}\n\ntimes the naive: on one rank, against the fastest of the strategies that solve most with a fresh solver for each sample"


def _is_naive(way: dict[str, Any]) -> bool:
    return set(way["settings"]) == {"method"}


def _serial(settings: GenerateConfig) -> GenerateConfig:
    return dataclasses.replace(settings, ranks_per_sample=1)


def _entries(summary: GenerateSummary, store: DataStore) -> dict[str, Any]:
    samples = []
    for index in store.entries:
        record = store.read(index)
        residual = record.residual if record.residual == record.residual else None
        samples.append({
            "index": index, "solved": record.status == "ok", "iterations": record.iterations, "residual": residual, "relative_error": None,
            "seconds": {"transfer": 0.0, "inference": 0.0, "solve": record.seconds, "total": record.seconds},
        })  # fmt: skip
    rate = 3600.0 * summary.made / summary.seconds
    return {"samples": samples, "samples_per_hour": rate, "idle": summary.idle, "overhead": summary.overhead}
