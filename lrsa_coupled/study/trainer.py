"""The trainer of a study: a process of its own, of low priority, that ends with the one that has started it.

A model is finished when its folder ``models/<number of samples>`` exists: it is trained beside it and renamed. Nothing
of a training that fails, hangs or is killed is ever seen by the solver.
"""

from __future__ import annotations

import ctypes
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import final

from lrsa_coupled.data.models import MODELS, model_path, newest_model

logger = logging.getLogger(__name__)

LAUNCHERS = ("PMI", "OMPI_", "MPI_", "HYDRA", "HYDI", "MV2_", "SLURM", "PALS_", "FLUX_")
"""Beginnings of the variables by which an MPI library takes a process for a rank."""

CARD = "model.json"
CODE = """import sys
from lrsa_coupled.study.trainer import obey
obey(int(sys.argv.pop(1)))
from lrsa_coupled.cli import main
sys.exit(main())"""
MOST_FAILURES = 2
STOPPED = 3
"""Exit code of a training that a signal has ended early, with its best weights so far."""


@final
class Trainer:
    """Trains operators on the data of a study, one after the other, each from the weights of the last.

    Collective: no; for rank 0.

    Args:
        folder: The data set; models are in its folder ``models``.
        niceness: By which a training gives way to other processes.

    Attributes:
        given_up: Whether too many trainings have failed one after the other.
    """

    def __init__(self, folder: Path, *, niceness: int = 19) -> None:
        self.folder, self.niceness = folder.resolve(), niceness
        self.models = self.folder / MODELS
        self.given_up = False
        self._failures, self._samples, self._until = 0, 0, 0.0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """Whether a training runs."""
        return self._process is not None

    def newest(self) -> Path | None:
        """Return the finished model of most samples, None when there is none."""
        return newest_model(self.folder)

    def start(self, samples: int, minutes: float) -> None:
        """Start a training of some minutes on the samples on disk. OSError when that is not possible."""
        self._samples, self._until = samples, time.monotonic() + 90.0 * minutes + 60.0
        shutil.rmtree(self._part, ignore_errors=True)
        self.models.mkdir(parents=True, exist_ok=True)
        nice = ["nice", "-n", str(self.niceness)] if self.niceness else []
        words = [*nice, *command(self.folder, self._part, minutes, self.newest())]
        environment = {key: value for key, value in os.environ.items() if not key.startswith(LAUNCHERS)}
        with open(self.models / "trainer.log", "wb") as log:
            self._process = subprocess.Popen(
                words, env=environment | {"OMP_NUM_THREADS": "1"}, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def poll(self) -> Path | None:
        """Return the folder of a model that has been finished since the last call, None when there is none."""
        if self._process is None:
            return None
        code = self._process.poll()
        if code is None:
            if time.monotonic() <= self._until:
                return None
            self._end(signal.SIGKILL)
        finished = self._finish(code) if code in (0, STOPPED) else None
        if finished is None:
            self._fail("it did not end in time" if code is None else f"exit code {code}: {self._last_line()}")
        else:
            self._failures = 0
        self._process = None
        return finished

    def stop(self, patience: float = 3.0) -> None:
        """End a training that runs; its best weights so far stay."""
        if self._process is None:
            return
        self._end(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(patience)
        self._end(signal.SIGKILL)
        self._finish(self._process.wait())
        self._process = None

    @property
    def _part(self) -> Path:
        return self.models / f".{self._samples:06d}.part"

    def _finish(self, code: int) -> Path | None:
        """Give a model its name; None when the training has left none."""
        done = model_path(self.folder, self._samples)
        if not (self._part / CARD).is_file() or done.exists():
            shutil.rmtree(self._part, ignore_errors=True)
            return None
        try:
            self._part.rename(done)
        except OSError as error:
            logger.warning("the model of %d samples cannot be kept: %s", self._samples, error)
            return None
        logger.info("a model of %d samples is there (exit code %d)", self._samples, code)
        return done

    def _fail(self, reason: str) -> None:
        self._failures += 1
        self.given_up = self._failures >= MOST_FAILURES
        shutil.rmtree(self._part, ignore_errors=True)
        text = "no further one is tried" if self.given_up else "the study goes on without"
        logger.warning("a training has failed, %s: %s (see %s)", text, reason, self.models / "trainer.log")

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def _last_line(self) -> str:
        try:
            lines = (self.models / "trainer.log").read_text(encoding="utf-8", errors="replace").split("\n")
        except OSError:
            return ""
        return next((line.strip() for line in reversed(lines) if line.strip()), "")


def command(data: Path, out: Path, minutes: float, initial: Path | None) -> list[str]:
    """Return the words of the command that trains."""
    words = [sys.executable, "-c", CODE, str(os.getpid()), "train", str(data), "--out", str(out)]
    words += ["--minutes", f"{minutes:.3f}"]
    return words + (["--set", f"training.initial={initial}"] if initial is not None else [])


def obey(parent: int) -> None:
    """Have this process killed when its parent ends, however that ends."""
    with suppress(OSError, AttributeError):  # of Linux only
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        sys.exit(1)
