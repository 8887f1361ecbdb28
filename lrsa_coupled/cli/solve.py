"""``lrsa-coupled solve``: one problem, solved to its tolerance or answered by the operator to a given accuracy."""

from __future__ import annotations

import dataclasses
import json
import logging
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lrsa_coupled import catalog, mpi
from lrsa_coupled import config as configuration
from lrsa_coupled.cli._arguments import add_case, add_out, add_preset, add_settings
from lrsa_coupled.cli._startup import check_petsc, prepare, start
from lrsa_coupled.files import read_json, write_text_atomically
from lrsa_coupled.settings import nearest, update

if TYPE_CHECKING:
    from mpi4py import MPI

    from lrsa_coupled.certify.certify import Certified
    from lrsa_coupled.config import Config
    from lrsa_coupled.interfaces import Case, Problem, SolveResult

logger = logging.getLogger(__name__)

HELP = "solve one problem and write it for ParaView"
ACCEPT = 1e-2
"""Relative accuracy of a surrogate without ``--accept``."""


@dataclass(frozen=True)
class Request:
    """One problem to solve.

    Args:
        case: The case.
        config: Resolution and tolerance in ``config.problem``, use of the operator in ``config.guess``.
        parameters: Parameters of the case.
        folder: Where to write.
        model: Folder of the model for a learned guess; None for a solve without one.
        method: Name of a method of the case, None for its default; not together with ``model``.
    """

    case: Case
    config: Config
    parameters: Any
    folder: Path
    model: Path | None = None
    method: str | None = None


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the verb."""
    add_case(parser)
    parser.add_argument("--model", type=Path, metavar="DIR", help="folder of the model; the shipped one by default")
    parser.add_argument("--method", metavar="NAME", help="method of the case, without a model")
    text = "solve: to the case's tolerance; surrogate: the operator's answer, corrected to a given accuracy"
    parser.add_argument("--mode", choices=("solve", "surrogate"), default="solve", help=text)
    text = "relative accuracy of --mode surrogate, 1e-12 to 1; 1e-2 by default"
    parser.add_argument("--accept", type=float, metavar="A", help=text)
    parser.add_argument("--index", type=int, default=0, help="index of the sample")
    add_settings(parser, "problem.seed", "problem.resolution")
    text = "JSON file of parameters that replace those of the sample"
    parser.add_argument("--parameters", type=Path, metavar="FILE", help=text)
    add_out(parser, "folder of the results")
    add_preset(parser)


def run(args: Namespace, petsc: Sequence[str]) -> int:
    """Solve one problem and write it; the exit code is 1 when that fails."""
    if args.accept is not None and args.mode != "surrogate":
        raise ValueError("--accept is the accuracy of --mode surrogate; --mode solve goes to the case's own tolerance")
    case, config, comm = start(args, petsc)
    from lrsa_coupled.certify.certify import check_accept
    from lrsa_coupled.generation.plan import sample_parameters

    model = _model(args)
    accept = ACCEPT if args.accept is None else args.accept
    check_accept(accept)
    parameters: Any = sample_parameters(case, config.problem.test_seed, args.index)
    if args.parameters is not None:
        parameters = mpi.share(comm, lambda: read_parameters(parameters, args.parameters))
    prepare(comm, args.out)
    request = Request(case, config, parameters, args.out, model, args.method)
    if args.mode == "surrogate":
        certified = solve_certified(request, comm, accept=accept)
        text, success = describe_certified(certified), certified.delivered
    else:
        result = solve(request, comm)
        text, success = describe(result), result.converged
    mpi.say(text)
    check_petsc(comm, petsc)
    return 0 if success else 1


def solve(request: Request, comm: MPI.Comm) -> SolveResult:
    """Solve one problem distributed over ``comm`` and write its fields and ``result.json``. Collective.

    Raises:
        ValueError: For an unknown method, or a model that is damaged or of another case; on all ranks.
        OSError: If the folder cannot be written; on all ranks.
    """
    from lrsa_coupled.coupling.residual import reference_norm
    from lrsa_coupled.guess.guarded import GuardedSolver
    from lrsa_coupled.guess.learned import LEARNED, LearnedGuess
    from lrsa_coupled.guess.policy import make_policy
    from lrsa_coupled.guess.target import CaseTarget

    case, methods = request.case, request.case.methods()
    if request.method is not None and request.method not in methods:
        raise ValueError(f"unknown method '{request.method}'{nearest(request.method, [*methods])}")
    with mpi.collective_errors(comm):
        settings = request.config.guess
        policy = make_policy(settings, [LEARNED], default="adaptive", guess_first=True)
        guesses = []
        if request.model is not None:
            guesses.append(LearnedGuess.load(request.model, settings).bind(case, max_distance=policy.max_distance))
        _save_config(request, comm)
    problem = _problem(request, comm)
    atol = (request.config.problem.rtol or case.rtol) * reference_norm(problem)
    solver = GuardedSolver(guesses, CaseTarget(case, problem, atol, method=request.method), policy)
    result = solver.solve()
    solver.destroy()
    logger.info("residual %.2e, tolerance %.2e", result.residual, atol)
    _write(request, problem, result)
    return result


def solve_certified(request: Request, comm: MPI.Comm, *, accept: float) -> Certified:
    """Answer with the operator to the relative accuracy ``accept`` and write fields and ``result.json``. Collective.

    Raises:
        ValueError: If there is no model, or it is damaged or of another case; on all ranks.
    """
    from lrsa_coupled.certify.surrogate import Surrogate
    from lrsa_coupled.guess.learned import LearnedGuess

    if request.model is None:
        raise ValueError(f"--mode surrogate needs a model, '{request.case.name}' ships none; name one with --model")
    with mpi.collective_errors(comm):
        guess = LearnedGuess.load(request.model, request.config.guess)
        _save_config(request, comm)
    problem = _problem(request, comm)
    result = Surrogate(request.case, guess, problem, accept=accept).solve()
    _write(request, problem, result)
    return result


def read_parameters[T](sample: T, path: Path) -> T:
    """Replace fields of the parameters ``sample`` by those of a JSON file; a list replaces a tuple of the same length.

    Raises:
        ValueError: If the file is not a JSON object, a name is unknown, or a value is of another type or shape.
    """
    values = read_json(path)
    changed = update(sample, values, where=str(path))
    for name in values:
        expected, found = (np.shape(getattr(parameters, name)) for parameters in (sample, changed))
        if found != expected:
            raise ValueError(f"{path}: '{name}': expected values of shape {expected}, got {found}")
    return changed


def describe(result: SolveResult) -> str:
    """Return in words how a solve went."""
    state = "converged" if result.converged else "FAILED"
    work = f"{result.iterations} iterations, residual {result.residual:.3e}"
    lines = [f"{state} ({result.reason}): {work}; {_seconds(result.seconds)}"]
    if result.used_fallback:
        lines.append("the learned guess was given up, the default method solved")
    return "\n".join([*lines, result.advice] if result.advice else lines)


def describe_certified(result: Certified) -> str:
    """Return in words how accurate the answer of a surrogate is, and what that took."""
    fallback = [] if result.fallback is None else [describe(result.fallback)]
    if not result.certified:
        lines = [f"NOT CERTIFIED: {result.reason}; {_seconds(result.seconds)}", result.advice]
        return "\n".join([*filter(None, lines), *fallback])
    error = f"relative error {result.error:.1e} in the {result.norm} (estimate; at most {result.accept:g} required)"
    where = "" if result.prediction is None else f", that of the prediction {result.prediction:.1e}"
    jacobians = f"{result.linearisations} Jacobian{'s' * (result.linearisations != 1)}"
    work = f"corrected with {jacobians}, {result.iterations} cycles or solves; {_seconds(result.seconds)}"
    lines = [f"certified: {error}{where}", work]
    if fallback:
        lines.append(f"no certificate for the prediction: {result.reason}; {result.advice}")
    return "\n".join([*lines, *fallback])


def write_fields(case: Case, problem: Problem, folder: Path) -> list[Path]:
    """Write each field to a file for ParaView: VTX (``.bp``), or ``.pvd`` without ADIOS2. Collective."""
    from dolfinx import io

    paths = []
    for field in case.fields:
        part = problem.solution
        for index in field.subspace:
            part = part.sub(index)
        part = part.collapse() if field.subspace else part
        part.name = field.name
        path = folder / f"{field.name}{'.bp' if io.has_adios2 else '.pvd'}"
        if io.has_adios2:
            with io.VTXWriter(problem.mesh.comm, path, [part]) as writer:
                writer.write(0.0)
        else:
            with io.VTKFile(problem.mesh.comm, path, "w") as writer:
                writer.write_function(part)
        paths.append(path)
    return paths


def _model(args: Namespace) -> Path | None:
    """Return the model to use, None for a solve without one."""
    if args.index < 0:
        raise ValueError(f"--index counts from 0, got {args.index}")
    if args.method and (args.model or args.mode == "surrogate"):
        raise ValueError("--method solves without a model, --model and --mode surrogate with one; give one of them")
    return args.model if args.method or args.model else catalog.shipped_model(args.case)


def _save_config(request: Request, comm: MPI.Comm) -> None:
    if comm.rank == 0:
        configuration.save(request.config, request.folder)


def _problem(request: Request, comm: MPI.Comm) -> Problem:
    case = request.case
    mesh = case.mesh(comm, request.parameters, request.config.problem.resolution or case.resolution)
    return case.problem(mesh, request.parameters)


def _write(request: Request, problem: Problem, result: SolveResult | Certified) -> None:
    write_fields(request.case, problem, request.folder)
    if problem.mesh.comm.rank == 0:
        write_text_atomically(request.folder / "result.json", json.dumps(dataclasses.asdict(result), indent=1) + "\n")


def _seconds(seconds: Mapping[str, float]) -> str:
    return ", ".join(f"{stage} {time:.3f} s" for stage, time in seconds.items())
