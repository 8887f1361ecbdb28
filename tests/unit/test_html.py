"""The page of results: well formed, self-contained, escaped, and with their numbers."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest

from lrsa_coupled.bench.compare import LEARNED, NEAREST, STAGES
from lrsa_coupled.bench.html import page, write_html
from lrsa_coupled.bench.report import cost_rows, speedup_rows
from lrsa_coupled.bench.rows import Results, Row, Seconds
from tests.results import method, results

VOID = {"meta", "br", "hr", "img", "link", "input"}
NASTY = "<script>alert(\"x\")</script> & $\\frac$ 'q'"


class Reader(HTMLParser):
    """Checks that tags are balanced; collects tables, ``data`` values, text outside of figures, attributes."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.stack: list[str] = []
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.tables: list[list[list[str]]] = []
        self.values: list[float] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, text or "") for name, text in attrs]
        if tag not in VOID:
            self.stack.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        elif tag == "data":
            self.values.append(float(dict(attrs)["value"] or ""))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert "svg" in self.stack, f"<{tag}/> closes nothing in HTML"
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack and self.stack.pop() == tag, f"</{tag}> at {self.getpos()}"

    def handle_data(self, text: str) -> None:
        if self.stack[-1:] != ["style"]:
            self.words.append(text)
        if {"td", "th"} & set(self.stack[-2:]):
            self.tables[-1][-1][-1] += text

    @property
    def text(self) -> str:
        return " ".join(self.words)


def rows(name: str = "cold", slower: float = 1.0, unknowns: int = 1000) -> list[Row]:
    """Learned fails on sample 3 and is slower than ``cold`` on sample 2; ``fragile`` fails on two."""
    methods = [
        *method(name, [2.0, 8.0, 0.5123456789, 1.0]),
        *method("fragile", [1.5, 9.0, 9.0, 9.0], failed=[1, 2]),
        *method(NEAREST, [1.25, 2.0, 1.5, 1.5], guess=0.2),
        *method(LEARNED, [1.0, 1.0, 1.0, 9.0], failed=[3], guess=0.1),
    ]
    return [
        msgspec.structs.replace(
            row,
            unknowns=unknowns + row.sample,
            used_fallback=row.method == LEARNED and row.sample == 3,
            seconds=Seconds(**{stage: slower * getattr(row.seconds, stage) for stage in STAGES}),
        )
        for row in methods
    ]


@pytest.fixture
def measured() -> Results:
    return results(rows())


def test_the_page_is_well_formed_and_loads_nothing(measured: Results) -> None:
    for group in ([measured], [measured, results(rows(), resolution=16), results(rows(), ranks=2)]):
        text = page(group)
        reader = Reader(text)
        assert text.startswith("<!DOCTYPE html>") and reader.tags["svg"] >= 4 * len(group)
        loading = {"script", "link", "img", "iframe", "object", "embed", "base", "image", "foreignobject"}
        assert not loading & set(reader.tags)
        names = [value for _, name, value in reader.attributes if name == "id"]
        assert len(set(names)) == len(names)
        targets = [value for _, name, value in reader.attributes if name in ("href", "src", "xlink:href")]
        targets += re.findall(r"url\(([^)]*)\)", text)
        assert targets and {target.removeprefix("#") for target in targets} <= set(names)
        assert not any(name.startswith("on") for _, name, _ in reader.attributes)


def test_text_of_results_is_escaped_everywhere() -> None:
    nasty = results(rows(NASTY))
    header = msgspec.structs.replace(nasty.header, case=NASTY, versions={"petsc4py": NASTY})
    nasty = Results.of(header, [msgspec.structs.replace(row, reason=NASTY) for row in nasty.rows])
    other = Results.of(msgspec.structs.replace(header, resolution=16), nasty.rows)
    for group in ([nasty], [nasty, other]):
        text = page(group, sources=[NASTY] * len(group))
        reader = Reader(text)
        assert reader.tags["script"] == 0 and "<script" not in text
        assert reader.text.count(NASTY) > 10 and any(NASTY in row[-1] for row in reader.tables[-1])


def test_tables_hold_the_numbers_of_the_results(measured: Results) -> None:
    reader = Reader(page([measured]))
    costs, ratios, pay_back, raw = reader.tables
    assert costs == cost_rows(measured) and ratios == speedup_rows(measured.solved_times)
    # Less than nothing is saved: cold less learned is 1 s, 7 s and -0.4876543211 s, and 9 s are lost on sample 3.
    assert [row[:2] for row in pay_back[1:]] == [
        ["cold (best without data)", "never"],
        ["fragile", "never"],
        [NEAREST, "never"],
        [f"{NEAREST}, data available", "never"],
    ]
    assert [float(cell) for cell in pay_back[1][2:]] == [-0.372, 3.3, 4.0]
    assert len(raw) == 17 and raw[0][:5] == ["method", "sample", "unknowns", "solved", "iterations"]
    expected = []
    for row in measured.rows:
        expected += [*(getattr(row.seconds, stage) for stage in STAGES), row.residual, row.atol]
        expected += [row.start_error] if row.start_error is not None else []
    assert reader.values == expected
    last = dict(zip(raw[0], raw[-1], strict=True))
    assert (last["method"], last["sample"], last["unknowns"], last["solved"]) == (LEARNED, "3", "1003", "no")
    assert last["remark"] == "DIVERGED_MAX_IT; the default method took over"


