"""``python -m lrsa_coupled.cases.scripts.studies [NAME ...]``: studies with and without ``learn=``, compared.

Each run is a process of its own, so that all it takes is counted: imports, collecting, training. Plain runs and runs
that learn take turns, with the same parameters. Times depend on what else the machine does; factorisations do not.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lrsa_coupled.bench.report import align
from lrsa_coupled.cases.scripts.insertion import edited

FOLDER = Path(__file__).parent
STUDIES = {
    "heat": 'inputs={"k0": k0}, scalars={"beta": beta}',
    "p_laplacian": 'inputs={"source": f}, scalars={"p": p}',
    "tractions": 'scalars={"traction": traction}',
}
"""What a study is told of each script."""

type Costs = tuple[float, float, float]

HEADING = (
    "script", "solves", "plain [s]", "learning [s]", "times faster", "by CPU", "by factorisations", "pairs"
)  # fmt: skip
BEGIN = "from mpi4py import MPI\nfrom petsc4py import PETSc; PETSc.Log.begin()\n"
END = """
if PETSc.COMM_WORLD.rank == 0:
    print("factorisations", PETSc.Log.Event("MatLUFactorNum").getPerfInfo()["count"], flush=True)
"""
LOG = "import logging; logging.basicConfig(level=logging.INFO, format='%(relativeCreated)d ms %(message)s')\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and print the table."""
    parser = ArgumentParser(prog="lrsa_coupled.cases.scripts.studies", description="Studies with and without learning.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(STUDIES)}; none: all")
    parser.add_argument("--solves", nargs="+", type=int, default=[60], metavar="N", help="lengths of the studies")
    parser.add_argument(
        "--pairs", type=int, default=1, metavar="N", help="runs of each kind, with parameters of their own"
    )
    parser.add_argument("--ranks", type=int, default=1, metavar="P", help="ranks of a run")
    parser.add_argument("--told", action="store_true", help="say how many solves will come")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep data, models and logs here")
    args = parser.parse_args(arguments)
    lines = [list(HEADING)]
    for name in args.names or STUDIES:
        for solves in args.solves:
            times = []
            for pair in range(args.pairs):
                with tempfile.TemporaryDirectory() as temporary:
                    place = (args.keep or Path(temporary)) / f"{name}-{solves}-{pair}"
                    shutil.rmtree(place, ignore_errors=True)
                    place.mkdir(parents=True)
                    known = solves if args.told else None
                    values = {"num_solves": str(solves), "seed": str(pair + 1)}
                    times.append(_pair(name, place, values, known=known, ranks=args.ranks))
            plain, learning = np.mean(times, axis=0)
            ratios = [f"{ratio:.2f}" for ratio in plain / learning]
            cells = [f"{plain[0]:.1f}", f"{learning[0]:.1f}", *ratios, str(args.pairs)]
            lines.append([name, str(solves), *cells])
            print(align(lines), flush=True)
    return 0


def _pair(name: str, place: Path, values: Mapping[str, str], *, known: int | None, ranks: int) -> list[Costs]:
    """Run a script without and with learning and return what each took."""
    source = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
    learn = f"Learning({str(place / 'data')!r}, solves={known})"
    lines = f"{LOG}from lrsa_coupled import Learning, attach\n"
    lines += f"attached = attach(problem, {STUDIES[name]}, learn={learn})"
    texts = {"plain": edited(source, after={}, values=values)}
    texts["learning"] = edited(source, after={"problem = NonlinearProblem": lines}, values=values)
    return [_run(f"{BEGIN}{text}{END}", place / f"{kind}.log", ranks) for kind, text in texts.items()]


def _run(source: str, log: Path, ranks: int) -> Costs:
    """Return wall and CPU time [s] and factorisations of a script in a process of its own; it prints to a file.

    The CPU time, which other work on the machine changes less, has that of trainings in it.
    """
    script = log.with_suffix(".py")
    script.write_text(source, encoding="utf-8")
    near = Path(sys.executable).parent / "mpiexec"
    launcher = [str(near) if near.is_file() else "mpiexec", "-n", str(ranks)] if ranks > 1 else []
    started = time.perf_counter()
    with open(log, "wb") as stream:
        process = subprocess.Popen([*launcher, sys.executable, str(script)], stdout=stream, stderr=stream)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{script} ended with exit code {process.returncode}: see {log}")
    elapsed = time.perf_counter() - started
    counts = [line.split()[1] for line in log.read_text(encoding="utf-8").splitlines() if line.startswith("factoris")]
    return elapsed, usage.ru_utime + usage.ru_stime, float(counts[-1])


if __name__ == "__main__":
    sys.exit(main())
