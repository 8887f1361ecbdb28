"""The trainer beside a study: models appear whole, failures end it, and it ends with its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("mpi4py", reason="the study needs MPI")

from lrsa_coupled.cli import main
from lrsa_coupled.study import trainer as module
from lrsa_coupled.study.trainer import Trainer, command

WRITES = "out = pathlib.Path(sys.argv[1]); out.mkdir(); (out / 'model.json').write_text('{}')"


def stand_in(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Let trainings run some code, which is given the folder to write into."""

    def words(data: Path, out: Path, minutes: float, initial: Path | None) -> list[str]:
        return [sys.executable, "-c", f"import pathlib, sys, time; {code}", str(out), str(initial)]

    monkeypatch.setattr(module, "command", words)


def ends(trainer: Trainer) -> Path | None:
    """Wait for the end of a training."""
    return until(lambda: trainer.poll() or not trainer.running) and trainer.newest()


def until(condition: Callable[[], object]) -> bool:
    end = time.monotonic() + 30.0
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
    return True


def test_a_model_appears_whole_and_the_next_begins_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, f"import os; {WRITES}; (out / 'initial').write_text(f'{{sys.argv[2]}} {{os.nice(0)}}')")
    trainer, own = Trainer(tmp_path, niceness=3), os.nice(0)
    assert trainer.newest() is None and trainer.poll() is None
    for samples, initial in ((32, "None"), (64, str(tmp_path / "models" / "000032"))):
        trainer.start(samples, 0.1)
        assert ends(trainer) == tmp_path / "models" / f"{samples:06d}"
        assert (tmp_path / "models" / f"{samples:06d}" / "initial").read_text() == f"{initial} {own + 3}"
    assert not list((tmp_path / "models").glob(".*"))


def test_two_failures_in_a_row_end_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stand_in(monkeypatch, "pathlib.Path(sys.argv[1]).mkdir(); sys.exit('the loss is not finite')")
    trainer = Trainer(tmp_path)
    for given_up in (False, True):
        trainer.start(32, 0.1)
        assert ends(trainer) is None and trainer.given_up == given_up
    assert "exit code 1: the loss is not finite" in caplog.text and not list((tmp_path / "models").glob(".*part"))


def test_one_that_hangs_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)")
    trainer = Trainer(tmp_path)
    trainer.start(32, -0.66)  # its time is over in half a second
    process = trainer._process
    assert ends(trainer) is None and process is not None and process.wait() == -signal.SIGKILL
    trainer.start(64, 1.0)
    process = trainer._process
    trainer.stop(patience=0.1)
    assert process is not None and process.returncode is not None and not trainer.running


def test_the_best_weights_of_a_training_that_is_stopped_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, f"{WRITES}; time.sleep(60)")
    trainer = Trainer(tmp_path)
    trainer.start(32, 1.0)
    until((tmp_path / "models" / ".000032.part" / "model.json").is_file)
    trainer.stop()
    assert trainer.newest() == tmp_path / "models" / "000032"


def test_it_ends_with_its_parent_however_that_ends() -> None:
    child = "from lrsa_coupled.study.trainer import obey; import os, sys, time; obey(int(sys.argv[1])); "
    child += "print(os.getpid(), flush=True); time.sleep(60)"
    parent = f"import os, subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}, str(os.getpid())])"
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    number = int(process.stdout.readline())
    process.kill()
    process.wait()
    assert until(lambda: not _runs(number))


def _runs(number: int) -> bool:
    """Whether a process runs that is not a zombie: nobody may wait for one whose parent is gone."""
    try:
        os.kill(number, 0)
        return " Z " not in Path(f"/proc/{number}/stat").read_text()
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_the_command_is_one_of_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = command(tmp_path / "data", tmp_path / "model", 0.5, None)
    assert words[:2] == [sys.executable, "-c"] and words[3] == str(os.getpid())
    assert main(words[4:]) == 2  # there are no data
    assert "is not a data set" in capsys.readouterr().err
