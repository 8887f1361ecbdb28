"""Trained models on disk: ``model.safetensors`` (float32 weights) and ``model.json`` (the card), bound by one digest.

``model.json`` holds ``{"card": ..., "sha256": ...}``; the digest is of the card as canonical JSON followed by the bytes of
``model.safetensors``. A damaged or mismatched pair is a ValueError; nothing in a file is ever executed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from lrsa_coupled import config as configuration
from lrsa_coupled.config import OperatorConfig, TrainingConfig
from lrsa_coupled.files import atomic_path, write_text_atomically
from lrsa_coupled.operators.model import Operator
from lrsa_coupled.schema import Schema

VERSION = 2
WEIGHTS = "model.safetensors"
CARD = "model.json"
REMEDY = "restore the file from its source or train again"


@dataclass(frozen=True)
class DataInfo:
    """The data a model was trained on.

    Args:
        samples: Number of training samples.
        seed: Seed of the data set.
        seconds: What the data set cost, wall time x ranks over all its samples [s]; 0 when not known.
    """

    samples: int
    seed: int
    seconds: float = 0.0


@dataclass(frozen=True)
class ModelCard:
    """What a model is and how it was made; ``errors`` are its relative L2 errors on the validation samples, by output.

    ``seconds`` is the wall time of the training, all parts of a run and that of the model it began with together, as if all on ``ranks`` ranks [s]; 0 when not known.
    A setting that the card does not hold is from after its release and has its default, which must leave such a model as it was.
    """

    schema: Schema
    resolution: int
    operator: OperatorConfig
    training: TrainingConfig
    data: DataInfo
    errors: dict[str, float]
    seconds: float = 0.0
    ranks: int = 1
    version: int = VERSION


def parameter_count(operator: OperatorConfig, schema: Schema) -> int:
    """Return the number of trained values of an operator."""
    with torch.device("meta"):
        return sum(weight.numel() for weight in make_model(operator, schema).parameters())


def make_model(operator: OperatorConfig, schema: Schema) -> Operator:
    """Make an operator for a schema."""
    sizes = (schema.dim, schema.num_inputs, len(schema.scalars), schema.num_outputs)
    return Operator(operator, *sizes, relative_to=schema.corrected_columns())


def save(folder: Path, model: Operator, card: ModelCard) -> None:
    """Write a checkpoint; each file appears by atomic rename, the two one right after the other. Call on one rank.

    Raises:
        OSError: If the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = safetensors.torch.save({name: _stored(tensor) for name, tensor in model.state_dict().items()})
    text = _card_text(asdict(card) | {"schema": card.schema.to_json()}, weights)
    with atomic_path(folder / CARD) as card_path, atomic_path(folder / WEIGHTS) as weights_path:
        weights_path.write_bytes(weights)
        card_path.write_text(text, encoding="utf-8")


def set_seconds(folder: Path, seconds: float) -> None:
    """Replace the wall time of the training on the card of a checkpoint; the weights stay as they are. Call on one rank.

    Raises:
        ValueError: If there is no checkpoint, or it is damaged.
        OSError: If the folder cannot be written.
    """
    content, weights = _read_pair(folder)
    write_text_atomically(folder / CARD, _card_text(content | {"seconds": seconds}, weights))


def load(folder: Path) -> tuple[Operator, ModelCard]:
    """Read a checkpoint, on the CPU, in evaluation mode.

    Raises:
        ValueError: If a file is missing or damaged, or the two do not belong together; the message names the file.
    """
    content, weights = _read_pair(folder)
    card = _parse_card(content, folder / CARD)
    tensors = read_tensors(weights, folder / WEIGHTS)
    with torch.device("meta"):
        model = make_model(card.operator, card.schema)
    check_tensors(tensors, model.state_dict(), path=folder / WEIGHTS)
    # Assigned, as moving a model off the meta device imports sympy, half a second; cloned, as views into the file are not aligned.
    model.load_state_dict({name: tensor.clone() for name, tensor in tensors.items()}, assign=True)
    return model.eval(), card


