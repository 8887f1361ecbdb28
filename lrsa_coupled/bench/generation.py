"""Ledger of data generation: the same samples made with each kind of start, and what that gives in samples per hour."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from pathlib import Path
from typing import Any

from mpi4py import MPI

from lrsa_coupled.bench.ledger import measured_on
from lrsa_coupled.bench.report import align
from lrsa_coupled.config import Config
from lrsa_coupled.coupling.generate import GenerateSummary, generate
from lrsa_coupled.data.store import DataStore
from lrsa_coupled.interfaces import Case
from lrsa_coupled.mpi import share

STARTS = ("classical", "nearest", "learned")


def bench_generation(case: Case, config: Config, comm: MPI.Comm, *, model: Path | None) -> dict[str, Any]:
    """Make ``config.bench.samples`` samples with each start, each in a temporary folder, with the learned one when there is a model. Collective.

    The naive loop is ``classical`` on one rank: a fresh solver for each sample, the best classical strategy. Everything counts: mesh,
    problem, solve, gathering, writing, idle ranks.

    Returns:
        A ledger as in ``bench/ledger.py``; each strategy also has ``samples_per_hour``, ``idle`` and ``overhead``. ``seconds`` of a sample
        has ``solve`` and ``total`` for mesh, problem and solve together.
    """
    strategies = []
    for start in STARTS if model else STARTS[:2]:
        settings = dataclasses.replace(
            config.generate, samples=config.bench.samples, seed=config.bench.seed, resolution=config.bench.resolution,
            start=start, model=str(model) if start == "learned" else "",
        )  # fmt: skip
        folder = share(comm, lambda: Path(tempfile.mkdtemp(prefix="lrsa-coupled-")))
        try:
            summary = generate(case, dataclasses.replace(config, generate=settings), folder, comm)
            strategies.append(share(comm, lambda: _strategy(start, summary, DataStore(folder))))  # noqa: B023 - called at once
        finally:
            comm.Barrier()
            if comm.rank == 0:
                shutil.rmtree(folder, ignore_errors=True)
    return measured_on(case, config, comm) | {"strategies": strategies}


def generation_table(ledger: dict[str, Any]) -> str:
    """Format the ledger for the terminal."""
    rows = [["start", "solved", "iterations", "samples per hour", "times the first", "idle", "overhead"]]
    first = ledger["strategies"][0]["samples_per_hour"]
    for strategy in ledger["strategies"]:
        samples = strategy["samples"]
        iterations = sum(s["iterations"] for s in samples) / len(samples)
        rows.append([
            strategy["name"], f"{sum(s['solved'] for s in samples)}/{len(samples)}", f"{iterations:.2f}",
            f"{strategy['samples_per_hour']:.0f}", f"{strategy['samples_per_hour'] / first:.2f}",
            f"{strategy['idle']:.1%}", f"{strategy['overhead']:.1%}",
        ])  # fmt: skip
    heading = f"{ledger['case']}: data generation, resolution {ledger['resolution']}, seed {ledger['seed']}, ranks {ledger['ranks']}"
    return f"{heading}\n\n{align(rows)}"


def _strategy(start: str, summary: GenerateSummary, store: DataStore) -> dict[str, Any]:
    samples = []
    for index in store.entries:
        record = store.read(index)
        residual = record.residual if record.residual == record.residual else None
        samples.append({
            "index": index, "solved": record.status == "ok", "iterations": record.iterations, "residual": residual, "relative_error": None,
            "seconds": {"transfer": 0.0, "inference": 0.0, "solve": record.seconds, "total": record.seconds},
        })  # fmt: skip
    rate = 3600.0 * summary.made / summary.seconds
    return {"name": start, "samples": samples, "samples_per_hour": rate, "idle": summary.idle, "overhead": summary.overhead}
