"""``lrsa-coupled new``: a commented case, or a script, to begin with."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from lrsa_coupled import catalog
from lrsa_coupled.cli._startup import one_process
from lrsa_coupled.files import write_atomically

HELP = "write a case, or a script, to begin with"
EXAMPLE = "lrsa-coupled new my --template energy"
SCRIPT = "script"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("path", type=Path, metavar="PATH", help="file to write, or folder for case.py or study.py")
    text = "nonlinear (Newton, continuation), linear (Krylov), transient (time steps), energy (minimisation) or script"
    text = f"{text} (no case: solves that learn from each other); nonlinear by default"
    parser.add_argument("--template", choices=[*catalog.templates()], default="nonlinear", metavar="NAME", help=text)


def run(args: Namespace, petsc: Sequence[str]) -> int:
    """Copy a template; what exists is left alone."""
    one_process("new", petsc)
    is_script = args.template == SCRIPT
    path = args.path if args.path.suffix == ".py" else args.path / ("study.py" if is_script else "case.py")
    if path.exists():
        raise FileExistsError(f"{path} exists and is left as it is; choose another PATH")
    write_atomically({path: catalog.templates()[args.template].read_bytes()})
    print(f"{path}: {args.template}")
    print(f"next: {'python' if is_script else 'lrsa-coupled check'} {path}")
    return 0
