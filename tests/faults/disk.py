"""A verb on a disk that fills up, at one size after the other; ``test_disk_full.py`` runs this in processes of its own.

``python -m tests.faults.disk FOLDER JOB SIZE ...``, also under mpiexec: prints a line of JSON for each size.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrsa_coupled import cli, mpi
from lrsa_coupled.bench.rows import read_rows
from lrsa_coupled.data.store import DataStore
from lrsa_coupled.training import checkpoint
from lrsa_coupled.training.resume import STATE
from tests.unit.test_training import write

ROOM = 1 << 28


class Disk:
    """A folder with room for so many bytes: mounted from memory or, where that is not allowed, a limit of each file."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.before = folder, resource.getrlimit(resource.RLIMIT_FSIZE)
        self.mounted = os.path.ismount(folder)

    def resize(self, size: int) -> None:
        """Collective."""
        if not self.mounted:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, self.before[1]))
        elif mpi.rank() == 0:
            subprocess.run(["mount", "-o", f"remount,size={size}", str(self.folder)], check=True)
        barrier()

    def clear(self) -> None:
        if mpi.rank() == 0:
            for path in self.folder.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        barrier()


def barrier() -> None:
    if mpi.size() > 1:
        mpi.world().Barrier()


def of_all_ranks(text: str) -> str:
    """Return what the ranks have printed: the one with the error prints its line. Collective."""
    return text if mpi.size() == 1 else "".join(mpi.world().allgather(text))


@contextmanager
def captured():
    """Give the text that the process writes to its second stream, C libraries included."""
    with tempfile.TemporaryFile("w+") as file:
        found: list[str] = []
        kept = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield found
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            found.append(file.read())


@dataclass(frozen=True)
class Job:
    """What runs, what of its output is compared with an undisturbed run, and what raises on half an output."""

    run: Callable[[Path], int]
    content: Callable[[Path], Any]
    readable: Callable[[Path], object]


def verb(*arguments: str) -> Callable[[Path], int]:
    return lambda folder: cli.main([*(each.format(out=folder) for each in arguments), "--quiet"])


def read_data(folder: Path) -> None:
    if (folder / "dataset.json").exists():
        store = DataStore(folder)
        assert store.verify() == []
        for index in store.entries:
            store.read(index)


def read_model(folder: Path) -> None:
    for line in (folder / "metrics.jsonl").read_text().splitlines() if (folder / "metrics.jsonl").exists() else ():
        json.loads(line)
    if (folder / checkpoint.CARD).exists():
        checkpoint.load(folder)
    if (folder / "last" / STATE).exists():
        state = json.loads((folder / "last" / STATE).read_text())
        assert (folder / "last" / state["file"]).exists()


def model_of(folder: Path) -> list[object]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(folder / checkpoint.WEIGHTS).read_bytes().hex()[:200], *({**line, "seconds": 0} for line in lines)]


def read_solution(folder: Path) -> None:
    parts = sorted(path.name for path in folder.glob("*.bp"))
    assert parts in ([], ["pressure.bp", "velocity.bp"]), parts
    for path in folder.glob("*.json"):
        json.loads(path.read_text())


def solution_of(folder: Path) -> list[object]:
    read_solution(folder)
    found = sorted(path.relative_to(folder) for path in folder.rglob("data.*"))
    return [[str(path), (folder / path).stat().st_size] for path in found]


def read_bench(folder: Path) -> None:
    if (folder / "rows.jsonl").exists():
        read_rows(folder / "rows.jsonl")
    for path in folder.glob("*.html"):
        assert path.read_text().rstrip().endswith("</html>")
    for path in folder.glob("*.png"):
        assert path.read_bytes().endswith(b"IEND\xaeB`\x82")


def names_of(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def collect(folder: Path) -> int:
    """A user's script, which says what a verb would."""
    from tests.mpi.test_jobs import Job as Script

    try:
        Script(1).collect(folder, 0)
    except OSError as error:
        print(f"lrsa-coupled: error: {error.strerror}: {error.filename}", file=sys.stderr)
        return 2
    return 0


def loads_of(folder: Path) -> list[float]:
    """The last samples: those of a run that ended early come before them."""
    store = DataStore(folder)
    return [float(store.arrays(index).scalars[0]) for index in store.solved][-5:]


TRAIN = {"operator.width": 64, "operator.num_blocks": 3, "training.epochs": 3, "training.batch_size": 6}
TRAIN |= {"training.num_points": 40, "training.valid_fraction": 0.2, "training.device": "cpu"}
GENERATE = ["generate", "darcy", "--samples", "8", "--resolution", "32", "--seed", "5"]
GENERATE += ["--set", "generate.samples_per_shard=3", "--out", "{out}"]
SOLVE = ["solve", "cavity", "--method", "zero", "--resolution", "48", "--out", "{out}"]
BENCH = ["bench", "cavity", "--samples", "1", "--resolution", "6", "--only", "zero"]
BENCH += ["--json", "{out}/rows.jsonl", "--html", "{out}/page.html", "--pictures", "{out}"]


def jobs(folder: Path) -> dict[str, Job]:
    settings = [text for name, value in TRAIN.items() for text in ("--set", f"{name}={value}")]
    generated = lambda folder: DataStore(folder).content_hash()  # noqa: E731
    return {
        "generate": Job(verb(*GENERATE), generated, read_data),
        "generate-2": Job(verb(*GENERATE, "--ranks-per-sample", "2"), lambda _: None, read_data),
        "train": Job(verb("train", f"{folder}/data", *settings, "--out", "{out}"), model_of, read_model),
        "solve": Job(verb(*SOLVE), solution_of, read_solution),
        "bench": Job(verb(*BENCH), names_of, read_bench),
        "collect": Job(collect, loads_of, read_data),
    }


def one_size(disk: Disk, job: Job, size: int, expected: Any) -> dict[str, Any]:
    """Run on a disk of a size, look at what is there, and run again with room. What is returned counts on rank 0."""
    out, row = disk.folder / "out", {"size": size}
    disk.clear()
    disk.resize(size)
    with captured() as texts:
        row["code"] = job.run(out)
    text = of_all_ranks(texts[0])
    if mpi.rank() == 0:
        row |= {"text": text, "left": [str(path) for path in disk.folder.rglob(".*")]}
        job.readable(out)
    disk.resize(ROOM)
    with captured() as texts:
        row["again"] = job.run(out)
    barrier()
    if mpi.rank() == 0:
        row |= {"text again": texts[0], "same": job.content(out) == expected}
        row["kB"] = sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) // 1024
    return row


def main(arguments: Sequence[str]) -> None:
    folder, name, *sizes = arguments
    work = Path(folder)
    if mpi.rank() == 0 and not (work / "data").exists():
        write(work / "data", 12)
    barrier()
    disk, job = Disk(work / "disk"), jobs(work)[name]
    disk.resize(ROOM)
    disk.clear()
    with captured() as texts:
        code = job.run(disk.folder / "out")
    assert code == 0, texts
    barrier()
    expected = job.content(disk.folder / "out") if mpi.rank() == 0 else None
    for size in sizes:
        row = one_size(disk, job, int(size), expected)
        if mpi.rank() == 0:
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except BaseException:
        traceback.print_exc()
        if mpi.size() > 1:
            mpi.world().Abort(1)
        raise
