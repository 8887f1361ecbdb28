"""What a training without labels measures predictions with."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor


class Physics(ABC):
    """Losses of predictions for the samples of a data set that need no solution.

    Shapes: N nodes of a sample in the order of its arrays, K outputs.
    """

    @abstractmethod
    def loss(self, index: int, values_NK: Tensor) -> Tensor:
        """Return the loss of a prediction for the sample ``index``, a number with derivatives."""

    @abstractmethod
    def error(self, index: int, values_NK: Tensor) -> float:
        """Return what stands for the relative error of a prediction: its residual, that of the zero field being 1."""
