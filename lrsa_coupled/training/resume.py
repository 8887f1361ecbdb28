"""State of an unfinished training run, so that a later call goes on where it stopped.

The folder ``last/`` holds ``state-<epochs>-<steps>.safetensors`` (weights and optimiser states) and ``state.json``
(everything else), which names the former and its digest, and has one of its own. ``state.json`` is replaced last, by
atomic rename: a crash at any moment leaves the previous state whole.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lrsa_coupled.files import matching, write_atomically, write_text_atomically
from lrsa_coupled.reading import Damaged, converted, open_regular, read_sealed, sealed
from lrsa_coupled.training.checkpoint import LARGEST_HEADER, read_tensors

STATE = "state.json"
LARGEST = 8
"""Bytes of a state at most, relative to those of its weights."""
REMEDY = "train without resuming (--no-resume)"
FREE = ("device", "compile", "save_every", "tensorboard", "micro_batch_size")
"""Settings that may change between the parts of a run."""
BY_CLOCK = ("epochs", "validate_every")
"""Those without effect on a run by the clock."""


@dataclass
class Progress:
    """How far a run is: finished epochs, losses of the steps of the next one, best validation so far, wall time [s].

    ``steps``: those of the finished epochs, of which the clock ends some early; ``ended``: no epoch follows;
    ``without``: validations since the best one; ``limit``: what limits the model.
    """

    epoch: int = 0
    steps: int = 0
    losses: tuple[float, ...] = ()
    ended: bool = False
    best_epoch: int = 0
    best_error: float = float("inf")
    best_errors: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    without: int = 0
    limit: str = ""


@dataclass(frozen=True)
class _State:
    """Content of ``state.json``."""

    progress: Progress
    identity: dict[str, dict[str, Any]]
    file: str
    sha256: str


def save_state(
    folder: Path, models: nn.ModuleDict, *, optimisers: Sequence[Optimizer], progress: Progress,
    identity: Mapping[str, Any],
) -> None:  # fmt: skip
    """Write the state of a run. Call on one rank."""
    tensors = dict(models.state_dict())
    for place, optimiser in enumerate(optimisers):
        for parameter, entries in optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{place}.{parameter}.{entry}": value for entry, value in entries.items()}
    content = safetensors.torch.save(
        {name: torch.as_tensor(value).detach().cpu().contiguous() for name, value in tensors.items()}
    )
    path = folder / _name(progress)
    write_atomically({path: content})
    sha256 = hashlib.sha256(content).hexdigest()
    state = {"progress": asdict(progress), "identity": identity, "file": path.name, "sha256": sha256}
    write_text_atomically(folder / STATE, sealed(state))
    for old in matching(folder, "state-*.safetensors"):
        if old != path:
            old.unlink()


def read_progress(folder: Path, identity: Mapping[str, Any]) -> Progress | None:
    """Return how far the run in ``folder`` is, None when there is none.

    Raises:
        ValueError: If the state is damaged or of a run with other settings or data; the first difference is named.
        OSError: If it cannot be read.
    """
    try:
        state = _read(folder)
    except FileNotFoundError:
        return None
    by_clock = BY_CLOCK if identity.get("training", {}).get("minutes") else ()
    for section, expected in json.loads(json.dumps(identity)).items():
        before = state.identity.get(section, {})
        for key, now in expected.items():
            if key not in (*FREE, *by_clock) and before.get(key) != now:
                raise ValueError(
                    f"{folder.parent} holds a run with {section}.{key} = {before.get(key)!r}, now it is {now!r}: "
                    f"choose another output folder, where training.initial begins with this model, or {REMEDY}"
                )
    progress, training = state.progress, identity.get("training", {})
    last = training["epochs"] if training and not training["minutes"] else progress.epoch + 1
    if not 0 <= progress.best_epoch <= progress.epoch <= last or (progress.epoch == last and not progress.ended):
        text = f"epoch {progress.epoch} of {last}, the best {progress.best_epoch}"
        raise Damaged(f"{folder / STATE}: damaged ({text}): {REMEDY}")
    return progress


def load_state(folder: Path, models: nn.ModuleDict, *, optimisers: Sequence[Optimizer]) -> None:
    """Set the weights and optimiser states that ``save_state`` was given from the state in ``folder``.

    Raises:
        ValueError: If the state is damaged or of another version of this library.
        OSError: If it cannot be read.
    """
    state = _read(folder)
    path = folder / _name(state.progress)
    try:
        with open_regular(path) as stream:
            most = LARGEST * sum(value.nbytes for value in models.state_dict().values()) + LARGEST_HEADER
            content = stream.read(most)
    except FileNotFoundError as error:
        raise Damaged(f"{path}: cannot be read ({error.strerror}): {REMEDY}") from error
    if hashlib.sha256(content).hexdigest() != state.sha256 or state.file != path.name:
        raise Damaged(f"{path}: damaged (checksum differs): {REMEDY}")
    tensors = read_tensors(content, path)
    states: list[dict[int, dict[str, Tensor]]] = [{} for _ in optimisers]
    try:
        for name in [name for name in tensors if name.startswith("optimiser.")]:
            _, place, parameter, entry = name.split(".")
            states[int(place)].setdefault(int(parameter), {})[entry] = tensors.pop(name)
        models.load_state_dict(tensors)
        for optimiser, entries in zip(optimisers, states, strict=True):
            _check_shapes(optimiser, entries)
    except (RuntimeError, ValueError, IndexError) as error:
        text = " ".join(str(error).split())
        raise Damaged(f"{path}: of another version of this library ({text}): {REMEDY}") from error
    for optimiser, entries in zip(optimisers, states, strict=True):
        optimiser.load_state_dict({"state": entries, "param_groups": optimiser.state_dict()["param_groups"]})


def _check_shapes(optimiser: Optimizer, entries: Mapping[int, Mapping[str, Tensor]]) -> None:
    """Raise ValueError unless each tensor is of the shape of its weight, or a number."""
    weights = [weight for group in optimiser.param_groups for weight in group["params"]]
    for number, tensors in entries.items():
        for name, tensor in tensors.items():
            if tensor.shape not in (weights[number].shape, ()) or number < 0:
                raise ValueError(f"'{name}' of weight {number} has shape {tuple(tensor.shape)}")


def _name(progress: Progress) -> str:
    return f"state-{progress.epoch:06d}-{len(progress.losses):06d}.safetensors"


def _read(folder: Path) -> _State:
    path = folder / STATE
    try:
        return converted(read_sealed(path, infinite=True), _State, where=str(path))
    except ValueError as error:
        raise Damaged(f"{error}: {REMEDY}") from error


def clear(folder: Path) -> None:
    """Remove the state of a run, if there is one."""
    for path in [folder / STATE, *matching(folder, "state-*.safetensors")]:
        path.unlink(missing_ok=True)
