"""The learned operator as initial guess of a PETSc solve."""

from __future__ import annotations

import dataclasses
import logging
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
from lrsa_coupled.coupling.prolong import VertexProlongation
from lrsa_coupled.coupling.reducer import MPIReducer
from lrsa_coupled.coupling.residual import set_dirichlet
from lrsa_coupled.coupling.transfer import NodeSet
from lrsa_coupled.interfaces import Features, Described, Unknown
from lrsa_coupled.mpi import raise_on_all_ranks
from lrsa_coupled.operators.lrsa import Tokens
from lrsa_coupled.operators.model import Operator
from lrsa_coupled.training.checkpoint import ModelCard, load
from lrsa_coupled.operators.precision import autocast, choose_device

logger = logging.getLogger(__name__)

Points = npt.NDArray[np.float64]
Rows = npt.NDArray[np.intp]
Encoded = tuple[torch.Tensor, list[Tokens]]


@dataclass(frozen=True)
class Prediction:
    """Predicted fields on this rank.

    Args:
        values: Fields at the owned nodes ``(num_owned, K)``, Dirichlet values exact; zeros when not accepted.
        seconds: Wall time of ``transfer`` and ``inference`` [s].
        accepted: Whether the values are finite and within reach of the training range, on all ranks.
        reason: Why not, empty when accepted.
    """

    values: npt.NDArray[np.float64]
    seconds: dict[str, float]
    accepted: bool
    reason: str


@dataclass
class GuessCounts:
    """How often a guess was used, rejected before the solve, and given up for the classical strategy."""

    used: int = 0
    rejected: int = 0
    fallbacks: int = 0


class _Clock:
    """Shares out the wall time over stages."""

    def __init__(self) -> None:
        self.seconds = {"transfer": 0.0, "inference": 0.0}
        self._last = time.perf_counter()

    def stop(self, stage: str) -> None:
        """Count the time since the last stop to ``stage``."""
        now = time.perf_counter()
        self.seconds[stage] += now - self._last
        self._last = now


