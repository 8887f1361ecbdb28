"""The evaluation of a trained operator on the distributed mesh of a problem."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import numpy.typing as npt
import torch
from mpi4py import MPI

from lrsa_coupled.config import GuessConfig
from lrsa_coupled.coupling.contract import features_of
from lrsa_coupled.coupling.prolong import VertexProlongation
from lrsa_coupled.coupling.reducer import MPIReducer
from lrsa_coupled.coupling.transfer import NodeSet
from lrsa_coupled.interfaces import Described, Features, Unknown
from lrsa_coupled.mpi import agree, allreduce, raise_on_all_ranks
from lrsa_coupled.operators.lrsa import Tokens
from lrsa_coupled.operators.model import Operator
from lrsa_coupled.operators.precision import autocast, choose_device
from lrsa_coupled.training.checkpoint import ModelCard, load

Points = npt.NDArray[np.float64]
Encoded = tuple[torch.Tensor, list[Tokens]]


@dataclass(frozen=True)
class Prediction:
    """Predicted fields at the owned nodes ``(num_owned, K)``, Dirichlet values exact; wall time of the operator [s].

    ``reason``: why the values are of no use on some rank, not finite or far outside the training range, and zeros here;
    empty when accepted.
    """

    values: Points
    inference: float
    reason: str


@final
class Predictor:
    """A trained operator, evaluated where the nodes of a problem are."""

    def __init__(self, model: Operator, card: ModelCard, settings: GuessConfig) -> None:
        self.device = choose_device(settings.device, rank=MPI.COMM_WORLD.rank)
        self.model, self.card, self.settings = model.to(self.device), card, settings

    @classmethod
    def load(cls, folder: Path | str, settings: GuessConfig | None = None) -> Predictor:
        """Load a model; under MPI one thread a rank is used unless OMP_NUM_THREADS is set. Collective: no.

        ValueError when there is no model in the folder, it is damaged, or a setting is invalid.
        """
        if MPI.COMM_WORLD.size > 1 and "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(1)
        model, card = load(Path(folder))
        return cls(model.eval(), card, settings or GuessConfig())

    def check(self, described: Described) -> None:
        """Raise ValueError when the model was trained for another case or other fields. Collective: no."""
        if (difference := self.card.schema.difference(described.schema)) is not None:
            raise ValueError(
                f"the model does not fit the problem, it has {difference}; train one with 'lrsa-coupled train'"
            )

    def distance(self, features: Features, comm: MPI.Comm) -> float:
        """Return how far a problem is from those of the training, in standard deviations. Collective.

        It is the largest over scalars and inputs; of a nodal input the root mean square over the nodes counts, as
        single nodes of a random field reach any value.
        """
        normaliser = self.model.normaliser
        nodal = (features.nodal - normaliser.inputs_mean.cpu().numpy()) / normaliser.inputs_std.cpu().numpy()
        sums = allreduce(comm, np.append(np.sum(nodal**2, axis=0), len(nodal)), np.add)
        scalars = (features.scalars - normaliser.scalars_mean.cpu().numpy()) / normaliser.scalars_std.cpu().numpy()
        return float(max(np.abs(scalars).max(initial=0.0), np.sqrt(sums[:-1] / max(sums[-1], 1.0)).max(initial=0.0)))

    def predict(
        self, described: Described, problem: Unknown, nodes: NodeSet, features: Features | None = None
    ) -> Prediction:
        """Evaluate the operator on a problem, each rank at its own nodes; ``features`` if they are known. Collective.

        Errors as ``check``, on all ranks.
        """
        self.check(described)
        comm, model = problem.mesh.comm, self.model
        features = features or features_of(described, problem)
        at_vertices = self.settings.evaluate_at == "vertices" and model.config.takes_parts and nodes.can_prolong
        prolongation = VertexProlongation(nodes) if at_vertices else None
        rows = np.arange(nodes.num_owned) if prolongation is None else prolongation.vertices
        arrays = [nodes.points[rows], features.nodal[rows]]
        arrays += [nodes.mass[rows]] if model.config.needs_mass else []
        started = time.perf_counter()
        outputs, tokens = self.evaluate(arrays, features.scalars, comm)
        inference = time.perf_counter() - started
        values = np.zeros((nodes.num_owned, nodes.num_values))
        reason = self._objection(outputs, comm)
        if reason:
            return Prediction(values, inference, reason)
        exact = nodes.dirichlet_values()
        values[rows] = outputs.cpu().numpy()
        values = np.where(nodes.constrained, exact, values)
        if prolongation is not None:
            values, doubt = prolongation(values)
            limit = self.settings.refine_above * float(model.normaliser.outputs_std.norm())
            doubtful = np.flatnonzero((doubt > limit) & ~nodes.constrained.all(axis=1))
            started = time.perf_counter()
            if len(doubtful):
                points, inputs = self._batch(nodes.points[doubtful]), self._batch(features.nodal[doubtful])
                with torch.inference_mode(), autocast(self.settings.precision, self.device):
                    decoded_BNK = model.decode(points, inputs, self._batch(features.scalars), tokens)
                values[doubtful] = decoded_BNK[0].float().cpu().numpy()
            inference += time.perf_counter() - started
            values = np.where(nodes.constrained, exact, values)
        return Prediction(values, inference, "")

    def evaluate_batch(self, points: Sequence[Points], features: Sequence[Features], *, mass: Points | None = None,
                       apart: int = 0) -> npt.NDArray[np.float64]:  # fmt: skip
        """Evaluate at as many points of each of several problems, ``(B, N, K)``, on this rank alone. Collective: no.

        Args:
            points: Of each problem.
            features: Of each problem, at its points.
            mass: Of the points, ``(N - apart,)``, for a mass-weighted operator; None: all the same.
            apart: Points at the end that are decoded only: what the operator knows of a problem it sees at the others.
        """
        arrays = [np.stack(points), np.stack([each.nodal for each in features])]
        scalars = self._tensor(np.stack([each.scalars for each in features]))
        seen = arrays[0].shape[1] - (apart if self.model.config.takes_parts else 0)
        (at, inputs), (at_rest, rest) = (
            [self._tensor(each[:, part]) for each in arrays] for part in (slice(seen), slice(seen, None))
        )
        weights = torch.ones(at.shape[:2], device=self.device)
        if mass is not None:
            weights = weights * self._tensor(np.append(mass, np.ones(seen - len(mass))))
        with torch.inference_mode(), autocast(self.settings.precision, self.device):
            outputs, tokens = self.model.encode(at, inputs, scalars, weights if self.model.config.needs_mass else None)
            if seen < arrays[0].shape[1]:
                outputs = torch.cat([outputs, self.model.decode(at_rest, rest, scalars, tokens)], dim=1)
            return outputs.double().cpu().numpy()

    def evaluate(self, arrays: Sequence[Points], scalars: Points, comm: MPI.Comm) -> Encoded:
        """Evaluate at the points that the ranks of ``comm`` share; the tokens are for further points. Collective.

        ``arrays`` are points, nodal inputs and, for a mass-weighted operator, masses, on this rank.
        """
        if comm.size == 1 or self.model.config.takes_parts:
            return self._encode(arrays, scalars, comm=comm)
        return self._encode_on_one_rank(arrays, scalars, comm=comm), []

    def _encode(self, arrays: Sequence[Points], scalars: Points, *, comm: MPI.Comm) -> Encoded:
        reducer = MPIReducer(comm) if comm.size > 1 else None
        size, takes_parts = self.settings.chunk_size, self.model.config.takes_parts
        chunk_size = size if takes_parts and len(arrays[0]) > size else None
        with torch.inference_mode(), autocast(self.settings.precision, self.device):
            points, inputs, *mass = (self._batch(array) for array in arrays)
            values = (points, inputs, self._batch(scalars), *mass)
            outputs_BNK, tokens = self.model.encode(*values, reducer=reducer, chunk_size=chunk_size)
        return outputs_BNK[0].float(), tokens

    def _encode_on_one_rank(self, arrays: Sequence[Points], scalars: Points, *, comm: MPI.Comm) -> torch.Tensor:
        """Evaluate an operator that needs all points at once: the first rank gathers them."""
        agree(comm)
        gathered, error, parts = comm.gather(arrays), None, None
        if gathered is not None:
            whole = [np.concatenate(parts) for parts in zip(*gathered, strict=True)]
            try:
                outputs = self._encode(whole, scalars, comm=MPI.COMM_SELF)[0].cpu().numpy()
                parts = np.split(outputs, np.cumsum([len(points) for points, *_ in gathered])[:-1])
            except ValueError as caught:
                error = caught
        raise_on_all_ranks(comm, error)
        return torch.from_numpy(comm.scatter(parts)).to(self.device)

    def _batch(self, array: Points) -> torch.Tensor:
        return self._tensor(array)[None]

    def _tensor(self, array: Points) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)).to(self.device)

    def _objection(self, outputs: torch.Tensor, comm: MPI.Comm) -> str:
        worst = allreduce(comm, self.model.normaliser.excess(outputs[None]), MPI.MAX)
        limit = self.settings.max_ratio
        if not np.isfinite(worst):
            return "the prediction is not finite"
        if worst > limit:
            return f"the prediction reaches {worst:.1f} times the range seen in training, {limit:g} allowed"
        return ""
