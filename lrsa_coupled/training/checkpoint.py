"""Trained models on disk: ``model.safetensors`` (float32 weights) and ``model.json`` (the card), bound by one digest.

``model.json`` holds ``{"card": ..., "sha256": ...}``; the digest is of the card as canonical JSON followed by the
bytes of ``model.safetensors``. The card has the entries of ``ModelCard``; in version 1, which is read too, those of the
schema stand beside the others. Nothing in a file is ever executed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from lrsa_coupled import config as configuration
from lrsa_coupled.config import OperatorConfig, TrainingConfig
from lrsa_coupled.files import write_atomically, write_text_atomically
from lrsa_coupled.operators.model import Operator
from lrsa_coupled.reading import Damaged, converted, open_regular, read_json
from lrsa_coupled.schema import Schema

VERSION = 2
WEIGHTS = "model.safetensors"
CARD = "model.json"
LARGEST_HEADER = 1 << 20
"""Bytes of the longest list of tensors in a file of weights."""
REMEDY = "restore the file from its source or train again"


@dataclass(frozen=True)
class DataInfo:
    """The data a model was trained on: number of training samples, seed of the data set, all seeds of a merged one.

    ``seconds`` is the cost of the data set, wall time x ranks over all its samples [s]; None when not known.
    """

    samples: int
    seed: int
    seconds: float | None = None
    seeds: tuple[int, ...] = ()


@dataclass(frozen=True)
class ModelCard:
    """What a model is and how it was made.

    ``resolution`` is that of the training data; ``errors`` are relative L2 errors on the validation samples, by output;
    ``seconds`` is the wall time of the training, of all parts of a run and of the model it began with, as if all on
    ``ranks`` ranks [s], None when not known. A setting that a card does not hold is of a later release: its default
    must leave such a model as it was.
    """

    schema: Schema
    resolution: int
    operator: OperatorConfig
    training: TrainingConfig
    data: DataInfo
    errors: dict[str, float]
    seconds: float | None = None
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
    """Write a checkpoint; each file appears by atomic rename, the two one right after the other. Call on one rank."""
    tensors = {name: tensor.detach().cpu().float().contiguous() for name, tensor in model.state_dict().items()}
    weights = safetensors.torch.save(tensors)
    text = _card_text(asdict(card) | {"schema": card.schema.to_json()}, weights)
    write_atomically({folder / WEIGHTS: weights, folder / CARD: text.encode()})


def set_seconds(folder: Path, seconds: float) -> None:
    """Replace the wall time of the training on the card of a checkpoint; raises as ``load`` does. Call on one rank."""
    content, weights, *_ = _read_pair(folder)
    write_text_atomically(folder / CARD, _card_text(content | {"seconds": seconds}, weights))


def load(folder: Path) -> tuple[Operator, ModelCard]:
    """Read a checkpoint, on the CPU, in evaluation mode.

    Raises:
        ValueError: With the name of the file, when there is none, one is damaged, or the two do not belong together.
        OSError: When a file cannot be read.
    """
    _, weights, card, model = _read_pair(folder)
    tensors = read_tensors(weights, folder / WEIGHTS)
    _check_tensors(tensors, model.state_dict(), folder / WEIGHTS)
    # Assigned, as moving a model off the meta device imports sympy, half a second; cloned, as views are not aligned.
    model.load_state_dict({name: tensor.clone() for name, tensor in tensors.items()}, assign=True)
    return model.eval(), card


def load_card(folder: Path) -> ModelCard:
    """Read the card of a checkpoint; raises as ``load`` does."""
    return _parse_card(_read_pair(folder)[0], folder / CARD)


def read_tensors(content: bytes, path: Path) -> dict[str, Tensor]:
    """Parse the content of a safetensors file; ValueError when it is none."""
    try:
        return safetensors.torch.load(content)
    except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise ValueError(f"{path}: not a safetensors file ({error}): {REMEDY}") from error


def _check_tensors(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path) -> None:
    """Raise ValueError unless names, shapes and types are exactly those expected."""
    for name in sorted(expected.keys() ^ tensors.keys()):
        what = "is missing" if name in expected else "is not part of the model"
        raise ValueError(f"{path}: tensor '{name}' {what}: {REMEDY}")
    for name, tensor in tensors.items():
        both = (expected[name], tensor)
        wanted, found = (f"{tuple(each.shape)} {str(each.dtype).removeprefix('torch.')}" for each in both)
        if found != wanted:
            raise ValueError(f"{path}: tensor '{name}' should be {wanted}, is {found}: {REMEDY}")


def _read_pair(folder: Path) -> tuple[dict[str, Any], bytes, ModelCard, Operator]:
    """Read the content of the card and the weights, which belong together, the card and its model without weights."""
    try:
        content = read_json(folder / CARD)
        text, sha256 = content.get("card"), content.get("sha256")
        if not isinstance(text, dict) or not isinstance(sha256, str) or len(content) != 2:
            raise Damaged(f"{folder / CARD}: expected the entries 'card' and 'sha256': {REMEDY}")
        card = _parse_card(text, folder / CARD)
        model = _without_weights(card, folder / CARD)
        weights = _read_weights(folder / WEIGHTS, sum(value.nbytes for value in model.state_dict().values()))
    except (FileNotFoundError, NotADirectoryError) as error:
        if (folder / "dataset.json").exists():
            text = f"train one with 'lrsa-coupled train {folder} --out MODEL'"
            raise ValueError(f"{folder} holds a data set, expected a model: {text}") from error
        raise ValueError(f"{error.filename}: cannot be read ({error.strerror}): give the folder of a model") from error
    if _digest(text, weights) != sha256:
        raise Damaged(f"{folder}: checksum differs: {CARD} or {WEIGHTS} is damaged, or of another model: {REMEDY}")
    return text, weights, card, model


def _without_weights(card: ModelCard, path: Path) -> Operator:
    try:
        with torch.device("meta"):
            return make_model(card.operator, card.schema)
    except (ValueError, RuntimeError) as error:  # sizes that do not fit each other, or whose product is no number
        raise Damaged(f"{path}: {error}: {REMEDY}") from error


def _read_weights(path: Path, num_bytes: int) -> bytes:
    """Read the weights of a model of a size; ``Damaged`` when the file is much larger."""
    with open_regular(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > 2 * num_bytes + LARGEST_HEADER:
            raise Damaged(f"{path}: expected some {num_bytes} bytes of weights, got {size}: {REMEDY}")
        return stream.read()


def _card_text(card: Mapping[str, Any], weights: bytes) -> str:
    return json.dumps({"card": card, "sha256": _digest(card, weights)}, indent=1) + "\n"


def _digest(card: Mapping[str, Any], weights: bytes) -> str:
    canonical = json.dumps(card, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode("ascii") + weights).hexdigest()


def _parse_card(content: Mapping[str, Any], path: Path) -> ModelCard:
    version, where = content.get("version"), str(path)
    if version not in (1, VERSION):
        raise ValueError(f"{path}: format version {version!r}, expected 1 or {VERSION}: install the matching release")
    if version == 1:
        times = {"version": VERSION, "seconds": content.get("seconds") or None}
        content = {**content, "schema": Schema.from_flat(content, where=where).to_json(), **times}
    values = {name: converted(content.get(name), dict, where=f"{where}: {name}") for name in ("operator", "training")}
    operator = configuration.operator_from_card(values["operator"], version=version, where=where)
    training = configuration.training_from_card(values["training"], version=version, where=where)
    schema = Schema.from_json(content.get("schema"), where=where)
    known = {"schema": schema, "operator": OperatorConfig(), "training": training}  # msgspec takes no subclass here
    return replace(converted({**content, **known}, ModelCard, where=where), operator=operator)