@final
class LearnedGuess:
    """A trained operator that predicts the solution of a case's problems.

    Attributes:
        card: What the model was trained for.
        settings: How it is evaluated and when it is given up.
        counts: What has become of its guesses so far.
    """

    def __init__(self, model: Operator, card: ModelCard, settings: GuessConfig) -> None:
        if settings.chunk_size < 1:
            raise ValueError(f"guess.chunk_size must be at least 1, got {settings.chunk_size}")
        self.device = choose_device(settings.device)
        if self.device.type == "cuda":
            self.device = torch.device("cuda", MPI.COMM_WORLD.rank % torch.cuda.device_count())
        self.model = model.to(self.device)
        self.card = card
        self.settings = settings
        self.doubt_limit = settings.refine_above * float(model.normaliser.outputs_std.norm())
        self.counts = GuessCounts()

    @classmethod
    def load(cls, folder: Path | str, settings: GuessConfig | None = None) -> LearnedGuess:
        """Load a model; under MPI one thread a rank is used unless OMP_NUM_THREADS says otherwise. Collective: no.

        Raises:
            ValueError: If there is no model in the folder, it is damaged, or a setting is invalid.
        """
        if MPI.COMM_WORLD.size > 1 and "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(1)
        model, card = load(Path(folder))
        return cls(model.eval(), card, settings or GuessConfig())

    def predict(
        self, case: Described, problem: Unknown, nodes: NodeSet, features: Features | None = None
    ) -> Prediction:
        """Evaluate the operator on a problem, each rank at its own nodes; ``features`` are those of the problem when they are at hand. Collective.

        Raises:
            ValueError: If the model belongs to another case or has other fields, on all ranks.
        """
        self.check(case)
        comm = problem.mesh.comm
        clock = _Clock()
        features = features or case.features(problem)
        at_vertices = self.settings.evaluate_at == "vertices" and self.model.config.takes_parts and nodes.on_simplices
        prolongation = VertexProlongation(nodes) if at_vertices else None
        rows = np.arange(nodes.num_owned) if prolongation is None else prolongation.vertices
        mass = nodes.mass[rows] if self.model.config.mass_weighted else None
        clock.stop("transfer")
        arrays = [nodes.points[rows], features.nodal[rows], *([] if mass is None else [mass])]
        outputs, tokens = self.evaluate(arrays, features.scalars, comm)
        clock.stop("inference")
        values = np.zeros((nodes.num_owned, nodes.num_values))
        reason = self._objection(outputs, comm)
        if not reason:
            exact = nodes.dirichlet_values()
            values[rows] = outputs.cpu().numpy()
            values = np.where(nodes.constrained, exact, values)
            if prolongation is not None:
                values, doubt = prolongation(values)
                doubtful = np.flatnonzero((doubt > self.doubt_limit) & ~nodes.constrained.all(axis=1))
                clock.stop("transfer")
                values[doubtful] = self._decode(nodes.points[doubtful], features, doubtful, tokens=tokens)
                clock.stop("inference")
                values = np.where(nodes.constrained, exact, values)
        clock.stop("transfer")
        return Prediction(values, clock.seconds, not reason, reason)

    def start(
        self, case: Described, problem: Unknown, nodes: NodeSet | None = None, *, features: Features | None = None
    ) -> Prediction:
        """Predict and, when accepted, put the fields and the Dirichlet values into ``problem.solution``. Collective."""
        started = time.perf_counter()
        nodes = nodes or NodeSet(problem, case.schema.outputs)
        made = time.perf_counter() - started
        prediction = self.predict(case, problem, nodes, features)
        started = time.perf_counter()
        if prediction.accepted:
            nodes.scatter(prediction.values, problem.solution)
            set_dirichlet(problem)
            self.counts.used += 1
        else:
            self.refuse(prediction)
        seconds = dict(prediction.seconds)
        seconds["transfer"] += made + time.perf_counter() - started
        return dataclasses.replace(prediction, seconds=seconds)

    def distance(self, features: Features, comm: MPI.Comm) -> float:
        """Return how far a problem is from those of the training, in standard deviations: the largest over scalars and inputs. Collective.

        Of a nodal input the root mean square over the nodes counts, as single nodes of a random field reach any value.
        """
        normaliser = self.model.normaliser
        nodal = (features.nodal - normaliser.inputs_mean.cpu().numpy()) / normaliser.inputs_std.cpu().numpy()
        sums = comm.allreduce(np.append(np.sum(nodal**2, axis=0), len(nodal)), op=MPI.SUM)
        scalars = (features.scalars - normaliser.scalars_mean.cpu().numpy()) / normaliser.scalars_std.cpu().numpy()
        return float(max(np.abs(scalars).max(initial=0.0), np.sqrt(sums[:-1] / max(sums[-1], 1.0)).max(initial=0.0)))

    def refuse(self, prediction: Prediction) -> Prediction:
        """Count and report a prediction that is not used. Collective: no."""
        self.counts.rejected += 1
        logger.warning("learned guess rejected: %s", prediction.reason)
        return prediction

    def check(self, case: Described) -> None:
        """Raise ValueError when the model was trained for another case or other fields. Collective: no."""
        if (difference := self.card.schema.difference(case.schema)) is not None:
            raise ValueError(
                f"the model does not fit the problem, it has {difference}; train one with 'lrsa-coupled train'"
            )

    def evaluate(self, arrays: Sequence[Points], scalars: Points, comm: MPI.Comm) -> Encoded:
        """Evaluate at points of this rank with nodal inputs and, for a mass-weighted operator, masses; the tokens are for further points. Collective."""
        if comm.size == 1 or self.model.config.takes_parts:
            return self._encode(arrays, scalars, comm=comm)
        return self._encode_on_one_rank(arrays, scalars, comm=comm), []

    def _encode(self, arrays: Sequence[Points], scalars: Points, *, comm: MPI.Comm) -> Encoded:
        """Evaluate at points with nodal inputs and, if any, masses: those of this rank."""
        reducer = MPIReducer(comm) if comm.size > 1 else None
        with torch.inference_mode(), autocast(self.settings.precision, self.device):
            points, inputs, *mass = (self._batch(array) for array in arrays)
            chunks = self.model.config.takes_parts and len(arrays[0]) > self.settings.chunk_size
            chunk_size = self.settings.chunk_size if chunks else 0
            outputs_BNK, tokens = self.model.encode(
                points, inputs, self._batch(scalars), *mass, reducer=reducer, chunk_size=chunk_size
            )
        return outputs_BNK[0].float(), tokens

    def _encode_on_one_rank(self, arrays: Sequence[Points], scalars: Points, *, comm: MPI.Comm) -> torch.Tensor:
        """Evaluate an operator that needs all points at once: the first rank gathers them."""
        gathered, error, parts = comm.gather(arrays), None, None
        if gathered is not None:
            whole = [np.concatenate(parts) for parts in zip(*gathered, strict=True)]
            try:
                outputs = self._encode(whole, scalars, comm=MPI.COMM_SELF)[0].cpu().numpy()
                parts = np.split(outputs, np.cumsum([len(points) for points, *_ in gathered])[:-1])
            except ValueError as caught:
                error = caught
        raise_on_all_ranks(comm, error)
        return torch.from_numpy(comm.scatter(parts))

    def _decode(self, points: Points, features: Features, rows: Rows, *, tokens: list[Tokens]) -> Points:
        if not len(rows):
            return np.zeros((0, self.card.schema.num_outputs))
        with torch.inference_mode(), autocast(self.settings.precision, self.device):
            batch = (self._batch(points), self._batch(features.nodal[rows]), self._batch(features.scalars))
            return self.model.decode(*batch, tokens=tokens)[0].float().cpu().numpy()

    def _batch(self, array: Points) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))[None].to(self.device)

    def _objection(self, outputs: torch.Tensor, comm: MPI.Comm) -> str:
        finite = bool(torch.isfinite(outputs).all())
        excess = (self.model.normaliser.excess(outputs[None]) if outputs.numel() else 0.0) if finite else np.inf
        worst = comm.allreduce(excess, op=MPI.MAX)
        if not np.isfinite(worst):
            return "the prediction is not finite"
        if worst > self.settings.max_ratio:
            return f"the prediction reaches {worst:.1f} times the range seen in training, {self.settings.max_ratio} allowed"
        return ""
