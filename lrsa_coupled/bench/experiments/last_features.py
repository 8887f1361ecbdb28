"""What the last features of an operator are worth as a basis of the problem at hand: its prediction, projected.

The operator's outputs are combinations of its last features, with the same coefficients for all problems. Here each
problem gets coefficients of its own: one Newton step from the prediction, by Galerkin's method in the span of the
features (and a constant) times each component of the unknown, zero where Dirichlet conditions hold. Of an energy whose
Hessian is positive there it is the best step. A solve from there is compared with one from the prediction;
``start_error`` is the error of the guess.

Source: Cao et al. (2025), Spectral-Refiner, fits the last layer to a problem in a dual norm.
"""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace
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
PROJECTED = "learned guess, last features"
NOISE = 1e-10
"""Eigenvalues of the small matrix, relative to the largest, that are rounding."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    add_model(parser)


def run(args: Namespace, samples: Samples) -> Results:
    """Solve from both guesses; ValueError without a model."""
    from lrsa_coupled.bench.measure import compare_methods

    guess, case = samples.guess(), samples.case
    further, only = [FeatureGuess(guess.predictor, case)], [case.default_method]
    found = compare_methods(case, samples.config, samples.comm, model=samples.model, only=only, guesses=further).results
    rows = [row for name in (*only, LEARNED, PROJECTED) for row in found.methods[name]]
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
    """The prediction of an operator at all nodes, after one Newton step in the span of its last features."""

    name = PROJECTED

    def __init__(self, predictor: Predictor, case: Case) -> None:
        self._predictor, self._case = predictor, case

    def put(self, problem: Problem) -> Guess:
        from lrsa_coupled.coupling.contract import features_of
        from lrsa_coupled.coupling.residual import set_dirichlet
        from lrsa_coupled.coupling.transfer import NodeSet

        started = time.perf_counter()
        nodes, features = NodeSet(problem, self._case.schema.outputs), features_of(self._case, problem)
        transfer = time.perf_counter() - started
        values, last = self._predicted(nodes, features, problem.mesh.comm)
        inference = time.perf_counter() - started - transfer
        nodes.scatter(np.where(nodes.constrained, nodes.dirichlet_values(), values), problem.solution)
        set_dirichlet(problem)
        _step(problem, _basis(problem, nodes, last))
        return Guess(True, "", {"transfer": time.perf_counter() - started - inference, "inference": inference})

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
    """Return the functions as columns of owned degrees of freedom ``(n, m)``, of norm 1. Collective."""
    from dolfinx import fem

    from lrsa_coupled.coupling.derivatives import num_owned
    from lrsa_coupled.petsc.blocks import norms

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
    block = np.asfortranarray(np.column_stack(columns))
    return block / np.maximum(norms(block, problem.mesh.comm), 1e-300)


def _step(problem: Problem, block: Block) -> None:
    """Add the Newton step of the span of the columns to the solution. Collective."""
    from lrsa_coupled.coupling.norms import jacobian
    from lrsa_coupled.coupling.residual import residual_vector
    from lrsa_coupled.petsc.blocks import inner_products, multiply

    comm, matrix, residual = problem.mesh.comm, jacobian(problem), residual_vector(problem)
    small = inner_products(block, multiply(matrix, block), comm)
    right = inner_products(block, np.asfortranarray(residual.array_r[:, None]), comm)
    values, vectors = np.linalg.eigh(0.5 * (small + small.T))
    kept = values > NOISE * values.max()
    step = vectors[:, kept] @ ((vectors[:, kept].T @ right) / values[kept, None])
    problem.solution.x.array[: len(block)] -= (block @ step)[:, 0]
    problem.solution.x.scatter_forward()
    for item in (matrix, residual):
        item.destroy()
