"""State of an unfinished training run, so that a later call goes on where it stopped.

The folder ``last/`` holds ``state-<epochs>-<steps>.safetensors`` (weights and optimiser states) and ``state.json`` (everything else), which names
the former and its digest. ``state.json`` is replaced last, by atomic rename: a crash at any moment leaves the previous state whole.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor
from torch.optim import Optimizer

from lrsa_coupled.files import atomic_path, write_text_atomically
from lrsa_coupled.operators.model import Operator
from lrsa_coupled.training.checkpoint import check_tensors, read_json, read_tensors
from lrsa_coupled.training.optimiser import load_optimiser_tensors, optimiser_tensors

STATE = "state.json"
FREE = ("device", "compile", "save_every", "tensorboard", "micro_batch_size")


@dataclass(frozen=True)
class Progress:
    """How far a run is: finished epochs, losses of the steps of the next one, best validation so far, wall time [s].

    ``ended`` tells that no epoch follows.
    """

    epoch: int = 0
    losses: tuple[float, ...] = ()
    ended: bool = False
    best_epoch: int = 0
    best_error: float = float("inf")
    best_errors: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0


def save_state(
    folder: Path, models: Mapping[str, Operator], *, optimisers: list[Optimizer], progress: Progress, identity: Mapping[str, Any]
) -> None:  # fmt: skip
    """Write the state of a run, its model and what else is to go on, by name. Call on one rank."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{kind}.{name}": tensor.detach().cpu().contiguous()
        for kind, model in models.items()
        for name, tensor in model.state_dict().items()
    }
    tensors |= {f"optimiser.{name}": tensor for name, tensor in optimiser_tensors(optimisers).items()}
    content = safetensors.torch.save(tensors)
    path = folder / f"state-{progress.epoch:06d}-{len(progress.losses):06d}.safetensors"
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
    state = {
        "progress": asdict(progress),
        "identity": identity,
        "file": path.name,
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    write_text_atomically(folder / STATE, json.dumps(state, indent=1) + "\n")
    for old in folder.glob("state-*.safetensors"):
        if old != path:
            old.unlink()


def read_progress(folder: Path, identity: Mapping[str, Any]) -> Progress | None:
    """Return how far the run in ``folder`` is, None when there is none.

    Raises:
        ValueError: If the state is damaged or of a run with other settings or data; the first difference is named.
    """
    if not (folder / STATE).exists():
        return None
    state = read_json(folder / STATE)
    try:
        progress = Progress(**(state["progress"] | {"losses": tuple(state["progress"]["losses"])}))
        found = state["identity"]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{folder / STATE}: damaged ({error}): train without resuming") from error
    _check_identity(found, json.loads(json.dumps(identity)), out=folder.parent)
    return progress


def load_state(folder: Path, models: Mapping[str, Operator], *, optimisers: list[Optimizer]) -> None:
    """Set weights and optimiser states, of what ``save_state`` was given, from the state in ``folder``.

    Raises:
        ValueError: If the state is damaged.
    """
    state = read_json(folder / STATE)
    path = folder / str(state.get("file"))
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}): train without resuming") from error
    if hashlib.sha256(content).hexdigest() != state.get("sha256"):
        raise ValueError(f"{path}: damaged (checksum differs): train without resuming")
    tensors = read_tensors(content, path)
    for kind, model in models.items():
        weights = _named(tensors, kind)
        check_tensors(
            weights, {name: tensor.to(dtype=torch.float32) for name, tensor in model.state_dict().items()}, path=path
        )
        model.load_state_dict(weights)
    load_optimiser_tensors(optimisers, _named(tensors, "optimiser"))


def _named(tensors: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{kind}."): tensor for name, tensor in tensors.items() if name.startswith(f"{kind}.")}


def clear(folder: Path) -> None:
    """Remove the state of a run, if there is one."""
    for path in [folder / STATE, *folder.glob("state-*.safetensors")]:
        path.unlink(missing_ok=True)


def _check_identity(found: Mapping[str, Any], expected: Mapping[str, Any], *, out: Path) -> None:
    for section in expected:
        before, now = found.get(section, {}), expected[section]
        for key in now:
            if key not in FREE and before.get(key) != now[key]:
                raise ValueError(
                    f"{out} holds a run with {section}.{key} = {before.get(key)!r}, now it is {now[key]!r}: "
                    "choose another output folder or train without resuming"
                )
