"""A disk that is full, at 20 sizes from 4 kB to 4 MB: one line, exit code 2, nothing half written; a rerun ends."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.disk import GENERATE, SOLVE
from tests.helpers import ROOT, mpiexec, needs_dolfinx, plain_environment

pytestmark = needs_dolfinx
SIZES = [4096 * min(pages, 1024) for place in range(10) for pages in (1 << place, 3 << place)]
LINE = r"lrsa-coupled: error: (No space left on device|File too large): {folder}/disk/\S+\n"
FEW = SIZES[2::4]
"""Sizes on several ranks, which take turns on few cores."""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in which ``disk`` is a file system of its own, where mounts are allowed."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "none", str(disk)], capture_output=True, check=False)
    yield tmp_path
    if mounted.returncode == 0:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize(
    ("job", "ranks"),
    [
        ("generate", 1),
        ("generate", 2),
        ("generate", 3),
        ("generate-2", 2),
        ("train", 1),
        ("solve", 1),
        ("solve", 2),
        ("solve", 3),
        ("bench", 1),
        ("collect", 1),
    ],
)
def test_a_full_disk_is_one_line(job: str, ranks: int, folder: Path) -> None:
    sizes = SIZES if ranks == 1 else FEW
    command = [sys.executable, "-m", "tests.faults.disk", str(folder), job, *map(str, sizes)]
    if ranks > 1:
        if mpiexec() is None:
            pytest.skip("no mpiexec beside the interpreter")
        command = [str(mpiexec()), "-n", str(ranks), *command]
    done = subprocess.run(
        command, cwd=ROOT, env=plain_environment(), capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    line = re.compile(LINE.format(folder=folder))
    wrong = []
    for row in rows:
        good = line.fullmatch(row["text"]) if row["code"] == 2 else row["code"] == 0 and row["text"] == ""
        print(
            f"{job:10s} {ranks} ranks, {row['size']:8d} bytes for {row['kB']} kB: exit {row['code']}",
            row["text"].strip(),
        )
        if not good or row["left"] or row["again"] != 0 or not row["same"]:
            wrong.append(row)
    assert wrong == [] and len(rows) == len(sizes)
    assert sum(row["code"] == 2 for row in rows) >= 3


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("arguments", [GENERATE, SOLVE])
def test_nothing_follows_the_line(arguments: list[str], ranks: int, folder: Path) -> None:
    """What the libraries of a process print at its end counts, too; but UCX warns of a window that an error leaves."""
    out = folder / "disk" / "out"
    if not out.parent.is_mount() or mpiexec() is None:
        pytest.skip("needs mounts and mpiexec")
    subprocess.run(["mount", "-o", "remount,size=64k", str(out.parent)], check=True)
    verb = [str(mpiexec()), "-n", str(ranks), sys.executable, "-c", "from lrsa_coupled.cli import main; exit(main())"]
    done = subprocess.run(
        [*verb, *(each.format(out=out) for each in arguments), "--quiet"],
        cwd=ROOT,
        env=plain_environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    text = "".join(line for line in done.stderr.splitlines(keepends=True) if "UCX  WARN" not in line)
    assert done.returncode == 2 and re.fullmatch(LINE.format(folder=folder), text), done.stderr
