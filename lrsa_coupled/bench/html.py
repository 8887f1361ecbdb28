"""Results as one self-contained HTML page, from ``page.html.j2``: it loads nothing and runs no script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np

from lrsa_coupled.bench import plots, scaling
from lrsa_coupled.bench.compare import LEARNED, NEAREST, STAGES, Speedup, Times, baselines_of, best_baseline, speedup
from lrsa_coupled.bench.payback import pay_back_rows, pay_backs
from lrsa_coupled.bench.report import Table, cost_rows, note, plural, remarks, speedup_rows
from lrsa_coupled.bench.rows import Results
from lrsa_coupled.files import write_text_atomically


@dataclass(frozen=True)
class Figure:
    """A figure with its caption."""

    caption: str
    svg: str


@dataclass(frozen=True)
class Section:
    """What the page says of one file of results."""

    title: str
    lead: str
    facts: Sequence[tuple[str, str]]
    results: Results
    costs: Table
    speedups: Table
    pay_back: Table
    pay_back_note: str
    figures: Sequence[Figure]
    remarks: Sequence[str]


@dataclass(frozen=True)
class Group:
    """Results of one case side by side."""

    case: str
    times: Table
    speedups: Table
    caution: str
    figures: Sequence[Figure]


def write_html(group: Sequence[Results], path: Path, *, sources: Sequence[str] = ()) -> None:
    """Write a page of one or several results by atomic rename. Call on one rank.

    Args:
        group: The results.
        path: The page.
        sources: The file of each, if any.

    Raises:
        OSError: If the file cannot be written.
    """
    write_text_atomically(path, page(group, sources=sources))


def page(group: Sequence[Results], *, sources: Sequence[str] = ()) -> str:
    """Return the page; the same results give the same text."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    figures = iter(range(10**6))
    environment.filters["svg"] = lambda text: plots.unique_ids(text, f"f{next(figures)}")
    names = sources or [""] * len(group)
    return environment.get_template("page.html.j2").render(
        sections=[_section(results, source) for results, source in zip(group, names, strict=True)],
        groups=[_group(case, some) for case, some in scaling.by_case(group).items() if len(some) > 1],
        cases=", ".join(dict.fromkeys(results.header.case for results in group)),
        learned=LEARNED,
        stages=STAGES,
    )


def _section(results: Results, source: str) -> Section:
    header, times = results.header, results.solved_times
    title = f"{header.case}, resolution {header.resolution}, {header.ranks} {plural(header.ranks, 'rank')}"
    return Section(
        title=title,
        lead=_lead(times),
        facts=[*_facts(results), *([("File", source)] if source else [])],
        results=results,
        costs=cost_rows(results),
        speedups=speedup_rows(times),
        pay_back=pay_back_rows(pay_backs(results)),
        pay_back_note=note(results),
        figures=_figures(results),
        remarks=remarks(results),
    )


def _lead(times: Times) -> str:
    """Compare the learned guess with the best baseline, and with the best one without data when that is another."""
    baselines = baselines_of(times)
    if LEARNED not in times or not baselines:
        return ""
    best = best_baseline(times)
    compared = [(best, "the best baseline")]
    without_data = {name: times[name] for name in baselines if name != NEAREST}
    if best == NEAREST and without_data:
        compared.append((best_baseline(without_data), "the best baseline without data"))
    return " ".join(_sentence(name, what, speedup(times[name], times[LEARNED])) for name, what in compared)


def _sentence(name: str, what: str, result: Speedup) -> str:
    if not result.compared:
        return f"No sample is solved both by the {LEARNED} and by {what}, {name}."
    faster = result.mean >= 1.0
    pace = f"{result.mean:.2f} times faster" if faster else f"{1.0 / result.mean:.2f} times slower"
    samples = f"{result.compared} {plural(result.compared, 'sample')}"
    losses = f"{result.losses or 'no'} {'loss' if result.losses == 1 else 'losses'}"
    spread = f"geometric mean over {samples}, ratios from {result.low:.2f} to {result.high:.2f}, {losses}"
    return f"The {LEARNED} is {pace} than {what}, {name}: {spread}."


def _facts(results: Results) -> list[tuple[str, str]]:
    header, counts = results.header, results.unknowns
    machine = header.machine
    spread = f", {min(counts)} to {max(counts)}" if counts and min(counts) < max(counts) else ""
    return [
        ("Case", header.case),
        ("Samples", f"{results.num_samples}, never trained on, seed {header.seed}"),
        ("Resolution", str(header.resolution)),
        ("Unknowns", f"{np.median(counts):.0f} (median{spread})" if counts else "not recorded"),
        ("Ranks", f"{header.ranks}, threads a rank: {machine.get('threads_per_rank', 'not recorded')}"),
        ("Tolerance", f"residual reduced by {header.rtol:g} from that of the zero guess" if header.rtol else "-"),
        ("Machine", f"{machine.get('processor', 'not recorded')}, {machine.get('cores', '?')} cores"),
        ("Versions", ", ".join(f"{name} {version}" for name, version in header.versions.items()) or "not recorded"),
    ]


def _figures(results: Results) -> list[Figure]:
    if not results.rows:
        return []
    figures = [
        Figure("Time of each sample", plots.strips(results, plots.seconds)),
        Figure("Iterations of each sample", plots.strips(results, plots.iterations)),
    ]
    times, methods = results.solved_times, results.methods
    if LEARNED not in methods or not baselines_of(methods):
        return figures
    pairs = {row.sample for row in methods[LEARNED]} & {row.sample for row in methods[best_baseline(times)]}
    if pairs:
        caption = f"{LEARNED.capitalize()} against the best baseline, sample by sample"
        figures.append(Figure(caption, plots.paired(results)))
    learned = times[LEARNED]
    ratios = {
        name: [time / learned[index] for index, time in times[name].items() if index in learned]
        for name in baselines_of(times)
    }
    if any(ratios.values()):
        svg = plots.sorted_ratios({name: some for name, some in ratios.items() if some})
        figures.append(Figure("Speed-up over each baseline, samples that both solve (their number)", svg))
    return figures


def _group(case: str, group: Sequence[Results]) -> Group:
    figures = []
    for series in scaling.series_of(group):
        place = f"over {series.x}, {series.title}"
        if curves := scaling.time_curves(series):
            svg = plots.scaling(curves, series, y="median time [s]", slope=series.slope)
            figures.append(Figure(f"Time {place}", svg))
        if curves := scaling.speedup_curves(series):
            figures.append(Figure(f"Speed-up {place}", plots.scaling(curves, series, y="speed-up", level=1.0)))
    return Group(case, scaling.time_rows(group), scaling.speedup_table(group), scaling.caution(group), figures)
