"""A user's own script as seen by an operator: where its inputs, scalars and outputs are found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import numpy as np
import numpy.typing as npt
import ufl
from mpi4py import MPI
from dolfinx.fem import Constant, DirichletBC, Expression, Function, FunctionSpace, functionspace
from dolfinx.fem.petsc import LinearProblem, NonlinearProblem
from petsc4py import PETSc

from lrsa_coupled.coupling.compat import dirichlet_conditions
from lrsa_coupled.coupling.elements import Solution, node_space
from lrsa_coupled.interfaces import Described, Features, Unknown
from lrsa_coupled.schema import Field, Schema
from lrsa_coupled.settings import nearest
from lrsa_coupled.training.checkpoint import ModelCard

type Input = Function | ufl.core.expr.Expr | Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]
"""A nodal input: a function, a UFL expression, or values ``(components, num_points)`` at points ``(3, num_points)``."""

type Scalar = float | Constant | Callable[[], float]


@final
class Script(Described[Unknown]):
    """Inputs and scalars that are objects of a script, as an operator sees them; their values at a solve count.

    Args:
        name: Name of the family of problems.
        inputs: The nodal inputs, in the order of the operator, and where each is found.
        scalars: The scalars, in the same way; a ``Constant`` of several components counts as scalars ``name_0``,
            ``name_1``, ...
        outputs: Fields of the solution.
        node_space: Where the nodes are.

    Raises:
        ValueError: If an input has not as many components as its field, or a scalar is not a number.
    """

    def __init__(self, name: str, inputs: Mapping[Field, Input], scalars: Mapping[str, Scalar], *,
                 outputs: Sequence[Field], node_space: FunctionSpace) -> None:  # fmt: skip
        self._num_owned: int = node_space.dofmap.index_map.size_local
        self._inputs = [_at_nodes(field, source, node_space) for field, source in inputs.items()]
        self._scalars = dict(scalars)
        names = tuple(each for name, source in scalars.items() for each in _names(name, _numbers(name, source)))
        self.schema = Schema(name, node_space.mesh.geometry.dim, tuple(inputs), names, tuple(outputs))

    def features(self, problem: Unknown) -> Features:
        """Evaluate inputs and scalars as they are now. Collective: no."""
        columns = [evaluate()[: self._num_owned] for evaluate in self._inputs]
        numbers = [_numbers(name, source) for name, source in self._scalars.items()]
        return Features(
            np.column_stack([np.zeros((self._num_owned, 0)), *columns]), np.concatenate([np.zeros(0), *numbers])
        )


def script_for(card: ModelCard, fields: Sequence[Field], inputs: Mapping[str, Input], *, scalars: Mapping[str, Scalar],
               node_space: FunctionSpace) -> Script:  # fmt: skip
    """Return the script as the operator of ``card`` sees it; ``fields`` are those of its inputs that the script gives.

    ValueError when an input or scalar is missing, unknown or of the wrong size.
    """
    sources = dict(zip(fields, match("inputs", [f.name for f in fields], inputs), strict=True))
    schema = card.schema
    script = Script(
        schema.name, sources, _grouped(schema.scalars, scalars), outputs=schema.outputs, node_space=node_space
    )
    match("scalars", schema.scalars, dict.fromkeys(script.schema.scalars))
    return script


def unknown(u: Solution, bcs: Sequence[DirichletBC], outputs: Sequence[Field]) -> Unknown:
    """Return the unknown ``u`` with nodes for the fields; errors as ``elements.node_space``. Collective."""
    nodes = node_space(u, outputs)
    return Unknown(mesh=nodes.mesh, solution=u, bcs=list(bcs), node_space=nodes)


def unknown_of(
    problem: Any, u: Function | Sequence[Function] | None, bcs: Sequence[DirichletBC] | None
) -> tuple[Solution, Sequence[DirichletBC]]:
    """Return the unknown, a tuple for a list of functions, and the Dirichlet conditions of what solves.

    Conditions that are given count, else those of the problem; a bare SNES or KSP has none of its own. ``u`` is for
    these two. ValueError when it is something else, its unknown is not known, or its conditions cannot be read.
    """
    if isinstance(problem, (LinearProblem, NonlinearProblem)):
        u = problem.u
    elif not isinstance(problem, (PETSc.SNES, PETSc.KSP)):
        raise ValueError(f"expected a LinearProblem, a NonlinearProblem, a SNES or a KSP, got {type(problem).__name__}")
    functions = list(u) if isinstance(u, Sequence) else [u]
    if wrong := [type(each).__name__ for each in functions if not isinstance(each, Function)]:
        wanted = "expected an unknown that is one Function or a list of them (u=... for a SNES or KSP)"
        raise ValueError(f"{wanted}, got {', '.join(wrong)}")
    return u if isinstance(u, Function) else tuple(functions), _own_bcs(problem) if bcs is None else bcs


def _own_bcs(problem: Any) -> Sequence[DirichletBC]:
    """Return the conditions of a problem; a bare solver has none."""
    if isinstance(problem, (PETSc.SNES, PETSc.KSP)):
        return []
    if (found := dirichlet_conditions(problem)) is not None:
        return found
    raise ValueError(
        "the Dirichlet conditions of the NonlinearProblem cannot be read, its callbacks were replaced: give bcs=[...]"
    )


def match[T](kind: str, wanted: Sequence[str], given: Mapping[str, T]) -> list[T]:
    """Return the values of ``given`` in the order of the names wanted; ValueError when one is missing or unknown."""
    for name in given:
        if name not in wanted:
            raise ValueError(f"{kind}: the operator knows no '{name}'{nearest(name, list(wanted))}")
    missing = [name for name in wanted if name not in given]
    if missing:
        raise ValueError(f"{kind}: the operator needs {', '.join(wanted)}; {', '.join(missing)} not given")
    return [given[name] for name in wanted]


def _grouped(names: Sequence[str], scalars: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Return the scalars of a script in the order of the operator's; a vector's are ``name_0``, ``name_1`` ..."""
    order = {name: place for place, name in enumerate(names)}
    return dict(sorted(scalars.items(), key=lambda item: order.get(item[0], order.get(f"{item[0]}_0", len(names)))))


