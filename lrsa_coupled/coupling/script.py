"""A user's own script as seen by an operator: where its inputs, scalars and outputs are found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, final

import numpy as np
import numpy.typing as npt
import ufl
from mpi4py import MPI
from dolfinx.fem import Constant, DirichletBC, Function, FunctionSpace
from dolfinx.fem.petsc import LinearProblem, NonlinearProblem
from petsc4py import PETSc

from lrsa_coupled.coupling.compat import dirichlet_conditions
from lrsa_coupled.coupling.elements import Solution, node_space
from lrsa_coupled.coupling.inputs import Evaluate, Input, at_nodes, called, input_columns
from lrsa_coupled.interfaces import Described, Features, Unknown
from lrsa_coupled.mpi import collective_errors
from lrsa_coupled.schema import Field, Schema
from lrsa_coupled.settings import nearest

if TYPE_CHECKING:
    from lrsa_coupled.training.checkpoint import ModelCard

type Scalar = complex | Constant | Callable[[], complex]


@final
class Script(Described[Unknown]):
    """Inputs and scalars that are objects of a script, as an operator sees them; their values at a solve count.

    Args:
        name: Name of the family of problems.
        inputs: The nodal inputs, in the order of the operator, and where each is found; what is complex has two columns
            a component.
        scalars: The scalars, in the same way; one of several components counts as scalars ``name_0``, ``name_1``, ...,
            a complex one as ``name_re``, ``name_im``.
        outputs: Fields of the solution.
        node_space: Where the nodes are.

    Collective: making it, and ``features``.

    Raises:
        ValueError: If an input cannot be one or has not as many components as its field, or a scalar is not a number;
            on all ranks.
    """

    def __init__(self, name: str, inputs: Mapping[Field, Input], scalars: Mapping[str, Scalar], *,
                 outputs: Sequence[Field], node_space: FunctionSpace) -> None:  # fmt: skip
        mesh = node_space.mesh
        self._comm, self._num_owned = mesh.comm, node_space.dofmap.index_map.size_local
        self._scalars = dict(scalars)
        with collective_errors(self._comm):
            for field, source in inputs.items():
                _check_size(field, input_columns(field.name, source, mesh))
            self._inputs = {field: at_nodes(field.name, source, node_space) for field, source in inputs.items()}
            names = tuple(each for key, source in scalars.items() for each in _names(key, _numbers(key, source)))
        self.schema = Schema(name, mesh.geometry.dim, tuple(inputs), names, tuple(outputs))

    def features(self, problem: Unknown) -> Features:
        """Evaluate inputs and scalars as they are now. Collective.

        What raises on one rank, such as a function of the script, raises on all; ValueError for an input that is not
        finite, or not of the size that it had.
        """
        with collective_errors(self._comm):
            columns = [np.zeros((self._num_owned, 0)), *(_finite(*item) for item in self._inputs.items())]
            numbers = {name: _numbers(name, source) for name, source in self._scalars.items()}
            names = tuple(each for name, values in numbers.items() for each in _names(name, values))
            if names != self.schema.scalars:
                raise ValueError(
                    f"scalars: expected {', '.join(self.schema.scalars)} as before, got {', '.join(names)}"
                )
        return Features(np.column_stack(columns), np.concatenate([np.zeros(0), *map(_parts, numbers.values())]))


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


def named[T](what: str, given: Mapping[str, T] | None) -> Mapping[str, T]:
    """Return what a script gives by names, nothing for None; ValueError when it is no mapping. Collective: no."""
    if not isinstance(given, Mapping | None):
        raise ValueError(f"{what} must be a dict such as {{'name': value}}, got {type(given).__name__}")
    return given or {}


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
    given = bcs if isinstance(bcs, Sequence) else [bcs]
    if bcs is not None and (bcs is not given or any(not isinstance(each, DirichletBC) for each in given)):
        got = ", ".join(type(each).__name__ for each in given)
        raise ValueError(f"bcs must be a list of DirichletBC, got {'a list of ' if bcs is given else ''}{got}")
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


def _check_size(field: Field, columns: int) -> None:
    if columns != field.components:
        raise ValueError(f"inputs: '{field.name}' has {field.components} components for the operator, got {columns}")


def _finite(field: Field, evaluate: Evaluate) -> npt.NDArray[np.float64]:
    """Evaluate an input; ValueError when it has another size than before or is not finite."""
    values = evaluate()
    _check_size(field, values.shape[1])
    if bad := int((~np.isfinite(values)).any(axis=1).sum()):
        raise ValueError(
            f"inputs: '{field.name}' must be finite, got {bad} of {len(values)} nodes of a rank that are not"
        )
    return values


def _grouped(names: Sequence[str], scalars: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Return the scalars of a script in the order of the operator's."""
    order = {name: place for place, name in reversed(list(enumerate(names)))}

    def place(item: tuple[str, Scalar]) -> int:
        first = (item[0] + suffix for suffix in ("", "_re", "_0", "_0_re"))
        return min((order[name] for name in first if name in order), default=len(names))

    return dict(sorted(scalars.items(), key=place))


def _numbers(name: str, source: Scalar) -> npt.NDArray[Any]:
    """Return the numbers of a scalar, real or complex."""
    if isinstance(source, Function):
        raise ValueError(f"scalars: '{name}' is a Function, which has values at nodes: name it under inputs")
    if isinstance(source, ufl.core.expr.Expr) and not isinstance(source, Constant):
        raise ValueError(f"scalars: '{name}' is a UFL expression: give a function, such as lambda: 2.0 * float(k)")
    value: Any = source
    if isinstance(source, Constant):
        value = source.value
    elif callable(source):
        value = called(f"scalars: '{name}'", source)
    try:
        numbers = np.atleast_1d(np.asarray(value)).ravel()
        numbers = numbers.astype(np.complex128 if np.iscomplexobj(numbers) else np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"scalars: '{name}' must be a number, a Constant or a function that returns a number, got {value!r}"
        ) from error
    if not np.isfinite(numbers).all():
        raise ValueError(f"scalars: '{name}' must be finite, got {value!r}")
    return numbers


def _parts(numbers: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    return numbers.view(np.float64)  # real and imaginary part in turn


def _names(name: str, numbers: npt.NDArray[Any]) -> list[str]:
    names = [name] if len(numbers) == 1 else [f"{name}_{k}" for k in range(len(numbers))]
    return [f"{each}_{part}" for each in names for part in ("re", "im")] if np.iscomplexobj(numbers) else names
