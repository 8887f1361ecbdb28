"""A user's script with an attached guess and a collector, which leaves out what is in the data set already."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from lrsa_coupled import Collector, LearnedGuess, attach
from lrsa_coupled.data.store import DataStore
from lrsa_coupled.guess.policy import Always
from tests.mpi.test_collect import Script

COUNT = 60


def numbers(folder: Path) -> dict[int, int]:
    """Return the indices of the samples in a data set by the number of their parameters."""
    if not (folder / "dataset.json").exists():
        return {}
    store = DataStore(folder)
    fluxes = {flux(number).tobytes(): number for number in range(COUNT)}
    return {fluxes[store.arrays(index).scalars.tobytes()]: index for index in store.solved}


def flux(number: int) -> np.ndarray:
    """Return the scalars of a sample."""
    rng = np.random.default_rng(number)
    rng.uniform(size=2)
    return rng.uniform(-1.0, 1.0, 2)


def main(data: Path, model: Path | None) -> None:
    """Collect what is missing."""
    script, missing = Script(), sorted(set(range(COUNT)) - set(numbers(data)))
    named = {"inputs": script.inputs, "scalars": script.scalars}
    if model is not None:
        attach(script.problem, LearnedGuess.load(model), **named, policy=Always())
    with Collector(data, script.problem, name="conduction", **named) as samples:
        for number in missing:
            script.set(number)
            script.problem.solve()
            samples.add()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
