"""Contract of a case whose samples are the time steps of trajectories; imports neither torch nor dolfinx."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from lrsa_coupled.interfaces import FixedMeshCase, Problem, SequenceSolver


class TransientCase(FixedMeshCase):
    """A family of trajectories in time on one mesh; a sample is one step.

    Sample ``index`` is step ``index % num_steps`` of trajectory ``index // num_steps``; ``sample`` draws a trajectory, at its first step. The
    parameters of a step determine its problem, states before it included: ``problem`` and ``update`` solve the steps before it where they
    are not given the step that follows from the one in hand. Data generation takes whole trajectories as chains.

    Attributes:
        num_steps: Steps of a trajectory.
        extrapolations: Those of ``strategies()`` that differ in the start alone.
    """

    num_steps: int
    extrapolations: tuple[str, ...]

    @abstractmethod
    def at_step(self, parameters: Any, step: int) -> Any:
        """Return the parameters of step ``step`` of the same trajectory."""

    @abstractmethod
    def advance(self, problem: Problem) -> Problem:
        """Take the solution for the state after the step and return the problem of the next, its solution zeros. Collective."""

    @abstractmethod
    def extrapolate(self, problem: Problem, name: str) -> None:
        """Put one of ``extrapolations``, Dirichlet values included, into the solution. Collective: no."""

    @abstractmethod
    def solver(self, problem: Problem, atol: float, *, max_iterations: int | None = None) -> SequenceSolver:
        """Make the plain solver, see ``Case``, which goes on to the following steps. Collective."""
