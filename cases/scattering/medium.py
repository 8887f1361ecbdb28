"""The scatterer and the plane wave that meets it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
import numpy.typing as npt
from msgspec import Meta

from lrsa_coupled.config import PositiveFloat

Array = npt.NDArray[np.float64]

RADIUS = 1.0
"""Of the disc that holds the scatterer, the unit of length L."""

NUM_MODES = 4
"""Modes a direction of a random medium."""


@dataclass(frozen=True)
class ScatteringParameters:
    """Incident wave ``exp(i wave_number d.x)``, d at the angle ``direction`` with the x axis, and squared index n.

    Smooth medium: ``n = exp((1 - r^2)^2 sum_jk modes_jk cos(j pi (x + 1) / 2) cos(k pi (y + 1) / 2))`` for r < 1,
    ``modes`` row by row. Disc: ``n = 1 + contrast`` for r < 1. Elsewhere n = 1. The one that a medium does not have is
    empty or zero.
    """

    wave_number: PositiveFloat = field(metadata={"unit": "1/L"})
    direction: float = field(metadata={"unit": "rad"})
    modes: tuple[float, ...] = field(default=(), metadata={"unit": "1"})
    contrast: Annotated[float, Meta(gt=-1)] = field(default=0.0, metadata={"unit": "1"})


def draw_modes(rng: np.random.Generator, strength: float) -> tuple[float, ...]:
    """Draw amplitudes of covariance (-Laplace + 4)^-2, scaled to a deviation of the field."""
    j = np.arange(NUM_MODES)
    deviations = 1.0 / ((np.pi / 2.0) ** 2 * np.add.outer(j**2, j**2) + 4.0)
    squares = np.multiply.outer(*2 * [np.where(j > 0, 0.5, 1.0)])  # mean squares of the cosines
    deviations *= strength / np.sqrt((deviations**2 * squares).sum())
    return tuple((deviations * rng.standard_normal(deviations.shape)).ravel().tolist())


def contrast_at(parameters: ScatteringParameters, points: Array) -> Array:
    """Return n - 1 at points ``(num_points, 2)``; on the edge of a homogeneous disc the mean of both sides."""
    squares = (points**2).sum(axis=1) / RADIUS**2
    if not parameters.modes:
        return parameters.contrast * np.heaviside(np.round(1.0 - squares, 9), 0.5)
    waves = np.cos(np.pi / 2.0 * np.multiply.outer(points / RADIUS + 1.0, np.arange(NUM_MODES)))
    amplitudes = np.reshape(parameters.modes, (NUM_MODES, NUM_MODES))
    logarithm = np.einsum("nj,jk,nk->n", waves[:, 0], amplitudes, waves[:, 1])
    return np.expm1(np.maximum(1.0 - squares, 0.0) ** 2 * logarithm)


def plane_wave(parameters: ScatteringParameters, points: Array) -> npt.NDArray[np.complex128]:
    """Return the incident wave at points ``(num_points, 2)``."""
    direction = np.array([np.cos(parameters.direction), np.sin(parameters.direction)])
    return np.exp(1j * parameters.wave_number * (points @ direction))
