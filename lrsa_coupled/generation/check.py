"""What a case must hold before data are made of it: a few samples drawn, differentiated and solved by every method."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from mpi4py import MPI
from petsc4py import PETSc

from lrsa_coupled.config import Config
from lrsa_coupled.coupling.compat import assign
from lrsa_coupled.coupling.contract import features_of, problem_of, solved, solver_of
from lrsa_coupled.coupling.failures import failure_of
from lrsa_coupled.coupling.norms import jacobian, solution_vector
from lrsa_coupled.coupling.quantities import evaluate
from lrsa_coupled.coupling.residual import energy, reference_norm, residual_vector, set_dirichlet
from lrsa_coupled.coupling.transfer import NodeSet
from lrsa_coupled.generation.failures import check_draw
from lrsa_coupled.generation.hidden import hidden_parameters, random_field
from lrsa_coupled.generation.plan import sample_parameters
from lrsa_coupled.interfaces import Case, Continuation, Features, NumericalError, Problem, SolveResult

STEPS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
"""Lengths of the step in a Taylor test, relative to the solution."""

ROUNDING = 1e-11
"""Remainder of a Taylor test, relative to its linear term, that may be rounding."""

SLIGHT = 0.01
"""Relative error of a Jacobian with which Newton's method still converges quickly."""

NUM_SAMPLES = 1000
"""Samples of which time and size are estimated."""

type Array = npt.NDArray[Any]
Level = Literal["ok", "advice", "error"]


@dataclass(frozen=True)
class Finding:
    """What was found of one subject; an advice is of something that works and could be better."""

    level: Level
    subject: str
    text: str


def check_case(case: Case, config: Config, comm: MPI.Comm, *, samples: int = 3) -> Iterator[Finding]:
    """Draw samples and yield findings as they come, the same on all ranks. Collective.

    Raises:
        Exception: Any that the code of the case raises, but for draws and features that break their contract.
    """
    seed, resolution = config.problem.training_seed, config.problem.resolution or case.resolution
    features: list[Features] = []
    forms: set[str] = set()
    try:
        check_draw(case, seed, comm)
    except ValueError as error:
        yield Finding("error", f"{samples} samples", str(error))
    apart = 1 if case.trajectory is None else case.trajectory.num_steps + 1  # another step of another one
    indices = range(0, samples * apart, apart)
    for index in indices:
        parameters = sample_parameters(case, seed, index)
        started = time.perf_counter()
        problem: Any = problem_of(case, comm, parameters, resolution)
        making = time.perf_counter() - started
        try:
            features.append(features_of(case, problem))
        except (TypeError, ValueError) as error:
            yield Finding("error", "features", str(error))
            return
        nodes = NodeSet(problem, case.schema.outputs)
        if isinstance(problem, Problem):
            forms.add(str(problem.residual.module))
            if problem.continuation is not None:
                yield from _target(problem, problem.continuation, index=index)
        timed = making if index == indices[-1] else None  # the first one compiles
        yield from _solves(case, problem, index=index, making=timed, nodes=nodes)
        if not isinstance(problem, Problem) or _is_solved(problem):
            yield from _quantities(case, problem, index=index)
        if index == 0 and isinstance(problem, Problem):
            yield from _dirichlet(case, problem)
            yield from _derivatives(problem)
    yield from _constant_inputs(case, features, comm)
    if isinstance(problem, Problem) and case.trajectory is None and samples > 1:
        first, other = (sample_parameters(case, seed, index) for index in range(2))
        for level, text in hidden_parameters(case, first, other, comm=comm, resolution=resolution):
            yield Finding(level, "parameters", text)
    if len(forms) > 1:
        text = f"{len(forms)} compiled residuals of {samples} samples: numbers in a form are code, make them Constants"
        yield Finding("advice", "forms", text)


def _is_solved(problem: Problem) -> bool:
    """Whether the residual is small against that at zero; if not, zeros with Dirichlet values take its place."""
    residual = residual_vector(problem)
    size = float(residual.norm())
    residual.destroy()
    kept = problem.solution.x.array.copy()
    try:
        is_solved = size <= SLIGHT * reference_norm(problem)  # not of a NaN
    except NumericalError:
        is_solved = False
    if is_solved:
        problem.solution.x.array[:] = kept
    else:
        set_dirichlet(problem)
    return is_solved


