"""A data farm that speeds itself up: groups of ranks that solve each sample from what those before have taught.

Each group knows its own solutions; models are trained on the samples of all, by a process that the first group starts,
and taken by all groups.
"""

from __future__ import annotations

import math
from pathlib import Path

from mpi4py import MPI

from lrsa_coupled.config import Config
from lrsa_coupled.generation.generate import GenerateSummary, card_of, generate
from lrsa_coupled.generation.sample_solver import SolveBy
from lrsa_coupled.interfaces import Case
from lrsa_coupled.study.cases import UNLIMITED, CaseLearner
from lrsa_coupled.study.study import Learning, Study, free_cores


def generate_learning(
    case: Case, config: Config, folder: Path, comm: MPI.Intracomm, *, retry_failed: bool = False,
    accept_changed_case: bool = False,
) -> tuple[GenerateSummary, str]:  # fmt: skip
    """Make the samples that a folder lacks, as ``generate`` does and with its errors. Collective.

    Returns:
        The summary of ``generate``, and lines about the guesses and the gain of the first group.
    """
    groups = max(1, comm.size // config.generate.ranks_per_sample)
    cores, is_first = free_cores(comm), comm.rank < config.generate.ranks_per_sample
    learners: list[CaseLearner] = []

    def learn(group: MPI.Intracomm) -> SolveBy:
        solves = math.ceil(config.generate.samples / groups)
        learning = Learning(str(folder), solves=solves, when="beside" if is_first else "never", overhead=UNLIMITED)
        study = Study(learning, card_of(case, config), group.Dup(), groups=groups, cores=cores)  # outlives the group
        learners.append(CaseLearner(case, config, study))
        return learners[0].solve

    try:
        summary = generate(case, config, folder, comm, retry_failed=retry_failed,
                           accept_changed_case=accept_changed_case, learn=learn)  # fmt: skip
    finally:
        for each in learners:
            each.study.close()
    text = "\n".join(f"{each.policy.summary()}\n{each.study.summary()}" for each in learners)
    for each in learners:
        each.study.comm.Free()
    return summary, text
