"""Changed bytes, cut files, changed JSON and HDF5: found and named, or harmless; no traceback, hang or large memory."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from tests.helpers import ROOT, plain_environment

PATIENCE = 30.0
"""Time without a line after which a mutation counts as a hang, the start of the process included [s]."""


def outcomes(kind: str, count: int) -> list[dict[str, object]]:
    """Run mutations in processes of their own; one that dies or hangs is followed by another."""
    found: list[dict[str, object]] = []
    while len(found) < count:
        arguments = [sys.executable, str(Path(__file__).with_name("fuzz.py")), kind, str(len(found)), str(count)]
        process = subprocess.Popen(arguments, env=plain_environment(), cwd=ROOT, stdout=subprocess.PIPE, text=True)
        lines: queue.Queue[str] = queue.Queue()
        reader = threading.Thread(target=lambda: [*map(lines.put, process.stdout or ()), lines.put("")], daemon=True)
        reader.start()
        begun, ended = -1, False
        with suppress(queue.Empty):
            while line := lines.get(timeout=PATIENCE):
                row = json.loads(line)
                begun = row["number"]
                found += [row] if "outcome" in row else []
            ended = True
        process.kill()
        code = process.wait()
        if len(found) < count:
            assert begun >= len(found), f"the fuzzer has not begun: exit code {code}"
            found.append({"number": begun, "what": "?", "outcome": f"died ({code})" if ended else "hangs", "MiB": 0})
    return found


@pytest.mark.parametrize(("kind", "count"), [("flips", 2000), ("truncations", 200), ("structures", 200)])
def test_fuzz(kind: str, count: int, capsys: pytest.CaptureFixture[str]) -> None:
    rows = outcomes(kind, count)
    wrong = [row for row in rows if row["outcome"] not in ("named", "harmless")]
    counts = Counter(str(row["outcome"]) for row in rows if row not in wrong)
    peak = max(float(str(row["MiB"])) for row in rows)
    with capsys.disabled():
        numbers = f"{counts['named']} named, {counts['harmless']} harmless, {len(wrong)} wrong, peak {peak:.0f} MiB"
        print(f"\n{kind}: {len(rows)} mutations, {numbers}")
    assert not wrong, "\n".join(f"{kind} {row['number']}: {row['what']}: {row['outcome']}" for row in wrong[:20])
    assert len(rows) == count and counts["named"] > 0 and peak < 1024
