"""A data farm that speeds itself up: groups of ranks that solve each sample from what those before have taught.

Each group knows those of its own solutions that it could afford to collect; models are trained on the samples of all,
by a process that the first group starts, and taken by all groups.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal, final

from mpi4py import MPI

from lrsa_coupled.config import Config
from lrsa_coupled.generation.generate import GenerateSummary, card_of, generate
from lrsa_coupled.generation.sample_solver import SolveBy
from lrsa_coupled.interfaces import Case
from lrsa_coupled.study.cases import CaseLearner
from lrsa_coupled.study.study import Learning, Study, free_cores


@final
class Farm:
    """Makes what solves the samples of each group, the argument ``learn`` of ``generate``. Collective: all methods.

    Args:
        case: Case of the samples.
        config: Settings, as ``generate`` has them.
        folder: The data set.
        comm: All ranks.
        when: Whether models are trained.

    Attributes:
        learners: That of the group of this rank.
    """

    def __init__(self, case: Case, config: Config, folder: Path, comm: MPI.Intracomm, *,
                 when: Literal["beside", "never"] = "beside") -> None:  # fmt: skip
        self.case, self.config, self.folder = case, config, folder
        self.groups = max(1, comm.size // config.generate.ranks_per_sample)
        self.when = when if comm.rank < config.generate.ranks_per_sample else "never"
        self.cores = free_cores(comm)
        self.learners: list[CaseLearner] = []

    def __call__(self, group: MPI.Comm) -> SolveBy:
        """Return what solves the samples of a group."""
        solves = math.ceil(self.config.generate.samples / self.groups)
        learning = Learning(str(self.folder), solves=solves, when=self.when)
        card, own = card_of(self.case, self.config), group.Dup()  # the group is freed before the study ends
        study = Study(learning, card, own, groups=self.groups, cores=self.cores)
        self.learners.append(CaseLearner(self.case, self.config, study))
        return self.learners[-1].solve

    def close(self) -> None:
        """End the training that may run. Collective: no."""
        for each in self.learners:
            each.study.close()

    def destroy(self) -> None:
        """Free what the groups keep from solve to solve, once no error has come. Collective."""
        for each in self.learners:
            each.destroy()

    def summary(self) -> str:
        """Return lines about the guesses and the gain of the group of this rank. Collective: no."""
        return "\n".join(f"{each.policy.summary()}\n{each.study.summary()}" for each in self.learners)


def generate_learning(
    case: Case, config: Config, folder: Path, comm: MPI.Intracomm, *, retry_failed: bool = False,
    accept_changed_case: bool = False,
) -> tuple[GenerateSummary, str]:  # fmt: skip
    """Make the samples that a folder lacks, as ``generate`` does and with its errors. Collective.

    Returns:
        The summary of ``generate``, and lines about the guesses and the gain of the first group.
    """
    farm = Farm(case, config, folder, comm)
    try:
        summary = generate(case, config, folder, comm, retry_failed=retry_failed,
                           accept_changed_case=accept_changed_case, learn=farm)  # fmt: skip
        farm.destroy()
    finally:
        farm.close()
    return summary, farm.summary()