def _quantities(case: Case, problem: Any, *, index: int) -> Iterator[Finding]:
    """Evaluate the quantities of the solution, and yield what is wrong; of the first sample all."""
    for quantity in case.quantities:
        subject = f"quantity {quantity.name}"
        try:
            number = evaluate([quantity], problem)[quantity.name]
        except ValueError as error:
            yield Finding("error", subject, str(error))
            continue
        if math.isfinite(number) and index:
            continue
        if math.isfinite(number):
            unit = f" {quantity.unit}" * (quantity.unit != "1")
            yield Finding("ok", subject, f"{number:.6g}{unit} of the solution of sample 0")
        else:
            yield Finding("error", subject, f"expected a number, got {number} of the solution of sample {index}")


def _constant_inputs(case: Case, features: Sequence[Features], comm: MPI.Comm) -> Iterator[Finding]:
    """Find what an operator learns nothing from: the same value at all nodes of all samples."""
    schema = case.schema
    names = [field.name for field in schema.inputs for _ in range(field.components)]
    lowest = np.min([np.min(each.nodal, axis=0, initial=np.inf) for each in features], axis=0)
    highest = np.max([np.max(each.nodal, axis=0, initial=-np.inf) for each in features], axis=0)
    lowest, highest = comm.allreduce(lowest, op=np.minimum), comm.allreduce(highest, op=np.maximum)
    same = [name for name, low, high in zip(names, lowest, highest, strict=True) if low == high]
    spread = np.ptp([each.scalars for each in features], axis=0)
    same += [name for name, value in zip(schema.scalars, spread, strict=True) if value == 0.0]
    finite = comm.allreduce(bool(np.isfinite([lowest, highest]).all()), op=MPI.LAND)
    if not finite:
        yield Finding("error", "features", "features(problem) gives values that are not finite")
    elif same and len(features) > 1:
        yield Finding("advice", "features", f"the same in all samples: {', '.join(same)}; an operator learns nothing")
    else:
        yield Finding("ok", "features", f"{schema.num_inputs} values a node, {len(schema.scalars)} scalars, all vary")


def _solves(case: Case, problem: Any, *, index: int, making: float | None, nodes: NodeSet) -> Iterator[Finding]:
    """Solve by each method, from zero; by the default one last, whose solution stays."""
    comm, size = problem.mesh.comm, nodes.space.dofmap.index_map.size_global
    try:
        atol = case.rtol * reference_norm(problem)
    except NumericalError as error:
        yield Finding("error", f"sample {index}", str(error))
        return
    answers: dict[str, tuple[SolveResult, float, npt.NDArray[Any]]] = {}
    for name in sorted(case.methods(), key=lambda each: each == case.default_method):
        problem.solution.x.array[:] = 0.0
        started = time.perf_counter()
        result = solved(solver_of(case, name, problem, atol))
        answers[name] = (
            result,
            comm.allreduce(time.perf_counter() - started, op=MPI.MAX),
            problem.solution.x.array.copy(),
        )
    default, seconds, solution = answers[case.default_method]
    for name, (result, spent, values) in answers.items():
        subject = f"sample {index}, {name}"
        if not result.converged:
            level: Level = "error" if name == case.default_method else "advice"
            yield Finding(level, subject, f"failed: {result.reason}; {result.advice or 'try another method'}")
            continue
        text = f"{result.iterations} iterations, {spent:.3g} s, {size} nodes"
        difference = _distance(comm, values, solution)
        if default.converged and difference > 1e-3:
            yield Finding("advice", subject, f"{text}; differs by {difference:.1g} from the default method's answer")
        else:
            yield Finding("ok", subject, text)
    if default.converged:
        yield _from_solution(case, problem, atol, index=index)
        problem.solution.x.array[:] = solution
        gathered = nodes.gather(problem.solution)
        nodes.scatter(gathered, problem.solution)
        if making is not None:
            yield _cost(case, nodes, index=index, seconds=comm.allreduce(making, op=MPI.MAX) + seconds)


def _from_solution(case: Case, problem: Any, atol: float, *, index: int) -> Finding:
    """See whether the plain solver begins with what is in the unknown."""
    result = case.solver(problem, atol).solve_once()
    subject, text = f"sample {index}, solver", f"{result.iterations} iterations from a solution"
    if result.converged and result.iterations <= 1:
        return Finding("ok", subject, f"begins with what is in the unknown: {text}")
    wanted = "expected 0 or 1: solver(...) must begin with the values in problem.solution"
    return Finding("error", subject, f"{text} ({result.reason}), {wanted}")


