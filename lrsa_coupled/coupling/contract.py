"""What the callbacks of a case return, checked: that of a user may return anything."""

from __future__ import annotations

from typing import Any

import numpy as np
import ufl
from mpi4py import MPI
from dolfinx.mesh import Mesh

from lrsa_coupled.interfaces import Case, Described, Features, Solver, SolveResult, Unknown
from lrsa_coupled.mpi import agree, allreduce, collective_errors, rearm_signals

RTOL = 1e-9
"""Difference of scalars between ranks that may be rounding, relative to the largest of them."""


def expect[T](value: T, kind: type, what: str) -> T:
    """Return what ``what`` has returned; TypeError when it is not of a type. Collective: no."""
    if not isinstance(value, kind):
        raise TypeError(f"{what} must return a {kind.__name__}, got {type(value).__name__}")
    return value


def problem_of[P: Unknown](case: Case[P], comm: MPI.Comm, parameters: Any, resolution: int) -> P:
    """Mesh and set up a problem of a case; TypeError when it returns something else. Collective."""
    mesh = expect(case.mesh(comm, parameters, resolution), Mesh, f"mesh() of '{case.name}'")
    rearm_signals()  # a mesher may have replaced them
    agree(comm)
    problem = expect(case.problem(mesh, parameters), Unknown, f"problem() of '{case.name}'")
    for name in ("residual", "jacobian", "energy"):
        if isinstance(getattr(problem, name, None), ufl.Form):
            raise TypeError(
                f"{name} of problem() of '{case.name}' must be compiled: give fem.form(...) of the UFL form"
            )
    return problem


def solver_of(case: Case, method: str, problem: Any, atol: float) -> Solver:
    """Make the solver of a method of a case; TypeError when it is something else. Collective."""
    make: Any = case.methods()[method]
    what = f"methods()['{method}'] of '{case.name}'"
    if not callable(make) or (isinstance(make, type) and not issubclass(make, Solver)):
        raise TypeError(f"{what} must be a Solver or a function that returns one, got {make!r}")
    return expect(make(problem, atol), Solver, what)


def solved(solver: Solver) -> SolveResult:
    """Solve once; TypeError when that returns something else. Collective."""
    return expect(solver.solve_once(), SolveResult, f"solve() of {type(solver).__name__}")


def features_of(described: Described, problem: Unknown) -> Features:
    """Evaluate inputs and scalars as ``Described.features`` does. Collective.

    Raises:
        TypeError: If it returns something else, on all ranks.
        ValueError: If the values are not of the shapes of the schema, or scalars differ between ranks; on all ranks.
    """
    comm = problem.mesh.comm
    with collective_errors(comm):
        features = _checked(described.features(problem), described, problem)
        scalars = features.scalars
        least = allreduce(comm, np.concatenate([scalars, -scalars]), np.minimum)
        spread = -least[len(scalars) :] - least[: len(scalars)]
        if (spread > RTOL * np.abs(least).max(initial=0.0)).any():
            names = ", ".join(np.array(described.schema.scalars)[spread > 0.0])
            raise ValueError(f"{_name(described)}: scalars must be the same on all ranks, got others of {names}")
    return features


def _checked(features: Features, described: Described, problem: Unknown) -> Features:
    schema = described.schema
    expect(features, Features, _name(described))
    nodal, scalars = (np.asarray(values, dtype=np.float64) for values in (features.nodal, features.scalars))
    num_owned = problem.node_space.dofmap.index_map.size_local
    if schema.dim != problem.mesh.geometry.dim:
        dim = problem.mesh.geometry.dim
        raise ValueError(f"the schema of '{schema.name}' has dim {schema.dim}, the points of the mesh have {dim}")
    for name, values, shape in (
        ("nodal", nodal, (num_owned, schema.num_inputs)), ("scalars", scalars, (len(schema.scalars),))
    ):  # fmt: skip
        if values.shape != shape:
            found = f"expected {shape}, the owned nodes and the schema" if name == "nodal" else f"expected {shape}"
            raise ValueError(f"{_name(described)}: shape of {name}: {found}, got {values.shape}")
    return Features(nodal, scalars)


def _name(described: Described) -> str:
    return f"features() of '{described.schema.name}'"