def _at_nodes(field: Field, source: Input, node_space: FunctionSpace) -> Callable[[], npt.NDArray[np.float64]]:
    """Return what evaluates an input at the local nodes, ``(num_local, components)``."""
    shape = () if field.components == 1 else (field.components,)
    degree = node_space.element.basix_element.degree
    space = node_space if not shape else functionspace(node_space.mesh, ("P", degree, shape))
    found = int(np.prod(source.ufl_shape)) if isinstance(source, ufl.core.expr.Expr) else field.components
    if found != field.components:
        raise ValueError(f"inputs: '{field.name}' has {field.components} components for the operator, got {found}")
    values = Function(space)
    at_points = isinstance(source, ufl.core.expr.Expr) and not isinstance(source, Function)
    expression = Expression(source, space.element.interpolation_points) if at_points else source

    def evaluate() -> npt.NDArray[np.float64]:
        values.interpolate(expression)
        return values.x.array.reshape(-1, field.components)

    return evaluate


def _numbers(name: str, source: Scalar) -> npt.NDArray[np.float64]:
    value = source.value if isinstance(source, Constant) else source() if callable(source) else source
    try:
        numbers = np.atleast_1d(np.asarray(value, dtype=np.float64)).ravel()
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"scalars: '{name}' must be a number, a Constant or a function that returns a number, got {value!r}"
        ) from error
    if not np.isfinite(numbers).all():
        raise ValueError(f"scalars: '{name}' must be finite, got {value!r}")
    return numbers


def _names(name: str, numbers: npt.NDArray[np.float64]) -> list[str]:
    return [name] if len(numbers) == 1 else [f"{name}_{k}" for k in range(len(numbers))]
