"""Training beside a data set that grows: again whenever its samples have doubled, each time from the last weights."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, final

from lrsa_coupled.config import Config
from lrsa_coupled.data.card import NAME
from lrsa_coupled.data.models import MODELS, model_path, newest_model
from lrsa_coupled.data.store import DataStore
from lrsa_coupled.files import abandoned, locked, temporary_path
from lrsa_coupled.training.loop import train

LOGGER = logging.getLogger(__name__)

FIRST = 32
"""Samples of the first training."""
POLL = 1.0
"""Time between two looks at a data set [s]."""


def follow(
    folder: Path, configure: Callable[[DataStore, Path | None], Config], *, stop: Callable[[], str], first: int = FIRST
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Train at ``first`` solved samples, and again whenever they have doubled since the last model, until ``stop``.

    A model appears whole in ``<folder>/models``; one in training when ``stop`` returns a reason is given up, and so is
    one that diverges. A later call goes on with the newest.

    Args:
        folder: A data set, which others write; it may not be there yet.
        configure: Returns the settings of a training, from the data set and the model to begin with, if any.
        stop: Returns why to end, empty while there is no reason.
        first: Samples of the first training.

    Yields:
        Folder of each new model, and the summary of its training.

    Raises:
        ValueError: As ``train``.
        BlockingIOError: If another process does this for the data set.
    """
    with locked(folder / MODELS):
        _remove_abandoned(folder)
        samples, newest = _Samples(folder), newest_model(folder)
        needed = first if newest is None else 2 * int(newest.name)
        while not stop():
            if samples.count() < needed:
                time.sleep(POLL)
                continue
            store, newest = DataStore(folder), newest_model(folder)
            needed = 2 * len(store.solved)
            path = model_path(folder, len(store.solved))
            summary = _train(folder, path, configure(store, newest), stop=stop)
            if summary is not None:
                yield path, summary


def _train(folder: Path, path: Path, config: Config, *, stop: Callable[[], str]) -> dict[str, Any] | None:
    """Train a model that appears whole, or return None."""
    with temporary_path(path) as temporary:
        try:
            summary = train(folder, temporary, config, stop=stop)
            if "stopped" not in summary:
                shutil.rmtree(temporary / "last")
                os.rename(temporary, path)
                return summary
        except FloatingPointError as error:
            LOGGER.warning("%s: %s; the next training is at twice as many samples", path, error)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return None


def _remove_abandoned(folder: Path) -> None:
    """Remove what trainings that were killed have left."""
    for path in abandoned(model_path(folder, 0).parent):
        shutil.rmtree(path, ignore_errors=True)


@final
class _Samples:
    """The number of solved samples of a data set, read again when its shards have changed."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._count = folder, 0
        self._names: list[str] = []

    def count(self) -> int:
        names = sorted(os.listdir(self._folder / "shards")) if (self._folder / NAME).is_file() else []
        if names != self._names:
            self._names, self._count = names, len(DataStore(self._folder, tolerant=True).solved)
        return self._count
