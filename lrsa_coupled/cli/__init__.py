"""Command line ``lrsa-coupled``: arguments, and errors as one line on any number of ranks. The verbs are in ``lrsa_coupled/cli/verbs.py``."""

from __future__ import annotations

import argparse
import importlib
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, NoReturn, final

from lrsa_coupled import logs, mpi

if TYPE_CHECKING:
    from mpi4py import MPI

PATIENCE = 10.0
"""Time a rank with an error waits for the others to end before it ends them [s]."""

_FEM_MODULES = frozenset({"mpi4py", "petsc4py", "slepc4py", "dolfinx", "ufl", "basix", "ffcx", "gmsh"})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code: 0, 1 for a failed solve or a damaged data set, 2 for an error, 3 after a signal.

    Collective over the world when an MPI launcher started the process.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    # A communicator of its own: an error on one rank must not meet a collective call of another.
    comm = mpi.world().Dup() if mpi.size() > 1 else None
    code, error = 0, None
    try:
        code = _run(given)
    except SystemExit as stop:  # --help
        code = int(stop.code or 0)
    except KeyboardInterrupt:
        code = 130
    except Exception as caught:  # noqa: BLE001 - reported below, on all ranks
        error = caught
    verbose = "--verbose-errors" in given
    if comm is not None:
        failed = _agree(comm, error, verbose)
        comm.Free()
        return 2 if failed else code
    if error is not None:
        _report(error, verbose)
    return code if error is None else 2