def _cost(case: Case, nodes: NodeSet, *, index: int, seconds: float) -> Finding:
    ranks = nodes.space.mesh.comm.size
    size, schema = nodes.space.dofmap.index_map.size_global, case.schema
    cells = nodes.space.mesh.topology.index_map(nodes.space.mesh.topology.dim).size_global
    geometry = size * (8 * schema.dim + 9 + schema.num_outputs) + 4 * nodes.num_vertices * cells
    whole = NUM_SAMPLES * size * (4 * schema.num_inputs + 8 * schema.num_outputs)
    whole += geometry * (1 if case.fixed_mesh else NUM_SAMPLES)
    hours = NUM_SAMPLES * seconds / 3600.0
    together = f" one after another on {ranks} ranks, less where each rank has its own" * (ranks > 1)
    text = f"{NUM_SAMPLES} samples like this one: about {hours:.2g} h{together}, {whole / 1e9:.2g} GB"
    return Finding("ok", f"sample {index}, cost", text)


def _dirichlet(case: Case, problem: Problem) -> Iterator[Finding]:
    """Look at the values that are prescribed; leaves the solution as it is."""
    kept = problem.solution.x.array.copy()
    values = np.full_like(kept, np.nan)
    for bc in problem.bcs:
        bc.set(values)
    owned = problem.solution.function_space.dofmap
    values = values[: owned.index_map.size_local * owned.index_map_bs]
    fixed = values[~np.isnan(values)]
    counts = problem.mesh.comm.allreduce(np.array([len(fixed), np.count_nonzero(fixed)]), op=MPI.SUM)
    if not counts[0] and case.trajectory is None:
        yield Finding("advice", "Dirichlet data", "none: without them the solution may be unique up to constants only")
    else:
        yield Finding("ok", "Dirichlet data", f"{counts[0]} degrees of freedom are fixed, {counts[1]} not to zero")
    problem.solution.x.array[:] = kept


def _target(problem: Problem, path: Continuation, *, index: int) -> Iterator[Finding]:
    """See whether a path ends in the problem as it was made, by the residual of a field; leaves zeros."""
    random_field(problem)
    set_dirichlet(problem)
    made = residual_vector(problem)
    path.set_value(path.target)
    ended = residual_vector(problem)
    size = float(made.norm())
    ended.axpy(-1.0, made)
    if float(ended.norm()) > ROUNDING * size:
        text = f"at its target, {path.target:g}, the problem is not the one that problem() has made"
        yield Finding("error", f"sample {index}, continuation", text)
    problem.solution.x.array[:] = 0.0
    for item in (made, ended):
        item.destroy()


def _derivatives(problem: Problem) -> Iterator[Finding]:
    """Test Jacobian and energy near the solution, or zero where no method has found one."""
    direction = _direction(problem)
    yield _jacobian(problem, direction)
    yield from _energy(problem, direction)
    direction.destroy()


def _jacobian(problem: Problem, direction: PETSc.Vec) -> Finding:
    """Taylor test of the Jacobian at what is in the solution."""
    point = solution_vector(problem)
    matrix, linear = jacobian(problem), point.duplicate()
    matrix.mult(direction, linear)
    base = residual_vector(problem)

    def remainder(step: float) -> float:
        _move(problem, point, direction, step)
        moved = residual_vector(problem)
        moved.axpy(-1.0, base)
        moved.axpy(-step, linear)
        return float(moved.norm())

    order, slope = _order(remainder, scale=float(linear.norm())), float(linear.norm())
    wrong = remainder(STEPS[-1]) / (STEPS[-1] * slope) if slope > 0.0 else math.inf
    _move(problem, point, direction, 0.0)
    for item in (point, matrix, linear, base):
        item.destroy()
    subject = "Jacobian"
    if order is None:
        advice = Finding("advice", subject, "the residual is affine: Problem(is_linear=True) solves it as such")
        return Finding("ok", subject, "the residual is affine, as is_linear says") if problem.is_linear else advice
    if problem.is_linear:
        return Finding("error", subject, "is_linear=True, but the residual is not affine in the solution")
    if order < 1.7 and wrong < SLIGHT:
        return Finding("advice", subject, _differs("the derivative of the residual", wrong))
    if order < 1.7:
        text = f"is not the derivative of the residual: the Taylor remainder is of order {order:.1f}, expected 2"
        return Finding("error", subject, text)
    return Finding("ok", subject, f"Taylor remainder of order {order:.1f}")


def _differs(what: str, share: float) -> str:
    text = f"differs from {what} by {share:.1g} of it, as by quadrature of another degree"
    return f'{text}: give both metadata={{"quadrature_degree": n}}'


