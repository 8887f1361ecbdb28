"""The operator of an estimate that is given none: solves of its own, and a training on them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from mpi4py import MPI

from lrsa_coupled.config import Config, LrsaConfig, TrainingConfig
from lrsa_coupled.coupling.reducer import MPIReducer
from lrsa_coupled.data.store import DataStore
from lrsa_coupled.generation.generate import generate
from lrsa_coupled.interfaces import Case
from lrsa_coupled.mpi import collective_errors, share
from lrsa_coupled.training.group import ProcessGroup
from lrsa_coupled.training.loop import train
from lrsa_coupled.training.recipe import DataFacts, recipe


def trained(
    case: Case, config: Config, folder: Path, *, comm: MPI.Intracomm, samples: int, resolution: int
) -> tuple[Path, dict[str, float]]:
    """Solve samples, with a seed that no sample of the estimate has, and train an operator on them.

    ``resolution`` may be coarser than that of the estimate: what it leaves is part of what the estimate corrects.

    Collective. Both go on where they were interrupted. Settings of training that nobody has chosen are those of the
    recipe for the data.

    Returns:
        The folder of the model, and the wall time x ranks of data and training [s].
    """
    problem = dataclasses.replace(config.problem, seed=config.problem.test_seed + 1, resolution=resolution)
    settings = dataclasses.replace(
        config, problem=problem, generate=dataclasses.replace(config.generate, samples=samples),
        guess=dataclasses.replace(config.guess, policy=None),
    )  # fmt: skip
    generate(case, settings, folder / "data", comm)
    store = share(comm, lambda: DataStore(folder / "data"))
    if (settings.operator, settings.training) == (LrsaConfig(), TrainingConfig()):
        chosen = recipe(DataFacts.of(store), minutes=None)
        settings = dataclasses.replace(settings, operator=chosen.operator, training=chosen.training)
    group = ProcessGroup(comm.rank, comm.size, MPIReducer(comm)) if comm.size > 1 else ProcessGroup()
    with collective_errors(comm):
        summary = train(folder / "data", folder / "model", settings, group=group)
    seconds = store.seconds() * config.generate.ranks_per_sample
    return folder / "model", {"solves to train on": seconds, "training": float(summary["seconds"]) * comm.size}
