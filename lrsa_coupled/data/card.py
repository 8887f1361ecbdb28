"""``dataset.json``: what the samples of a data set are and what they depend on; read, written and compared here."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypedDict, final

from msgspec import Meta

from lrsa_coupled.files import check_kind, create_text, read_created, write_text_atomically
from lrsa_coupled.reading import converted, read_sealed, sealed
from lrsa_coupled.schema import Schema

NAME = "dataset.json"
VERSION = 3
SOURCE = "samples of the case as it was before its source changed"


Count = Annotated[int, Meta(ge=0)]


class Part(TypedDict):
    """One of the data sets that a merged one was made of."""

    seed: Count
    resolution: Count
    settings: dict[str, Any]
    samples: Count


@final
@dataclass(frozen=True)
class DataCard:
    """Content of ``dataset.json``, as specified in ``data/format.py``."""

    schema: Schema
    seed: Count
    resolution: Count
    parameters: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    merged: list[Part] = field(default_factory=list)
    source: str | None = None

    @property
    def seeds(self) -> set[int]:
        """Seeds of all samples."""
        return {self.seed, *(part["seed"] for part in self.merged)}

    @property
    def is_unsolved(self) -> bool:
        """Whether outputs are rough solutions, of use for their size alone."""
        return bool(self.settings.get("unsolved"))

    def to_json(self) -> dict[str, Any]:
        """Return the card as a JSON object."""
        content = {"format": VERSION} | asdict(self) | {"schema": self.schema.to_json()}
        return {name: value for name, value in content.items() if name not in ("merged", "source") or value}

    @classmethod
    def from_json(cls, content: Mapping[str, Any], *, where: str) -> DataCard:
        """Read a card of version 3 or 2; ValueError for another, or an entry that is missing or of the wrong kind."""
        version = content.get("format")
        if version not in (2, VERSION):
            raise ValueError(f"{where}: format version {version!r}, expected 2 or {VERSION}: make the data set again")
        if version == 2:
            content = _of_version_2(content, where)
        schema = Schema.from_json(content.get("schema"), where=where)
        card = converted({**content, "schema": schema}, cls, where=where)
        for settings in (card.settings, *(part["settings"] for part in card.merged)):
            converted(settings.get("options", {}), dict, where=f"{where}: options")
        return card

    def difference(self, other: DataCard, defaults: Mapping[str, Any]) -> str | None:
        """Return the first mismatch in words, versions aside; ``defaults`` are settings that a card does not hold."""
        if (difference := self.schema.difference(other.schema)) is not None:
            return difference
        if self.merged != other.merged:
            return "samples merged from data sets that differ"
        mine, others = self._compared(defaults), other._compared(defaults)
        for key in [*mine, *others]:
            if mine.get(key) != others.get(key):
                if key == "unsolved":
                    return "solved samples" if others.get(key) else "samples without solutions"
                return f"{key} {mine.get(key)} instead of {others.get(key)}"
        is_case = self.resolution and None not in (self.source, other.source)  # of a script a study compares them
        return SOURCE if is_case and self.source != other.source else None

    def _compared(self, defaults: Mapping[str, Any]) -> dict[str, Any]:
        """Return the entries other than schema and versions, settings beside the others."""
        settings = {**defaults, **self.settings}
        settings["options"] = {**defaults.get("options", {}), **self.settings.get("options", {})}
        entries = {"seed": self.seed, "resolution": self.resolution, "parameters": self.parameters, **settings}
        return json.loads(json.dumps(entries))  # lists for tuples, as a file has them


def create(
    folder: Path, card: DataCard, *, defaults: Mapping[str, Any] | None = None, accept_changed_case: bool = False
) -> None:
    """Create a data set or check that an existing one was made with the same ``card``. Call on one rank of each job.

    What only training reads, symmetries and loss weights, is brought up to date. ``defaults`` are settings, options of
    the case among them, that a card does not hold when it is older than they are. ``accept_changed_case`` takes the
    source of the case as it is now, and leaves the samples that are there.

    Raises:
        ValueError: If the folder holds a data set made otherwise, the first mismatch is named, or a model or solution,
            or files that are not ours.
        OSError: If the folder cannot be written.
    """
    check_kind(folder, NAME)
    if not (folder / NAME).exists() and (others := _of_others(folder)):
        raise ValueError(f"{folder} holds {others[0]}, expected a data set or a new folder; choose another one")
    try:
        (folder / "shards").mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise NotADirectoryError(f"{folder} cannot be a folder, there is a file; write elsewhere") from error
    if not (folder / NAME).exists():
        if create_text(folder / NAME, sealed(card.to_json())):
            return
        read_created(folder / NAME)  # another job makes it at this moment
    present = read_card(folder)
    known = dataclasses.replace(present, source=None) if accept_changed_case else present
    if (difference := known.difference(card, defaults or {})) is not None:
        remedy = ", or keep them and go on with 'generate --accept-changed-case'" if difference == SOURCE else ""
        raise ValueError(f"{folder} holds a data set with {difference}; choose another folder{remedy}")
    symmetries, source = card.schema.symmetries or present.schema.symmetries, card.source or present.source
    schema = dataclasses.replace(card.schema, symmetries=symmetries)
    card = dataclasses.replace(present, schema=schema, source=source)
    if card != present:
        write_text_atomically(folder / NAME, sealed(card.to_json()))


def _of_others(folder: Path) -> list[str]:
    """Return the files of a folder that no data set has, but for logs of jobs."""
    if not folder.is_dir():
        return []
    files = (path.name for path in folder.iterdir() if not path.name.startswith(".") and path.is_file())
    return sorted(name for name in files if not name.endswith((".json", ".jsonl", ".log", ".out", ".err")))


def read_card(folder: Path) -> DataCard:
    """Read the card of a data set. OSError when it cannot be read.

    Raises:
        ValueError: If there is none, it is damaged, or of another version.
    """
    path = folder / NAME
    try:
        content = read_sealed(path)
    except (FileNotFoundError, NotADirectoryError):
        text = f"{folder} is not a data set: it has no {NAME}; make one with 'lrsa-coupled generate'"
        if (folder / "estimate.json").is_file():
            text = f"{folder} is not a data set but an estimate: its numbers are in result.json"
        elif (folder / "model.json").is_file():
            text = f"{folder} is not a data set but a model: its errors and settings are in model.json"
        raise ValueError(text) from None
    return DataCard.from_json(content, where=str(path))


class _Chains(NamedTuple):
    """The entry ``chains`` of version 2."""

    length: int
    reuse: str
    recycle: int
    sort: bool


def _of_version_2(content: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the content of a card of version 2 in the form of version 3."""
    renamed = {"start": "guess", "strategy": "method"}
    names = ("rtol", "start", "strategy", "options", "chains")
    settings = {renamed.get(name, name): content[name] for name in names if name in content}
    if settings.get("guess") == "classical":
        settings["guess"] = "none"
    if "chains" in settings:
        length, reuse, recycle, sort = converted(settings["chains"], _Chains, where=f"{where}: chains")
        settings["chains"] = [length, reuse, recycle or None, sort]
    schema = Schema.from_flat(content, where=where).to_json()
    return {**content, "schema": schema, "settings": settings}
