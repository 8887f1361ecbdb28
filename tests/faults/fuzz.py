"""A small fuzzer of data sets and checkpoints: changed bytes, cut files, changed JSON and HDF5 with digests that fit.

``python tests/faults/fuzz.py KIND FIRST LAST`` makes the mutations of these numbers one after the other in a folder of
its own, lets everything read the result, and prints a JSON line before and after each. ``test_fuzz.py`` runs it.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import io
import json
import random
import resource
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from lrsa_coupled import config as configuration
from lrsa_coupled.cli import export, info, verify
from lrsa_coupled.config import GenerateConfig
from lrsa_coupled.data.claims import Indices
from lrsa_coupled.data.dataset import PointDataset
from lrsa_coupled.data.format import digest
from lrsa_coupled.data.shard import read_header
from lrsa_coupled.data.store import INDEX, DataStore
from lrsa_coupled.data.writer import repair, tidy
from lrsa_coupled.reading import sealed
from lrsa_coupled.training import checkpoint, loop
from lrsa_coupled.training.loop import train
from tests.hostile import refit, with_header
from tests.unit import test_store, test_training

MEMORY = 2 << 30
"""Bytes that the process may allocate; beyond it fails rather than take those of the machine."""

SETTINGS = test_training.with_training(epochs=3, save_every=0.0, validate_every=1)
VALUES: list[Any] = [
    None, True, [], {}, "", "x", "../../x", -1, 0, 2, 1e9, 10**9, 10**18, 10**30, -0.5, 1e308, float("inf"),
    float("nan"), "\n\x1b[2J", "x" * 100_000, [[]] * 10_000, json.loads("[" * 200 + "]" * 200),
]  # fmt: skip


class Folders:
    """A data set and an unfinished training run as they should be, and copies to be changed."""

    def __init__(self, root: Path) -> None:
        self.data, self.run, self.training_data = root / "data", root / "run", root / "training_data"
        self._whole = root / "whole"
        self.out = root / "out"
        test_store.make(self._whole / "data", [0, 1, 2, 3, 4, 5], 3)
        tidy(self._whole / "data", 3)
        configuration.save(dataclasses.replace(SETTINGS, generate=GenerateConfig(samples=6)), self._whole / "data")
        (self._whole / "data" / "claims").mkdir()
        (self._whole / "data" / "claims" / "00000000.json").write_text('{"first": 0, "count": 16, "job": "a~b~1"}\n')
        test_training.write(self.training_data)
        self._train()
        self.hash = DataStore(self._whole / "data").content_hash()
        self.restore()

    def _train(self) -> None:
        step = loop.take_step

        def killed(*arguments: Any, number: int) -> torch.Tensor:
            if number == 5:
                raise InterruptedError
            return step(*arguments, number=number)

        loop.take_step = killed
        with contextlib.suppress(InterruptedError):
            train(self.training_data, self._whole / "run", SETTINGS)
        loop.take_step = step

    def restore(self) -> None:
        """Make the copies again."""
        for folder in (self.data, self.run):
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(self._whole / folder.name, folder)

    def files(self) -> list[Path]:
        """Return what may be changed; shards, which have most structure, several times."""
        found = sorted(path for folder in (self.data, self.run) for path in folder.rglob("*") if path.is_file())
        return found + 3 * [path for path in found if path.suffix == ".h5"]


# Mutations


def fit(path: Path) -> None:
    """Make the digests of a changed file fit, if it can still be read so far."""
    with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError, RecursionError):
        if path.suffix == ".h5":
            header = read_header(path)
            refit(path, header.size, [[e.index, e.solved, e.num_nodes, e.num_cells] for e in header.entries])
        elif path.name == INDEX:
            text = path.read_bytes().split(b"\n", 1)[1].rstrip(b"\n")
            path.write_bytes(digest([text]).encode() + b"\n" + text + b"\n")
        elif path.name in (checkpoint.CARD, checkpoint.WEIGHTS):
            card = path.parent / checkpoint.CARD
            weights = (path.parent / checkpoint.WEIGHTS).read_bytes()
            card.write_text(checkpoint._card_text(json.loads(card.read_text())["card"], weights))
        elif path.parent.name == "last":
            (weights,) = path.parent.glob("state-*.safetensors")
            state = json.loads((path.parent / "state.json").read_text())
            state["sha256"] = hashlib.sha256(weights.read_bytes()).hexdigest()
            (path.parent / "state.json").write_text(sealed({k: v for k, v in state.items() if k != "digest"}))
        elif path.name == "dataset.json":
            path.write_text(sealed({k: v for k, v in json.loads(path.read_text()).items() if k != "digest"}))


def flip(rng: random.Random, path: Path) -> str:
    """Change a byte; a third of the times the digests fit afterwards."""
    raw = bytearray(path.read_bytes())
    place = rng.randrange(len(raw))
    raw[place] ^= 1 << rng.randrange(8)
    path.write_bytes(bytes(raw))
    fits = rng.random() < 0.33
    if fits:
        fit(path)
    return f"byte {place}{', fitted' if fits else ''}"


def cut(rng: random.Random, path: Path) -> str:
    """Cut a file short."""
    size = rng.choice([0, rng.randrange(path.stat().st_size), rng.randrange(min(600, path.stat().st_size))])
    path.write_bytes(path.read_bytes()[:size])
    return f"cut to {size} bytes"


def restructure(rng: random.Random, path: Path) -> str:
    """Change JSON or HDF5 and make the digests fit."""
    if path.suffix == ".h5" and rng.random() < 0.7:
        what = _restructure_hdf5(rng, path)
    elif path.suffix == ".h5":
        header = read_header(path)
        samples = [[e.index, e.solved, e.num_nodes, e.num_cells] for e in header.entries]
        content = {"digest": header.digest, "samples": samples}
        what = _restructure_json(rng, content)
        with_header(path, json.dumps(content).encode(), max(512, 1 << len(json.dumps(content)).bit_length()))
    else:
        text = path.read_text()
        content = json.loads(text.split("\n", 1)[1] if path.name == INDEX else text)
        what = _restructure_json(rng, content)
        path.write_text(("\n" if path.name == INDEX else "") + json.dumps(content) + "\n")
        fit(path)
    return what


def _restructure_json(rng: random.Random, content: Any) -> str:
    places = [*_places(content)]
    owner, key = rng.choice(places)
    if rng.random() < 0.2:
        del owner[key]
        return f"without {key!r}"
    value = rng.choice(VALUES)
    owner[key] = value
    return f"{key!r} = {str(value)[:30]!r}"


def _places(content: Any) -> Iterator[tuple[Any, Any]]:
    items = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in items:
        yield content, key
        if isinstance(value, dict | list):
            yield from _places(value)


def _restructure_hdf5(rng: random.Random, path: Path) -> str:
    header, what = read_header(path), ""
    with h5py.File(path, "r+") as file:
        found: list[str] = []
        file.visit(found.append)
        place = rng.choice(sorted(found))
        name, edit = rng.choice(EDITS)
        if isinstance(file[place], h5py.Group) and rng.random() < 0.4 and len(file[place].attrs):
            attribute = rng.choice(sorted(file[place].attrs))
            value = rng.choice([3, -1, 10**12, 1e308, np.nan, np.inf, "x", "[" * 9999, np.zeros(5), h5py.Empty("f8")])
            file[place].attrs[attribute] = value
            what = f"{place}.{attribute} = {str(value)[:20]}"
        else:
            other = rng.choice(sorted(found))
            edit(file, place, other)
            what = f"{place} {name} ({other})"
    refit(path, header.size, [[e.index, e.solved, e.num_nodes, e.num_cells] for e in header.entries])
    return what


def _array(**options: Any) -> Callable[[h5py.File, str, str], None]:
    def edit(file: h5py.File, place: str, other: str) -> None:
        del file[place]
        file.create_dataset(place, **options)

    return edit


def _link(make: Callable[[h5py.File, str], Any]) -> Callable[[h5py.File, str, str], None]:
    def edit(file: h5py.File, place: str, other: str) -> None:
        target = make(file, other)
        del file[place]
        file[place] = target

    return edit


def _group(file: h5py.File, place: str, other: str) -> None:
    del file[place]
    file.create_group(place)


EDITS: list[tuple[str, Callable[[h5py.File, str, str], None]]] = [
    ("removed", lambda file, place, other: file.__delitem__(place)),
    ("is empty", _array(data=h5py.Empty("f8"))),
    ("is of 6.4 GB", _array(shape=(800_000_000, 1), dtype="f8")),
    ("is of 6.4 GB, in pieces", _array(shape=(800_000_000, 1), dtype="f8", chunks=(100, 1))),
    ("is of 1.5 TiB", _array(shape=(1 << 38, 2), dtype="f4", chunks=(100, 2))),
    ("is of integers", _array(data=np.full((9, 2), 1 << 30, "i4"))),
    ("is a number", _array(data=1.0)),
    ("is of texts", _array(data=["a"] * 9, dtype=h5py.string_dtype())),
    ("is compressed", _array(data=np.zeros((9, 1)), compression="gzip")),
    ("stands elsewhere", _array(shape=(9, 1), dtype="f8", external=[("/etc/passwd", 0, 72)])),
    ("has other numbers", _array(data=np.full((9, 1), 1e9))),
    ("is a group", _group),
    ("is what another is", _link(lambda file, other: file[other])),
    ("is a soft link", _link(lambda file, other: h5py.SoftLink(f"/{other}"))),
    ("is an external link", _link(lambda file, other: h5py.ExternalLink(file.filename, other))),
    ("is copied", lambda file, place, other: file.copy(place, f"{place}0")),
]
STRUCTURED = (".json", ".h5")
MUTATIONS = {"flips": flip, "truncations": cut, "structures": restructure}


# Reading


def read_all(folders: Folders, path: Path) -> str:
    """Let everything read a file that has changed; return "named" or "harmless", or what is wrong."""
    errors: list[str] = []
    readers = data_readers(folders) if path.is_relative_to(folders.data) else run_readers(folders)
    for name, act in readers.items():
        text = attempt(act, folders)
        if text is not None and text.startswith("!"):
            return f"{name}: {text}"
        errors += [] if text is None else [text]
    return "named" if errors else "harmless"


def attempt(act: Callable[[], None], folders: Folders) -> str | None:
    """Return the message of an error, which begins with "!" when it is not one line that names a file; None without."""
    try:
        act()
    except (ValueError, OSError, FloatingPointError) as error:
        text = str(error)
        named = any(str(folder) in text for folder in (folders.data, folders.run))
        return text if named and "\n" not in text else f"! {type(error).__name__}: {text[:300]!r}"
    except Exception as error:  # noqa: BLE001 - this is what is looked for
        return f"! {type(error).__name__}: {str(error)[:300]!r}"
    return None


def data_readers(folders: Folders) -> dict[str, Callable[[], None]]:
    """Return what reads the data set, in order: the last puts it in order and looks at what is left."""
    data = folders.data
    return {
        "verify": lambda: verb(verify, data),
        "info": lambda: verb(info, data, "--statistics"),
        "export": lambda: verb(export, data, "--index", "1", "--out", folders.out),
        "claims": lambda: claim(data),
        "settings": lambda: configuration.read(data / "config.json") and None,
        "dataset": lambda: use(PointDataset(DataStore(data))),
        "large dataset": lambda: use(PointDataset(DataStore(data), memory_gib=1e-9)),
        "repair": lambda: put_in_order(folders),
    }


def use(dataset: PointDataset) -> None:
    """Draw a batch."""
    generator = torch.Generator().manual_seed(0)
    dataset.gather(dataset.draw(torch.arange(len(dataset)), 4, generator=generator, with_cells=True))
    dataset.gather(dataset.draw(torch.arange(len(dataset)), None, generator=generator, with_cells=True))


def claim(data: Path) -> None:
    """Take an index, as a collector does."""
    indices = Indices(data, 6)
    indices.take()
    indices.of_others()
    indices.close()


def verb(module: Any, *arguments: str | Path) -> None:
    """Run a verb as the command line does; an exit code other than 0 becomes an error with what was printed."""
    out, parser = io.StringIO(), argparse.ArgumentParser()
    module.add_arguments(parser)
    with contextlib.redirect_stdout(out):
        code = module.run(parser.parse_args([*map(str, arguments)]), [])
    if code:
        raise ValueError(" ".join(out.getvalue().split()))


def put_in_order(folders: Folders) -> None:
    """Repair as ``generate`` does; what is left is whole, and no sample has changed without a new digest."""
    damages = DataStore(folders.data, tolerant=True).verify()
    repair(folders.data, damages)
    tidy(folders.data, 3)
    left = DataStore(folders.data)
    if left.verify():
        raise RuntimeError(f"still damaged after the repair: {left.verify()[0]}")
    kept = sum(path.is_file() for path in (folders.data / "damaged").glob("*"))
    if kept != len(damages):
        raise RuntimeError(f"{len(damages)} shards were damaged, {kept} are kept")


def run_readers(folders: Folders) -> dict[str, Callable[[], None]]:
    """Return what reads the model and the state of the run."""

    def predict() -> None:
        model, _ = checkpoint.load(folders.run)
        with torch.no_grad():
            model(torch.rand(1, 5, 2), torch.rand(1, 5, 1), torch.rand(1, 1), torch.ones(1, 5))

    return {"model": predict, "resume": lambda: train(folders.training_data, folders.run, SETTINGS) and None}


def main(kind: str, first: int, last: int) -> None:
    """Make mutations and print what came of them."""
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    with tempfile.TemporaryDirectory() as root:
        folders = Folders(Path(root))
        for number in range(first, last):
            folders.restore()
            print(json.dumps({"number": number}), flush=True)
            rng = random.Random(f"{kind} {number}")
            path = rng.choice([each for each in folders.files() if kind != "structures" or each.suffix in STRUCTURED])
            what = MUTATIONS[kind](rng, path)
            fitted = kind == "structures" or what.endswith("fitted")
            outcome = read_all(folders, path)
            if outcome == "harmless" and not fitted and DataStore(folders.data).content_hash() != folders.hash:
                outcome = "the samples have changed"
            what = f"{path.name}: {what}"
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(json.dumps({"number": number, "what": what, "outcome": outcome, "MiB": peak}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
