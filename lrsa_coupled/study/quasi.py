"""Parameters of a case at scrambled Sobol points: randomised quasi-Monte Carlo for what draws from a generator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri
from scipy.stats import qmc

DIMENSIONS = 64
"""Coordinates of the sequence; what a sample draws beyond is random."""

Array = npt.NDArray[np.float64]
Size = int | tuple[int, ...] | None


@final
class QuasiRandom:
    """Stands for ``numpy.random.Generator``; uniform and normal numbers are the coordinates of a point, in their order.

    Other distributions are those of a generator. Every sample by itself is distributed as with that.
    """

    def __init__(self, point: Array, rng: np.random.Generator) -> None:
        self._point, self._rng, self._used = point, rng, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rng, name)

    def random(self, size: Size = None) -> Any:
        """Return uniform numbers in [0, 1)."""
        count = 1 if size is None else int(np.prod(size))
        own = self._point[self._used : self._used + count]
        self._used += count
        values = np.concatenate([own, self._rng.random(count - len(own))])
        return float(values[0]) if size is None else values.reshape(size)

    def uniform(self, low: Any = 0.0, high: Any = 1.0, size: Size = None) -> Any:
        """Return uniform numbers."""
        shape = np.broadcast_shapes(np.shape(low), np.shape(high))
        return low + (np.asarray(high) - low) * self.random(size if size is not None or not shape else shape)

    def standard_normal(self, size: Size = None) -> Any:
        """Return normal numbers of mean 0 and variance 1."""
        return ndtri(np.clip(self.random(size), 1e-16, 1.0 - 1e-16))

    def normal(self, loc: Any = 0.0, scale: Any = 1.0, size: Size = None) -> Any:
        """Return normal numbers."""
        shape = np.broadcast_shapes(np.shape(loc), np.shape(scale))
        return loc + scale * self.standard_normal(size if size is not None or not shape else shape)


def quasi_samples(sample: Callable[[Any], Any], count: int, *, entropy: list[int]) -> list[Any]:
    """Draw samples at a scrambled Sobol sequence; more of them begin with the same ones.

    Source: Owen (1998), ACM Trans. Model. Comput. Simul. 8: scrambled nets, unbiased.
    """
    seeds = np.random.SeedSequence(entropy).spawn(2)
    engine, rng = qmc.Sobol(DIMENSIONS, rng=np.random.default_rng(seeds[0])), np.random.default_rng(seeds[1])
    points = engine.random_base2(int(np.ceil(np.log2(max(count, 2)))))
    return [sample(QuasiRandom(point, rng)) for point in points[:count]]
