"""Elements of a self-contained HTML page: escaped text, tables, figures, the style sheet. Nothing is loaded from elsewhere, no script runs."""

from __future__ import annotations

import html
import itertools
import re
from collections.abc import Iterable, Sequence
from typing import final

INKS = {
    "ink": ("#1b1f24", "#e4e8ec"), "dim": ("#57606a", "#a3adb8"), "line": ("#d5dae0", "#363e47"), "learned": ("#b45309", "#ffb066"),
    "rival": ("#2f6db3", "#7db8ff"), "failed": ("#c2202b", "#ff8078"), "second": ("#0f7a5c", "#56d0a7"), "third": ("#8a3f9c", "#d79be8"),
    "fourth": ("#5c6b00", "#c5d154"), "fifth": ("#00727a", "#5fd3dc"),
}  # fmt: skip
"""Colours by name on a light and on a dark page; figures use the same names."""

PAPERS = {"paper": ("#ffffff", "#14181d"), "band": ("#f4f6f8", "#1d2329")}

OWN = "\x01"
"""Stands before the identifiers in a figure; the page puts the number of the figure there, so that no two are the same."""

_STYLE = """
:root { color-scheme: light dark; %(light)s }
@media (prefers-color-scheme: dark) { :root { %(dark)s } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, "Segoe UI", "Noto Sans", sans-serif; }
main { max-width: 76rem; margin: 0 auto; padding: 1.5rem clamp(0.8rem, 3vw, 2.5rem) 4rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 0.5rem; }
h2 { font-size: 1.3rem; margin: 3rem 0 0.5rem; padding-top: 0.6rem; border-top: 2px solid var(--line); }
h3 { font-size: 1.05rem; margin: 2rem 0 0.4rem; }
p, ul { max-width: 48rem; margin: 0.4rem 0 0.8rem; overflow-wrap: break-word; }
a { color: var(--rival); }
.lead { font-size: 1.1rem; }
.note { color: var(--dim); font-size: 0.88rem; }
.scroll { overflow-x: auto; margin: 0.5rem 0; }
.raw { max-height: 36rem; overflow: auto; }
table { border-collapse: collapse; font-size: 0.92rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.28rem 0.75rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th { font-weight: 500; }
thead th { color: var(--dim); font-weight: 500; vertical-align: bottom; border-bottom: 2px solid var(--line); background: var(--paper); }
.raw thead th { position: sticky; top: 0; z-index: 1; }
th:first-child { text-align: left; padding-left: 0; position: sticky; left: 0; background: var(--paper); }
.raw thead th:first-child { z-index: 2; }
td.text, th.text { text-align: left; }
tr.learned th, tr.learned td { color: var(--learned); }
tr.failed td { color: var(--failed); }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 0.15rem 1.2rem; margin: 0.8rem 0; font-size: 0.95rem; }
dt { color: var(--dim); }
dd { margin: 0; overflow-wrap: anywhere; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%%, 24rem), 1fr)); gap: 1.5rem 2rem; margin: 1rem 0; }
figure { margin: 0; }
figure svg { display: block; width: 100%%; height: auto; max-width: 40rem; }
figcaption { font-size: 0.95rem; margin-bottom: 0.3rem; }
summary { cursor: pointer; font-weight: 600; margin: 1.5rem 0 0.5rem; }
@media (max-width: 40rem) { th[scope="row"], thead th:first-child { white-space: normal; min-width: 7rem; } th, td { padding: 0.28rem 0.5rem; } }
@media (max-width: 30rem) { body { font-size: 15px; } .lead { font-size: 1rem; } }
@media print { .raw { max-height: none; } }
"""


@final
class Html(str):
    """Markup, as opposed to text."""

    __slots__ = ()


def escape(text: object) -> Html:
    """Return text as markup that shows it; markup stays as it is."""
    if isinstance(text, Html):
        return text
    return Html(
        html.escape("".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in str(text)))
    )


def element(tag: str, *content: object, kind: str = "") -> Html:
    """Return an element; text in it is escaped."""
    return Html(f"<{tag}{_class(kind)}>{''.join(escape(part) for part in content)}</{tag}>")


def value(number: float, text: str) -> Html:
    """Return a number shown as ``text`` that keeps all its digits for machines."""
    return Html(f'<data value="{escape(repr(number))}">{escape(text)}</data>')


def table(
    rows: Sequence[Sequence[object]], *, marks: Sequence[str] = (), kind: str = "", texts: Iterable[int] = ()
) -> Html:
    """Return a table that scrolls sideways where it does not fit.

    Args:
        rows: Cells; the first row is the heading, the first column names the rows.
        marks: Class of each row below the heading, all plain when empty.
        kind: Class of the whole.
        texts: Columns of text, to the left; numbers go to the right.
    """
    left = set(texts)
    heading, *body = rows
    names = "".join(
        f'<th scope="col"{_class("text" if j in left else "")}>{escape(cell)}</th>' for j, cell in enumerate(heading)
    )
    lines = []
    for row, mark in zip(body, marks or [""] * len(body), strict=True):
        cells = "".join(
            f"<td{_class('text' if j in left else '')}>{escape(cell)}</td>" for j, cell in enumerate(row[1:], start=1)
        )
        lines.append(f'<tr{_class(mark)}><th scope="row">{escape(row[0])}</th>{cells}</tr>')
    inner = f"<table><thead><tr>{names}</tr></thead><tbody>\n" + "\n".join(lines) + "\n</tbody></table>"
    return Html(
        f'<div class="{escape(f"scroll {kind}".strip())}" tabindex="0">{inner}</div>'
    )  # in the order of tabs, to scroll by keys


def facts(pairs: Iterable[tuple[str, object]]) -> Html:
    """Return a list of names and what they stand for."""
    return Html("<dl>" + "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in pairs) + "</dl>")


def figure(svg: Html, caption: str) -> Html:
    """Return a picture with its caption above."""
    return Html(f"<figure><figcaption>{escape(caption)}</figcaption>{svg}</figure>")


def details(summary: str, *content: Html) -> Html:
    """Return what is folded away at first."""
    return Html(f"<details><summary>{escape(summary)}</summary>{''.join(content)}</details>")


def document(title: str, body: Iterable[Html]) -> str:
    """Return the whole page."""
    count = itertools.count(1)
    content = re.sub(
        "<svg.*?</svg>", lambda m: m[0].replace(OWN, f"f{next(count)}-"), "\n".join(map(escape, body)), flags=re.DOTALL
    )
    light, dark = (" ".join(f"--{name}: {pair[k]};" for name, pair in (INKS | PAPERS).items()) for k in (0, 1))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE % {'light': light, 'dark': dark}}</style>\n</head>\n<body>\n<main>\n"
        f"{content}\n</main>\n</body>\n</html>\n"
    )


def _class(kind: str) -> str:
    return f' class="{escape(kind)}"' if kind else ""