def test_text_says_which_method_wins_what_was_measured_and_what_failed(measured: Results) -> None:
    text = Reader(page([measured], sources=["a.jsonl"])).text
    for part in (
        "is 1.55 times faster than the best baseline, nearest sample: geometric mean over 3 samples",
        "ratios from 1.25 to 2.00, 1 loss.",
        "4, never trained on, seed 1",
        "1002 (median, 1000 to 1003)",
        "residual reduced by 1e-06",
        "P 9, 2 cores",
        "petsc4py 3.25.5",
        "a.jsonl",
        "fragile: failed on 2 (DIVERGED_MAX_IT)",
        "took over on 1 of 4",
        "N* = (data 0.0167 h + training 0.0111 h)",
    ):
        assert part in text, part


def test_the_first_sentence_says_who_wins_without_a_learned_guess() -> None:
    text = Reader(page([results(method("cold", [1.0, 3.0]), method("weak", [0.1, 0.1], failed=[1]))])).text
    assert "cold is the best method: 2 of 2 samples solved, 2.000 s in the median." in " ".join(text.split())


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_it_prints_on_one_page(measured: Results, tmp_path: Path) -> None:
    more = [row for k in range(3) for row in method(f"method {k}", [3.0, 4.0, 5.0, 6.0])]
    write_html([Results.of(measured.header, [*more, *measured.rows])], tmp_path / "page.html")
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer")
    command = ("chromium", *flags, f"--print-to-pdf={tmp_path / 'page.pdf'}", str(tmp_path / "page.html"))
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    assert re.findall(rb"/Count (\d+)", (tmp_path / "page.pdf").read_bytes()) == [b"1"]


def test_every_sample_has_its_mark(measured: Results) -> None:
    time = re.findall("<svg.*?</svg>", page([measured]), flags=re.DOTALL)[0]
    marks = Counter(re.findall(r"<use [^>]*style=\"[^\"]*fill: (#\w+)", time))
    assert marks["#b45309"] == 3 and marks["#2f6db3"] == 4 + 2 + 4
    assert len(re.findall(r"<use [^>]*stroke: #c2202b", time)) == 3


def test_results_side_by_side(measured: Results) -> None:
    larger = results(rows(slower=4.0, unknowns=4000), resolution=16)
    larger = Results.of(msgspec.structs.replace(larger.header, seed=2), larger.rows)
    reader = Reader(page([larger, measured, results(rows(), ranks=2)]))
    times, ratios = reader.tables[:2]
    assert [row[:4] for row in times[1:]] == [
        ["8", "1002", "1", "4"],
        ["8", "1002", "2", "4"],
        ["16", "4002", "1", "4"],
    ]
    assert times[0][4:] == ["cold", "fragile", NEAREST, LEARNED] and times[3][7] == "4.000" and times[1][7] == "1.000"
    assert ratios[1][4].startswith("2.02 (0.51 to 8.00)")
    for part in ("Time over unknowns, 1 rank", "Speed-up over unknowns, 1 rank", "Time over ranks, resolution 8",
                 "differ in more than size and ranks: seed (1, 1, 2)"):  # fmt: skip
        assert part in reader.text
    unknown = Results(larger.header, [msgspec.structs.replace(row, unknowns=None) for row in larger.rows])
    assert "Time over resolution, 1 rank" in Reader(page([unknown, measured])).text


@pytest.mark.parametrize("methods", [
    [method("cold", [1.0])], [method("cold", [1.0], failed=[0])], [], [method(LEARNED, [1.0])],
    [method("cold", [1.0, 1.0], failed=[0]), method(LEARNED, [1.0, 1.0], failed=[1], guess=0.1)],
    [method("cold", [1e-7, 1e6]), method(LEARNED, [1.0, 1.0])],
])  # fmt: skip
def test_results_with_little_in_them_have_a_page(methods: list[list[Row]]) -> None:
    Reader(page([results(*methods)]))
    Reader(page([results(*methods), results(*methods, ranks=2)]))


def test_the_page_is_the_same_each_time_and_written_whole(measured: Results, tmp_path: Path) -> None:
    path = tmp_path / "new" / "page.html"
    write_html([measured], path)
    assert path.read_text(encoding="utf-8") == page([measured])
    assert [item.name for item in path.parent.iterdir()] == ["page.html"]
