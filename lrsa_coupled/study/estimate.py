"""Statistics of the quantities of a case over its random parameters, to a given error or within a given time.

A pilot is solved on the mesh that counts and on coarser ones. From its costs and correlations follows what each method
will cost; one is chosen, and solves are added until the interval of the first quantity's mean is short enough.

Files: ``estimate.json`` (what was asked), ``solves/`` (see ``solves.py``), ``plan.json`` (the method chosen),
``result.json``. Another goal goes on with the solves that are there; a request that differs otherwise is refused in the
same folder. A run that was killed goes on, and its numbers are those of a run that was not: they follow from the solves
and their recorded costs. Where these matter and it was killed within the pilot, the rest of the pilot has costs of its
own; with a time to stay within all depends on the machine.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mpi4py import MPI

from lrsa_coupled import config as configuration
from lrsa_coupled.config import Config
from lrsa_coupled.coupling.failures import is_numerical
from lrsa_coupled.coupling.quantities import choose
from lrsa_coupled.files import check_kind, write_text_atomically
from lrsa_coupled.generation.source import source_digest
from lrsa_coupled.interfaces import Case
from lrsa_coupled.mpi import share
from lrsa_coupled.reading import read_json
from lrsa_coupled.settings import nearest
from lrsa_coupled.study.methods import FOLDS, FURTHER, LEARNT, METHODS, Method, OperatorMethod
from lrsa_coupled.study.pilot import SampleDraw, Study
from lrsa_coupled.study.result import Result, Statistics, read_result
from lrsa_coupled.study.sensitivity import sensitivities
from lrsa_coupled.study.solves import Ask, Solves
from lrsa_coupled.study.statistics import (
    NORMAL,
    Sampled,
    deviation,
    mean,
    probability,
    quantile,
)

logger = logging.getLogger(__name__)

HALVINGS = 3
"""Coarser meshes in the pilot at most, each half as fine as the one before."""

COARSEST = 2
"""Their resolution at least."""

LEAST_PILOT = 10
"""Samples of a pilot at least."""

TRIAL = 0.1
"""What trying an operator may take, relative to what the best other method is expected to."""

ROUNDS = 12
"""Times that solves are added at most."""

TAKE_MODEL = ("auto", "operator")
"""Methods that take a model."""

GOALS = ("error", "budget", "above", "quantiles", "sobol")
"""What may be asked anew of the same solves."""


@dataclass(frozen=True)
class Request:
    """What is asked.

    Args:
        quantities: Names, all of the case where there are none; ``error`` is that of the first.
        error: Half-width of the interval of its mean, None with a ``budget``.
        budget: Wall time of the whole run, what earlier parts of it have taken included [s].
        method: A method, or ``auto`` for the one that the pilot finds cheapest.
        above: Thresholds of the first quantity whose probability is asked.
        quantiles: Shares whose quantiles are asked.
        pilot: Samples of the pilot.
        model: Folder of an operator; ``auto`` takes it into account.
        train: Solves, on a mesh half as fine where there is one, on which method ``operator`` trains one instead.
        coarser: Whether the pilot is solved on coarser meshes though the method needs none.
        sobol: Samples of Sobol indices, each of which takes a solve for every field of the parameters and two more.
    """

    quantities: tuple[str, ...] = ()
    error: float | None = None
    budget: float | None = None
    method: str = "auto"
    above: tuple[float, ...] = ()
    quantiles: tuple[float, ...] = ()
    pilot: int = 32
    model: str | None = None
    train: int | None = None
    sobol: int | None = None
    coarser: bool = False

    def __post_init__(self) -> None:
        if (self.error is None) == (self.budget is None):
            raise ValueError(f"an estimate needs an error or a budget, one of them, got {self.error} and {self.budget}")
        goal = self.budget if self.error is None else self.error
        if goal is None or not (goal > 0.0 and math.isfinite(goal)):
            raise ValueError(f"the error or budget of an estimate must be positive, got {goal}")
        if self.pilot < LEAST_PILOT:
            raise ValueError(f"the pilot of an estimate needs at least {LEAST_PILOT} samples, got {self.pilot}")
        if self.method != "auto" and self.method not in METHODS:
            raise ValueError(f"unknown method '{self.method}'{nearest(self.method, ['auto', *METHODS])}")
        if self.method == "operator" and (self.model is None) == (self.train is None):
            raise ValueError(
                "method operator needs a model (--model DIR) or solves to train one (--train N), one of them, "
                f"got {self.model} and {self.train}"
            )
        if self.train is not None and self.method != "operator":
            raise ValueError(f"train = {self.train} needs method operator, got method {self.method}")
        if self.model and self.method not in TAKE_MODEL:
            raise ValueError(f"method {self.method} takes no operator, got {self.model}: leave it out")
        if self.sobol is not None and self.sobol < 10:
            raise ValueError(f"Sobol indices need at least 10 samples, got {self.sobol}")
        if any(not 0.0 < share < 1.0 for share in self.quantiles):
            raise ValueError(f"quantiles are of shares between 0 and 1, got {self.quantiles}")


def estimate(case: Case, config: Config, request: Request, folder: Path, comm: MPI.Intracomm) -> Result:
    """Estimate statistics of the quantities of a case.

    Collective. The samples have the seed and the resolution of ``config.problem``; groups of
    ``config.generate.ranks_per_sample`` ranks solve.

    Raises:
        ValueError: For an unknown quantity or method, or a folder with another request; on all ranks.
        StoppedError: After SIGTERM or SIGUSR1; the same call goes on.
    """
    if not request.quantities:
        request = dataclasses.replace(request, quantities=tuple(quantity.name for quantity in case.quantities))
    create(case, config, request, folder, comm=comm)
    if (known := share(comm, lambda: read_result(folder))) is not None:
        return known
    study = make_study(case, config, request, folder, comm)
    method, expected, target = _choose(study, request, folder)
    sampled = reach(method, share(comm, lambda: _least_error(folder, request)), target)
    indices = {} if request.sobol is None else sensitivities(method, request.sobol)
    result = _result(method, request, expected=expected, sampled=sampled)
    result = dataclasses.replace(result, sobol=indices)
    share(comm, lambda: _write(folder, result, samples=method.least))
    study.solves.free()
    return result


def _write(folder: Path, result: Result, *, samples: int) -> None:
    """Write a result; the plan keeps of how many samples it is: what is asked beside is made of these, too."""
    plan = read_json(folder / "plan.json", infinite=True) | {"samples": samples}
    write_text_atomically(folder / "plan.json", json.dumps(plan, indent=1) + "\n")
    write_text_atomically(folder / "result.json", json.dumps(dataclasses.asdict(result), indent=1) + "\n")


def create(case: Case, config: Config, request: Request, folder: Path, *, comm: MPI.Intracomm) -> None:
    """Note what is asked in a folder, which comes before its study. Collective; errors as ``estimate``."""
    choose(case.quantities, request.quantities, of=case.name)
    share(comm, lambda: _create(case, config, request, folder))


def make_study(case: Case, config: Config, request: Request, folder: Path, comm: MPI.Intracomm) -> Study:
    """Solve the pilot of a request, and train an operator where it asks for one. Collective; errors as ``estimate``."""
    quantities = choose(case.quantities, request.quantities, of=case.name)
    resolutions = share(comm, lambda: _resolutions(case, config))
    if request.method == "operator" and case.points is None:
        raise ValueError(
            f"the operator of '{case.name}' needs features without a mesh: give the case points, a "
            "PointSampling of lrsa_coupled.coupling.quantities"
        )
    seed = config.problem.test_seed
    draw = SampleDraw(case, seed)
    names = tuple(quantity.name for quantity in quantities)
    model, seconds = None if request.model is None else Path(request.model), dict[str, float]()
    if request.train is not None:
        from lrsa_coupled.study.operator_model import trained  # torch comes with it

        model, seconds = trained(case, config, folder, comm=comm, samples=request.train, resolution=resolutions[:2][-1])
    solves = Solves(case, config, folder, comm=comm, quantities=quantities, draw=draw, model=model)
    coarser = request.method in ("auto", "mlmc", "mfmc") or request.coarser
    study = Study(
        case, comm, solves, names, resolutions if coarser else resolutions[:1], request.pilot, seed,
        model=model, settings=config.guess, seconds=seconds,
    )  # fmt: skip
    return _without_failing_meshes(study)


def _without_failing_meshes(study: Study) -> Study:
    """Leave out coarser meshes on which samples of the pilot fail: the rest would be a choice. Collective."""
    finest, *coarser = study.resolutions
    study.solves.ask([Ask(resolution, index) for index in range(study.pilot) for resolution in study.resolutions])
    failed = {answer.ask for answer in study.solves.answers.values() if answer.values is None}
    bad = [n for n in coarser if any(Ask(n, i) in failed and Ask(finest, i) not in failed for i in range(study.pilot))]
    if bad:
        logger.info("left out, as solves of the pilot fail there: resolution %s", ", ".join(map(str, bad)))
    study = dataclasses.replace(study, resolutions=tuple(n for n in study.resolutions if n not in bad))
    solved = len(study.pilots)
    if solved < LEAST_PILOT:
        raise ValueError(f"only {solved} of {study.pilot} samples of the pilot are solved, {LEAST_PILOT} at least")
    return study


def _resolutions(case: Case, config: Config) -> tuple[int, ...]:
    """Return the resolution that counts and coarser ones that the case has meshes of."""
    finest = config.problem.resolution or case.resolution
    found, parameters = [finest], SampleDraw(case, 0)(0, 0)
    for halving in range(1, HALVINGS + 1):
        coarse = finest // 2**halving
        if coarse < COARSEST:
            break
        try:
            case.mesh(MPI.COMM_SELF, parameters, coarse)
        except Exception as error:
            if not isinstance(error, ValueError) and not is_numerical(error):
                raise
            logger.info("no mesh of resolution %d: %s", coarse, error)
            break
        found.append(coarse)
    return tuple(found)


def _create(case: Case, config: Config, request: Request, folder: Path) -> None:
    """Note what is asked, or compare it with what the folder is of; a smaller error has the method chosen again."""
    problem = {"case": case.name, "options": dataclasses.asdict(case.options), "rtol": case.rtol}
    problem["source"] = source_digest(case)
    place = {"seed": config.problem.test_seed, "resolution": config.problem.resolution or case.resolution}
    asked = json.loads(json.dumps(problem | place | dataclasses.asdict(request)))
    path = folder / "estimate.json"
    check_kind(folder, "estimate.json")
    if path.is_file():
        known = read_json(path)
        changed = [key for key, value in asked.items() if known.get(key) != value]
        if "source" in changed:
            raise ValueError(
                f"{folder} holds an estimate of the case as it was before its source changed, "
                "quantities included: take another folder"
            )
        for key in changed:
            if key not in GOALS:
                raise ValueError(
                    f"{folder} holds an estimate with {key} = {known.get(key)}, not {asked[key]}: take another folder"
                )
        if not changed or (changed == ["error"] and _is_reached(folder, request)):
            if changed:
                logger.info("%s holds the estimate with a smaller error already, which stays", folder)
            return
        if {"error", "budget"} & {*changed} and not _is_reached(folder, request):
            (folder / "plan.json").unlink(missing_ok=True)
        (folder / "result.json").unlink(missing_ok=True)
    configuration.save(config, folder)
    write_text_atomically(path, json.dumps(asked, indent=1) + "\n")


def _least_error(folder: Path, request: Request) -> float | None:
    """Return the error to reach, that of a plan that stays where it is smaller; None for a budget."""
    planned = read_json(folder / "plan.json", infinite=True).get("error")
    return request.error if request.error is None or planned is None else min(request.error, planned)


def _is_reached(folder: Path, request: Request) -> bool:
    """Return whether the result that is there has the error asked for."""
    result = read_result(folder)
    first = None if result is None else next(iter(result.quantities.values())).mean
    return first is not None and request.error is not None and first.half_width <= request.error


def _choose(study: Study, request: Request, folder: Path) -> tuple[Method, dict[str, float], float]:
    """Return the method, what each will cost, and the target; those of an earlier part of the run. Collective."""
    path = folder / "plan.json"
    known = share(study.comm, lambda: read_json(path, infinite=True) if path.is_file() else {})
    if known:
        method = METHODS[known["method"]](study)
        method.least = known.get("samples", 0)
        return method, known["expected"], known["target"]
    names = [request.method]
    if request.method == "auto":
        has_operator = study.model is not None and study.case.points is not None
        names = [name for name in METHODS if name != OperatorMethod.name or has_operator]
        if study.model is not None and not has_operator:
            logger.info("operator: left out, the case has no points to evaluate it at; solves begin from it")
    methods = {name: METHODS[name](study) for name in names}
    targets: dict[str, float] = {}
    expected: dict[str, float] = {}
    for name, method in methods.items():
        if isinstance(method, OperatorMethod) and expected:
            cost = _cost_of_trying(method, study)
            if cost > TRIAL * (min(expected.values()) if request.budget is None else _room(study, request)):
                logger.info("%s: left out, to try it would take %.3g s x ranks", name, cost)
                continue
        targets[name] = _target(study, method, request)
        expected[name] = method.expected(targets[name])
        width, text = NORMAL * math.sqrt(targets[name]), method.describe(targets[name])
        logger.info("%s: +- %.3g for about %.3g s x ranks (%s)", name, width, expected[name], text)
    least = expected if request.budget is None else targets
    name = min(least, key=least.__getitem__)
    plan = {"method": name, "expected": expected, "target": targets[name], "error": request.error}
    share(study.comm, lambda: write_text_atomically(path, json.dumps(plan, indent=1) + "\n"))
    return methods[name], expected, targets[name]


def _target(study: Study, method: Method, request: Request) -> float:
    """Return the variance to reach: for the error, or what the budget allows."""
    if request.error is not None:
        return (request.error / NORMAL) ** 2
    room = _room(study, request)
    spread = float(np.var(study.pilots[:, 0, 0], ddof=1)) or 1e-300
    low, high = 1e-12 * spread, spread / study.pilot
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if method.expected(middle) > room else (low, middle)
    return high


def _cost_of_trying(method: OperatorMethod, study: Study) -> float:
    """Return what it takes to see what an operator is worth, by four evaluations, wall time x ranks [s]. Collective."""

    def each() -> float:
        readout, points = method.make()[0], [study.draw(index) for index in range(4)]
        readout.moments(points[:2])  # the first evaluation is slower
        begun = time.perf_counter()
        readout.moments(points[2:])
        return (time.perf_counter() - begun) / 2.0

    return share(study.comm, each) * (study.pilot + FOLDS * FURTHER + LEARNT)


def _room(study: Study, request: Request) -> float:
    """Return the budget, wall time x ranks [s]."""
    assert request.budget is not None
    return request.budget * study.comm.size


def reach(method: Method, error: float | None, target: float) -> dict[str, Sampled]:
    """Add solves, first what the target variance takes, until an error, if any, is reached. Collective."""
    name = method.study.names[0]
    for _ in range(ROUNDS):
        sampled = method.sampled(target) if error is None else method.step(target)
        found = mean(sampled[name])
        unit, count = "" if error is None else f", {error:.3g} asked", len(method.study.solves.asked)
        logger.info("%s: %.6g +- %.3g after %d solves%s", name, found.value, found.half_width, count, unit)
        if error is None or found.half_width <= error:
            break
        target *= min(max((error / found.half_width) ** 2, 0.25), 0.95)
    return sampled


def _result(
    method: Method, request: Request, *, expected: Mapping[str, float], sampled: Mapping[str, Sampled]
) -> Result:
    study = method.study
    answers = study.solves.answers.values()  # those that another goal has taken were paid, too
    solves: dict[str, int] = {}
    failed: dict[str, int] = {}
    seconds: dict[str, float] = {}
    for answer in sorted(answers, key=lambda each: each.ask, reverse=True):
        resolution = str(answer.ask.resolution)
        solves[resolution] = solves.get(resolution, 0) + 1
        part = f"solves at resolution {resolution}"
        seconds[part] = seconds.get(part, 0.0) + answer.seconds
        if answer.values is None and answer.ask.resolution in study.resolutions:
            why = f"{answer.reason} at resolution {resolution}"
            failed[why] = failed.get(why, 0) + 1
    units = {quantity.name: quantity.unit for quantity in study.solves.quantities}
    found = {}
    for place, (name, each) in enumerate(sampled.items()):
        thresholds = request.above if place == 0 else ()
        found[name] = Statistics(
            units[name], mean(each), deviation(each),
            {f"{threshold:g}": probability(each, threshold) for threshold in thresholds},
            {f"{part:g}": quantile(each, part) for part in request.quantiles},
        )  # fmt: skip
    first, finest = found[study.names[0]].mean, str(study.resolutions[0])
    price = seconds[f"solves at resolution {finest}"] / solves[finest]
    return Result(
        method.name, dict(expected), found, solves, failed, seconds | study.seconds, first.worth * price,
        method.made_before(), request.error is None or first.half_width <= request.error,
    )  # fmt: skip
