"""From the arguments of a verb to its configuration, MPI and PETSc; what is cheap to refuse is refused first."""

from __future__ import annotations

import dataclasses
import tempfile
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrsa_coupled import catalog, mpi
from lrsa_coupled import config as configuration
from lrsa_coupled.config import Config

if TYPE_CHECKING:
    from mpi4py import MPI

    from lrsa_coupled.interfaces import Case


PROBLEM_FLAGS = ("seed", "resolution")
"""Flags of the section ``problem``, which the verbs share."""


def start(
    args: Namespace, petsc: Sequence[str], *, section: str, flags: Sequence[str]
) -> tuple[Case, Config, MPI.Comm]:
    """Resolve the configuration, then load MPI, PETSc and the case; what is cheap to refuse is refused first."""
    folder = catalog.case_folder(args.case)
    given: dict[str, dict[str, Any]] = {}
    for flag in flags:
        if vars(args)[flag] is not None:
            given.setdefault("problem" if flag in PROBLEM_FLAGS else section, {})[flag] = vars(args)[flag]
    config = case_config(args, Config(), folder, given)
    comm = start_petsc(petsc)
    with mpi.collective_errors(comm):
        case = catalog.load_case(args.case, config.options)
    return case, dataclasses.replace(config, case=case.name, options=dataclasses.asdict(case.options)), comm


def stored_config(args: Namespace, data: Path) -> Config:
    """Resolve the configuration for a data set: that of its case when it is one of ours, else the one the data were made with."""
    from lrsa_coupled.data.store import read_card

    case = read_card(data).schema.name
    if case in catalog.case_names():
        config = case_config(args, Config(), catalog.case_folder(case), {})
    elif vars(args).get("preset") is not None:
        raise ValueError(f"--preset is for the cases of this package, {data} is of '{case}'")
    else:
        path = data / "config.json"
        config = resolve(args, configuration.read(path) if path.is_file() else Config(), {})
    return dataclasses.replace(config, case=case)


def case_config(args: Namespace, base: Config, folder: Path, flags: Mapping[str, Any]) -> Config:
    """Resolve the configuration of a case: ``base``, its config.toml, a preset, ``--config``, ``--set``, flags."""
    values, presets = catalog.case_settings(folder)
    where = str(folder / "config.toml")
    config = configuration.update(base, values, where=where)
    preset = vars(args).get("preset")
    if preset is None and args.verb == "run" and "smoke" in presets:
        preset = "smoke"
    if preset is not None:
        if preset not in presets:
            raise ValueError(f"{where}: no preset '{preset}'{configuration.nearest(preset, list(presets) or ['none'])}")
        config = configuration.update(config, presets[preset], where=f"{where}, preset '{preset}'")
    return resolve(args, config, flags)


def resolve(args: Namespace, base: Config, flags: Mapping[str, Any]) -> Config:
    """Override ``base`` by ``--config``, ``--set`` and flags."""
    config = configuration.load(base, files=args.config, assignments=args.set)
    return configuration.update(config, flags, where="command line")


def start_petsc(petsc: Sequence[str]) -> MPI.Comm:
    """Load MPI, then PETSc with its options; return the world communicator."""
    from lrsa_coupled.petsc import options as petsc_options

    petsc_options.initialise(petsc)
    return mpi.world()


def check_petsc(comm: MPI.Comm, petsc: Sequence[str]) -> None:
    """Raise ValueError for a PETSc option that nothing has used. Collective."""
    from lrsa_coupled.petsc import options as petsc_options

    petsc_options.check_used(comm, petsc)


def one_process(verb: str) -> None:
    """Raise ValueError under an MPI launcher."""
    if mpi.size() > 1:
        raise ValueError(
            f"'{verb}' runs in one process, whose threads are set by OMP_NUM_THREADS; got {mpi.size()} ranks"
        )


def no_petsc(verb: str, petsc: Sequence[str]) -> None:
    """Raise ValueError for options of PETSc given to a verb without it."""
    if petsc:
        raise ValueError(f"'{verb}' does not use PETSc: unknown option {petsc[0]}")


def prepare(comm: MPI.Comm, folder: Path | None) -> None:
    """Make an output folder and write to it, so that a read-only one is found before the work rather than after."""
    if folder is None:
        return

    def probe() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass

    mpi.share(comm, probe)
