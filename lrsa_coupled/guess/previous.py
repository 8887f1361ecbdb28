"""The zero guess, and the solution of the problem solved before."""

from __future__ import annotations

from typing import final

import numpy as np
import numpy.typing as npt

from lrsa_coupled.coupling.residual import set_dirichlet
from lrsa_coupled.interfaces import Guess, InitialGuess, Unknown


@final
class ZeroGuess(InitialGuess):
    """Zeros, on the Dirichlet boundary too."""

    name = "zero"
    trusted = True

    def put(self, problem: Unknown) -> Guess:
        problem.solution.x.array[:] = 0.0
        return Guess()


@final
class PreviousGuess(InitialGuess):
    """The last solution on the same space with the Dirichlet values of the new problem; zeros when there is none."""

    name = "previous"
    trusted = True

    def __init__(self) -> None:
        self._values: npt.NDArray[np.float64] | None = None

    def put(self, problem: Unknown) -> Guess:
        problem.solution.x.array[:] = 0.0 if self._values is None else self._values
        if self._values is not None:
            set_dirichlet(problem)
        return Guess()

    def remember(self, problem: Unknown) -> None:
        """Take the solution of a solved problem for the next guess. Collective: no. Memory: copy."""
        self._values = problem.solution.x.array.copy()

    def forget(self) -> None:
        """Begin again with zeros. Collective: no."""
        self._values = None
