"""From the arguments of a verb to its configuration, MPI and PETSc; what is cheap to refuse is refused first."""

from __future__ import annotations

import dataclasses
import tempfile
from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrsa_coupled import catalog, config as configuration, mpi
from lrsa_coupled.config import Config
from lrsa_coupled.files import locked
from lrsa_coupled.petsc import options as petsc_options
from lrsa_coupled.settings import nearest, update

if TYPE_CHECKING:
    from mpi4py import MPI

    from lrsa_coupled.interfaces import Case

start_petsc, check_petsc = petsc_options.initialise, petsc_options.check_used


def start(args: Namespace, petsc: Sequence[str]) -> tuple[Case, Config, MPI.Intracomm]:
    """Load a case that is to be solved; ValueError when it needs another PETSc."""
    case, config, comm = load(args, petsc)
    from lrsa_coupled.coupling.scalars import check_scalars

    check_scalars(case)
    return case, config, comm


def load(args: Namespace, petsc: Sequence[str]) -> tuple[Case, Config, MPI.Intracomm]:
    """Resolve the configuration, then load MPI, PETSc and the case."""
    config = case_config(args)
    comm = start_petsc(petsc)
    petsc_options.check_names(petsc, own=catalog.own_source(args.case))
    from lrsa_coupled.coupling.jit import compile_abandoned_forms

    compile_abandoned_forms()
    with mpi.collective_errors(comm):
        case = catalog.load_case(args.case, config.options, rtol=config.problem.rtol)
    return case, dataclasses.replace(config, case=case.name, options=dataclasses.asdict(case.options)), comm


def case_config(args: Namespace, case: str | None = None, *, base: Config | None = None) -> Config:
    """Resolve the configuration of a case over ``base``: its config.toml, a preset, ``--config``, ``--set``, flags."""
    name = case or args.case
    values, presets = catalog.case_settings(name)
    where = str(catalog.case_folder(name) / "config.toml")
    config = update(base or Config(), values, where=where)
    preset = vars(args).get("preset")
    if preset is None and args.verb == "run" and "smoke" in presets:
        preset = "smoke"
    if preset is not None:
        if preset not in presets:
            if not presets:
                raise ValueError(f"'{name}' has no presets: they are tables [presets.NAME] of {where}")
            raise ValueError(f"{where}: no preset '{preset}'{nearest(preset, [*presets])}")
        config = update(config, presets[preset], where=f"{where}, preset '{preset}'")
    return resolve(args, config)


def data_config(args: Namespace, data: Path, *, base: Config | None = None) -> Config:
    """Resolve the configuration for a data set: that of a case of the package, else the one the data were made with.

    Of the latter the settings of operator and training that are the defaults give way to those of ``base``.
    """
    from lrsa_coupled.data.card import read_card

    case = read_card(data).schema.name
    if catalog.is_shipped(case):
        config = case_config(args, case, base=base)
    elif vars(args).get("preset") is not None:
        raise ValueError(f"--preset is for the cases of this package, {data} is of '{case}'")
    else:
        path = data / "config.json"
        made = configuration.read(path) if path.is_file() else Config()
        config = resolve(args, made if base is None else configuration.over(made, base))
    return dataclasses.replace(config, case=case)


def resolve(args: Namespace, base: Config) -> Config:
    """Override ``base`` by ``--config``, ``--set`` and the flags that are settings."""
    config = configuration.load(base, files=args.config, assignments=args.set)
    for key, value in vars(args).items():
        if "." in key and value is not None:
            config = update(config, configuration.nested(key, value), where="command line")
    return config


def no_petsc(verb: str, petsc: Sequence[str]) -> None:
    """Raise ValueError for options of PETSc given to a verb without it."""
    if petsc:
        raise ValueError(f"'{verb}' does not use PETSc: unknown option {petsc[0]}")


def one_process(verb: str, petsc: Sequence[str]) -> None:
    """Raise ValueError under an MPI launcher, and for options of PETSc: the verb uses neither."""
    no_petsc(verb, petsc)
    if mpi.size() > 1:
        raise ValueError(f"'{verb}' runs in one process with OMP_NUM_THREADS threads, got {mpi.size()} ranks")


@contextmanager
def prepared(comm: MPI.Comm, folder: Path) -> Iterator[None]:
    """Have an output folder that can be written, found before the work; a new one goes if it stays empty. Collective.

    Several jobs may have it at a time.
    """

    def probe() -> bool:
        is_new = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return is_new

    is_new = mpi.share(comm, probe)
    try:
        yield
    finally:
        if is_new and comm.rank == 0:
            with suppress(OSError):  # something has been written
                folder.rmdir()


@contextmanager
def writing(
    comm: MPI.Comm | None, *, folders: Iterable[Path | None] = (), files: Iterable[Path | None] = ()
) -> Iterator[None]:
    """Let no other process write the outputs of a block; read-only ones are found before the work. Collective.

    The folders are made when they are missing. BlockingIOError names the process that writes one already.
    """
    with ExitStack() as held:

        def lock() -> None:
            for outputs, is_file in ((folders, False), (files, True)):
                for output in outputs:
                    if output is not None:
                        held.enter_context(locked(output, is_file=is_file))

        if comm is None:
            lock()
        else:
            mpi.share(comm, lock)
        yield


def print_summary(summary: Mapping[str, Any], indent: str = "") -> None:
    """Print a mapping as lines ``name: value``, a mapping inside it indented, on the first rank."""
    for name, value in summary.items():
        if isinstance(value, Mapping):
            mpi.print_once(f"{indent}{name}:")
            print_summary(value, indent + "  ")
        else:
            mpi.print_once(f"{indent}{name}: {value:.4g}" if isinstance(value, float) else f"{indent}{name}: {value}")
