"""``python -m lrsa_coupled.cases.scripts [NAME ...]``: scripts with and without a learned guess, compared in a table.

On the ranks that it is started on; with ``--ranks 1 2 3`` it starts ``mpiexec`` once for each number.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from lrsa_coupled.bench.report import align, number
from lrsa_coupled.bench.rows import Results, read_rows, write_rows
from lrsa_coupled.cases.scripts.runner import COMM, IS_COMPLEX, SCRIPTS, compare

HEADING = ("script", "ranks", "method", "iterations", "time [s]", "guesses used", "difference", "same output")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print the table, and return 1 where an answer differs by more than the tolerance of its script."""
    parser = ArgumentParser(prog="lrsa_coupled.cases.scripts", description="Scripts with and without a learned guess.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SCRIPTS)}; none: all of this PETSc")
    parser.add_argument("--ranks", nargs="+", type=int, metavar="P", help="start mpiexec once for each number")
    parser.add_argument("--out", type=Path, default=Path("runs/scripts"), help="data, operators and rows.jsonl")
    parser.add_argument("--quick", action="store_true", help="train little, on the solves of the script itself")
    args = parser.parse_args(arguments)
    names = args.names or [name for name, script in SCRIPTS.items() if script.is_complex == IS_COMPLEX]
    for name in names:
        if name not in SCRIPTS or SCRIPTS[name].is_complex != IS_COMPLEX:
            parser.error(f"'{name}' is no script for PETSc with {'complex' if IS_COMPLEX else 'real'} numbers")
    counts = args.ranks or [COMM.size]
    if args.ranks:
        _launch(names, args.ranks, args.out, ["--quick"] * args.quick)
    else:
        for name in names:
            results = compare(name, args.out, quick=args.quick)
            if COMM.rank == 0:
                write_rows(results, _path(args.out, name, COMM.size))
    COMM.Barrier()
    found = [read_rows(_path(args.out, name, ranks)) for name in names for ranks in counts]
    if COMM.rank == 0:
        print(table(found))
    return int(not all(row.solved for results in found for row in results.rows))


def table(found: Sequence[Results]) -> str:
    """Format the rows of all runs."""
    lines = [list(HEADING)]
    for row in (row for results in found for row in results.rows):
        same, used = "yes" if row.values["same_output"] else "no", str(row.values["used"])
        cells = [row.case, str(row.ranks), row.method, str(row.iterations), number(row.seconds.total)]
        lines.append([*cells, "" if row.method == "plain" else used, f"{row.number('difference'):.1e}", same])
    return align(lines)


def _launch(names: Sequence[str], counts: Sequence[int], out: Path, flags: Sequence[str]) -> None:
    near = Path(sys.executable).parent / "mpiexec"
    launcher = str(near) if near.is_file() else shutil.which("mpiexec") or "mpiexec"
    for count in counts:
        rows = [_path(out, name, count) for name in names]
        for path in rows:
            path.unlink(missing_ok=True)
        command = [launcher, "-n", str(count), sys.executable, "-m", "lrsa_coupled.cases.scripts", *names, *flags]
        environment = {"OMP_NUM_THREADS": "1"} | os.environ  # threads of two ranks would wait for each other's cores
        subprocess.run([*command, "--out", str(out)], env=environment, stdout=subprocess.PIPE, check=False)
        if not all(path.is_file() for path in rows):
            sys.exit(f"{' '.join(command)} ended before its rows were written")


def _path(out: Path, name: str, ranks: int) -> Path:
    return out / f"{name}-{ranks}.jsonl"


if __name__ == "__main__":
    sys.exit(main())
