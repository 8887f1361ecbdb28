"""Force and torque on the obstacle from velocities near it alone: no pressure, no derivatives, no mesh.

The balance of momentum, tested with a divergence-free w that is a rigid motion on the obstacle and vanishes, with three
derivatives, at twice its size, gives the work of the fluid on the motion for a velocity u that is zero on the obstacle:

    integral of u_i u_j d_j w_i + u . Laplace(w) / Re.

w is the curl of a stream function: a polynomial that gives the motion, times a polynomial in X^2 + Y^2, where X and Y
are coordinates along the axes of the obstacle in units of these. At the points of the quadrature all that depends on
the obstacle is its size and its angle.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from numpy.polynomial import Polynomial
from numpy.polynomial.polynomial import polyder, polyval2d

Array = npt.NDArray[np.float64]

SIZE = 2.0
"""Of the ellipse beyond which w vanishes, relative to the obstacle; in the cavity for all samples."""

ALONG, AROUND = 6, 24
"""Points from the obstacle outwards, and around it."""

_RADII, _WEIGHTS = np.polynomial.legendre.leggauss(ALONG)


@lru_cache(maxsize=1)
def _quadrature() -> tuple[Array, Array, Array]:
    """Return X, Y ``(num_points,)`` and weights: Gauss-Legendre outwards, equal angles around."""
    radii, weights = 1.0 + 0.5 * (SIZE - 1.0) * (_RADII + 1.0), 0.5 * (SIZE - 1.0) * _WEIGHTS
    angles = 2.0 * np.pi * (np.arange(AROUND) + 0.5) / AROUND
    x, y = (np.outer(radii, turn(angles)).ravel() for turn in (np.cos, np.sin))
    return x, y, np.repeat(radii * weights, AROUND) * 2.0 * np.pi / AROUND


@lru_cache(maxsize=1)
def _derivatives() -> dict[tuple[int, int], Array]:
    """Return derivatives of order (i, j) up to three of X, Y, X^2, Y^2 times the cut-off, ``(4, num_points)``."""
    t = Polynomial([-1.0, 1.0]) / (SIZE**2 - 1.0)
    cut: Array = np.asarray((1.0 - t**4 * Polynomial([35.0, -84.0, 70.0, -20.0])(t)).coef, dtype=np.float64)
    size = 2 * len(cut) + 1
    functions = np.zeros((size, size, 4))
    for power, factor in enumerate(cut):
        for k in range(power + 1):
            for place, (i, j) in enumerate(((1, 0), (0, 1), (2, 0), (0, 2))):
                functions[2 * k + i, 2 * (power - k) + j, place] += factor * math.comb(power, k)
    x, y, _ = _quadrature()
    orders = [(i, j) for i in range(4) for j in range(4) if i + j <= 3]
    parts = ((i, j, polyval2d(x, y, polyder(polyder(functions, i, axis=0), j, axis=1))) for i, j in orders)
    return {(i, j): np.asarray(values, dtype=np.float64) for i, j, values in parts}


def probe_points(centre: tuple[float, float], semi_axes: tuple[float, float], angle: float) -> Array:
    """Return the points around an obstacle at which the velocity is asked ``(num_points, 2)``."""
    x, y, _ = _quadrature()
    c, s = np.cos(angle), np.sin(angle)
    along, across = semi_axes[0] * x, semi_axes[1] * y
    return np.column_stack([centre[0] + c * along - s * across, centre[1] + s * along + c * across])


def work_on_obstacle(velocity: Array, semi_axes: tuple[float, float], angle: float, *, reynolds: float) -> Array:
    """Return force_x, force_y and torque of velocities at the points ``(num_points, 2)``; zeros without obstacle."""
    a, b = semi_axes
    if not a * b > 0.0:
        return np.zeros(3)
    c, s = np.cos(angle), np.sin(angle)
    u, weights = velocity @ np.array([[c, -s], [s, c]]), a * b * _quadrature()[2]
    motions = np.array([[0.0, b, 0.0, 0.0], [-a, 0.0, 0.0, 0.0], [0.0, 0.0, -0.5 * a**2, -0.5 * b**2]])
    d = {(i, j): motions @ values / (a**i * b**j) for (i, j), values in _derivatives().items()}  # of stream functions
    gradient = {(0, 0): d[1, 1], (0, 1): d[0, 2], (1, 0): -d[2, 0], (1, 1): -d[1, 1]}  # of w_i along j
    laplacian = d[2, 1] + d[0, 3], -d[3, 0] - d[1, 2]
    density = sum(u[:, i] * u[:, j] * each for (i, j), each in gradient.items())
    density = density + (u[:, 0] * laplacian[0] + u[:, 1] * laplacian[1]) / reynolds
    along, across, torque = density @ weights
    return np.array([c * along - s * across, s * along + c * across, torque])
