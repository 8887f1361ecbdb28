"""Fields of PETSc's scalars, real or complex, as the real columns that an operator sees.

A complex field of c components has 2c columns: its c real parts, then its c imaginary parts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from mpi4py import MPI
from petsc4py import PETSc

from lrsa_coupled.interfaces import Case

Scalars = npt.NDArray[Any]
"""An array of PETSc's scalars: float64, or complex128 with a complex PETSc."""

IS_COMPLEX = np.issubdtype(PETSc.ScalarType, np.complexfloating)

PARTS = 2 if IS_COMPLEX else 1
"""Real numbers of a scalar."""


def to_columns(values: Scalars) -> npt.NDArray[np.float64]:
    """Return the columns ``(n, c)``, or ``(n, 2c)`` if complex, of values ``(n, c)``. Memory: view of real ones."""
    return np.concatenate([values.real, values.imag], axis=1) if np.iscomplexobj(values) else values


def from_columns(columns: npt.NDArray[np.float64], dtype: npt.DTypeLike = PETSc.ScalarType) -> Scalars:
    """Return real or complex values ``(n, c)`` from their columns ``(n, c or 2c)``. Memory: view of real ones."""
    if not np.issubdtype(dtype, np.complexfloating):
        return columns
    middle = columns.shape[1] // 2
    return columns[:, :middle] + 1j * columns[:, middle:]


def check_scalars(case: Case) -> None:
    """Raise ValueError when a case needs another kind of PETSc's scalars. Collective: no."""
    if case.is_complex == IS_COMPLEX:
        return
    wanted, found = ("complex", "real") if case.is_complex else ("real", "complex")
    text = f"in an environment of its own: pip install dolfinx-solver-{wanted}"
    raise ValueError(f"'{case.name}' needs PETSc with {wanted} scalars, this one has {found} ones ({text})")
