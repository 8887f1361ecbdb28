"""Quantities of interest: numbers that are asked of a solution, a functional of it or a function of several."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, final

import numpy as np
import numpy.typing as npt
import ufl
from mpi4py import MPI
from dolfinx import fem

from lrsa_coupled.coupling.derivatives import check_form
from lrsa_coupled.interfaces import Features, Unknown
from lrsa_coupled.mpi import allreduce, collective_errors
from lrsa_coupled.settings import nearest

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Quantity[P: Unknown]:
    """A number that is asked of a solution.

    The forms are made and compiled only where the number is asked for: a solve does not pay for them.

    Args:
        name: Its name in tables and files.
        unit: Its unit.
        functionals: Makes the forms, without test functions, from a problem. Of a case on one mesh they hold what
            ``FixedMesh.update`` writes into, such as the solution and the coefficients, not numbers of the parameters.
            Collective.
        of: Takes the values of the functionals, complex with a complex PETSc, to the number; None where it is the one
            functional itself, which is real.
    """

    name: str
    unit: str
    functionals: Callable[[P], Sequence[ufl.Form]]
    of: Callable[..., float] | None = None


Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Probe:
    """Numbers that a case itself makes of fields at points of its own, such as a force of the flow near a body.

    Args:
        points: Parameters to points ``(num_points, dim)``, as many for all parameters.
        measure: ``(parameters, fields)`` of the fields there ``(num_points, K)`` to numbers, as many for all.
    """

    points: Callable[[Any], Array]
    measure: Callable[[Any, Array], Array]


@dataclass(frozen=True)
class PointSampling:
    """Points at which an operator sees a problem that has no mesh.

    Args:
        points: ``(parameters, count)`` to points ``(num_points, dim)``, evenly spread in the domain: as many as asked
            for, or those that the operator needs, as many for all parameters and the same ones for the same.
        features: ``(parameters, points)`` to inputs and scalars there.
        volume: Parameters to the volume of the domain.
        mass: Points to their shares of the volume in any unit ``(num_points,)``; None: all the same.
        probe: What else is asked of the fields.
    """

    points: Callable[[Any, int], Array]
    features: Callable[[Any, Array], Features]
    volume: Callable[[Any], float]
    mass: Callable[[Array], Array] | None = None
    probe: Probe | None = None


@final
class Quantities:
    """Quantities of a problem, compiled once; of one that is updated in place they are those of the present solution.

    Collective: making and calling. ValueError names a quantity that is no number of a solution.
    """

    def __init__(self, quantities: Sequence[Quantity], problem: Unknown) -> None:
        self.comm: MPI.Comm = problem.mesh.comm
        self._compiled = [(q, [fem.form(form) for form in forms_of(q, problem)]) for q in quantities]

    def __call__(self) -> dict[str, float]:
        """Return the quantities by name, the same on all ranks."""
        parts = [fem.assemble_scalar(form) for _, forms in self._compiled for form in forms]
        sums = allreduce(self.comm, np.array(parts), np.add).tolist()
        found = {}
        with collective_errors(self.comm):
            for quantity, forms in self._compiled:
                own, sums = sums[: len(forms)], sums[len(forms) :]
                found[quantity.name] = number_of(quantity, own)
        return found

    def text(self) -> str:
        """Return what a sample keeps of them, JSON; a number that is not finite is left out, with a warning."""
        found = self()
        finite = {name: number for name, number in found.items() if math.isfinite(number)}
        if self.comm.rank == 0 and len(finite) < len(found):
            wrong = ", ".join(f"{name} is {number}" for name, number in found.items() if name not in finite)
            logger.warning("not kept with this sample: %s", wrong)
        return json.dumps(finite)


def evaluate(quantities: Sequence[Quantity], problem: Unknown) -> dict[str, float]:
    """Return quantities of the solution of a problem by name, the same on all ranks. Collective; as ``Quantities``."""
    return Quantities(quantities, problem)()


def of_forms(forms: Mapping[str, ufl.Form], problem: Unknown) -> Quantities | None:
    """Return quantities of a script, forms of its unknown by name; None without any. Collective.

    Raises as ``Quantities``, and ValueError for a form without the unknown: of another problem's its value stays.
    """
    for name, form in forms.items():
        known = form.coefficients() if isinstance(form, ufl.Form) else problem.functions
        if not any(each is function for each in known for function in problem.functions):
            raise ValueError(f"quantity '{name}' must be a form of the unknown of the problem, got one without it")
    named = [Quantity(name, "1", partial(_given, form)) for name, form in forms.items()]
    return Quantities(named, problem) if named else None


def _given(form: ufl.Form, problem: Unknown) -> list[ufl.Form]:
    return [form]


def choose(quantities: Sequence[Quantity], names: Sequence[str], *, of: str) -> tuple[Quantity, ...]:
    """Return the quantities of these names, all where none is given; ValueError for one that ``of`` does not have."""
    known = {quantity.name: quantity for quantity in quantities}
    if not known:
        raise ValueError(f"'{of}' has no quantities: give the case some, see Case.quantities")
    for name in names:
        if name not in known:
            raise ValueError(f"'{of}' has no quantity '{name}'{nearest(name, [*known])}")
    return tuple(known[name] for name in dict.fromkeys(names)) or tuple(quantities)


@lru_cache(maxsize=8)
def quasi_random(count: int, dim: int) -> npt.NDArray[np.float64]:
    """Return the first points of an additive sequence in the unit cube ``(count, dim)``, read-only.

    Source: Roberts (2018), The unreasonable effectiveness of quasirandom sequences; the ratio r has r^(dim+1) = r + 1.
    """
    ratio = 2.0
    for _ in range(60):
        ratio = (1.0 + ratio) ** (1.0 / (dim + 1))
    points = np.mod(0.5 + np.outer(np.arange(1, count + 1), ratio ** -np.arange(1.0, dim + 1)), 1.0)
    points.flags.writeable = False
    return points


def forms_of(quantity: Quantity, problem: Unknown) -> Sequence[ufl.Form]:
    """Return the functionals of a quantity; ValueError when they are no such forms. Collective."""
    forms = quantity.functionals(problem)
    if not isinstance(forms, Sequence):
        wanted = "must make a list of UFL forms without test functions"
        raise ValueError(f"functionals of quantity '{quantity.name}' {wanted}, got {type(forms).__name__}")
    if not forms:
        raise ValueError(f"quantity '{quantity.name}' needs one or more UFL forms without test functions, got none")
    for form in forms:
        check_form(f"quantity '{quantity.name}'", form)
    if quantity.of is None and len(forms) > 1:
        raise ValueError(f"quantity '{quantity.name}' has {len(forms)} functionals: 'of' must make a number of them")
    return forms


def number_of(quantity: Quantity, values: Sequence[Any]) -> float:
    """Return the quantity where its functionals have these values; ValueError when it is not real. Collective: no."""
    number: Any = values[0] if quantity.of is None else quantity.of(*values)
    if isinstance(number, complex):
        if abs(number.imag) > 1e-10 * abs(number):
            raise ValueError(f"quantity '{quantity.name}' must be real, got {number}: let 'of' make a number of it")
        number = number.real
    return float(number)