@final
class Parser(argparse.ArgumentParser):
    """Raises usage errors instead of leaving, and prints help on rank 0 only."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (see '{self.prog} --help')")

    def print_help(self, file: IO[str] | None = None) -> None:
        if mpi.rank() == 0:
            super().print_help(file)


def make_parser() -> Parser:
    """Return the parser of all verbs."""
    parser = Parser(
        prog="lrsa-coupled", description="Learned low-rank operators inside classical finite element solvers."
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=Parser)
    common = _common()

    def add(verb: str, text: str) -> argparse.ArgumentParser:
        return verbs.add_parser(
            verb, help=text, description=text, parents=[common], epilog="what follows -- goes to PETSc"
        )

    add("list", "list the cases")
    generate = add("generate", "make a data set")
    _case(generate)
    generate.add_argument("--samples", type=int, help="number of samples")
    generate.add_argument("--ranks-per-sample", type=int, metavar="Q", help="ranks that share the mesh of a sample")
    _seed_and_resolution(generate)
    _out(generate, "folder of the data set; one that exists is continued")
    _preset(generate, "none by default")
    _add_store_verbs(add)
    train = add("train", "train an operator on a data set, on one rank or under mpirun or torchrun")
    train.add_argument("data", type=Path, metavar="DIR", help="data set")
    _out(train, "folder of the model; a run that exists is resumed")
    train.add_argument("--no-resume", action="store_true", help="start anew")
    _preset(train, "none by default")
    evaluate = add("evaluate", "errors of a model on a data set (one process, no MPI)")
    evaluate.add_argument("model", type=Path, metavar="MODEL", help="folder of the model")
    evaluate.add_argument("data", type=Path, metavar="DIR", help="data set")
    evaluate.add_argument(
        "--pictures", type=Path, metavar="DIR", help="write PNG pictures of the worst sample of each field"
    )
    _add_solve(add("solve", "solve one problem and write it for ParaView"))
    _add_bench(add("bench", "measure start strategies on unseen samples"))
    _add_bench_operator(
        add("bench-operator", "speed and memory of LRSA and Transolver on this machine (one process, no MPI)")
    )
    report = add(
        "report", "print stored ledgers of start strategies, side by side when there are several (one process, no MPI)"
    )
    report.add_argument("ledgers", type=Path, nargs="+", metavar="LEDGER.json", help="file that bench --json wrote")
    report.add_argument("--html", type=Path, metavar="FILE", help="write them as one HTML page")
    run = add("run", "generate, train and bench in one go")
    _case(run)
    _out(run, "folder of data, model and bench")
    _preset(run, "smoke by default")
    return parser


def _common() -> argparse.ArgumentParser:
    common = Parser(add_help=False)
    common.add_argument(
        "--config", type=Path, action="append", default=[], metavar="FILE", help="TOML file of settings; repeatable"
    )
    common.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="one setting, such as training.epochs=50; repeatable",
    )
    common.add_argument("-v", "--verbose", action="count", default=0, help="print more")
    common.add_argument("-q", "--quiet", action="store_true", help="print results, warnings and errors only")
    common.add_argument("--verbose-errors", action="store_true", help="show where an error comes from")
    return common


def _case(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("case", metavar="CASE", help="name of a case, or path to a case.py or its folder")


def _out(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help=text)


def _preset(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument(
        "--preset",
        metavar="NAME",
        help=f"a table of presets in the case's config.toml, such as smoke or full; {default}",
    )


def _seed_and_resolution(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, help="seed of the samples")
    parser.add_argument("--resolution", type=int, help="resolution of the meshes; the case's own by default")


def _add_store_verbs(add: Callable[[str, str], argparse.ArgumentParser]) -> None:
    info = add("info", "describe a data set")
    info.add_argument("data", type=Path, metavar="DIR", help="data set")
    info.add_argument(
        "--hash", action="store_true", help="print a hash of the contents, whatever ranks wrote them in whatever order"
    )
    info.add_argument(
        "--statistics", action="store_true", help="add mean and variance of every field; reads all samples"
    )
    add("verify", "find every damaged or missing sample").add_argument(
        "data", type=Path, metavar="DIR", help="data set"
    )
    export = add("export", "write samples for ParaView")
    export.add_argument("data", type=Path, metavar="DIR", help="data set")
    export.add_argument("--index", type=int, nargs="+", default=[0], metavar="I", help="indices of the samples")
    _out(export, "folder of the VTKHDF files")


def _add_solve(parser: argparse.ArgumentParser) -> None:
    _case(parser)
    parser.add_argument("--model", type=Path, metavar="DIR", help="folder of the model; the shipped one by default")
    parser.add_argument("--method", metavar="NAME", help="classical start strategy, instead of a model")
    parser.add_argument(
        "--mode",
        choices=("solve", "surrogate"),
        default="solve",
        help="to the case's tolerance; or an answer to the accuracy asked for",
    )
    parser.add_argument(
        "--accept", type=float, metavar="A", help="relative accuracy of --mode surrogate, 1e-12 to 1; 1e-2 by default"
    )
    parser.add_argument("--index", type=int, default=0, help="index of the sample")
    _seed_and_resolution(parser)
    parser.add_argument(
        "--parameters", type=Path, metavar="FILE", help="JSON file of parameters that replace those of the sample"
    )
    _out(parser, "folder of the results")
    _preset(parser, "none by default")


def _add_bench(parser: argparse.ArgumentParser) -> None:
    _case(parser)
    kinds = (
        "starts",
        "gate",
        "surrogate",
        "transient",
        "generate",
        "preconditioners",
        "modes",
        "operators",
        "ablations",
        "refinement",
        "steps",
    )
    text = "start strategies; bad guesses behind the gate; answers with a certificate; starts of time steps; data generation; preconditioners; eigensolvers; LRSA and its rivals; LRSA less a part; refined points; training in fp32 and bf16"
    parser.add_argument("--what", choices=kinds, default="starts", help=text)
    parser.add_argument("--samples", type=int, help="number of samples")
    _seed_and_resolution(parser)
    parser.add_argument("--model", type=Path, metavar="DIR", help="folder of the model; the shipped one by default")
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="training data: for operators, or to add the nearest training sample as a rival",
    )
    parser.add_argument("--test", type=Path, metavar="DIR", help="test data, for operators and ablations")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder of the trained models, for operators and ablations"
    )
    _preset(parser, "none by default")
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="NAME",
        help="some of the strategies, operators, ablations or preconditioners",
    )
    text = "models that predict a basis or a correction, for preconditioners; models trained on another distribution, for gate"
    parser.add_argument("--models", type=Path, nargs="+", default=[], metavar="DIR", help=text)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the ledger")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the ledger as a self-contained HTML page")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="write PNG pictures")


def _add_bench_operator(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto takes a GPU when there is one"
    )
    parser.add_argument(
        "--points", type=int, nargs="+", metavar="N", help="numbers of points; 4096 to 1048576 by default"
    )
    parser.add_argument(
        "--precision", choices=("fp32", "bf16"), nargs="+", default=["fp32", "bf16"], help="one or both"
    )
    parser.add_argument(
        "--only",
        choices=("lrsa", "transolver", "flare", "full"),
        nargs="+",
        help="operators; LRSA and Transolver by default",
    )
    parser.add_argument(
        "--chunk",
        type=int,
        metavar="N",
        help="points LRSA works on at a time where there are more; guess.chunk_size by default",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table")


def _run(given: list[str]) -> int:
    place = given.index("--") if "--" in given else len(given)
    args = make_parser().parse_args(given[:place])
    logs.setup(-1 if args.quiet else args.verbose)
    verbs = importlib.import_module("lrsa_coupled.cli.verbs")
    return verbs.VERBS[args.verb](args, given[place + 1 :])


def _agree(comm: MPI.Comm, error: Exception | None, verbose: bool) -> bool:
    """Tell whether a rank failed; the lowest one speaks. A rank that fails alone ends the job rather than let the others wait."""
    failed = mpi.failed_ranks(comm, error is not None, patience=PATIENCE)
    if error is not None and (failed is None or failed[0] == comm.rank):
        _report(error, verbose)
    if failed is None:
        sys.stderr.flush()
        comm.Abort(2)
    return bool(failed)


def _report(error: Exception, verbose: bool) -> None:
    line = _line(error)
    if verbose or line is None:
        traceback.print_exception(error, file=sys.stderr)
        line = line or f"unexpected {type(error).__name__}: {_flat(str(error))}"
    print(f"lrsa-coupled: error: {line}", file=sys.stderr, flush=True)


def _line(error: Exception) -> str | None:
    """Describe an error that a user can do something about; None for any other."""
    if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] in _FEM_MODULES:
        return f"{error.name} is not installed; install the extra with pip install 'lrsa-coupled[fem]', or fenics-dolfinx from conda-forge"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    if isinstance(error, (ValueError, TypeError, OSError, FloatingPointError)):
        return _flat(str(error))
    if type(error).__module__.startswith("petsc4py"):
        return f"PETSc: {_flat(str(error.__cause__ or error))}"  # the cause is what a preconditioner of ours has to say
    return None


def _flat(text: str) -> str:
    return " ".join(text.split())
