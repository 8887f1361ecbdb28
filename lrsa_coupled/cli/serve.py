"""``lrsa-coupled serve``: a case for clients of UM-Bridge, such as tinyDA, QMCPy, PyApprox, MUQ and Dakota."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from lrsa_coupled import mpi
from lrsa_coupled.cli._arguments import add_case, add_preset, add_settings
from lrsa_coupled.cli._startup import check_petsc, start

HELP = "serve a case to clients of UM-Bridge: parameters in, quantities out"
EXAMPLE = "lrsa-coupled serve cavity --port 4242"
LARGEST_PORT = 65535


def add_arguments(parser: ArgumentParser) -> None:
    add_case(parser)
    parser.add_argument(
        "--quantity", nargs="+", action="extend", default=[], metavar="Q", help="quantities, all by default"
    )
    parser.add_argument("--port", type=int, default=4242, metavar="P", help="4242 by default; 0 chooses one")
    text = "address to listen at; only programs of this machine by default"
    parser.add_argument("--address", default="127.0.0.1", metavar="A", help=text)
    text = "resolutions of further models fe-N"
    parser.add_argument("--coarser", type=int, nargs="+", action="extend", default=[], metavar="N", help=text)
    parser.add_argument(
        "--model", type=Path, metavar="DIR", help="folder of an operator, to serve it as model operator"
    )
    text = "folder of an estimate, to whose solves model surrogate is fitted: milliseconds, derivatives, too"
    parser.add_argument("--fit", type=Path, metavar="DIR", help=text)
    add_settings(parser, "problem.seed", "problem.resolution")
    add_preset(parser)


def run(args: Namespace, petsc: Sequence[str]) -> int:
    """Serve until SIGTERM or SIGUSR1, which is what was asked for."""
    if not 0 <= args.port <= LARGEST_PORT:
        raise ValueError(f"--port must be between 0 and {LARGEST_PORT}, got {args.port}")
    case, config, comm = start(args, petsc)
    from lrsa_coupled.coupling.quantities import choose
    from lrsa_coupled.study.serve import ModelServer

    quantities = choose(case.quantities, args.quantity, of=case.name)
    server = ModelServer(
        case, config, comm, quantities=quantities, coarser=args.coarser, model=args.model, fit=args.fit
    )

    def ready(port: int) -> None:
        names = ", ".join(server.models)
        mpi.print_once(f"http://{args.address}:{port}: {names}; {server.size} numbers to {len(quantities)} quantities")

    server.run(args.port, address=args.address, ready=ready)
    check_petsc(comm, petsc)
    return 0
