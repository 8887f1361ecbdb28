"""The verbs of the command line. Each imports what it needs: training neither MPI nor PETSc, the rest MPI before PETSc."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrsa_coupled import catalog, mpi
from lrsa_coupled import config as configuration
from lrsa_coupled.config import Config
from lrsa_coupled.data import verbs as on_data

if TYPE_CHECKING:
    from mpi4py import MPI

    from lrsa_coupled.coupling.generate import GenerateSummary
    from lrsa_coupled.interfaces import Case, Field, SolveResult


STOPPED = 3
"""Exit code of a run that a signal ended early."""


def list_cases(args: Namespace, petsc: Sequence[str]) -> int:
    """Print every case with its first line of documentation, inputs and outputs."""
    _resolve(args, Config(), {})
    comm = _start_petsc(petsc)
    for name in catalog.case_names():
        case = catalog.load_case(name)
        _print(f"{name:12s} {(type(case).__doc__ or '').strip().splitlines()[0]}")
        _print(f"{'':12s} in: {_fields(case.inputs)}; scalars: {', '.join(case.scalars) or 'none'}; out: {_fields(case.outputs)}")
        if dataclasses.fields(case.options):
            _print(f"{'':12s} options: {', '.join(f'{name} = {value}' for name, value in vars(case.options).items())}")
    _check_petsc(comm, petsc)
    return 0


def generate(args: Namespace, petsc: Sequence[str]) -> int:
    """Make a data set."""
    case, config, comm = _start(args, petsc, section="generate", flags=("samples", "seed", "resolution", "ranks_per_sample"))
    _prepare(comm, args.out)
    return _generate(case, config, args.out, comm=comm, petsc=petsc)


def train(args: Namespace, petsc: Sequence[str]) -> int:
    """Train an operator; no MPI, no PETSc."""
    _one_process("train", petsc)
    from lrsa_coupled.training.loop import train as train_operator

    _print_summary(train_operator(args.data, args.out, _stored_config(args, args.data), resume=not args.no_resume))
    return 0


def evaluate(args: Namespace, petsc: Sequence[str]) -> int:
    """Print the errors of a model on a data set; no MPI, no PETSc."""
    _one_process("evaluate", petsc)
    from lrsa_coupled.training.evaluate import evaluate as evaluate_operator

    _print_summary(evaluate_operator(args.model, args.data, _stored_config(args, args.data)))
    return 0


def solve(args: Namespace, petsc: Sequence[str]) -> int:
    """Solve one problem and write it; the exit code is 1 when the solve fails."""
    case, config, comm = _start(args, petsc, section="bench", flags=("seed", "resolution"))
    from lrsa_coupled.coupling.plan import sample_parameters
    from lrsa_coupled.coupling.solve import solve as solve_problem

    if args.index < 0:
        raise ValueError(f"--index counts from 0, got {args.index}")
    if args.strategy and args.model:
        raise ValueError("--strategy names a classical start and --model a learned one; give one of them")
    parameters = sample_parameters(case, config.bench.seed, args.index)
    if args.parameters is not None:
        parameters = mpi.share(comm, lambda: configuration.read_parameters(parameters, args.parameters))
    model = args.model if args.strategy or args.model else catalog.shipped_model(catalog.case_folder(args.case))
    _prepare(comm, args.out)
    result = solve_problem(case, config, comm, parameters=parameters, model=model, strategy=args.strategy, folder=args.out)
    _print(_describe(result))
    _check_petsc(comm, petsc)
    return 0 if result.converged else 1


def bench(args: Namespace, petsc: Sequence[str]) -> int:
    """Measure the start strategies."""
    case, config, comm = _start(args, petsc, section="bench", flags=("samples", "seed", "resolution"))
    for folder in (args.json and args.json.parent, args.pictures):
        _prepare(comm, folder)
    model = args.model or catalog.shipped_model(catalog.case_folder(args.case))
    if args.what == "generate":
        _bench_generation(case, config, model, comm=comm, path=args.json)
        _check_petsc(comm, petsc)
        return 0
    if model is None:
        raise ValueError(f"the case '{case.name}' ships no model; name one with --model")
    _bench(case, config, comm, args=Namespace(model=model, data=args.data, json=args.json, pictures=args.pictures))
    _check_petsc(comm, petsc)
    return 0


def run(args: Namespace, petsc: Sequence[str]) -> int:
    """Generate, train on rank 0 and bench, into ``data``, ``model`` and ``bench`` of the output folder."""
    case, config, comm = _start(args, petsc, section="generate", flags=())
    if config.bench.seed == config.generate.seed:
        raise ValueError(f"bench.seed must differ from generate.seed, both are {config.generate.seed}")
    _prepare(comm, args.out)
    data, model, results = args.out / "data", args.out / "model", args.out / "bench"
    code = _generate(case, config, data, comm=comm, petsc=petsc)
    if code:
        return code
    from lrsa_coupled.training.loop import train as train_operator

    summary = mpi.share(comm, lambda: train_operator(data, model, config))
    _print_summary(summary)
    _bench(case, config, comm, args=Namespace(model=model, data=data, json=results / "ledger.json", pictures=results))
    _check_petsc(comm, petsc)
    return 0


VERBS: Mapping[str, Callable[[Namespace, Sequence[str]], int]] = {
    "list": list_cases, "generate": generate, "train": train, "evaluate": evaluate, "solve": solve, "bench": bench, "run": run,
    "info": on_data.info, "verify": on_data.verify, "export": on_data.export,
}  # fmt: skip


def _start(args: Namespace, petsc: Sequence[str], *, section: str, flags: Sequence[str]) -> tuple[Case, Config, MPI.Comm]:
    """Resolve the configuration, then load MPI, PETSc and the case; what is cheap to refuse is refused first."""
    folder = catalog.case_folder(args.case)
    given = {flag: vars(args)[flag] for flag in flags if vars(args)[flag] is not None}
    config = _case_config(args, Config(), folder, {section: given})
    comm = _start_petsc(petsc)
    with mpi.collective_errors(comm):
        case = catalog.load_case(args.case, config.options)
    return case, dataclasses.replace(config, case=case.name, options=dataclasses.asdict(case.options)), comm


def _stored_config(args: Namespace, data: Path) -> Config:
    """Resolve the configuration for a data set: that of its case when it is one of ours, else the one the data were made with."""
    from lrsa_coupled.data.store import DataStore

    case = str(DataStore(data).meta["case"])
    if case in catalog.case_names():
        config = _case_config(args, Config(), catalog.case_folder(case), {})
    else:
        path = data / "config.json"
        made_with = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        config = _resolve(args, configuration.update(Config(), made_with, where=str(path)), {})
    return dataclasses.replace(config, case=case)


def _case_config(args: Namespace, base: Config, folder: Path, flags: Mapping[str, Any]) -> Config:
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
    return _resolve(args, config, flags)


def _resolve(args: Namespace, base: Config, flags: Mapping[str, Any]) -> Config:
    config = configuration.load(base, files=args.config, assignments=args.set)
    config = configuration.update(config, flags, where="command line")
    for name, part in (("generate", config.generate), ("bench", config.bench)):
        if part.samples < 1:
            raise ValueError(f"{name}.samples must be at least 1, got {part.samples}")
        if part.resolution < 0 or part.seed < 0:
            raise ValueError(f"{name}.resolution and {name}.seed must not be negative, got {part.resolution} and {part.seed}")
    return config


def _start_petsc(petsc: Sequence[str]) -> MPI.Comm:
    from lrsa_coupled import petsc_options

    petsc_options.initialise(petsc)
    return mpi.world()


def _check_petsc(comm: MPI.Comm, petsc: Sequence[str]) -> None:
    from lrsa_coupled import petsc_options

    petsc_options.check_used(comm, petsc)


def _one_process(verb: str, petsc: Sequence[str]) -> None:
    if mpi.size() > 1:
        raise ValueError(f"'{verb}' runs in one process, whose threads are set by OMP_NUM_THREADS; got {mpi.size()} ranks")
    if petsc:
        raise ValueError(f"'{verb}' does not use PETSc: unknown option {petsc[0]}")


def _prepare(comm: MPI.Comm, folder: Path | None) -> None:
    """Make an output folder and write to it, so that a read-only one is found before the work rather than after."""
    if folder is None:
        return

    def probe() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass

    mpi.share(comm, probe)


def _generate(case: Case, config: Config, folder: Path, *, comm: MPI.Comm, petsc: Sequence[str]) -> int:
    from lrsa_coupled.coupling.generate import generate as generate_data

    summary: GenerateSummary = generate_data(case, config, folder, comm)
    _print(f"{folder}: {summary.samples} samples, {summary.solved} solved; {summary.made} made in {summary.seconds:.1f} s, "
           f"ranks idle {summary.idle:.1%}, farm overhead {summary.overhead:.1%}")  # fmt: skip
    for reason, count in sorted(summary.failed.items()):
        _print(f"  {count} failed: {reason}")
    if summary.made:  # no solver has run otherwise, and none has used an option
        _check_petsc(comm, petsc)
    if summary.stopped:
        _print(f"{summary.stopped}: stopped after the samples in progress; the same command goes on from here")
        return STOPPED
    return 0


def _bench(case: Case, config: Config, comm: MPI.Comm, *, args: Namespace) -> None:
    from lrsa_coupled.bench import ledger, report

    outcome = ledger.bench(case, config, comm, model=args.model, data=args.data)

    def write() -> None:
        print(report.table(outcome.ledger))
        if args.json is not None:
            report.write_json(outcome.ledger, args.json)
            print(f"\nledger: {args.json}")
        if args.pictures is not None:
            print("pictures: " + ", ".join(str(path) for path in report.pictures(outcome, args.pictures)))

    mpi.share(comm, write)


def _bench_generation(case: Case, config: Config, model: Path | None, *, comm: MPI.Comm, path: Path | None) -> None:
    from lrsa_coupled.bench import generation, report

    ledger = generation.bench_generation(case, config, comm, model=model)
    _print(generation.generation_table(ledger))
    if path is not None:
        mpi.share(comm, lambda: report.write_json(ledger, path))


def _describe(result: SolveResult) -> str:
    seconds = ", ".join(f"{stage} {time:.3f} s" for stage, time in result.seconds.items())
    state = "converged" if result.converged else "FAILED"
    lines = [f"{state} ({result.reason}): {result.iterations} iterations, residual {result.residual:.3e}; {seconds}"]
    if result.used_fallback:
        lines.append("the learned guess was given up for the classical strategy")
    return "\n".join([*lines, result.advice] if result.advice else lines)


def _print_summary(summary: Mapping[str, Any], indent: str = "") -> None:
    for name, value in summary.items():
        if isinstance(value, Mapping):
            _print(f"{indent}{name}:")
            _print_summary(value, indent + "  ")
        else:
            _print(f"{indent}{name}: {value:.4g}" if isinstance(value, float) else f"{indent}{name}: {value}")


def _fields(fields: Sequence[Field]) -> str:
    return ", ".join(f"{f.name}[{f.components}]" if f.components > 1 else f.name for f in fields) or "none"


def _print(text: str) -> None:
    if mpi.rank() == 0:
        print(text, flush=True)
