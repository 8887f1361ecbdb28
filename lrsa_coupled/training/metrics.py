"""What is recorded of a run: ``metrics.jsonl``, one line an epoch, and TensorBoard's event files when asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

from lrsa_coupled.files import append_line, write_atomically


@final
class Metrics:
    """Writes the metrics of finished epochs to the folder of a run; lines after ``epoch`` are of a run that was killed.

    ValueError when TensorBoard is asked for and not installed.
    """

    def __init__(self, out: Path, *, epoch: int, tensorboard: bool) -> None:
        self._path = out / "metrics.jsonl"
        if self._path.exists():
            lines = self._path.read_bytes().splitlines()
            write_atomically({self._path: b"".join(line + b"\n" for line in lines[:epoch])})
        self._board = None
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                text = "training.tensorboard needs the package tensorboard: pip install tensorboard"
                raise ValueError(text) from error
            self._board = SummaryWriter(str(out / "tensorboard"), purge_step=epoch + 1)

    def write(self, metrics: Mapping[str, Any]) -> None:
        """Add the metrics of an epoch; ``epoch`` is one of them, ``valid`` may hold errors by field."""
        append_line(self._path, json.dumps(metrics))
        if self._board is not None:
            scalars = {name: value for name, value in metrics.items() if name not in ("epoch", "valid")}
            scalars |= {f"valid/{name}": value for name, value in metrics.get("valid", {}).items()}
            for name, value in scalars.items():
                self._board.add_scalar(name, value, metrics["epoch"])
            self._board.flush()

    def close(self) -> None:
        """Close the files."""
        if self._board is not None:
            self._board.close()
