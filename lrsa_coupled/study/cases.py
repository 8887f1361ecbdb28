"""A study of a case: its samples solved one after the other, each from what the study knows so far.

It makes the data set that ``generate`` makes, to the tolerance of the solves, and stands beside it in one thing: each
sample is solved by all ranks, from the guess that has been fastest.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import time
from collections import Counter
from typing import final

import numpy as np
from mpi4py import MPI

from lrsa_coupled import config as configuration
from lrsa_coupled.config import Config
from lrsa_coupled.coupling.failures import is_numerical
from lrsa_coupled.coupling.residual import reference_norm
from lrsa_coupled.data.format import SampleRecord
from lrsa_coupled.generation.generate import card_of
from lrsa_coupled.generation.plan import sample_parameters
from lrsa_coupled.generation.sample_arrays import SampleGatherer
from lrsa_coupled.generation.targets import Targets
from lrsa_coupled.guess.coarse_mesh import CoarseMeshGuess
from lrsa_coupled.guess.guarded import GuardedSolver, kind_of
from lrsa_coupled.guess.policy import Adaptive
from lrsa_coupled.interfaces import Case, InitialGuess, Problem, SolveResult
from lrsa_coupled.logs import progress
from lrsa_coupled.mpi import StopSignals, share
from lrsa_coupled.study.learn import Learner
from lrsa_coupled.study.study import NAMES, UNLIMITED, Learning, Study

logger = logging.getLogger(__name__)

TRIAL = 6
"""Solves after which a study says what is to be expected."""


@final
class CaseLearner:
    """Solves problems of a case by what a study knows. Collective: all methods.

    Args:
        case: A case whose samples do not depend on each other.
        config: Settings of the problems, of guesses, and the coarser meshes of nested iteration.
        study: Data, models and account.

    Attributes:
        policy: Decisions and costs.
    """

    def __init__(self, case: Case, config: Config, study: Study) -> None:
        self.case, self.config, self.study = case, config, study
        coarse = coarse_of(case, config)
        self._targets = Targets(case, config.generate)
        self._coarse: list[InitialGuess] = [] if coarse is None else [coarse]
        self.policy = Adaptive(config.guess, [*(guess.name for guess in self._coarse), *NAMES])
        self.policy.without = frozenset(guess.name for guess in self._coarse)
        self._learner: Learner | None = None
        self._kinds: Counter[str] = Counter()

    def solve(self, problem: Problem, atol: float, gatherer: SampleGatherer | None = None, *, index: int = -1,
              parameters: str = "{}") -> SolveResult:  # fmt: skip
        """Solve a problem and learn from it; the sample has the index and the parameters.

        ``gatherer`` is that of the mesh, where somebody else writes the sample.
        """
        learner = self._learner_of(problem)
        learner.before(gatherer)
        self._kinds[kind_of(problem)] += 1
        with self._targets.target(problem, atol) as target:
            result = GuardedSolver([*self._coarse, *learner.guesses], target, self.policy).solve()
        learner.after(result, index=index, parameters=parameters)
        return result

    def destroy(self) -> None:
        """Free what is kept from solve to solve."""
        self._targets.destroy()

    def measured(self) -> tuple[dict[str, float], dict[str, float]]:
        """Return the mean time of a solve [s] and the expected error, by choice, for problems of the usual size."""
        kind = max(self._kinds, key=self._kinds.__getitem__, default="")
        costs = {name: cost for name, (cost, _) in self.policy.costs(kind).items()}
        return costs, dict(self.policy.prospects or {})

    def _learner_of(self, problem: Problem) -> Learner:
        """Return what learns from a problem: of a case on one mesh the same for all."""
        if self._learner is None or self.case.fixed_mesh is None:
            settings = self.config.guess
            self._learner = Learner(self.study, problem, self.case, policy=self.policy, settings=settings)
        self._learner.what = problem
        return self._learner


@final
class CaseStudy:
    """Solves the samples of a case that a folder lacks. Collective: all methods.

    Args:
        case: A case whose samples do not depend on each other.
        config: Settings of the problems, of guesses, and the coarser meshes of nested iteration.
        learning: The folder, and how it learns; ``solves`` is the number of samples.
        comm: Ranks, which share every sample.

    Attributes:
        study: Data, models and account.
        learner: What solves.
        failed: Samples of this run that were not solved.
        setups: Times of meshes and problems [s].

    Raises:
        ValueError: If the case has trajectories or problems that no solver of its own solves from a guess, or the
            folder holds another data set.
    """

    def __init__(self, case: Case, config: Config, learning: Learning, comm: MPI.Intracomm) -> None:
        if case.trajectory is not None:
            raise ValueError(f"study is of samples that do not depend on each other, those of '{case.name}' are steps")
        self.case, self.config, self.comm = case, config, comm
        self.study = Study(dataclasses.replace(learning, overhead=UNLIMITED), card_of(case, config), comm)
        share(comm, lambda: configuration.save(config, self.study.folder))
        self.learner = CaseLearner(case, config, self.study)
        self.failed = 0
        self.setups: list[float] = []
        self._problem: Problem | None = None

    def run(self) -> str:
        """Solve what is missing, until a signal comes; return its name, empty without one."""
        log, total = self.study.log, self.study.learning.solves or 0
        missing = share(self.comm, lambda: sorted(set(range(total)) - (log.present if log else set())))
        with StopSignals() as stop:
            for done, index in enumerate(progress(missing, description=f"study of {self.case.name}")):
                if self.comm.allreduce(stop.name, op=max):
                    break
                if done == TRIAL < len(missing) // 2:
                    self._say_what_to_expect(len(missing))
                self._solve(index)
        stopped = self.comm.allreduce(stop.name, op=max)
        self.learner.destroy()
        self.study.close()
        return stopped

    def _say_what_to_expect(self, solves: int) -> None:
        from lrsa_coupled.study.forecast import expected  # which runs studies

        costs, errors = self.learner.measured()
        if self.comm.rank == 0 and any(math.isfinite(cost) for cost in costs.values()):
            apart = float(np.median(self.setups or [0.0]))
            found = expected(costs, errors, solves, cores=self.study.cores, apart=apart)
            logger.info("expected after %d solves: %s", TRIAL, "; ".join(str(found).split("\n")))

    def _solve(self, index: int) -> None:
        case = self.case
        parameters = sample_parameters(case, self.config.problem.training_seed, index)
        text = json.dumps(dataclasses.asdict(parameters))
        started = time.perf_counter()
        try:
            problem = self._set_up(parameters)
            self.setups.append(time.perf_counter() - started)
            result = self.learner.solve(problem, case.rtol * reference_norm(problem), index=index, parameters=text)
        except Exception as error:
            if not is_numerical(error):
                raise
            result = SolveResult(False, f"{type(error).__name__}: {error}".splitlines()[0], "", 0, float("nan"))
            self._fail(index, text, result, time.perf_counter() - started)
            return
        if not result.converged:
            self._fail(index, text, result, time.perf_counter() - started)

    def _fail(self, index: int, parameters: str, result: SolveResult, seconds: float) -> None:
        self.failed += 1
        rest = result.reason, parameters, result.iterations, result.residual, seconds, None
        if self.comm.rank == 0:
            self.study.keep(SampleRecord(index, "failed", *rest))

    def _set_up(self, parameters: object) -> Problem:
        fixed = self.case.fixed_mesh
        if fixed is not None and self._problem is not None:
            return fixed.update(self._problem, parameters)
        resolution = self.config.problem.resolution or self.case.resolution
        self._problem = self.case.problem(self.case.mesh(self.comm, parameters, resolution), parameters)
        return self._problem


def coarse_of(case: Case, config: Config) -> CoarseMeshGuess | None:
    """Return nested iteration where the case has it and the settings ask for it."""
    count = config.bench.coarse_meshes
    if case.interpolation is None or count is None:
        return None
    resolution = config.problem.resolution or case.resolution
    coarser = [resolution // 2**k for k in range(count, 0, -1) if resolution // 2**k >= 4]
    return CoarseMeshGuess(case, coarser, max_iterations=2 * config.guess.max_iterations) if coarser else None
