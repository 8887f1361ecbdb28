"""What a study of a case would cost and save, from a few of its solves."""

from __future__ import annotations

import dataclasses
import math
import tempfile
from dataclasses import dataclass
from typing import final

import numpy as np
from mpi4py import MPI

from lrsa_coupled.config import Config
from lrsa_coupled.guess.record import DEFAULT, LEARNED
from lrsa_coupled.interfaces import Case
from lrsa_coupled.mpi import share
from lrsa_coupled.study import economy
from lrsa_coupled.study.cases import TRIAL, CaseStudy
from lrsa_coupled.study.study import Learning


@final
@dataclass(frozen=True)
class Forecast:
    """Expectations for a study.

    Args:
        solves: Its length.
        default: Time of a default solve [s].
        best: The fastest choice that needs no training.
        cheap: Its time of a solve [s].
        learned: Expected time of a solve with a model [s], None where none would be trained.
        training: Time of the trainings on another core [s].
        price: What they cost the study [s].
        apart: Time of a sample besides its solve, for mesh and set-up [s].
        saved: What is expected to be saved against the default method in all [s].
        regression: Whether regression over all solves will be among the choices, which so few do not show.
    """

    solves: int
    default: float
    best: str
    cheap: float
    learned: float | None
    training: float
    price: float
    apart: float
    saved: float
    regression: bool = False

    def __str__(self) -> str:
        total = (self.default + self.apart) * self.solves
        each = f"{self.default:.3g} s each, {self.apart:.2g} s besides for mesh and set-up"
        lines = [f"{self.solves} solves by the default method: {total:.4g} s, {each}"]
        if self.best != DEFAULT:
            lines += [f"without training: {self.cheap:.3g} s each ({self.best})"]
        if self.learned is None:
            lines += [f"training will not pay: {'the default method' if self.best == DEFAULT else self.best} is enough"]
        else:
            gain = self.cheap - self.learned
            even = economy.FIRST + math.ceil(self.price / max(gain, 1e-12))
            price = f"{self.training:.0f} s of training on a free core cost about {self.price:.3g} s"
            lines += [f"with a model: about {self.learned:.3g} s each; {price}, paid back after {even} solves"]
        faster = total / max(total - self.saved, 1e-12)
        lines += [f"expected gain: {self.saved:.3g} s, {faster:.2f} times faster"]
        if self.regression:
            lines += ["not counted: regression over all solves, which gains more with each, most with few parameters"]
        return "\n".join(lines)


def forecast(case: Case, config: Config, solves: int, *, comm: MPI.Intracomm, trial: int = TRIAL) -> Forecast:
    """Solve some samples of a case and return what a study would cost and save. Collective."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = comm.bcast(temporary)
        learning = Learning(folder, solves=trial, when="never")
        study = CaseStudy(case, config, learning, comm)
        try:
            study.run()
        finally:
            study.study.close()  # while the folder is there
        costs, errors = study.learner.measured()
        cores, apart = study.study.cores, float(np.median(study.setups or [0.0]))
        comm.Barrier()
    found = share(comm, lambda: expected(costs, errors, solves, cores=cores, apart=apart))
    return dataclasses.replace(found, regression=case.fixed_mesh is not None and solves >= economy.FIRST)


def expected(costs: dict[str, float], errors: dict[str, float], solves: int, *, cores: int,
             apart: float = 0.0) -> Forecast:  # fmt: skip
    """Return the forecast from times [s] and errors by choice; ``apart``: per sample besides its solve. Collective: no.

    ValueError when no solve was measured.
    """
    known = {name: cost for name, cost in costs.items() if math.isfinite(cost)}
    if not known:
        raise ValueError("no sample was solved often enough to say what a study would cost")
    default = known.get(DEFAULT, max(known.values()))
    best = min(known, key=known.__getitem__)
    cheap = known[best]
    situation = economy.Situation(economy.FIRST, max(solves - economy.FIRST, 0), known, errors, False, cores)
    verdict = economy.decide(situation, LEARNED)
    saved, training = (default - cheap) * solves, verdict.seconds or 0.0
    if verdict.seconds is None:
        return Forecast(solves, default, best, cheap, None, 0.0, 0.0, apart, saved)
    price = economy.price(situation, training)
    learned = economy.expected_time(situation, known, LEARNED)
    return Forecast(solves, default, best, cheap, learned, training, price, apart, saved + verdict.saved)
