"""info, verify and export on a small data set."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from lrsa_coupled import cli
from lrsa_coupled.data.export import Exported, write_vtkhdf
from lrsa_coupled.data.statistics import counted, field_statistics
from lrsa_coupled.data.store import DataStore
from lrsa_coupled.data.writer import repair, tidy
from tests.unit.test_store import CARD, make, record


@pytest.fixture
def data(tmp_path: Path) -> Path:
    make(tmp_path, [0, 1, 2, 3, 4, 5], 3)
    (tmp_path / "config.json").write_text(json.dumps({"generate": {"samples": 6}}))
    return tmp_path


def test_info(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info", str(data)]) == 0
    text = capsys.readouterr().out
    assert "6 samples, 5 solved, 2 shards" in text
    assert "k[2] (W)" in text and "u[1] (K)" in text and "a (m)" in text and "1 failed: DIVERGED_MAX_IT" in text
    assert cli.main(["info", str(data), "--hash"]) == 0
    assert len(capsys.readouterr().out.strip()) == 32


def test_statistics_are_weighted_by_mass(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = DataStore(data)
    arrays = [store.read(index).arrays for index in store.solved]
    assert np.ptp(arrays[0].mass) > 0
    means = [np.average(a.outputs[:, 0], weights=a.mass) for a in arrays]
    spread = [np.average((a.outputs[:, 0] - np.mean(means)) ** 2, weights=a.mass) for a in arrays]
    last = field_statistics(store, counted(store))[-1]
    assert (last.name, last.mean, last.variance) == ("u", pytest.approx(np.mean(means)), pytest.approx(np.mean(spread)))
    assert last.standard_error == pytest.approx(np.std(means, ddof=1) / np.sqrt(5))
    assert cli.main(["info", str(data), "--statistics"]) == 0
    text = capsys.readouterr().out
    assert f"field u: mean {last.mean:.6g} (standard error " in text and "k[1]: mean" in text and "of 5 samples" in text


def test_verify(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify", str(data)]) == 0
    assert "6 samples fit their digests, 0 shards damaged, 0 samples to make" in capsys.readouterr().out
    path = sorted((data / "shards").glob("*.h5"))[0]
    with h5py.File(path) as file:
        place = file["samples/00000001/outputs"].id.get_offset()
    raw = bytearray(path.read_bytes())
    raw[place] ^= 4
    path.write_bytes(bytes(raw))
    assert cli.main(["verify", str(data)]) == 1
    text = capsys.readouterr().out
    assert f"shard {path} is damaged: sample 1 lost, 2 still readable" in text
    assert "missing: sample 1\n" in text and "run the generate command again" in text
    repair(data, DataStore(data).verify())
    assert cli.main(["verify", str(data)]) == 1
    assert "missing: sample 1\n" in capsys.readouterr().out


def test_export(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["export", str(data), "--index", "1", "3", "--out", str(tmp_path / "vtk")]) == 0
    path = Path(capsys.readouterr().out.split()[0])
    arrays = record(1).arrays
    with h5py.File(path) as file:
        root = file["VTKHDF"]
        corners = root["Points"][()][root["Connectivity"][()]].reshape(2, 3, 3)[..., :2]
        assert np.array_equal(corners, arrays.points[arrays.cells])
        assert np.array_equal(
            root["PointData/u [K]"][()][root["Connectivity"][()]], arrays.outputs[arrays.cells.ravel(), 0]
        )
        assert root["PointData/k [W]"].shape == (5, 3) and root["FieldData/index"][()] == 1
        assert root["Offsets"][()].tolist() == [0, 3, 6]
        assert root.attrs["Type"] == b"UnstructuredGrid"
    assert cli.main(["export", str(data), "--index", "4", "--out", str(tmp_path / "vtk")]) == 2
    assert "has no solved sample 4" in capsys.readouterr().err


def test_cells_of_another_kind_are_refused(tmp_path: Path) -> None:
    arrays = record(0).arrays
    odd = type(arrays)(**{**vars(arrays), "cells": np.zeros((1, 6), np.int32)})
    with pytest.raises(ValueError, match="cells of 6 vertices"):
        write_vtkhdf(tmp_path / "a.vtkhdf", Exported(odd, CARD.schema))


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE])
def test_a_folder_that_cannot_be_listed_is_not_empty(data: Path, capsys, monkeypatch, number: int) -> None:
    """Neither for those who read the data set nor for those who put it in order."""

    def fail(folder: object = ".") -> object:
        if Path(os.fspath(folder)).name == "shards":
            raise OSError(number, os.strerror(number), str(folder))
        return listed(folder)

    listed = os.listdir
    monkeypatch.setattr(os, "listdir", fail)
    for act in (lambda: DataStore(data), lambda: DataStore(data, tolerant=True), lambda: tidy(data, 2)):
        with pytest.raises(OSError, match="shards"):
            act()
    assert cli.main(["info", str(data)]) == 2
    text = capsys.readouterr().err
    assert "shards" in text and text.count("\n") == 1
