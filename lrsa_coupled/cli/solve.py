"""``lrsa-coupled solve``: one problem, solved to its tolerance or answered by the operator to a given accuracy."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lrsa_coupled import catalog, config as configuration, mpi
from lrsa_coupled.cli._arguments import add_case, add_out, add_preset, add_settings
from lrsa_coupled.cli._startup import check_petsc, start, writing
from lrsa_coupled.files import check_kind, write_text_atomically
from lrsa_coupled.reading import read_json
from lrsa_coupled.settings import nearest, update

if TYPE_CHECKING:
    from mpi4py import MPI

    from lrsa_coupled.certify.certify import Certified
    from lrsa_coupled.config import Config, GuessConfig
    from lrsa_coupled.guess.learned import LearnedGuess
    from lrsa_coupled.interfaces import Case, Problem, SolveResult

logger = logging.getLogger(__name__)

HELP = "solve one problem and write it for ParaView"
EXAMPLE = "lrsa-coupled solve cavity --index 3 --out solution -- -newton_snes_monitor"
ACCEPT = 1e-2
"""Relative accuracy of a surrogate without ``--accept``."""


@dataclass(frozen=True)
class Request:
    """One problem to solve: with a learned guess when there is a ``model``, else by a ``method`` of the case.

    ``accept`` is the relative accuracy of an answer by the model, None for a solve; ``source`` is the name or path of
    the case.
    """

    case: Case
    config: Config
    parameters: Any
    folder: Path
    model: Path | None = None
    method: str | None = None
    accept: float | None = None
    source: str | None = None
    index: int | None = None
    petsc: tuple[str, ...] = ()

    @property
    def sample(self) -> dict[str, Any]:
        """Which sample it is, for people and files."""
        seed = self.config.problem.test_seed
        return {"case": self.source or self.case.name, "seed": seed, "index": self.index}


def add_arguments(parser: ArgumentParser) -> None:
    add_case(parser)
    parser.add_argument("--model", type=Path, metavar="DIR", help="folder of the model; the shipped one by default")
    parser.add_argument("--method", metavar="NAME", help="method of the case, without a model")
    text = "solve: to the case's tolerance; surrogate: the operator's answer, corrected to a given accuracy"
    parser.add_argument("--mode", choices=("solve", "surrogate"), default="solve", help=text)
    text = "relative accuracy of --mode surrogate, 1e-12 to 1; 1e-2 by default"
    parser.add_argument("--accept", type=float, metavar="A", help=text)
    parser.add_argument("--index", type=int, metavar="I", help="index of the sample; 0 by default")
    add_settings(parser, "problem.seed", "problem.resolution")
    text = "JSON file of parameters that replace those of the sample; or a result.json, to solve its problem again"
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

    model, accept = _model(args, case), None
    if args.mode == "surrogate":
        accept = ACCEPT if args.accept is None else args.accept
        check_accept(accept)
    asked = {} if args.parameters is None else mpi.share(comm, lambda: _request(args.parameters))
    problem = config.problem
    seed, resolution = asked.get("seed", problem.seed), problem.resolution or asked.get("resolution")
    config = dataclasses.replace(config, problem=dataclasses.replace(problem, seed=seed, resolution=resolution))
    index = args.index or asked.get("index", 0)
    parameters: Any = sample_parameters(case, config.problem.test_seed, index)
    if args.parameters is not None:
        parameters = mpi.share(comm, lambda: read_parameters(parameters, args.parameters, index=args.index))
    request = Request(case, config, parameters, args.out, model, args.method, accept, args.case, index, tuple(petsc))
    with writing(comm, folders=[args.out]):
        text, success = solve(request, comm)
    mpi.print_once(text)
    if success:
        mpi.print_once(f"next: open {args.out / 'sample.vtkhdf'} in ParaView")
    check_petsc(comm, petsc)
    return 0 if success else 1


def solve(request: Request, comm: MPI.Comm) -> tuple[str, bool]:
    """Solve one problem distributed over ``comm``, write its fields and ``result.json``. Collective.

    ``sample.vtkhdf`` has inputs, solution, prediction, difference at the nodes of the operator, index and parameters;
    ``result.json`` the quantities, null where one is not finite.

    Returns:
        What came of it, in words, and whether the fields are solved for or certified.

    Raises:
        ValueError: For an unknown method, or a model that is damaged or of another case; on all ranks.
        OSError: If the folder cannot be written; on all ranks.
    """
    from lrsa_coupled.cli._fields import write_fields, write_sample
    from lrsa_coupled.coupling.contract import problem_of
    from lrsa_coupled.coupling.quantities import evaluate

    case, settings = request.case, request.config
    if request.method is not None and request.method not in case.methods():
        raise ValueError(f"unknown method '{request.method}'{nearest(request.method, [*case.methods()])}")
    with mpi.collective_errors(comm):
        check_kind(request.folder, "result.json")
        guess = None if request.model is None else _learned(request.model, settings.guess)
    problem = problem_of(case, comm, request.parameters, settings.problem.resolution or case.resolution)
    result: SolveResult | Certified
    began = None
    if guess is not None and request.accept is not None:
        from lrsa_coupled.certify.surrogate import Surrogate  # torch comes with it

        result = Surrogate(case, guess, problem, accept=request.accept).solve()
        text, success = describe_certified(result), result.delivered
    else:
        result, began = _guarded(request, guess, problem)
        text, success = describe(result), result.converged
    numbers = evaluate(case.quantities, problem) if success else {}
    mpi.share(comm, lambda: configuration.save(settings, request.folder))
    write_fields(case, problem, request.folder)
    errors: dict[str, float] = {}
    if success:
        errors = write_sample(case, problem, request.folder, about=request.sample, guess=guess and guess.bind(case))
    if comm.rank == 0:
        finite = {name: number if math.isfinite(number) else None for name, number in numbers.items()}
        content = {"request": described(request, comm.size), **dataclasses.asdict(result)}
        content |= {"initial_guess": began, "prediction_error": errors, "quantities": finite}
        write_text_atomically(request.folder / "result.json", json.dumps(content, indent=1) + "\n")
    return "\n".join([text, *_differences(errors), *_quantities(case, numbers)]), success


def _learned(model: Path, settings: GuessConfig) -> LearnedGuess:
    from lrsa_coupled.guess.learned import LearnedGuess  # torch comes with it

    return LearnedGuess.load(model, settings)


def _differences(errors: Mapping[str, float]) -> list[str]:
    named = ", ".join(f"{error:.2%} ({name})" for name, error in errors.items())
    return [f"the prediction differs from the solution by {named}"] if errors else []


def described(request: Request, ranks: int) -> dict[str, Any]:
    """Return all that the same solve needs again. Collective: no."""
    from lrsa_coupled.bench.machine import versions

    case = request.case
    return request.sample | {
        "parameters": dataclasses.asdict(request.parameters),
        "options": dataclasses.asdict(case.options),
        "resolution": request.config.problem.resolution or case.resolution,
        "rtol": case.rtol,
        "method": request.method or case.default_method,
        "model": None if request.model is None else str(request.model),
        "accept": request.accept,
        "petsc": [*request.petsc],
        "ranks": ranks,
        "versions": versions(),
    }


def _guarded(request: Request, guess: LearnedGuess | None, problem: Problem) -> tuple[SolveResult, str]:
    """Return how the solve went, and what it began with: a guess, or the default method where that is given up."""
    from lrsa_coupled.coupling.residual import reference_norm
    from lrsa_coupled.guess.guarded import GuardedSolver
    from lrsa_coupled.guess.policy import make_policy
    from lrsa_coupled.guess.record import LEARNED
    from lrsa_coupled.guess.target import CaseTarget

    case, settings = request.case, request.config
    with mpi.collective_errors(problem.mesh.comm):
        policy = make_policy(settings.guess, [LEARNED], guess_first=True)
        guesses = [] if guess is None else [guess.bind(case, max_distance=policy.max_distance)]
    atol = case.rtol * reference_norm(problem)
    solver = GuardedSolver(guesses, CaseTarget(case, problem, atol, method=request.method), policy)
    result = solver.solve()
    solver.destroy()
    logger.info("residual %.2e, tolerance %.2e", result.residual, atol)
    learned = policy.decisions[-1].choice == LEARNED and not result.used_fallback
    return result, LEARNED if learned else request.method or case.default_method


def _request(path: Path) -> dict[str, Any]:
    """Return seed, index and resolution in a result.json; nothing of another file, or without a file."""
    if not path.is_file():
        return {}
    asked = read_json(path).get("request")
    asked = asked if isinstance(asked, dict) else {}
    return {name: asked[name] for name in ("seed", "index", "resolution") if isinstance(asked.get(name), int)}


def read_parameters[T](sample: T, path: Path, *, index: int | None = None) -> T:
    """Replace fields of the parameters ``sample`` by those of a JSON file; a list replaces a tuple of the same length.

    Raises:
        ValueError: If there is no such file, it is not a JSON object, a name is unknown, or a value is of another type
            or shape; if it is a result.json, which has all parameters, and an index is given as well.
    """
    try:
        values = read_json(path)
    except FileNotFoundError:
        raise ValueError(f"--parameters expects a JSON file such as result.json, there is none: {path}") from None
    asked = values.get("request")
    if isinstance(asked, dict) and isinstance(asked.get("parameters"), dict):
        values = asked["parameters"]
        if index is not None:
            raise ValueError(f"{path} has all parameters of its problem: leave out --index {index}")
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


def _model(args: Namespace, case: Case) -> Path | None:
    """Return the folder of the model to use, None for a solve without one."""
    if args.index is not None and args.index < 0:
        raise ValueError(f"--index counts from 0, got {args.index}")
    if args.method and (args.model or args.mode == "surrogate"):
        raise ValueError("--method solves without a model, --model and --mode surrogate with one; give one of them")
    finds_modes = any(field.span for field in case.schema.outputs)
    if finds_modes and (args.model or args.mode == "surrogate"):
        remedy = "leave out --model and --mode surrogate"
        raise ValueError(f"the eigensolver of '{case.name}' takes no initial guess: {remedy}")
    none = args.method or args.model or finds_modes
    model = args.model if none else catalog.shipped_guess(args.case)
    if model is None and args.mode == "surrogate":
        raise ValueError(f"--mode surrogate needs a model, '{args.case}' ships none; name one with --model")
    return model


def _quantities(case: Case, numbers: Mapping[str, float]) -> list[str]:
    units = {quantity.name: "" if quantity.unit == "1" else f" {quantity.unit}" for quantity in case.quantities}
    return [", ".join(f"{name} {number:.6g}{units[name]}" for name, number in numbers.items())] if numbers else []


def _seconds(seconds: Mapping[str, float]) -> str:
    return ", ".join(f"{stage} {time:.3f} s" for stage, time in seconds.items())
