"""Models that are trained while a data set grows: ``<folder>/models/<number of samples, six digits>``."""

from __future__ import annotations

import re
from pathlib import Path

from lrsa_coupled.files import matching

MODELS = "models"


def model_path(folder: Path, samples: int) -> Path:
    """Return where the model of so many samples of a data set stands."""
    return folder / MODELS / f"{samples:06d}"


def newest_model(folder: Path) -> Path | None:
    """Return the finished model of most samples of a data set, None when there is none. Collective: no."""
    found = [path for path in matching(folder / MODELS, "*") if re.fullmatch(r"\d{6,}", path.name)]
    return max(found, key=lambda path: int(path.name), default=None)
