"""What a sample may fail of, see ``coupling/failures.py``."""

from __future__ import annotations

from lrsa_coupled.coupling.failures import is_numerical

__all__ = ["is_numerical"]
