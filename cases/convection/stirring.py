"""Random stirring flows and moving heat sources in the unit square, given by a few numbers."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from lrsa_coupled.config import Natural, PositiveFloat

Array = npt.NDArray[np.float64]

MODES = 3
"""Modes of the stream function a direction."""

SOURCES = 2

WIDTH = 0.08
"""Standard deviation of the Gaussian of a source [L]."""


@dataclass(frozen=True)
class ConvectionParameters:
    """A trajectory, and one of its steps. Units: side L of the square, speed U of the flow, time L / U, temperature T.

    The stream function is ``sum_jk a_jk cos(w_jk t + p_jk) sin(j pi x) sin(k pi y)`` with j, k from 1 to ``MODES``, row
    by row. Source i is a Gaussian of width ``WIDTH`` that moves on a circle of radius 0.2 about ``centres[i]``, with
    the period ``2 pi / turning[i]``.
    """

    time_step: PositiveFloat = field(metadata={"unit": "L / U"})
    amplitudes: tuple[float, ...] = field(metadata={"unit": "L U"})
    frequencies: tuple[float, ...] = field(metadata={"unit": "rad U / L"})
    phases: tuple[float, ...] = field(metadata={"unit": "rad"})
    centres: tuple[tuple[float, float], ...] = field(metadata={"unit": "L"})
    powers: tuple[float, ...] = field(metadata={"unit": "T U / L"})
    turning: tuple[float, ...] = field(metadata={"unit": "rad U / L"})
    step: Natural = field(default=0, metadata={"unit": "1"})


def draw_trajectory(
    rng: np.random.Generator, time_step: float, frequencies: tuple[float, float]
) -> ConvectionParameters:
    """Draw a trajectory of a given time step [L / U]; the flow's frequencies are uniform in a range [rad U / L]."""
    j = np.arange(1, MODES + 1)
    amplitudes = rng.standard_normal((MODES, MODES)) / (np.pi * (j[:, None] ** 2 + j**2))
    size = MODES**2
    return ConvectionParameters(
        time_step=time_step,
        amplitudes=tuple((2.0 * amplitudes).ravel().tolist()),
        frequencies=tuple(rng.uniform(*frequencies, size).tolist()),
        phases=tuple(rng.uniform(0.0, 2.0 * np.pi, size).tolist()),
        centres=tuple(tuple(c) for c in rng.uniform(0.3, 0.7, (SOURCES, 2)).tolist()),
        powers=tuple(rng.uniform(4.0, 16.0, SOURCES).tolist()),
        turning=tuple((rng.choice([-1.0, 1.0], SOURCES) * rng.uniform(*frequencies, SOURCES)).tolist()),
    )


class Stirring:
    """The flow at given points ``(2 or 3, num_points)``; what depends on the points alone is evaluated once."""

    def __init__(self, points: Array) -> None:
        j = np.pi * np.arange(1, MODES + 1)
        (sx, cx), (sy, cy) = ((np.sin(np.outer(x, j)), j * np.cos(np.outer(x, j))) for x in points[:2])
        along_y = np.einsum("nj,nk->njk", sx, cy)
        along_x = np.einsum("nj,nk->njk", cx, sy)
        self._modes = np.stack([along_y, -along_x], axis=1).reshape(2 * len(sx), -1)

    def velocity(self, parameters: ConvectionParameters, time: float) -> Array:
        """Return the velocity ``(num_points, 2)`` [U]: divergence-free, no flow through the walls."""
        phases = np.array(parameters.frequencies) * time + np.array(parameters.phases)
        return (self._modes @ (np.array(parameters.amplitudes) * np.cos(phases))).reshape(-1, 2)


def heating(parameters: ConvectionParameters, time: float, points: Array) -> Array:
    """Return the heat source at points ``(2 or 3, num_points)`` [T U / L]."""
    result = np.zeros(points.shape[1])
    for (x, y), power, turning in zip(parameters.centres, parameters.powers, parameters.turning, strict=True):
        dx = points[0] - x - 0.2 * np.cos(turning * time)
        dy = points[1] - y - 0.2 * np.sin(turning * time)
        result += power * np.exp(-(dx**2 + dy**2) / (2.0 * WIDTH**2))
    return result
