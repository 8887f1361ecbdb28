"""Exact fields of a homogeneous disc, the series of cylindrical waves: what the discretisations are verified against.

Outside, the scattered wave is ``sum_m i^m a_m H_m(k r) e^(i m t)``, inside the total one
``sum_m i^m b_m J_m(k' r) e^(i m t)`` with k' = k sqrt(n) and the angle t from the direction of incidence. The wave and
its normal derivative, divided by the weight w inside, are continuous: w is 1 for sound and n for the magnetic field of
an electric one in the plane.

Source: Bohren & Huffman (1983), Absorption and scattering of light by small particles, section 8.4.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import hankel1, jv

from lrsa_coupled.cases.scattering.medium import RADIUS, Array, ScatteringParameters, plane_wave

Complex = npt.NDArray[np.complex128]


def scattered_sound(parameters: ScatteringParameters, points: Array) -> Complex:
    """Return the scattered pressure ``(num_points,)``, inside the disc the total one less the incident."""
    return _waves(parameters, points, weight=1.0)[0]


def scattered_electric(parameters: ScatteringParameters, points: Array) -> Complex:
    """Return the scattered electric field ``(num_points, 2)`` of an incident one of unit size across its direction.

    From the magnetic field H across the plane: ``-i k n E = (dH/dy, -dH/dx)``.
    """
    n = 1.0 + parameters.contrast
    _, gradient = _waves(parameters, points, weight=n)
    inside = (np.hypot(*points.T) < RADIUS)[:, None]
    gradient = np.where(inside, gradient / n, gradient)
    field = np.column_stack([gradient[:, 1], -gradient[:, 0]]) / (-1j * parameters.wave_number)
    across = np.array([-np.sin(parameters.direction), np.cos(parameters.direction)])
    return np.where(inside, field - plane_wave(parameters, points)[:, None] * across, field)


def _waves(parameters: ScatteringParameters, points: Array, *, weight: float) -> tuple[Complex, Complex]:
    """Return the scattered wave, and the gradient of the total wave inside and of the scattered one outside."""
    k = parameters.wave_number
    inner = k * np.sqrt(1.0 + parameters.contrast)
    m = _orders(inner)
    (j, dj), (h, dh), (b, db) = (
        _cylindrical(function, np.array([size * RADIUS]), m) for function, size in ((jv, k), (hankel1, k), (jv, inner))
    )
    dj, dh, db = k * dj, k * dh, inner * db / weight
    outside = (b * dj - j * db) / (h * db - b * dh)
    inside = (j + outside * h) / b
    radii, angles = np.maximum(np.hypot(*points.T), 1e-12), np.arctan2(points[:, 1], points[:, 0])
    wave, radial, angular = np.zeros((3, len(points)), dtype=np.complex128)
    for within, function, size, factors in ((True, jv, inner, inside), (False, hankel1, k, outside)):
        chosen = (radii < RADIUS) == within
        r, t = radii[chosen], angles[chosen]
        parts = factors * 1j**m * np.exp(1j * np.multiply.outer(t - parameters.direction, m))
        value, slope = _cylindrical(function, size * r, m)
        wave[chosen] = (parts * value).sum(axis=1)
        radial[chosen] = size * (parts * slope).sum(axis=1)
        angular[chosen] = 1j / r * (parts * value * m).sum(axis=1)
        if within:
            wave[chosen] -= plane_wave(parameters, points[chosen])
    cos, sin = np.cos(angles), np.sin(angles)
    return wave, np.column_stack([cos * radial - sin * angular, sin * radial + cos * angular])


def _cylindrical(function: Callable[..., Any], x: Array, m: npt.NDArray[np.int64]) -> tuple[Any, Any]:
    """Return Bessel's or Hankel's functions ``(len(x), len(m))`` and their derivatives; the orders are -M to M."""
    table = function(np.arange(m[-1] + 2), x[:, None])
    minus_one = -table[:, 1:2]
    slopes = 0.5 * (np.hstack([minus_one, table[:, :-2]]) - table[:, 1:])
    signs = np.where((m < 0) & (m % 2 == 1), -1.0, 1.0)
    return table[:, np.abs(m)] * signs, slopes[:, np.abs(m)] * signs


def _orders(size: float) -> npt.NDArray[np.int64]:
    """Return orders beyond which the waves inside a disc of this size vanish to rounding."""
    largest = int(size + 5.0 * np.cbrt(size) + 10.0)
    return np.arange(-largest, largest + 1)
