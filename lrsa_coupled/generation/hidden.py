"""Parameters that change a problem and not what an operator sees of it, or the other way round."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from lrsa_coupled.coupling.contract import features_of, problem_of
from lrsa_coupled.coupling.residual import residual_vector
from lrsa_coupled.interfaces import Case, NumericalError, Problem

MOST = 40
"""Numbers of a tuple that are varied one by one."""
FEW = 0.25
"""Share of them that may be hidden: a field may change between the nodes only."""

type Array = npt.NDArray[Any]


def hidden_parameters(
    case: Case, first: Any, other: Any, *, comm: MPI.Comm, resolution: int
) -> Iterator[tuple[Literal["advice", "error"], str]]:
    """Vary the parameters of a sample by those of another, and yield what is hidden. Collective.

    A field that is hidden as a whole is an error, many numbers of a tuple that are an advice, and so is a field that
    changes what the operator sees and not the problem.
    """
    own = _seen_and_residual(case, first, comm, resolution=resolution)

    def changes(name: str, value: Any) -> tuple[bool, bool]:
        """Return whether what the operator sees and whether the problem changes."""
        try:
            parameters = dataclasses.replace(first, **{name: value})
            found = _seen_and_residual(case, parameters, comm, resolution=resolution)
        except (ValueError, NumericalError):  # not all parameters go together
            return True, True
        return not _is_close(comm, own[0], found[0]), not _is_close(comm, own[1], found[1])

    for field in dataclasses.fields(first):
        name, mine, others = field.name, getattr(first, field.name), getattr(other, field.name)
        if mine == others:
            continue
        seen, problem = changes(name, others)
        if problem and not seen:
            yield "error", f"'{name}' changes the problem, and no input and no scalar: the operator cannot know it"
        elif seen and not problem:
            yield (
                "advice",
                f"'{name}' changes inputs or scalars only: is it in the forms and Dirichlet data?",
            )
        elif isinstance(mine, tuple) and isinstance(others, tuple) and len(mine) == len(others):
            places = range(min(len(mine), MOST))
            found = [k for k in places if changes(name, (*mine[:k], others[k], *mine[k + 1 :])) == (False, True)]
            if len(found) > FEW * len(places):
                numbers = ", ".join(f"{name}[{place}]" for place in found)
                yield "advice", f"no input and no scalar changes with {numbers}, but the problem does"


def random_field(problem: Problem) -> None:
    """Put small random values into the solution. Collective."""
    owned = problem.solution.function_space.dofmap
    count = owned.index_map.size_local * owned.index_map_bs
    problem.solution.x.array[:count] = 1e-2 * np.random.default_rng(problem.mesh.comm.rank).standard_normal(count)
    problem.solution.x.scatter_forward()


def _seen_and_residual(case: Case, parameters: Any, comm: MPI.Comm, *, resolution: int) -> tuple[Array, Array]:
    """Return the features of a problem, and its residual at a random field, of this rank."""
    problem: Any = problem_of(case, comm, parameters, resolution)
    features = features_of(case, problem)
    random_field(problem)
    vector = residual_vector(problem)
    rows = vector.array_r.copy()
    vector.destroy()
    return np.concatenate([features.nodal.ravel(), features.scalars]), rows


def _is_close(comm: MPI.Comm, one: Array, other: Array) -> bool:
    close = one.shape == other.shape and bool(np.allclose(one, other, rtol=1e-9, atol=1e-12))
    return comm.allreduce(close, op=MPI.LAND)
