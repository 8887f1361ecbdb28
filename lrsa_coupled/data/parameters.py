"""Parameters of a sample as named numbers, for files that hold no nested values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def parameter_values(parameters: Mapping[str, Any], units: Mapping[str, str]) -> dict[str, Any]:
    """Return numbers, flat lists of them and texts by name and unit; lists of different lengths are texts."""
    found = {}
    for name, value in parameters.items():
        unit = units.get(name, "1")
        try:
            flat: Any = value if isinstance(value, str) else np.ravel(np.asarray(value, dtype=np.float64))
        except (TypeError, ValueError):
            flat = str(value)
        found[name if unit == "1" else f"{name} [{unit}]"] = flat
    return found
