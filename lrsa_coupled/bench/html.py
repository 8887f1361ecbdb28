"""Results as one self-contained HTML page, from ``page.html.j2``: it loads nothing and runs no script."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import jinja2
import numpy as np

from lrsa_coupled.bench import payback, plots, report, scaling
from lrsa_coupled.bench.compare import LEARNED, NEAREST, STAGES, Speedup, baselines_of, best_baseline, speedup
from lrsa_coupled.bench.rows import Results
from lrsa_coupled.files import write_text_atomically


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
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    count = itertools.count()
    environment.filters["svg"] = lambda text: plots.unique_ids(text, f"f{next(count)}")
    functions = {function.__name__: function for function in (lead, facts, figures, group_figures, place)}
    environment.globals.update(
        functions, payback=payback, report=report, scaling=scaling, learned=LEARNED, stages=STAGES
    )
    groups = {case: some for case, some in scaling.by_case(group).items() if len(some) > 1}
    cases = ", ".join(dict.fromkeys(results.header.case for results in group))
    sections = list(zip(group, sources or [""] * len(group), strict=True))
    return environment.get_template("page.html.j2").render(sections=sections, groups=groups, cases=cases)


def place(results: Results) -> str:
    """Return case, size and ranks."""
    header = results.header
    return f"{header.case}, resolution {header.resolution}, {header.ranks} {report.plural(header.ranks, 'rank')}"


def lead(results: Results) -> str:
    """Compare the learned guess with the best baseline, and with the best one without data when that is another."""
    times = results.solved_times
    baselines = baselines_of(times)
    if LEARNED not in times or not baselines:
        return ""
    best = best_baseline(times)
    compared = [(best, "the best baseline")]
    without_data = {name: times[name] for name in baselines if name != NEAREST}
    if best == NEAREST and without_data:
        compared.append((best_baseline(without_data), "the best baseline without data"))
    return " ".join(_sentence(name, what, speedup(times[name], times[LEARNED])) for name, what in compared)


def facts(results: Results) -> dict[str, str]:
    """Say what was measured, on which machine."""
    header, counts, machine = results.header, results.unknowns, results.header.machine
    spread = f", {min(counts)} to {max(counts)}" if counts and min(counts) < max(counts) else ""
    return {
        "Case": header.case,
        "Samples": f"{results.num_samples}, never trained on, seed {header.seed}",
        "Resolution": str(header.resolution),
        "Unknowns": f"{np.median(counts):.0f} (median{spread})" if counts else "not recorded",
        "Ranks": f"{header.ranks}, threads a rank: {machine.get('threads_per_rank', 'not recorded')}",
        "Tolerance": f"residual reduced by {header.rtol:g} from that of the zero guess" if header.rtol else "-",
        "Machine": f"{machine.get('processor', 'not recorded')}, {machine.get('cores', '?')} cores",
        "Versions": ", ".join(f"{name} {version}" for name, version in header.versions.items()) or "not recorded",
    }


def figures(results: Results) -> dict[str, str]:
    """Return the figures of results by caption."""
    if not results.rows:
        return {}
    found = {
        "Time of each sample": plots.strips(results, plots.seconds),
        "Iterations of each sample": plots.strips(results, plots.iterations),
    }
    times, methods = results.solved_times, results.methods
    if LEARNED not in methods or not baselines_of(methods):
        return found
    if {row.sample for row in methods[LEARNED]} & {row.sample for row in methods[best_baseline(times)]}:
        found[f"{LEARNED.capitalize()} against the best baseline, sample by sample"] = plots.paired(results)
    ratios = {
        name: [time / times[LEARNED][index] for index, time in times[name].items() if index in times[LEARNED]]
        for name in baselines_of(times)
    }
    if any(ratios.values()):
        svg = plots.sorted_ratios({name: some for name, some in ratios.items() if some})
        found["Speed-up over each baseline, samples that both solve (their number)"] = svg
    return found


def group_figures(group: Sequence[Results]) -> dict[str, str]:
    """Return the figures of results of one case side by side, by caption."""
    found = {}
    for series in scaling.series_of(group):
        where = f"over {series.x}, {series.title}"
        if curves := series.curves(scaling.median_time):
            found[f"Time {where}"] = plots.scaling(curves, series.x, y="median time [s]", slope=series.slope)
        if curves := series.curves(scaling.mean_speedup):
            found[f"Speed-up {where}"] = plots.scaling(curves, series.x, y="speed-up", level=1.0)
    return found


def _sentence(name: str, what: str, result: Speedup) -> str:
    if not result.compared:
        return f"No sample is solved both by the {LEARNED} and by {what}, {name}."
    faster = result.mean >= 1.0
    pace = f"{result.mean:.2f} times faster" if faster else f"{1.0 / result.mean:.2f} times slower"
    samples = f"{result.compared} {report.plural(result.compared, 'sample')}"
    losses = f"{result.losses or 'no'} {'loss' if result.losses == 1 else 'losses'}"
    spread = f"geometric mean over {samples}, ratios from {result.low:.2f} to {result.high:.2f}, {losses}"
    return f"The {LEARNED} is {pace} than {what}, {name}: {spread}."
