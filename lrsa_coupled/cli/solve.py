"""The verb ``solve``: one problem, solved by PETSc to its tolerance or answered by the operator to an accuracy asked for."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrsa_coupled import catalog, mpi
from lrsa_coupled.cli.parameters import read_parameters
from lrsa_coupled.cli.startup import check_petsc, prepare, start

if TYPE_CHECKING:
    from lrsa_coupled.certify.certify import Certified
    from lrsa_coupled.interfaces import SolveResult

ACCEPT = 1e-2
"""Relative accuracy of a surrogate where ``--accept`` does not say."""


def solve(args: Namespace, petsc: Sequence[str]) -> int:
    """Solve one problem and write it; the exit code is 1 when that fails."""
    if args.accept is not None and args.mode != "surrogate":
        raise ValueError("--accept is the accuracy of --mode surrogate; --mode solve goes to the case's own tolerance")
    case, config, comm = start(args, petsc, section="bench", flags=("seed", "resolution"))
    from lrsa_coupled.certify.certify import check_accept
    from lrsa_coupled.generation.plan import sample_parameters
    from lrsa_coupled.cli.solution import solve as solve_problem
    from lrsa_coupled.cli.solution import solve_certified

    model = _model(args)
    accept = ACCEPT if args.accept is None else args.accept
    check_accept(accept)
    parameters: Any = sample_parameters(case, config.problem.test_seed, args.index)
    if args.parameters is not None:
        parameters = mpi.share(comm, lambda: read_parameters(parameters, args.parameters))
    prepare(comm, args.out)
    result: SolveResult | Certified
    if args.mode == "surrogate" and model is not None:
        result = solve_certified(case, config, comm, parameters=parameters, model=model, accept=accept, folder=args.out)
        text, success = describe_certified(result), result.delivered
    else:
        result = solve_problem(
            case, config, comm, parameters=parameters, model=model, strategy=args.method, folder=args.out
        )
        text, success = describe(result), result.converged
    mpi.say(text)
    check_petsc(comm, petsc)
    return 0 if success else 1


def describe(result: SolveResult) -> str:
    """Say how a solve went."""
    state = "converged" if result.converged else "FAILED"
    lines = [
        f"{state} ({result.reason}): {result.iterations} iterations, residual {result.residual:.3e}; {_seconds(result.seconds)}"
    ]
    if result.used_fallback:
        lines.append("the learned guess was given up for the classical strategy")
    return "\n".join([*lines, result.advice] if result.advice else lines)


def describe_certified(result: Certified) -> str:
    """Say how accurate the answer of a surrogate is, and what that took."""
    if result.certified:
        work = f"{result.linearisations} Jacobian{'s' * (result.linearisations != 1)}, {result.iterations} cycles or solves"
        where = "" if result.prediction is None else f", that of the prediction {result.prediction:.1e}"
        text = f"certified: relative error {result.error:.1e} in the {result.norm} (estimate; {result.accept:g} asked for){where}\ncorrected with {work}; {_seconds(result.seconds)}"
        return (
            text
            if result.fallback is None
            else f"{text}\nno certificate for the prediction: {result.reason}; {result.advice}\n{describe(result.fallback)}"
        )
    lines = [f"NOT CERTIFIED: {result.reason}; {_seconds(result.seconds)}", *filter(None, [result.advice])]
    return "\n".join([*lines, *([describe(result.fallback)] if result.fallback is not None else [])])


def _model(args: Namespace) -> Path | None:
    """Return the model to use, None for a classical solve."""
    if args.index < 0:
        raise ValueError(f"--index counts from 0, got {args.index}")
    if args.method and (args.model or args.mode == "surrogate"):
        raise ValueError("--method names a classical start and --model a learned one; give one of them")
    model = args.model if args.method or args.model else catalog.shipped_model(catalog.case_folder(args.case))
    if model is None and args.mode == "surrogate":
        raise ValueError(f"--mode surrogate needs a model, '{args.case}' ships none; name one with --model")
    return model


def _seconds(seconds: Any) -> str:
    return ", ".join(f"{stage} {time:.3f} s" for stage, time in seconds.items())
