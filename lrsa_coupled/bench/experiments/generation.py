"""Data generation: the same samples made by several configurations, and how many each makes an hour.

Everything counts: mesh, problem, solve, gathering, writing, idle ranks; on one mesh the mesh and its forms are made
once, in the naive loop too. The naive loop makes a new solver for each sample: one configuration for each method of
the case; the fastest on one rank is the baseline of all others. In the rows ``values`` holds ``naive``,
``samples_per_hour``, ``one_rank`` (the same on one rank, in the same run), ``idle`` and ``overhead`` of the
configuration; the seconds of a sample are those of mesh, problem and solve together.
"""

from __future__ import annotations

import dataclasses
import math
import shutil
import tempfile
from argparse import Namespace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from lrsa_coupled.bench.experiments import add_model
from lrsa_coupled.bench.report import align, mean_iterations, solved_count
from lrsa_coupled.bench.rows import Results, Row, Seconds, Values
from lrsa_coupled.config import GenerateConfig
from lrsa_coupled.data.store import DataStore
from lrsa_coupled.interfaces import Case
from lrsa_coupled.logs import progress
from lrsa_coupled.mpi import share

if TYPE_CHECKING:
    from mpi4py import MPI

    from lrsa_coupled.bench.samples import Samples

ON_RANKS = True
STUDY = "generation"
RECYCLE = 20
"""Dimension of the recycled subspace where the settings have none."""

type Changes = dict[str, Any]

NAIVE: Changes = {"guess": "none", "reuse": "nothing", "recycle": None, "sort": False, "model": None, "method": None}
"""Settings of the naive loop."""

add_arguments = add_model


def run(args: Namespace, samples: Samples) -> Results:
    """Make samples by each configuration in a temporary folder; on several ranks also on one of them alone. Collective.

    With a model the learned guess is one more for a case whose meshes differ.
    """
    from mpi4py import MPI

    config, comm = samples.config, samples.comm
    if config.problem.rtol is not None:
        raise ValueError(f"data are made to the tolerance of the case, got problem.rtol = {config.problem.rtol}")
    config = dataclasses.replace(config, problem=dataclasses.replace(config.problem, seed=config.problem.test_seed))
    samples = dataclasses.replace(samples, config=config)
    plain = dataclasses.replace(config.generate, **NAIVE, samples=2 * comm.size)
    _generate(samples, plain, comm, "")  # not counted: compiles forms
    rows: list[Row] = []
    chosen = configurations(samples.case, config.generate, samples.model)
    for name, changes in progress(chosen.items(), description=STUDY):
        settings = dataclasses.replace(config.generate, **NAIVE | changes, samples=config.bench.samples)
        made = _generate(samples, settings, comm, name)
        alone = made
        if comm.size > 1:
            serial = dataclasses.replace(settings, ranks_per_sample=1)
            alone = share(comm, partial(_generate, samples, serial, MPI.COMM_SELF, name))
        values = {"naive": set(changes) == {"method"}, "one_rank": alone[0].values["samples_per_hour"]}
        rows += [replace(row, values=row.values | values) for row in made]
    return samples.results(STUDY, rows, rtol=samples.case.rtol)


def configurations(case: Case, settings: GenerateConfig, model: Path | None) -> dict[str, Changes]:
    """Return by name what differs from the naive loop with the default method; the given settings are one of them."""
    found: dict[str, Changes] = {name: {"method": name} for name in case.methods()}
    if case.fixed_mesh is None:
        found["nearest"] = {"guess": "nearest"}
        return found | ({"learned": {"guess": "learned", "model": str(model)}} if model else {})
    method, recycle = settings.method or case.default_method, settings.recycle or RECYCLE
    single: dict[str, Changes] = {
        "setup": {"reuse": "setup"},
        "sorted guess": {"guess": "previous", "sort": True},
        "preconditioner": {"reuse": "preconditioner"},
        "recycling": {"reuse": "setup", "recycle": recycle},
        "all": {"reuse": "preconditioner", "recycle": recycle, "guess": "previous", "sort": True},
    }
    if case.trajectory is not None:  # a step starts from the states before it, whatever else is reused
        single = {"setup": single["setup"]}
    found |= {f"{method} + {name}": {"method": method, **changes} for name, changes in single.items()}
    chosen: Changes = {"method": method}
    chosen |= {key: value for key, value in vars(settings).items() if key in NAIVE and value != NAIVE[key]}
    return found if chosen in found.values() else found | {"chosen by the settings": chosen}


def table(results: Results) -> str:
    """Format results."""
    header, methods = results.header, results.methods
    lines = [["configuration", "solved", "iterations", "samples per hour", "on one rank", "times the naive"]]
    lines[0] += ["idle", "overhead"]
    most = max(sum(row.solved for row in rows) for rows in methods.values())
    naive = max(
        rows[0].number("one_rank")
        for rows in methods.values()
        if rows[0].values["naive"] and sum(row.solved for row in rows) == most
    )
    for name, rows in methods.items():
        rate, alone, idle, overhead = map(rows[0].number, ("samples_per_hour", "one_rank", "idle", "overhead"))
        cells = [name, solved_count(rows), f"{mean_iterations(rows):.2f}"]
        lines.append([*cells, f"{rate:.0f}", f"{alone:.0f}", f"{alone / naive:.2f}", f"{idle:.1%}", f"{overhead:.1%}"])
    head = f"{header.case}: data generation, resolution {header.resolution}, seed {header.seed}, ranks {header.ranks}"
    note = "on one rank, against the fastest of the methods that solve most with a new solver each time"
    return f"{head}\n\n{align(lines)}\n\ntimes the naive: {note}"


def _generate(samples: Samples, settings: GenerateConfig, comm: MPI.Intracomm, name: str) -> list[Row]:
    """Generate in a temporary folder and return the rows of a configuration. Collective."""
    from lrsa_coupled.generation.generate import generate

    folder = share(comm, lambda: Path(tempfile.mkdtemp(prefix="lrsa-coupled-")))
    try:
        summary = generate(samples.case, dataclasses.replace(samples.config, generate=settings), folder, comm)
        if summary.stopped:
            raise InterruptedError(f"{summary.stopped}: ended before all was measured")
        values: Values = {"samples_per_hour": 3600.0 * summary.made / summary.seconds, "idle": summary.idle}
        values["overhead"] = summary.overhead
        return share(comm, lambda: _rows(DataStore(folder), name, values))
    finally:  # the others are done, or may not come here: no collective call
        if comm.rank == 0:
            shutil.rmtree(folder, ignore_errors=True)


def _rows(store: DataStore, name: str, values: Values) -> list[Row]:
    found = []
    for index in store.entries:
        record = store.read(index)
        row = Row(
            method=name,
            sample=index,
            seconds=Seconds(total=record.seconds, solve=record.seconds),
            iterations=record.iterations,
            solved=record.status == "ok",
            residual=record.residual if math.isfinite(record.residual) else None,
            values=values,
        )
        found.append(row)
    return found
