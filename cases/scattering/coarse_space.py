"""FGMRES with a coarse space of fields scattered from other directions: exact or predicted ones, against MUMPS.

``python -m lrsa_coupled.cases.scattering.coarse_space``, under ``mpirun`` or not, prints medians over unseen samples.
All counts: the basis (solves or predictions), assembly, set-up, iterations.

Such fields are no eigenvectors: their invariance defect is large and says nothing, so its limit is off here.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from mpi4py import MPI

from lrsa_coupled.cases.scattering.case import ScatteringCase, ScatteringProblem
from lrsa_coupled.cases.scattering.medium import Array, ScatteringParameters
from lrsa_coupled.config import GuessConfig
from lrsa_coupled.coupling.options import MUMPS
from lrsa_coupled.coupling.predictor import Predictor
from lrsa_coupled.coupling.residual import reference_norm, set_dirichlet
from lrsa_coupled.coupling.transfer import NodeSet
from lrsa_coupled.generation.plan import sample_parameters
from lrsa_coupled.solvers.linear import LinearSolver

SEED = 3
ILU = {"pc_type": "bjacobi", "sub_pc_type": "ilu", "sub_pc_factor_levels": "4"}
FGMRES = {"ksp_type": "fgmres", "ksp_gmres_restart": "300"}
COARSE = {
    **FGMRES, "pc_type": "python", "pc_python_type": "lrsa_coupled.petsc.coarse_space.CoarseSpacePC",
    "pc_lrsa_max_defect": "1.0", "pc_lrsa_min_gain": "0.0",
    **{f"pc_lrsa_inner_{name}": value for name, value in ILU.items()},
}  # fmt: skip
Basis = Callable[[], Array]


@dataclass(frozen=True)
class Outcome:
    """Iterations of one solve, dimension of the coarse space in use, and wall times of basis and solve [s]."""

    iterations: int
    dimension: int
    basis: float
    solve: float


def directions(parameters: ScatteringParameters, num: int) -> Array:
    """Return angles of incidence evenly between that of the sample and the same again, without it [rad]."""
    return parameters.direction + 2.0 * np.pi * np.arange(1, num + 1) / (num + 1)


def exact_fields(case: ScatteringCase, problem: ScatteringProblem, *, num: int) -> Array:
    """Solve for ``num`` directions by MUMPS, factorised once; owned rows ``(num_owned, num)``. Collective."""
    given, columns = problem.parameters, []
    solver = LinearSolver(problem, 1.0, options=MUMPS)
    for direction in directions(given, num):
        turned = case.fixed_mesh.update(problem, dataclasses.replace(given, direction=direction))
        columns.append(_solved(solver, turned))
    solver.destroy()
    case.fixed_mesh.update(problem, given)
    return np.column_stack(columns)


def _solved(solver: LinearSolver, problem: ScatteringProblem) -> Array:
    """Solve with the factorisation there is: the matrix does not see the direction."""
    solver.problem = problem
    set_dirichlet(problem)
    solver.solve()
    owned = problem.solution.function_space.dofmap.index_map.size_local
    return problem.solution.x.array[:owned].copy()


def predicted_fields(case: ScatteringCase, problem: ScatteringProblem, *, num: int, predictor: Predictor) -> Array:
    """Predict the fields of ``exact_fields``. Collective."""
    given, columns, nodes = problem.parameters, [], NodeSet(problem, case.schema.outputs)
    owned = problem.solution.function_space.dofmap.index_map.size_local
    for direction in directions(given, num):
        turned = case.fixed_mesh.update(problem, dataclasses.replace(given, direction=direction))
        nodes.scatter(predictor.predict(case, turned, nodes).values, turned.solution)
        columns.append(turned.solution.x.array[:owned].copy())
    case.fixed_mesh.update(problem, given)
    return np.column_stack(columns)


def solve(problem: ScatteringProblem, atol: float, options: Mapping[str, str], *, basis: Basis | None) -> Outcome:
    """Solve from zero; ArithmeticError when that fails. Collective."""
    problem.solution.x.array[:] = 0.0
    started = time.perf_counter()
    fields = None if basis is None else basis()
    problem.solution.x.array[:] = 0.0
    set_dirichlet(problem)
    seconds, started = time.perf_counter() - started, time.perf_counter()
    solver = LinearSolver(problem, atol, options=options, preconditioner=problem.shifted if options != MUMPS else None)
    context = None
    if fields is not None:
        context = solver.ksp.getPC().getPythonContext()
        context.set_basis(fields)
    result = solver.solve()
    outcome = Outcome(result.iterations, context.dimension if context else 0, seconds, time.perf_counter() - started)
    solver.destroy()
    if not result.converged:
        raise ArithmeticError(f"the solve has failed: {result.reason}")
    return outcome


def compare(case: ScatteringCase, *, resolution: int, samples: int, num: int, model: Path) -> dict[str, list[Outcome]]:
    """Solve unseen samples by each method. Collective."""
    predictor = Predictor.load(model, GuessConfig(precision="fp32"))
    outcomes: dict[str, list[Outcome]] = {}
    for index in range(-1, samples):  # the first compiles the forms and is not counted
        parameters = sample_parameters(case, SEED, max(index, 0))
        problem = case.problem(case.mesh(MPI.COMM_WORLD, parameters, resolution), parameters)
        atol = case.rtol * reference_norm(problem)
        exact = partial(exact_fields, case, problem, num=num)
        predicted = partial(predicted_fields, case, problem, num=num, predictor=predictor)
        methods = {
            "MUMPS": (MUMPS, None), "no coarse space": ({**FGMRES, **ILU}, None), "exact fields": (COARSE, exact),
            "predicted fields": (COARSE, predicted),
        }  # fmt: skip
        for name, (options, basis) in methods.items():
            outcome = solve(problem, atol, options, basis=basis)
            outcomes.setdefault(name, []).extend([outcome] if index >= 0 else [])
    return outcomes


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=6)
    parser.add_argument("--resolution", type=int, default=32)
    parser.add_argument("--directions", type=int, default=31)
    parser.add_argument("--model", type=Path, default=Path(__file__).parent)
    args = parser.parse_args()
    outcomes = compare(ScatteringCase(), resolution=args.resolution, samples=args.samples, num=args.directions,
                       model=args.model)  # fmt: skip
    if MPI.COMM_WORLD.rank == 0:
        print(f"{'method':34} {'iterations':>10} {'dimension':>9} {'basis [s]':>9} {'set-up and solve [s]':>20}")
        for name, rows in outcomes.items():
            iterations, dimension, basis, seconds = (
                statistics.median(getattr(row, field.name) for row in rows) for field in dataclasses.fields(Outcome)
            )
            print(f"{name:34} {iterations:>10g} {dimension:>9g} {basis:>9.3f} {seconds:>20.3f}")


if __name__ == "__main__":
    main()