def _energy(problem: Problem, direction: PETSc.Vec) -> Iterator[Finding]:
    """Taylor test of an energy away from the solution, and its value where a solve from zero begins."""
    if problem.energy is None:
        return
    solution = solution_vector(problem)
    _move(problem, solution, direction, 0.05)
    point, base, value = solution_vector(problem), residual_vector(problem), energy(problem)
    slope = direction.dot(base).real

    def remainder(step: float) -> float:
        _move(problem, point, direction, 0.1 * step)
        return abs(energy(problem) - value - 0.1 * step * slope)

    order = _order(remainder, scale=max(abs(slope), abs(value)))
    wrong = remainder(STEPS[-1]) / (0.1 * STEPS[-1] * (abs(slope) or abs(value) or 1.0))
    problem.solution.x.array[:] = 0.0
    set_dirichlet(problem)
    if not math.isfinite(energy(problem)):
        yield Finding(
            "advice", "energy", "not finite at zero with the Dirichlet values: give the problem a continuation"
        )
    if order is not None and order < 1.7 and wrong < SLIGHT:
        yield Finding("advice", "energy", f"its derivative {_differs('the residual', wrong)}")
    elif order is not None and order < 1.7:
        text = f"its derivative is not the residual: the Taylor remainder is of order {order:.1f}, expected 2"
        yield Finding("error", "energy", text)
    else:
        yield Finding("ok", "energy", "its derivative is the residual")
    _move(problem, solution, direction, 0.0)
    for item in (solution, point, base):
        item.destroy()


def _order(remainder: Callable[[float], float], *, scale: float) -> float | None:
    """Return the order of a Taylor remainder at the shortest steps above rounding; None where there is none."""
    values = [remainder(step) for step in STEPS]
    above = [value for value in values if value > ROUNDING * scale]
    if not above:
        return None
    if len(above) < 2:
        return 2.0  # far below the linear term at the second step already
    return math.log(above[-2] / above[-1]) / math.log(STEPS[0] / STEPS[1])


def _direction(problem: Problem) -> PETSc.Vec:
    """Return random changes as large as the solution, zero where it is prescribed, smooth for a regular Jacobian.

    Noise at the nodes has such gradients that a term without any, or of the load, would not be seen beside them.
    """
    direction = solution_vector(problem)
    norm = float(direction.norm()) or 1.0
    values = np.random.default_rng(problem.mesh.comm.rank).standard_normal(direction.getLocalSize())
    direction.array[:] = values
    fixed = np.zeros_like(problem.solution.x.array, dtype=bool)
    for bc in problem.bcs:
        fixed[bc.dof_indices()[0]] = True
    free = ~fixed[: direction.getLocalSize()]
    direction.array[~free] = 0.0
    smooth = _smoothed(problem, direction)
    if smooth is not None:
        direction.array[free] = smooth[free]
    direction.scale(norm / (float(direction.norm()) or 1.0))
    return direction


def _smoothed(problem: Problem, noise: PETSc.Vec) -> Array | None:
    """Return the owned values of the inverse of the Jacobian applied to noise, None where there is none."""
    matrix, result = jacobian(problem), noise.duplicate()
    solver = PETSc.KSP().create(problem.mesh.comm)
    solver.setOperators(matrix)
    solver.setType(PETSc.KSP.Type.PREONLY)
    solver.getPC().setType(PETSc.PC.Type.LU)
    solver.getPC().setFactorSolverType("mumps")
    failure = failure_of(problem.mesh.comm, lambda: solver.solve(noise, result))
    size = float(result.norm())
    is_solved = failure is None and solver.getConvergedReason() > 0 and math.isfinite(size) and size > 0.0
    values = result.array_r.copy() if is_solved else None
    for item in (matrix, result, solver):
        item.destroy()
    return values


def _move(problem: Problem, point: PETSc.Vec, direction: PETSc.Vec, step: float) -> None:
    moved = point.copy()
    moved.axpy(step, direction)
    assign(moved, problem.solution)
    problem.solution.x.scatter_forward()
    moved.destroy()


def _distance(comm: MPI.Comm, values: npt.NDArray[Any], others: npt.NDArray[Any]) -> float:
    sums = comm.allreduce(np.array([np.sum(np.abs(values - others) ** 2), np.sum(np.abs(others) ** 2)]), op=MPI.SUM)
    return float(np.sqrt(sums[0] / max(sums[1], 1e-300)))
