"""Runs a script as it is, with a collector, and with an attached operator, and compares what it prints."""

from __future__ import annotations

import contextlib
import gc
import io
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mpi4py import MPI
from petsc4py import PETSc

from lrsa_coupled.bench.machine import header_of
from lrsa_coupled.bench.rows import Results, Row, Seconds, Values
from lrsa_coupled.cases.scripts.insertion import edited
from lrsa_coupled.guess.learned import LEARNED
from lrsa_coupled.mpi import share

FOLDER = Path(__file__).parent
COMM = MPI.COMM_WORLD
IS_COMPLEX = np.issubdtype(PETSc.ScalarType, np.complexfloating)
NUMBER = re.compile(r"-?\d+\.\d+(?:e[+-]?\d+)?")
LAUNCHERS = ("PMI", "OMPI_", "MPI_", "HYDRA", "HYDI", "MV2_", "SLURM")
SETTINGS = """training.epochs=150 training.batch_size=4 training.learning_rate=3e-3 training.optimizer=muon
    training.gradient_weight=1 training.num_points=none training.device=cpu
    operator.width=32 operator.num_blocks=2 operator.num_heads=2 operator.num_latents=16"""
TRAINING = """import os, sys, threading
threading.Thread(target=lambda: (os.read(0, 1), os._exit(1)), daemon=True).start()  # ends with the process that waits
from lrsa_coupled.cli import main
sys.exit(main())"""
UNTRAINED = "training.epochs=1 training.learning_rate=1e-12 operator.weight_std=1"


@dataclass(frozen=True)
class Script:
    """What the lines of one script are filled with.

    Args:
        problem: Statement that makes the problem, up to its bracket.
        solve: Statement that solves it.
        arguments: Inputs and scalars, of both lines.
        outputs: Of the collector, besides the name.
        training: Values of the script's own variables, for each run that collects.
        accuracy: Relative difference of the answers that the tolerances of the script leave.
        is_complex: Whether it needs PETSc with complex numbers.
        settings: Of the training, besides those of all.
    """

    problem: str
    solve: str
    arguments: str
    training: tuple[Mapping[str, str], ...]
    accuracy: float
    outputs: str = "None"
    is_complex: bool = False
    settings: str = ""

    @property
    def name(self) -> str:
        """Name of the variable that holds the problem."""
        return self.problem.split()[0]


SCRIPTS: Mapping[str, Script] = {
    "hyperelasticity": Script(
        problem="problem = NonlinearProblem",
        solve="problem.solve",
        arguments='scalars={"angle": angle}',
        training=({"angles": "np.linspace(0.0, 105.0, 36)[1:]"},),
        accuracy=1e-7,
    ),
    "cahn_hilliard": Script(
        problem="problem = NonlinearProblem",
        solve="problem.solve",
        arguments='inputs={"c": c0, "mu": mu0}',
        outputs='{"c": (0,), "mu": (1,)}',
        training=tuple({"seed": str(seed)} for seed in (2, 3, 4)),
        accuracy=1e-7,
    ),
    "navier_stokes": Script(
        problem="problem1 = LinearProblem",
        solve="problem1.solve",
        arguments='inputs={"velocity": u_n, "before": u_n1, "pressure": p_n}',
        training=tuple({"peak": peak} for peak in ("0.8", "0.9", "1.1", "1.2")),
        accuracy=1e-5,
    ),
    "poisson": Script(
        problem="problem = LinearProblem",
        solve="uh = problem.solve",
        arguments='inputs={"source": f}, scalars={"flux": g}',
        training=({"seed": "2", "num_sources": "60"},),
        accuracy=1e-12,
    ),
    "helmholtz": Script(
        problem="problem = LinearProblem",
        solve="problem.solve",
        arguments='inputs={"incident": incident, "lens": ufl.real(lens)}',
        training=({"seed": "2", "num_waves": "60"},),
        accuracy=1e-5,
        is_complex=True,
    ),
}


@dataclass(frozen=True)
class Run:
    """One run of a script: what it prints, its time on the slowest rank [s], its iterations, learned guesses used."""

    text: str
    seconds: float
    iterations: int
    used: int


