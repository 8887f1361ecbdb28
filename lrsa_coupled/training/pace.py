"""How far a run is, by its steps or by the wall clock: what the learning rate follows, when to validate and to end."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import final

import torch

from lrsa_coupled.training.group import ProcessGroup

VALIDATIONS = 12
"""Validations of a run that ends by the clock."""
AGREE_EVERY = 10
"""Steps between two agreements of several ranks on the time and on signals."""


class Pace(ABC):
    """Position of a run in its schedule, the same on all ranks.

    Attributes:
        num_ticks: Length of the schedule of the learning rate.
        tick: Where the run is in it.
        stopped: Whether a rank was asked to end.
    """

    def __init__(self, num_ticks: int, tick: int, group: ProcessGroup, *, device: torch.device | None,
                 stop: Callable[[], str] | None) -> None:  # fmt: skip
        self.num_ticks, self.tick, self.stopped = num_ticks, tick, False
        self._group, self._device, self._stop = group, device, stop

    @property
    @abstractmethod
    def pauses(self) -> bool:
        """Whether the epoch is to end after the step just taken."""

    @abstractmethod
    def validates(self, epoch: int) -> bool:
        """Return whether to validate after an epoch that did not end the run."""

    @abstractmethod
    def ends(self, epoch: int) -> bool:
        """Return whether the run ends after an epoch."""

    @abstractmethod
    def validated(self, seconds: float) -> None:
        """Note that a validation, with what is written after it, has taken ``seconds``. Collective, as ``step``."""

    @abstractmethod
    def step(self, done: int) -> None:
        """Move on after a step, the number ``done`` of the run. Collective: over the ranks of the group."""

    def _agreed(self, value: float) -> float:
        """Return the value of the first rank, and note what any is asked. Collective: over the ranks of the group."""
        both = [value if self._group.rank == 0 else 0.0, float(self._stop is not None and bool(self._stop()))]
        if self._group.reducer is not None:
            both = self._group.sum(torch.tensor(both, device=self._device)).tolist()
        self.stopped = both[1] > 0.0
        return both[0]


@final
class StepPace(Pace):
    """The pace of a run of some epochs."""

    def __init__(self, epochs: int, *, steps_per_epoch: int, every: int, done: int, group: ProcessGroup,
                 device: torch.device, stop: Callable[[], str] | None) -> None:  # fmt: skip
        super().__init__(epochs * steps_per_epoch, done, group, device=device, stop=stop)
        self._epochs, self._every = epochs, every

    @property
    def pauses(self) -> bool:
        return False

    def validates(self, epoch: int) -> bool:
        return epoch % self._every == 0

    def ends(self, epoch: int) -> bool:
        return epoch == self._epochs

    def validated(self, seconds: float) -> None:
        pass

    def step(self, done: int) -> None:
        self.tick = done
        if self._group.reducer is None or done % AGREE_EVERY == 0:
            self._agreed(0.0)


@final
class ClockPace(Pace):
    """The pace of a run that ends by the clock: time for the last validation is set aside, an epoch may end early.

    All times are those of the first rank: clocks differ, and ranks that decide by their own are in different calls.
    Collective: making it.

    Args:
        seconds: Time of the run.
        begun: When it began, in the past where a part of it was run before [s of ``time.perf_counter``].
    """

    def __init__(self, seconds: float, *, begun: float, group: ProcessGroup, device: torch.device | None,
                 stop: Callable[[], str] | None) -> None:  # fmt: skip
        super().__init__(10_000, 0, group, device=device, stop=stop)
        self._seconds, self._begun = seconds, begun
        self._interval, self._cost = seconds / VALIDATIONS, 0.0
        self._now = self._agreed(time.perf_counter() - begun)
        self._due = self._now + self._interval / 2  # soon: its time is to be known, and there is a model
        self._move()

    @property
    def pauses(self) -> bool:
        return self._over or self._is_due

    @property
    def _is_due(self) -> bool:
        return self._now >= self._due and self._now + 2.0 * self._cost < self._seconds

    @property
    def _over(self) -> bool:
        return self._now >= self._seconds - self._cost

    def validates(self, epoch: int) -> bool:
        return self._is_due

    def ends(self, epoch: int) -> bool:
        return self._over

    def validated(self, seconds: float) -> None:
        seconds = self._agreed(seconds)
        self._cost = 2.2 * seconds  # training samples, too, at the end
        self._due = self._now + seconds + max(self._interval, 20.0 * seconds)

    def step(self, done: int) -> None:
        if self._group.reducer is None or done % AGREE_EVERY == 0:
            self._now = self._agreed(time.perf_counter() - self._begun)
            self._move()

    def _move(self) -> None:
        share = self._now / max(self._seconds - self._cost, 1e-9)
        self.tick = max(0, min(self.num_ticks - 1, int(share * self.num_ticks)))
