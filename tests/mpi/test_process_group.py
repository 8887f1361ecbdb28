"""Training on several ranks: the losses of one rank with the same batches."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mpi4py import MPI

from lrsa_coupled.coupling.reducer import MPIReducer
from lrsa_coupled.files import locked
from lrsa_coupled.training import pace
from lrsa_coupled.training.group import ProcessGroup
from lrsa_coupled.training.loop import train
from tests.unit.test_training import metrics, with_training, write

COMM = MPI.COMM_WORLD
GROUP = ProcessGroup(COMM.rank, COMM.size, MPIReducer(COMM))
ROUNDING = 1e-4


@pytest.mark.parametrize(
    "changes", [{"gradient_weight": 0.5, "ema": 0.9}, {"num_points": None, "micro_batch_size": 2, "optimizer": "muon"}]
)
def test_ranks_have_the_loss_curve_of_one(shared_path, changes):
    config = with_training(**changes)
    if COMM.rank == 0:
        write(shared_path / "data")
        alone = train(shared_path / "data", shared_path / "alone", config)
    COMM.barrier()
    summary = train(shared_path / "data", shared_path / "group", config, group=GROUP)
    assert COMM.allgather(summary["best_error"]) == [summary["best_error"]] * COMM.size
    if COMM.rank == 0:
        assert summary["best_error"] == pytest.approx(alone["best_error"], rel=ROUNDING)
        one, many = (metrics(shared_path / name) for name in ("alone", "group"))
        for name in ("loss", "valid_error"):
            curves = [[line[name] for line in lines if name in line] for lines in (one, many)]
            assert np.allclose(*curves, rtol=ROUNDING, atol=0.0) and len(curves[0]) > 1
    COMM.barrier()


def test_ranks_whose_clocks_differ_validate_and_end_together(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(pace, "time", SimpleNamespace(perf_counter=lambda: (1.0 + 0.3 * COMM.rank) * now[0]))
    now[0] = 1.0
    found = pace.ClockPace(100.0, begun=0.0, group=GROUP, device=torch.device("cpu"), stop=None)
    for number in range(1, 2000):
        now[0] += 0.1
        found.step(number)
        state = found.tick, found.pauses, found.validates(number), found.ends(number)
        assert COMM.allgather(state) == [state] * COMM.size
        if found.ends(number):
            break
        if found.pauses:
            found.validated(0.5 * (1 + COMM.rank))
    assert 900 < number < 1000


def test_a_second_training_in_a_folder_is_an_error_on_all_ranks(shared_path):
    if COMM.rank == 0:
        write(shared_path / "data")
    COMM.barrier()
    with locked(shared_path / "out") if COMM.rank == 0 else nullcontext():
        COMM.barrier()
        with pytest.raises(BlockingIOError, match=f"{shared_path / 'out'} (is being|cannot be) written"):
            train(shared_path / "data", shared_path / "out", with_training(), group=GROUP)


@pytest.mark.skipif(COMM.size == 1, reason="needs two ranks")
def test_a_batch_must_have_a_sample_for_every_rank(shared_path):
    if COMM.rank == 0:
        write(shared_path / "data")
    COMM.barrier()
    with pytest.raises(
        ValueError, match=rf"training.batch_size = 1 of \d+ training samples leave none for some of {COMM.size} ranks"
    ):
        train(shared_path / "data", shared_path / "out", with_training(batch_size=1), group=GROUP)