def compare(name: str, folder: Path, *, quick: bool = False) -> Results:
    """Run a script as it is, with an operator of random weights and with a trained one, on the ranks at hand.

    Args:
        name: The script.
        folder: Keeps data and operators; those that are there are used.
        quick: Train little, on the solves of the script itself.

    Collective.
    """
    script, place = SCRIPTS[name], folder / name
    if not share(COMM, (place / "learned" / "model.json").is_file):
        share(COMM, lambda: shutil.rmtree(place, ignore_errors=True))
        _collect(name, place / "data", ({},) if quick else script.training)
    few = "training.epochs=2" if quick else ""
    share(COMM, lambda: _train(place / "data", place / "learned", f"{script.settings} {few}"))
    share(COMM, lambda: _train(place / "data", place / "untrained", UNTRAINED))
    run(name)  # compiles the forms
    plain = run(name)
    rows = [_row("plain", run(name), plain, script)]
    rows += [_row(method, _attached(name, place / method), plain, script) for method in ("untrained", "learned")]
    return Results.of(header_of("scripts", name, {}, ranks=COMM.size), rows)


def run(name: str, *, after: Mapping[str, str] | None = None, values: Mapping[str, str] | None = None,
        end: str = "") -> Run:  # fmt: skip
    """Run a script, with lines in it and at its end if any are given. Collective."""
    path = FOLDER / f"{name}.py"
    source = edited(path.read_text(encoding="utf-8"), after=after or {}, values=values or {}) + end
    names: dict[str, Any] = {"__name__": "__main__", "__file__": str(path)}
    PETSc.Log.begin()
    before, printed, started = _work(), io.StringIO(), time.perf_counter()
    with contextlib.redirect_stdout(printed):
        exec(compile(source, str(path), "exec"), names)
    seconds = COMM.allreduce(time.perf_counter() - started, op=MPI.MAX)
    newton, preconditioned = (now - then for now, then in zip(_work(), before, strict=True))
    decisions = names["attached"].policy.decisions if "attached" in names else []
    used = sum(each.good for each in decisions if each.choice == LEARNED)
    names.clear()
    gc.collect()  # on all ranks at the same time, as PETSc wants it
    return Run(COMM.bcast(printed.getvalue()), seconds, newton or preconditioned, used)


def difference(one: str, other: str) -> float:
    """Return the largest relative difference of the numbers in two texts, infinity where there are not as many."""
    numbers, others = (np.array([float(found) for found in NUMBER.findall(text)]) for text in (one, other))
    if numbers.shape != others.shape:
        return float("inf")
    scale = np.maximum(np.abs(others), np.finfo(float).tiny)
    return float(np.max(np.abs(numbers - others) / scale, initial=0.0))


def _row(method: str, found: Run, plain: Run, script: Script) -> Row:
    error = difference(found.text, plain.text)
    values: Values = {"used": found.used, "difference": error, "same_output": found.text == plain.text}
    seconds, right = Seconds(total=found.seconds), error <= script.accuracy
    return Row(method=method, sample=0, seconds=seconds, iterations=found.iterations, solved=right, values=values)


def _work() -> tuple[int, int]:
    """Return how many Jacobians were assembled and preconditioners applied, by whichever solver."""
    newton, linear = (PETSc.Log.Event(name).getPerfInfo()["count"] for name in ("SNESJacobianEval", "PCApply"))
    return newton, linear


def _attached(name: str, model: Path) -> Run:
    script = SCRIPTS[name]
    lines = "from lrsa_coupled import LearnedGuess, attach\n"
    lines += f"attached = attach({script.name}, LearnedGuess.load({str(model)!r}), {script.arguments})"
    return run(name, after={script.problem: lines})


def _collect(name: str, data: Path, training: Sequence[Mapping[str, str]]) -> None:
    script = SCRIPTS[name]
    make = "from lrsa_coupled import Collector\n"
    make += f"samples = Collector({str(data)!r}, {script.name}, name={name!r}, {script.arguments}, "
    make += f"outputs={script.outputs})"
    for values in training:
        run(name, after={script.problem: make, script.solve: "samples.add()"}, values=values, end="samples.close()\n")


def _train(data: Path, model: Path, settings: str) -> None:
    """Train in a process of its own, outside the MPI job, unless the model exists."""
    if (model / "model.json").is_file():
        return
    flags = [word for each in (*SETTINGS.split(), *settings.split()) for word in ("--set", each)]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(LAUNCHERS)}
    command = [sys.executable, "-c", TRAINING, "train", str(data), "--out", str(model), *flags, "--quiet"]
    reading, writing = os.pipe()  # closed when this process ends, however it does
    try:
        subprocess.run(command, env=environment, check=True, stdin=reading, stdout=subprocess.DEVNULL)
    finally:
        os.close(reading)
        os.close(writing)
