"""Samples without solutions, and the losses by which an operator is trained on them.

Such a sample holds what any other one does, but as outputs a rough solution: the best multiple of one V-cycle of the
residual of the zero field, or of the input that the operator corrects. Only its size is of use, to the normaliser of
the operator.

Shapes: N nodes of a sample, K outputs.
"""

from __future__ import annotations

import time
from typing import Any, final

import numpy as np
import torch
from torch import Tensor
from mpi4py import MPI

from lrsa_coupled.coupling.contract import features_of, problem_of
from lrsa_coupled.coupling.physics_loss import PhysicsLoss
from lrsa_coupled.coupling.residual import residual_norm, set_dirichlet
from lrsa_coupled.data.card import DataCard
from lrsa_coupled.data.format import SampleArrays
from lrsa_coupled.data.store import DataStore
from lrsa_coupled.generation.plan import sample_parameters
from lrsa_coupled.generation.sample_arrays import SampleGatherer
from lrsa_coupled.interfaces import Case, Problem, SolveResult
from lrsa_coupled.training.physics import Physics

REASON = "unsolved"
"""Instead of a reason of PETSc, in the record of a sample."""
KEPT = 128
"""Samples whose problems stay in memory: of a flow of 18 000 unknowns 12 MiB each."""


@final
class RoughSolutions:
    """Puts a rough solution into a problem, instead of solving it; what depends on the mesh alone is made once."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self._loss: PhysicsLoss | None = None
        self._solution: Any = None

    def __call__(self, problem: Problem, atol: float, gatherer: object = None) -> SolveResult:
        """Return a result that has converged, by name only; ``gatherer`` has no meaning here. Collective."""
        started = time.perf_counter()
        if self._loss is None or self._solution is not problem.solution:
            if self._loss is not None:
                self._loss.destroy()
            self._loss, self._solution = PhysicsLoss(problem, self._case.schema.outputs), problem.solution
        sketch = self._loss.sketch(self._corrected(problem))
        self._loss.nodes.scatter(sketch.numpy(), problem.solution)
        set_dirichlet(problem)
        seconds = {"solve": time.perf_counter() - started}
        return SolveResult(True, REASON, "", 0, residual_norm(problem), seconds)

    def _corrected(self, problem: Problem) -> Tensor | None:
        """Return the input that the outputs correct, zero where there is none; None when none does."""
        columns = self._case.schema.corrected_columns()
        if not columns:
            return None
        nodal = features_of(self._case, problem).nodal
        return torch.from_numpy(np.pad(nodal, [(0, 0), (0, 1)])[:, columns])


@final
class SamplePhysics(Physics):
    """Losses on the samples that ``generate`` has made of a case, each on this process alone.

    A case on one mesh has one problem for all samples; of others mesh, forms and V-cycle of the last ``KEPT`` samples
    are kept.

    Args:
        case: The case, with the options of the data set.
        card: Of the data set.
        by_energy: Whether the loss is the energy, else the residual in the dual norm.
        labels: Solutions of some of the samples; their relative L2 error is added to the loss, its square to an energy,
            which is of second order in the error, too.

    Raises:
        ValueError: If the case has no such losses, or the data set is merged, of time steps, or was collected, or the
            labels are of other samples.
    """

    def __init__(self, case: Case, card: DataCard, *, by_energy: bool, labels: DataStore | None = None) -> None:
        if (found := case.schema.difference(card.schema)) is not None:
            raise ValueError(f"training without labels needs the case of the data set: its card has {found}")
        if card.merged or card.resolution == 0 or case.trajectory is not None:
            raise ValueError("training without labels needs one data set of generate, and no steps of time")
        self._case, self._card, self._by_energy, self._labels = case, card, by_energy, labels
        if labels is not None and (differs := _other_samples(labels.card, card)):
            raise ValueError(f"training.labels: {labels.folder} holds samples with another {differs}")
        self._labelled = frozenset(() if labels is None else labels.solved)
        self._known: dict[int, SampleArrays] = {}
        self._made: dict[int, tuple[PhysicsLoss, Tensor]] = {}
        problem = self._set_up(0)[0].problem
        if by_energy and problem.energy is None:
            raise ValueError(f"'{case.name}' has no energy: use training.loss=residual")

    def loss(self, index: int, values_NK: Tensor) -> Tensor:
        loss, rows = self._set_up(index)
        found = (loss.energy if self._by_energy else loss.residual)(values_NK[rows])
        return found if index not in self._labelled else found + self._error_of_label(index, values_NK)

    def error(self, index: int, values_NK: Tensor) -> float:
        loss, rows = self._set_up(index)
        return float(loss.residual(values_NK.detach()[rows]))

    def _error_of_label(self, index: int, values_NK: Tensor) -> Tensor:
        assert self._labels is not None
        arrays = self._known.get(index) or self._labels.arrays(index)
        self._known[index] = arrays  # a training comes back to it in each epoch
        exact, free = torch.tensor(arrays.outputs), torch.tensor(1.0 - arrays.constrained)
        mass = torch.tensor(arrays.mass).unsqueeze(-1)
        squares = mass * free * (values_NK.to(exact.device, exact.dtype) - exact) ** 2
        share = squares.sum() / (mass * exact**2).sum()
        return share if self._by_energy else torch.sqrt(share)

    def _set_up(self, index: int) -> tuple[PhysicsLoss, Tensor]:
        """Return the losses of a sample, and the row in its arrays of each node of the problem."""
        case, card, fixed = self._case, self._card, self._case.fixed_mesh
        parameters = sample_parameters(case, card.seed, index)
        key = index if fixed is None else 0
        if key in self._made:
            found = self._made[key] = self._made.pop(key)  # the last one used
            if fixed is not None:
                fixed.update(found[0].problem, parameters)
                found[0].begin()
            return found
        if len(self._made) == KEPT:
            self._made.pop(next(iter(self._made)))[0].destroy()
        problem = problem_of(case, MPI.COMM_SELF, parameters, card.resolution)
        rows = torch.from_numpy(SampleGatherer(case, problem).rows)
        self._made[key] = PhysicsLoss(problem, case.schema.outputs), rows
        return self._made[key]


def _other_samples(labels: DataCard, card: DataCard) -> str:
    """Return in what the samples differ; nothing where those of an index have the same problem, and solutions."""
    same = {
        "name": labels.schema.name == card.schema.name,
        "seed": labels.seed == card.seed,
        "resolution": labels.resolution == card.resolution,
        "options": labels.settings.get("options") == card.settings.get("options"),
        "kind, none that is solved": not labels.is_unsolved and not labels.merged,
    }
    return ", ".join(name for name, is_same in same.items() if not is_same)
