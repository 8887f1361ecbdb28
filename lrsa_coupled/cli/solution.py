"""One problem, solved and written for ParaView."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

from mpi4py import MPI
from dolfinx import io
from dolfinx.fem import Function

from lrsa_coupled import config as configuration
from lrsa_coupled.config import Config, nearest
from lrsa_coupled.certify.certify import Certified, check_accept
from lrsa_coupled.guess.learned import LearnedGuess
from lrsa_coupled.guess.guess_solver import GuessSolver
from lrsa_coupled.coupling.residual import reference_norm
from lrsa_coupled.certify.surrogate import Surrogate
from lrsa_coupled.files import write_text_atomically
from lrsa_coupled.interfaces import Case, Problem, Solver, SolveResult
from lrsa_coupled.mpi import collective_errors

logger = logging.getLogger(__name__)


def solve(case: Case, config: Config, comm: MPI.Comm, *, parameters: Any, model: Path | None, strategy: str | None,
          folder: Path) -> SolveResult:  # fmt: skip
    """Solve one problem distributed over ``comm`` and write its fields and ``result.json`` to ``folder``. Collective.

    Args:
        case: The case.
        config: Resolution in ``config.problem.resolution`` (None: the case's own), use of the operator in ``config.guess``.
        comm: Communicator of the mesh.
        parameters: Parameters of the case.
        model: Folder of the model for a learned guess, None for a classical solve.
        strategy: Name of a classical strategy, None for the first one; not together with ``model``.
        folder: Where to write.

    Raises:
        ValueError: For an unknown strategy, or a model that is damaged or of another case; on all ranks.
        OSError: If the folder cannot be written; on all ranks.
    """
    strategies = case.methods()
    if strategy is not None and (model is not None or strategy not in strategies):
        raise ValueError(f"unknown strategy '{strategy}' without a model{nearest(strategy, list(strategies))}")
    with collective_errors(comm):
        guess = None if model is None else LearnedGuess.load(model, config.guess)
        if comm.rank == 0:
            configuration.save(config, folder)
    problem = case.problem(case.mesh(comm, parameters, config.problem.resolution or case.resolution), parameters)
    atol = (config.problem.rtol or case.rtol) * reference_norm(problem)
    solver: Solver
    if guess is not None:
        solver = GuessSolver(case, guess, problem, atol)
    else:
        solver = strategies[strategy or case.default_method](problem, atol)
    result = solver.solve()
    solver.destroy()
    logger.info("residual %.2e, tolerance %.2e", result.residual, atol)
    _write(case, problem, result, folder)
    return result


def solve_certified(
    case: Case, config: Config, comm: MPI.Comm, *, parameters: Any, model: Path, accept: float, folder: Path
) -> Certified:
    """Answer with the operator to the relative accuracy ``accept`` and write fields and ``result.json`` to ``folder``. Collective.

    Arguments and errors are as of ``solve``.
    """
    check_accept(accept)
    with collective_errors(comm):
        guess = LearnedGuess.load(model, config.guess)
        if comm.rank == 0:
            configuration.save(config, folder)
    problem = case.problem(case.mesh(comm, parameters, config.problem.resolution or case.resolution), parameters)
    result = Surrogate(case, guess, problem, accept=accept).solve()
    _write(case, problem, result, folder)
    return result


def _write(case: Case, problem: Problem, result: SolveResult | Certified, folder: Path) -> None:
    write_fields(case, problem, folder)
    if problem.mesh.comm.rank == 0:
        write_text_atomically(folder / "result.json", json.dumps(dataclasses.asdict(result), indent=1) + "\n")


def write_fields(case: Case, problem: Problem, folder: Path) -> list[Path]:
    """Write each field of the solution to a file of its own for ParaView: VTX (``.bp``), or ``.pvd`` without ADIOS2. Collective."""
    paths = []
    for field in case.fields:
        part: Function = problem.solution
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
