"""Results as one self-contained HTML page, from ``page.html.j2``: it loads nothing and runs no script."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import jinja2
import numpy as np

from lrsa_coupled.bench import payback, plots, report, scaling
from lrsa_coupled.bench.compare import LEARNED, NEED_DATA, STAGES, Speedup, baselines_of, best_baseline, speedups
from lrsa_coupled.bench.experiments import estimates, study
from lrsa_coupled.bench.rows import Results
from lrsa_coupled.files import write_text_atomically


def write_html(group: Sequence[Results], path: Path, *, sources: Sequence[str] = ()) -> None:
    """Write a page of results, and the file of each if given, by atomic rename. Call on one rank."""
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
    groups = {case: some for case, some in scaling.by_case(group).items() if len(some) > 1}
    cases = ", ".join(dict.fromkeys(results.header.case for results in group))
    sections = list(zip(group, sources or [""] * len(group), strict=True))
    modules = {
        "payback": payback,
        "report": report,
        "scaling": scaling,
        "stages": STAGES,
        "learned": LEARNED,
        "study": study,
        "estimates": estimates,
    }
    functions = {function.__name__: function for function in (lead, fastest, figures, group_figures, np.median)}
    template = environment.get_template("page.html.j2", globals=modules | functions)
    return template.render(sections=sections, groups=groups, cases=cases)


def lead(results: Results) -> list[tuple[str, str, Speedup]]:
    """Return what the learned guess is compared with first: the best baseline, and the best one without data."""
    times = results.solved_times
    found = speedups(times)
    if not found:
        return []
    compared = {"the best baseline": best_baseline(times)}
    without_data = {name: seconds for name, seconds in times.items() if name not in NEED_DATA}
    if compared["the best baseline"] in NEED_DATA and baselines_of(without_data):
        compared["the best baseline without data"] = best_baseline(without_data)
    return [(what, name, found[name]) for what, name in compared.items()]


def fastest(results: Results) -> tuple[str, int, float] | None:
    """Return, of results without a comparison, the best baseline, the samples it solves, and its median time [s]."""
    times = results.solved_times
    best = best_baseline(times) if baselines_of(times) else ""
    return (best, len(times[best]), float(np.median([*times[best].values()]))) if times.get(best) else None


def figures(results: Results) -> dict[str, str]:
    """Return the figures of results by caption."""
    if not results.rows:
        return {}
    if results.header.study == estimates.STUDY:
        return {"Cost of an estimate": plots.svg(partial(estimates.draw, results=results))}
    if results.header.study == study.STUDY:
        return {"Wall time of the study": plots.svg(partial(plots.study, curves=study.elapsed(results)))}
    height, methods, times = 1.0 + 0.42 * len(results.methods), results.methods, results.solved_times
    found = {
        "Time of each sample": plots.svg(partial(plots.seconds, results=results), height=height),
        "Iterations of each sample": plots.svg(partial(plots.iterations, results=results), height=height),
    }
    compared = speedups(times)
    if not compared:
        return found
    if {row.sample for row in methods[LEARNED]} & {row.sample for row in methods[best_baseline(times)]}:
        caption = f"{LEARNED.capitalize()} against the best baseline, sample by sample"
        found[caption] = plots.svg(partial(plots.paired, results=results))
    ratios = {name: compared[name].ratios for name in baselines_of(compared) if compared[name].ratios}
    if ratios:
        caption = "Speed-up over each baseline, samples that both solve (their number)"
        found[caption] = plots.svg(partial(plots.sorted_ratios, ratios=ratios))
    return found


def group_figures(group: Sequence[Results]) -> dict[str, str]:
    """Return the figures of results of one case side by side, by caption."""
    found = {}
    for series in scaling.series_of(group):
        where = f"over {series.x}, {series.title}"
        if curves := series.curves(scaling.median_times):
            draw = partial(plots.scaling, curves=curves, x=series.x, y="median time [s]", slope=series.slope)
            found[f"Time {where}"] = plots.svg(draw)
        if curves := series.curves(scaling.mean_speedups):
            draw = partial(plots.scaling, curves=curves, x=series.x, y="speed-up", level=1.0)
            found[f"Speed-up {where}"] = plots.svg(draw)
    return found
