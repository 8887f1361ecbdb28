"""What the last features of an operator are worth as a basis of the problem at hand: its prediction, projected.

The operator's outputs are combinations of its last features, with the same coefficients for all problems. Here they
are changed by one Newton step from the prediction, by Galerkin's method in the span of the features (and a constant)
times each component of the unknown, zero where Dirichlet conditions hold: for each problem alone, or once for the sum
of the energies of some others, which fits the last layer without solutions. Of an energy whose Hessian is positive
there it is the best step. Solves from there are compared with those from the prediction; ``start_error`` is the error
of the guess.

Source: Cao et al. (2025), Spectral-Refiner, fits the last layer in a dual norm, everything else frozen.
"""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable
from typing import TYPE_CHECKING, final

import numpy as np
import numpy.typing as npt

from lrsa_coupled.bench.compare import LEARNED, speedup
from lrsa_coupled.bench.experiments import add_model
from lrsa_coupled.bench.report import align, counted, mean_iterations, solved_count
from lrsa_coupled.bench.rows import Results
from lrsa_coupled.interfaces import Case, Features, Guess, InitialGuess, Problem

if TYPE_CHECKING:
    from mpi4py import MPI

    from lrsa_coupled.bench.samples import Samples
    from lrsa_coupled.coupling.predictor import Predictor
    from lrsa_coupled.coupling.transfer import NodeSet
    from lrsa_coupled.petsc.blocks import Block

type Array = npt.NDArray[np.float64]

