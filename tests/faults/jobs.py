"""A command as a job of its own: its processes, what signals they catch, and which of them are left behind."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.helpers import ROOT, mpiexec, plain_environment

TOOL = [sys.executable, "-c", "import sys; from lrsa_coupled.cli import main; sys.exit(main())"]
TOKEN = "LRSA_FAULTS_JOB"


class Job:
    """A running command, under mpiexec for more than one rank; its output goes to a file."""

    def __init__(
        self, command: Sequence[str], log: Path, *, ranks: int = 1, environment: Mapping[str, str] | None = None
    ) -> None:
        self.token, self.log, self.num_ranks = secrets.token_hex(8), log, ranks
        launcher = [str(mpiexec()), "-n", str(ranks)] if ranks > 1 else []
        variables = plain_environment() | dict(environment or {}) | {TOKEN: self.token}
        with open(log, "w", encoding="utf-8") as stream:
            self.process = subprocess.Popen(
                [*launcher, *command],
                cwd=ROOT, env=variables, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        self.started = time.monotonic()

    def processes(self) -> dict[int, str]:
        """Return the command lines of all processes of the job by number, whoever their parents are."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if f"{TOKEN}={self.token}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                    found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:  # it has ended, or is of another user
                continue
        return found

    def ranks(self) -> list[int]:
        """Return the processes that run Python, without those that they have started."""
        found = self.processes().items()
        return [n for n, line in found if line.startswith(sys.executable) and "multiprocessing" not in line]

    def catches(self, number: signal.Signals) -> bool:
        """Return whether there are ranks and all have a handler for a signal."""
        masks = []
        for process in self.ranks():
            try:
                lines = Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines()
            except OSError:
                continue
            masks += [int(line.split()[1], 16) for line in lines if line.startswith("SigCgt:")]
        return bool(masks) and all(mask >> (number - 1) & 1 for mask in masks)

    def send(self, number: signal.Signals, processes: Sequence[int]) -> None:
        """Send a signal to processes that may have ended meanwhile."""
        for process in processes:
            try:
                os.kill(process, number)
            except ProcessLookupError:
                continue

    def code(self, patience: float) -> int | None:
        """Return the exit code as a shell has it, None when the job does not end in time."""
        try:
            code = self.process.wait(max(0.0, patience))
        except subprocess.TimeoutExpired:
            return None
        return code if code >= 0 else 128 - code

    def left(self, patience: float = 10.0) -> dict[int, str]:
        """Return the processes that are still there after the end; a launcher has some time to end its ranks."""
        end = time.monotonic() + patience
        while (found := self.processes()) and time.monotonic() < end:
            time.sleep(0.1)
        return found

    def end(self) -> None:
        """End all that is left."""
        self.send(signal.SIGKILL, list(self.processes()))
        self.process.wait()

    def output(self) -> str:
        """Return what the job has printed."""
        return self.log.read_text(encoding="utf-8", errors="replace")
