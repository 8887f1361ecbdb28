"""What an estimate has found: kept in ``result.json``, and as a table for people."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from lrsa_coupled.reading import converted, read_json
from lrsa_coupled.study.statistics import LEVEL, Estimate


@dataclass(frozen=True)
class Statistics:
    """Of one quantity; ``above`` by threshold and ``quantiles`` by share, of the first quantity the former."""

    unit: str
    mean: Estimate
    deviation: Estimate
    above: dict[str, Estimate]
    quantiles: dict[str, Estimate]


@dataclass(frozen=True)
class Result:
    """What an estimate has found.

    Args:
        method: The method.
        expected: Cost by method as the pilot has it, wall time x ranks [s].
        quantities: Statistics by quantity.
        solves: Number of solves by resolution.
        failed: Number of those that failed by reason; they are left out of the statistics.
        seconds: Wall time x ranks by part [s]: solves by resolution, surrogates.
        plain: What plain Monte Carlo would take to the interval of the first mean: its solves at the mean cost of those
            made on the finest mesh, wall time x ranks [s].
        made_before: Data and training of a given model, by part, wall time x ranks [s]; in no other number.
        reached: Whether the error asked for is reached.
        sobol: First-order and total index by quantity and field of the parameters.
    """

    method: str
    expected: dict[str, float]
    quantities: dict[str, Statistics]
    solves: dict[str, int]
    failed: dict[str, int]
    seconds: dict[str, float]
    plain: float
    made_before: dict[str, float]
    reached: bool
    sobol: dict[str, dict[str, tuple[Estimate, Estimate]]] = field(default_factory=dict)


def read_result(folder: Path) -> Result | None:
    """Return the result of the same request that an earlier run has reached, None where there is none."""
    path = folder / "result.json"
    if not path.is_file():
        return None
    result = converted(read_json(path, infinite=True), Result, where=str(path))
    return result if result.reached else None


def table(result: Result) -> str:
    """Return a result as text."""
    lines = [f"method {result.method}, intervals of {LEVEL:.0%}"]
    for name, found in result.quantities.items():
        rows = [("mean", found.mean), ("standard deviation", found.deviation)]
        rows += [(f"quantile {part}", each) for part, each in found.quantiles.items()]
        for label, each in rows:
            unit = f" {found.unit}" * (found.unit != "1")
            lines.append(f"  {name}, {label}: {_number(each)}{unit}, worth {each.worth:.0f} plain solves")
        for threshold, each in found.above.items():
            lines.append(f"  {name}, probability above {threshold}: {_number(each)}, worth {each.worth:.0f}")
        for part, (first, total) in result.sobol.get(name, {}).items():
            lines.append(f"  {name}, Sobol indices of {part}: first {_number(first)}, total {_number(total)}")
    counts = ", ".join(f"{count} at resolution {resolution}" for resolution, count in result.solves.items())
    lines.append(f"solves: {counts}")
    lines += [f"  {count} failed: {reason}" for reason, count in sorted(result.failed.items())]
    lines += ["  the statistics are of the samples that are solved"] * bool(result.failed)
    lines += [f"  {part}: {seconds:.1f} s x ranks" for part, seconds in result.seconds.items()]
    spent = sum(result.seconds.values())
    costs = ", ".join(f"{name} {seconds:.3g}" for name, seconds in sorted(result.expected.items(), key=_second))
    lines.append(f"in all {spent:.1f} s x ranks without start-up; expected after the pilot: {costs}")
    times = f"about {result.plain:.3g} s x ranks, {result.plain / spent:.3g} times as much"
    if made := sum(result.made_before.values()):
        times += f" ({result.plain / (spent + made):.3g} times with the {made:.3g} s for the model's data and training)"
    return "\n".join([*lines, f"plain Monte Carlo to the interval of {next(iter(result.quantities))}: {times}"])


def _second(pair: tuple[str, float]) -> float:
    return pair[1]


def _number(found: Estimate) -> str:
    return f"{found.value:.5g} [{found.low:.5g}, {found.high:.5g}]"
