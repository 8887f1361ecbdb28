"""Weak forms of scattered waves: sound in P2 and electric fields in Nédélec elements, with a perfectly matched layer.

Waves are ``u e^(-i w t)``, outgoing ones ``e^(i k r)``. In the layer r goes into the complex plane,
``r' = r + (i / k) S(r)``, such that outgoing waves decay by ``e^-S`` at any wave number. With ``s = dr' / dr`` and
``q = r' / r`` a tensor L with the value ``q / s`` along the radius and ``s / q`` across it is in the form of sound for
grad u . grad v, and in that of an electric field for E . v; ``s q`` is in that of sound for u v, its inverse in the
other for curl E curl v.

Source: Collino & Monk (1998), "The perfectly matched layer in curvilinear coordinates", SIAM J. Sci. Comput. 19.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, final

import numpy as np
import ufl
from dolfinx import fem
from dolfinx.mesh import Mesh

from lrsa_coupled.cases.scattering.medium import Array, ScatteringParameters, plane_wave
from lrsa_coupled.schema import Field

Expr = Any

LAYER, OUTER = 1.5, 2.0
"""Radii at which the layer begins and ends [L]."""

DECAY = 7.0
"""S at the end of the layer; a wave comes back with ``e^-14`` of its size."""

QUADRATURE = {"quadrature_degree": 6}


class Wave(ABC):
    """What is scattered.

    Attributes:
        incident: The incident wave as an operator sees it, 2 real columns for each complex component.
        output: The scattered wave.
    """

    incident: Field
    output: Field

    @abstractmethod
    def space(self, mesh: Mesh) -> fem.FunctionSpace:
        """Return the space of the scattered wave. Collective."""

    @abstractmethod
    def node_space(self, space: fem.FunctionSpace) -> fem.FunctionSpace:
        """Return the scalar space whose degrees of freedom are the nodes of the operator. Collective."""

    @abstractmethod
    def form(self, field: Expr, test: Expr, wave_number: Expr, squared: Expr) -> ufl.Form:
        """Return the sesquilinear form; ``squared`` is the square of the wave number times n."""

    @abstractmethod
    def incident_at(self, parameters: ScatteringParameters, points: Array) -> Array:
        """Return the columns of the incident wave at points ``(num_points, 2)``."""

    @abstractmethod
    def incident_expression(self, mesh: Mesh, wave_number: Expr, direction: Expr) -> Expr:
        """Return the incident wave; ``direction`` is a unit vector."""


@final
class Sound(Wave):
    """Pressure, P2."""

    incident, output = Field("incident", 2), Field("scattered", 2)

    def space(self, mesh: Mesh) -> fem.FunctionSpace:
        return fem.functionspace(mesh, ("P", 2))

    def node_space(self, space: fem.FunctionSpace) -> fem.FunctionSpace:
        return space

    def form(self, field: Expr, test: Expr, wave_number: Expr, squared: Expr) -> ufl.Form:
        tensor, scale = matched_layer(test.ufl_function_space().mesh, wave_number)
        stiffness = ufl.inner(tensor * ufl.grad(field), ufl.grad(test))
        return (stiffness - squared * scale * ufl.inner(field, test)) * ufl.dx(metadata=QUADRATURE)

    def incident_at(self, parameters: ScatteringParameters, points: Array) -> Array:
        wave = plane_wave(parameters, points)
        return np.column_stack([wave.real, wave.imag])

    def incident_expression(self, mesh: Mesh, wave_number: Expr, direction: Expr) -> Expr:
        return ufl.exp(1j * wave_number * ufl.dot(direction, ufl.SpatialCoordinate(mesh)))


@final
class Electric(Wave):
    """Electric field in the plane, Nédélec elements of the first kind; the incident one lies across its direction."""

    incident, output = Field("incident", 4), Field("scattered", 4)

    def __init__(self, degree: int) -> None:
        self.degree = degree

    def space(self, mesh: Mesh) -> fem.FunctionSpace:
        return fem.functionspace(mesh, ("N1curl", self.degree))

    def node_space(self, space: fem.FunctionSpace) -> fem.FunctionSpace:
        return fem.functionspace(space.mesh, ("DG", self.degree))

    def form(self, field: Expr, test: Expr, wave_number: Expr, squared: Expr) -> ufl.Form:
        tensor, scale = matched_layer(test.ufl_function_space().mesh, wave_number)
        stiffness = ufl.inner(ufl.curl(field), ufl.curl(test)) / scale
        return (stiffness - squared * ufl.inner(tensor * field, test)) * ufl.dx(metadata=QUADRATURE)

    def incident_at(self, parameters: ScatteringParameters, points: Array) -> Array:
        across = np.array([-np.sin(parameters.direction), np.cos(parameters.direction)])
        field = plane_wave(parameters, points)[:, None] * across
        return np.hstack([field.real, field.imag])

    def incident_expression(self, mesh: Mesh, wave_number: Expr, direction: Expr) -> Expr:
        wave = ufl.exp(1j * wave_number * ufl.dot(direction, ufl.SpatialCoordinate(mesh)))
        return wave * ufl.as_vector([-direction[1], direction[0]])


def matched_layer(mesh: Mesh, wave_number: Expr) -> tuple[Expr, Expr]:
    """Return the tensor L and the product ``s q``, see above; the identity and 1 inside the layer."""
    x = ufl.SpatialCoordinate(mesh)
    radius = ufl.sqrt(ufl.real(ufl.dot(x, x)))
    depth = ufl.real(radius - LAYER) / (OUTER - LAYER)
    stretch = 1.0 + 3.0j * DECAY / (OUTER - LAYER) * depth**2 / wave_number
    quotient = 1.0 + 1.0j * DECAY * depth**3 / (wave_number * radius)
    along, identity = ufl.outer(x, x) / radius**2, ufl.Identity(2)
    tensor = quotient / stretch * along + stretch / quotient * (identity - along)
    inside = ufl.lt(ufl.real(depth), 0.0)
    return ufl.conditional(inside, identity, tensor), ufl.conditional(inside, 1.0, stretch * quotient)