ON_RANKS = True
STUDY = "last-features"
PROJECTED, FITTED = "learned guess, last features", "learned guess, last layer fitted"
NOISE = 1e-10
"""Eigenvalues of the small matrix, relative to the largest, that are rounding."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    add_model(parser)
    text = "problems of the training seed to which the last layer is fitted; 16 by default"
    parser.add_argument("--fit", type=int, default=16, metavar="N", help=text)


def run(args: Namespace, samples: Samples) -> Results:
    """Solve from both guesses; ValueError without a model."""
    from lrsa_coupled.bench.measure import compare_methods

    if args.fit < 1:
        raise ValueError(f"--fit needs at least 1 problem, got {args.fit}")
    case, only = samples.case, [samples.case.default_method]
    predictor = samples.guess().predictor
    layer = FeatureGuess(predictor, case)
    layer.fit(samples.training_problem(index) for index in range(args.fit))  # one at a time in memory
    further = [FeatureGuess(predictor, case), layer]
    found = compare_methods(case, samples.config, samples.comm, model=samples.model, only=only, guesses=further).results
    rows = [row for name in (*only, LEARNED, *(each.name for each in further)) for row in found.methods[name]]
    return samples.results(STUDY, rows, rtol=case.rtol)


def table(results: Results) -> str:
    """Format results."""
    methods, times = results.methods, results.solved_times
    default = next(iter(methods))
    lines = [["method", "error of the guess [%]", "guess [s]", "solved", "iterations", f"times faster than {default}"]]
    for name, rows in methods.items():
        errors = [row.start_error for row in rows if row.start_error is not None]
        error = f"{100 * np.mean(errors):.3g}" if errors else "-"
        seconds = np.median([row.seconds.transfer + row.seconds.inference for row in rows])
        gain = f"{speedup(times[default], times[name]).mean:.2f}"
        lines.append([name, error, f"{seconds:.3g}", solved_count(rows), f"{mean_iterations(rows):.1f}", gain])
    header = results.header
    head = f"{header.case}: {counted(results.num_samples, 'unseen problem')}, resolution {header.resolution}"
    return f"{head}\n\n{align(lines)}"


@final
class FeatureGuess(InitialGuess):
    """The prediction of an operator at all nodes, with other coefficients of its last features.

    They are those of one Newton step for the problem at hand, after ``fit`` those found there.
    """

    def __init__(self, predictor: Predictor, case: Case) -> None:
        self.name = PROJECTED
        self._predictor, self._case = predictor, case
        self._common: Array | None = None

    def fit(self, problems: Iterable[Problem]) -> None:
        """Find one step for the sum of the energies of some problems. Collective."""
        systems = [_system(problem, self._set(problem)[0]) for problem in problems]
        small, right = (np.sum(parts, axis=0) for parts in zip(*systems, strict=True))
        self.name, self._common = FITTED, _solved(small, right)

    def put(self, problem: Problem) -> Guess:
        started = time.perf_counter()
        block, inference = self._set(problem)
        step = _solved(*_system(problem, block)) if self._common is None else self._common
        problem.solution.x.array[: len(block)] -= block @ step
        problem.solution.x.scatter_forward()
        return Guess(True, "", {"transfer": time.perf_counter() - started - inference, "inference": inference})

    def _set(self, problem: Problem) -> tuple[Block, float]:
        """Put the prediction into a problem; return the basis, and the time of the operator [s]. Collective."""
        from lrsa_coupled.coupling.contract import features_of
        from lrsa_coupled.coupling.residual import set_dirichlet
        from lrsa_coupled.coupling.transfer import NodeSet

        nodes, features = NodeSet(problem, self._case.schema.outputs), features_of(self._case, problem)
        started = time.perf_counter()
        values, last = self._predicted(nodes, features, problem.mesh.comm)
        inference = time.perf_counter() - started
        nodes.scatter(np.where(nodes.constrained, nodes.dirichlet_values(), values), problem.solution)
        set_dirichlet(problem)
        return _basis(problem, nodes, last), inference

    def _predicted(self, nodes: NodeSet, features: Features, comm: MPI.Comm) -> tuple[Array, Array]:
        """Return outputs and last features at the owned nodes. Collective."""
        import torch

        from lrsa_coupled.coupling.reducer import MPIReducer
        from lrsa_coupled.operators.precision import autocast

        predictor, model = self._predictor, self._predictor.model
        arrays = (nodes.points, features.nodal, features.scalars, nodes.mass)
        points, inputs, scalars, mass = (
            torch.from_numpy(np.asarray(each, dtype=np.float32))[None].to(predictor.device) for each in arrays
        )
        reducer = MPIReducer(comm) if comm.size > 1 else None
        with torch.inference_mode(), autocast(predictor.settings.precision, predictor.device):
            last = model.last_features(points, inputs, scalars, mass, reducer=reducer)
            outputs, base = model.normaliser.physical_outputs(model.head(last)), model.base(inputs)
        outputs = outputs if base is None else outputs + base
        return outputs[0].double().cpu().numpy(), last[0].double().cpu().numpy()


def _basis(problem: Problem, nodes: NodeSet, last: Array) -> Block:
    """Return the functions as columns of owned degrees of freedom ``(n, m)``. Collective."""
    from dolfinx import fem

    from lrsa_coupled.coupling.derivatives import num_owned

    function, free = fem.Function(problem.solution.function_space), np.ones(num_owned(problem.solution))
    for bc in problem.bcs:
        dofs, owned = bc.dof_indices()
        free[dofs[:owned]] = 0.0
    columns = []
    for component in range(nodes.num_values):
        for feature in (*last.T, np.ones(nodes.num_owned)):
            values = np.zeros((nodes.num_owned, nodes.num_values))
            values[:, component] = feature
            nodes.scatter(values, function)
            columns.append(function.x.array[: len(free)] * free)
    return np.asfortranarray(np.column_stack(columns))


def _system(problem: Problem, block: Block) -> tuple[Array, Array]:
    """Return Jacobian ``(m, m)`` and residual ``(m,)`` at the solution, in the basis. Collective."""
    from lrsa_coupled.coupling.norms import jacobian
    from lrsa_coupled.coupling.residual import residual_vector
    from lrsa_coupled.petsc.blocks import inner_products, multiply

    comm, matrix, residual = problem.mesh.comm, jacobian(problem), residual_vector(problem)
    small = inner_products(block, multiply(matrix, block), comm)
    right = inner_products(block, np.asfortranarray(residual.array_r[:, None]), comm)[:, 0]
    for item in (matrix, residual):
        item.destroy()
    return 0.5 * (small + small.T), right


def _solved(small: Array, right: Array) -> Array:
    """Return the solution of a system without what is rounding in it."""
    values, vectors = np.linalg.eigh(small)
    kept = values > NOISE * values.max()
    return vectors[:, kept] @ ((vectors[:, kept].T @ right) / values[kept])