def read_tensors(content: bytes, path: Path) -> dict[str, Tensor]:
    """Parse the content of a safetensors file; ValueError when it is none."""
    try:
        return safetensors.torch.load(content)
    except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise ValueError(f"{path}: not a safetensors file ({error}): {REMEDY}") from error


def check_tensors(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, path: Path) -> None:
    """Raise ValueError unless names, shapes and types are exactly those expected."""
    missing, unexpected = sorted(set(expected) - set(tensors)), sorted(set(tensors) - set(expected))
    if missing or unexpected:
        what = f"tensor '{missing[0]}' is missing" if missing else f"tensor '{unexpected[0]}' is not part of the model"
        raise ValueError(f"{path}: {what}: {REMEDY}")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape or tensor.dtype != expected[name].dtype:
            kinds = [f"{tuple(t.shape)} {str(t.dtype).removeprefix('torch.')}" for t in (expected[name], tensor)]
            raise ValueError(f"{path}: tensor '{name}' should be {kinds[0]}, is {kinds[1]}: {REMEDY}")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; ValueError when the file is missing or holds none."""
    raw = _read_bytes(path)
    try:
        content = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON ({error}): {REMEDY}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(content).__name__}: {REMEDY}")
    return content


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}): give the folder of a trained model") from error


def _read_pair(folder: Path) -> tuple[dict[str, Any], bytes]:
    """Read the content of the card and the weights, which belong together."""
    content, sha256 = _read_card(folder / CARD)
    weights = _read_bytes(folder / WEIGHTS)
    if _digest(content, weights) != sha256:
        raise ValueError(
            f"{folder}: {CARD} or {WEIGHTS} is damaged, or they are of two models (checksum differs): {REMEDY}"
        )
    return content, weights


def _read_card(path: Path) -> tuple[dict[str, Any], str]:
    content = read_json(path)
    card, sha256 = content.get("card"), content.get("sha256")
    if not isinstance(card, dict) or not isinstance(sha256, str) or len(content) != 2:
        raise ValueError(f"{path}: expected the entries 'card' and 'sha256': {REMEDY}")
    return card, sha256


def _card_text(card: Mapping[str, Any], weights: bytes) -> str:
    return json.dumps({"card": card, "sha256": _digest(card, weights)}, indent=1) + "\n"


def _digest(card: Mapping[str, Any], weights: bytes) -> str:
    canonical = json.dumps(card, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode("ascii") + weights).hexdigest()


def _parse_card(content: Mapping[str, Any], path: Path) -> ModelCard:
    version = content.get("version")
    if version not in (1, VERSION):
        raise ValueError(
            f"{path}: format version {version!r}, this library reads 1 and {VERSION}: install the matching release"
        )
    try:
        return ModelCard(
            schema=Schema.from_flat(content, where=str(path))
            if version == 1
            else Schema.from_json(content["schema"], where=str(path)),
            resolution=int(content["resolution"]),
            operator=configuration.operator_from_card(content["operator"], version=version, where=str(path)),
            training=configuration.training_from_card(content["training"], version=version, where=str(path)),
            data=_data_info(content["data"]),
            errors={str(name): float(value) for name, value in content["errors"].items()},
            seconds=float(content.get("seconds", 0.0)),
            ranks=int(content.get("ranks", 1)),
        )
    except KeyError as error:
        raise ValueError(f"{path}: missing entry {error}: {REMEDY}") from error
    except (TypeError, AttributeError) as error:
        raise ValueError(f"{path}: an entry is of the wrong kind ({error}): {REMEDY}") from error


def _data_info(content: Mapping[str, Any]) -> DataInfo:
    return DataInfo(
        samples=int(content["samples"]), seed=int(content["seed"]), seconds=float(content.get("seconds", 0.0))
    )


def _stored(tensor: Tensor) -> Tensor:
    return tensor.detach().to(device="cpu", dtype=torch.float32).contiguous()
