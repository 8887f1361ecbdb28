"""Ledgers as one self-contained HTML page: what was measured, tables, plots, break-even, what failed, raw values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lrsa_coupled.bench import plots, scaling
from lrsa_coupled.bench.breakeven import break_even_note, break_even_rows
from lrsa_coupled.bench.compare import NEAREST, STAGES, Speedup, best_rival, rivals_of, solved_times, speedup
from lrsa_coupled.bench.page import Html, details, document, element, escape, facts, figure, table, value
from lrsa_coupled.bench.pictures import LEARNED
from lrsa_coupled.bench.report import cost_rows, number, remarks, speedup_rows
from lrsa_coupled.files import write_text_atomically

Ledger = Mapping[str, Any]

COST_NOTE = (
    "Seconds are medians over all samples, those not solved as they are; wall time of the slowest rank, everything counted: transfer, inference, "
    "set-up of the solver and solve. All strategies end at the same true residual. The start error is relative, in the mass-weighted L2 norm of "
    "the first output."
)
RATIO_NOTE = (
    f"Times sooner: the rival's time / that of the {LEARNED}, geometric mean over the samples that both solve; a loss is a sample where the "
    f"{LEARNED} takes longer, or fails where the rival does not. The oracle takes the best rival of each sample, which nobody can know in advance."
)
SAVING_NOTE = f"The mean saving is over the samples that the rival solves; where the {LEARNED} fails there, its time is lost. +- is its standard error."
SCALING_NOTE = "Medians over all samples, those not solved as they are; ratios are geometric means over the samples that both solve."
PLOT_NOTE = "Each mark is a sample, a cross one that was not solved; bar: quartiles and median."


def write_html(ledgers: Sequence[Ledger], path: Path, *, sources: Sequence[str] = ()) -> None:
    """Write a page of one or several ledgers by atomic rename. Call on one rank.

    Args:
        ledgers: The ledgers.
        path: The page.
        sources: Where each ledger comes from, when that is to be told.

    Raises:
        OSError: If the file cannot be written.
    """
    write_text_atomically(path, page(ledgers, sources=sources))


def page(ledgers: Sequence[Ledger], *, sources: Sequence[str] = ()) -> str:
    """Return the page; the same ledgers give the same text."""
    sources = sources or [""] * len(ledgers)
    if len(ledgers) == 1:
        return document(
            f"Start strategies: {_place(ledgers[0])}", _section(ledgers[0], source=sources[0], heading="h1")
        )
    cases = ", ".join(dict.fromkeys(ledger["case"] for ledger in ledgers))
    places = [
        f"{_place(ledger)}{f' ({source})' if source else ''}" for ledger, source in zip(ledgers, sources, strict=True)
    ]
    links = [
        element("li", Html(f'<a href="#ledger-{k}">{escape(place)}</a>')) for k, place in enumerate(places, start=1)
    ]
    body = [element("h1", f"Start strategies: {cases}"), element("nav", element("ul", *links)), *_side_by_side(ledgers)]
    for k, (ledger, source) in enumerate(zip(ledgers, sources, strict=True), start=1):
        body += [Html(f'<section id="ledger-{k}">'), *_section(ledger, source=source, heading="h2"), Html("</section>")]
    return document(f"Start strategies: {cases}, {len(ledgers)} ledgers", body)


def _place(ledger: Ledger) -> str:
    return f"{ledger['case']}, resolution {ledger['resolution']}, {ledger['ranks']} rank{'s' * (ledger['ranks'] != 1)}"


def _section(ledger: Ledger, *, source: str, heading: str) -> list[Html]:
    """Return all that the page says of one ledger."""
    times = solved_times(ledger)
    marks = ["learned" if strategy["name"] == LEARNED else "" for strategy in ledger["strategies"]]
    title = f"Start strategies: {_place(ledger)}" if heading == "h1" else _place(ledger)
    parts = [
        element(heading, title),
        *_verdict(times),
        facts([*_measured(ledger), *([("Ledger", source)] if source else [])]),
    ]
    parts += [element("h3", "Costs"), table(cost_rows(ledger), marks=marks), element("p", COST_NOTE, kind="note")]
    if rows := speedup_rows(times):
        parts += [element("h3", "Speed-up"), table(rows), element("p", RATIO_NOTE, kind="note")]
    parts += _plots(ledger, times)
    if rows := break_even_rows(ledger):
        note = element("p", f"{break_even_note(ledger)}. {SAVING_NOTE}", kind="note")
        parts += [element("h3", "Break-even"), table(rows), note]
    lines = remarks(ledger) or ["Every strategy solved every sample; no fall-back was needed."]
    parts += [element("h3", "Failures and fall-backs"), element("ul", *(element("li", line) for line in lines))]
    return [*parts, details("Raw values of every sample", _raw(ledger))]


def _verdict(times: Mapping[str, Mapping[int, float]]) -> list[Html]:
    """Return a sentence on the learned guess against the best rival, and against the best classical one when that is another."""
    if LEARNED not in times or not rivals_of(times):
        return []
    best = best_rival(times)
    classical = [name for name in rivals_of(times) if name != NEAREST]
    compared = [(best, "the best rival")]
    if best not in classical and classical:
        compared.append((best_rival({name: times[name] for name in classical}), "the best classical strategy"))
    sentences = [_sentence(name, what, speedup(times[name], times[LEARNED])) for name, what in compared]
    return [element("p", " ".join(sentences), kind="lead")]


def _sentence(name: str, what: str, result: Speedup) -> str:
    if not result.compared:
        return f"No sample was solved both by the {LEARNED} and by {what}, {name}."
    pace = (
        f"ends {result.mean:.2f} times sooner than"
        if result.mean >= 1.0
        else f"takes {1.0 / result.mean:.2f} times as long as"
    )
    return (
        f"The {LEARNED} {pace} {what}, {name}: geometric mean over {result.compared} sample{'s' * (result.compared != 1)}, "
        f"ratios from {result.low:.2f} to {result.high:.2f}, {result.losses or 'no'} loss{'es' * (result.losses != 1)}."
    )


def _measured(ledger: Ledger) -> list[tuple[str, str]]:
    machine, versions = ledger.get("machine", {}), ledger.get("versions", {})
    counts = [sample["unknowns"] for sample in ledger["strategies"][0]["samples"] if "unknowns" in sample]
    spread = f", {min(counts)} to {max(counts)}" if counts and min(counts) < max(counts) else ""
    count = max(len(strategy["samples"]) for strategy in ledger["strategies"])
    return [
        ("Case", ledger["case"]),
        ("Samples", f"{count}, never trained on, seed {ledger['seed']}"),
        ("Resolution", str(ledger["resolution"])),
        ("Unknowns", f"{np.median(counts):.0f} (median{spread})" if counts else "not recorded"),
        ("Ranks", f"{ledger['ranks']}, threads a rank: {machine.get('threads_per_rank', 'not recorded')}"),
        ("Tolerance", f"residual reduced by {ledger['tolerance']:g} from that of the zero start"),
        ("Machine", f"{machine.get('processor', 'not recorded')}, {machine.get('cores', '?')} cores"),
        ("Versions", ", ".join(f"{name} {version}" for name, version in versions.items()) or "not recorded"),
    ]


def _plots(ledger: Ledger, times: Mapping[str, Mapping[int, float]]) -> list[Html]:
    strategies = [strategy for strategy in ledger["strategies"] if strategy["samples"]]
    if not strategies:
        return []
    seconds = [[s["seconds"]["total"] for s in strategy["samples"]] for strategy in strategies]
    iterations = [[s["iterations"] for s in strategy["samples"]] for strategy in strategies]
    figures = [
        figure(
            plots.strips(strategies, seconds, label="time to solution [s]", logarithmic=True), "Time of each sample"
        ),
        figure(
            plots.strips(strategies, iterations, label="iterations", logarithmic=False), "Iterations of each sample"
        ),
    ]
    if LEARNED in times and rivals_of(times):
        figures += _comparisons(ledger, times)
    return [
        element("h3", "Plots"),
        element("p", PLOT_NOTE, kind="note"),
        Html(f'<div class="figures">{"".join(figures)}</div>'),
    ]


def _comparisons(ledger: Ledger, times: Mapping[str, Mapping[int, float]]) -> list[Html]:
    best, learned = best_rival(times), times[LEARNED]
    samples = {strategy["name"]: {s["index"]: s for s in strategy["samples"]} for strategy in ledger["strategies"]}
    both = [(samples[best][index], sample) for index, sample in samples[LEARNED].items() if index in samples[best]]
    rivals = {
        name: [index for index in rival if index in learned]
        for name, rival in times.items()
        if name in rivals_of(times)
    }
    ratios = {
        name: [times[name][index] / learned[index] for index in indices] for name, indices in rivals.items() if indices
    }
    found = []
    if both:
        found.append(
            figure(plots.paired(best, both), f"{LEARNED.capitalize()} against the best rival, sample by sample")
        )
    if ratios:
        found.append(
            figure(plots.sorted_ratios(ratios), "Times sooner than each rival, samples that both solve (their number)")
        )
    return found


def _raw(ledger: Ledger) -> Html:
    heading = ["strategy", "sample", "unknowns", "solved", "iterations", *(f"{stage} [s]" for stage in STAGES)]
    rows: list[list[object]] = [[*heading, "residual", "tolerance", "start error", "remark"]]
    marks = []
    for strategy in ledger["strategies"]:
        for sample in strategy["samples"]:
            fallback = "the classical strategy took over" if sample.get("used_fallback") else ""
            remark = "; ".join(filter(None, [sample.get("reason"), fallback]))
            seconds = [value(sample["seconds"][stage], number(sample["seconds"][stage])) for stage in STAGES]
            norms = [_optional(sample.get(name)) for name in ("residual", "atol", "relative_error")]
            start = [
                strategy["name"],
                str(sample["index"]),
                str(sample.get("unknowns", "-")),
                "yes" if sample["solved"] else "no",
            ]
            rows.append([*start, value(sample["iterations"], str(sample["iterations"])), *seconds, *norms, remark])
            marks.append("" if sample["solved"] else "failed")
    return table(rows, marks=marks, kind="raw", texts=[len(rows[0]) - 1])


def _optional(norm: float | None) -> object:
    return "-" if norm is None else value(norm, f"{norm:.3e}")


def _side_by_side(ledgers: Sequence[Ledger]) -> list[Html]:
    parts = []
    for case, group in scaling.by_case(ledgers).items():
        if len(group) < 2:
            continue
        parts += [
            element("h2", f"{case}: size and ranks"),
            element("h3", "Median time [s]"),
            table(scaling.scaling_rows(group, what="time")),
        ]
        parts += [
            element("h3", "Times sooner (least to most)"),
            table(scaling.scaling_rows(group, what="times sooner")),
        ]
        parts.append(element("p", f"{SCALING_NOTE} {scaling.caution(group)}", kind="note"))
        parts += [_drawn(series) for series in scaling.series_of(group)]
    return parts


def _drawn(series: scaling.Series) -> Html:
    times, ratios = scaling.time_curves(series), scaling.ratio_curves(series)
    figures = []
    if times:
        figures.append(
            figure(
                plots.scaling(times, x=series.x, y="median time [s]", guide=series.slope),
                f"Time over {series.x}, {series.title}",
            )
        )
    if ratios:
        figures.append(
            figure(
                plots.scaling(ratios, x=series.x, y="times sooner", level=1.0),
                f"Speed-up over {series.x}, {series.title}",
            )
        )
    return Html(f'<div class="figures">{"".join(figures)}</div>')
