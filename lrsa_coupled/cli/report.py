"""``lrsa-coupled report``: print stored results; those of bench need no MPI, PETSc or torch."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from lrsa_coupled import mpi
from lrsa_coupled.cli._startup import one_process, resolve, writing
from lrsa_coupled.config import Config

HELP = "print stored results, those of bench side by side when there are several (one process, no MPI)"
EXAMPLE = "lrsa-coupled report rows.jsonl --html page.html"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("rows", type=Path, nargs="+", metavar="ROWS.jsonl", help="file that --json of a verb wrote")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write results of bench as one HTML page")


def run(args: Namespace, petsc: Sequence[str]) -> int:
    """Print, and write a page if asked for."""
    one_process("report", petsc)
    resolve(args, Config())
    from lrsa_coupled.bench import experiments, html, rows, scaling

    found = [rows.read_rows(path) for path in args.rows]
    paged = ("bench", "study", "estimates")
    compared = [results for results in found if results.header.study == "bench"]
    others = [results for results in found if results.header.study != "bench"]
    if args.html is not None and (wrong := [each for each in found if each.header.study not in paged]):
        raise ValueError(f"--html is for results of bench, got some of the experiment '{wrong[0].header.study}'")
    texts = [scaling.side_by_side_text(compared)] if compared else []
    texts += [experiments.find(results.header.study).load().table(results) for results in others]
    mpi.print_once("\n\n\n".join(texts))
    if args.html is not None:
        with writing(None, files=[args.html]):
            html.write_html(found, args.html, sources=[path.name for path in args.rows])
        mpi.print_once(f"\npage: {args.html}")
    return 0
