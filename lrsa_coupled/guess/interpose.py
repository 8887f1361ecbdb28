"""Stands in for the solver of a DOLFINx problem while the problem's own ``solve`` runs.

The user's ``solve``, of a subclass too, runs once and as it is: what it assembles, asserts, prints and returns is its
own. Only its call of ``solver.solve(b, x)`` comes here. Outside of it the problem has its PETSc object.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any, final

from dolfinx.fem.petsc import LinearProblem, NonlinearProblem
from petsc4py import PETSc

type Solve = Callable[[PETSc.Vec | None, PETSc.Vec | None], None]


@final
class _StandIn:
    """Everything of a PETSc solver but for its ``solve``."""

    def __init__(self, solver: PETSc.SNES | PETSc.KSP, solve: Solve) -> None:
        object.__setattr__(self, "_solver", solver)
        object.__setattr__(self, "_solve", solve)

    __class__ = property(lambda self: type(self._solver))

    def __repr__(self) -> str:
        return repr(self._solver)

    def __eq__(self, other: object) -> bool:
        return self._solver == (other._solver if type(other) is _StandIn else other)

    def __hash__(self) -> int:
        return hash(self._solver)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._solver, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._solver, name, value)

    def solve(self, b: PETSc.Vec | None = None, x: PETSc.Vec | None = None) -> None:
        """Solve as the solver does, by another way."""
        self._solve(b, x)


def interpose(
    problem: LinearProblem | NonlinearProblem, solver: PETSc.SNES | PETSc.KSP, solve: Solve
) -> Callable[[], None]:
    """Send the solves of a problem through ``solve(b, x)``; returns what ends that. Collective: no.

    What the problem had as ``solve``, its class's or one of its own, is what runs.
    """
    own = vars(problem).get("solve")
    previous = getattr(own, _RELEASE, None)
    if previous is not None:  # attached before
        previous()
        own = vars(problem).get("solve")
    owner = weakref.ref(problem)  # no cycle: PETSc objects are destroyed on all ranks when the script drops the problem

    def run(*args: Any, **kwargs: Any) -> Any:
        found = owner()
        assert found is not None
        places = [name for name, value in vars(found).items() if value is solver]
        stand_in = _StandIn(solver, solve)
        try:
            vars(found).update(dict.fromkeys(places, stand_in))
            return own(*args, **kwargs) if own is not None else type(found).solve(found, *args, **kwargs)
        finally:
            vars(found).update({name: solver for name in places if vars(found).get(name) is stand_in})

    def release() -> None:
        found = owner()
        if found is not None and vars(found).get("solve") is run:
            del found.solve
            if own is not None:
                found.solve = own

    functools.update_wrapper(run, type(problem).solve)
    setattr(run, _RELEASE, release)
    problem.solve = run
    return release


_RELEASE = "ends_attachment"
