"""Modes of the samples and a Gaussian process as an initial guess of a script, on any number of ranks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI

pytest.importorskip("dolfinx", reason="the guess needs DOLFINx")

from lrsa_coupled.coupling.script import Script as Described, unknown
from lrsa_coupled.data.store import DataStore
from lrsa_coupled.guess.pod import PodGuess
from lrsa_coupled.schema import Field
from tests.mpi.test_collect import COMM, Script, collect

SAMPLES = 32

pytestmark = pytest.mark.two_ranks


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = Path(COMM.bcast(str(tmp_path_factory.mktemp("pod")) if COMM.rank == 0 else None))
    collect(Script(), found, range(SAMPLES))
    return found


def guess_for(script: Script, folder: Path) -> PodGuess:
    schema = DataStore(folder).card.schema
    inputs = {field: script.inputs[field.name] for field in schema.inputs}
    what = unknown(script.u, script.problem.bcs if hasattr(script.problem, "bcs") else [], schema.outputs)
    described = Described("conduction", inputs, script.scalars, outputs=schema.outputs, node_space=what.node_space)
    script.what = what
    return PodGuess.load(described, DataStore(folder), COMM)


def norm(values: np.ndarray, script: Script) -> float:
    owned = script.u.function_space.dofmap.index_map.size_local
    return float(np.sqrt(COMM.allreduce((values[:owned] ** 2).sum())))


def test_new_problems_begin_near_their_solutions_at_the_error_expected(folder: Path) -> None:
    script = Script()
    guess = guess_for(script, folder)
    errors, sizes = [], []
    for number in range(100, 108):
        script.set(number)
        assert guess.put(script.what).accepted
        begun = script.u.x.array.copy()
        script.u.x.array[:] = 0.0
        script.problem.solve()
        errors.append(norm(begun - script.u.x.array, script))
        sizes.append(norm(script.u.x.array, script))
    error = np.linalg.norm(errors) / np.linalg.norm(sizes)
    assert error < 0.05 and error / 4.0 < guess.regression.error < 4.0 * error


def test_a_sample_is_met_and_another_mesh_is_refused(folder: Path) -> None:
    from dolfinx import fem
    from dolfinx.mesh import create_unit_square

    script = Script()
    guess = guess_for(script, folder)
    script.set(5)
    assert guess.put(script.what).accepted
    begun = script.u.x.array.copy()
    script.problem.solve()
    assert norm(begun - script.u.x.array, script) < 0.02 * norm(script.u.x.array, script)
    other = unknown(
        fem.Function(fem.functionspace(create_unit_square(COMM, 9, 9), ("P", 1))), [], [Field("temperature")]
    )
    described = Described("c", {}, {"flux": script.flux}, outputs=[Field("temperature")], node_space=other.node_space)
    refused = PodGuess(described, guess.regression).put(other)
    assert not refused.accepted and refused.reason == "the mesh is not that of the samples"


def test_few_samples_and_samples_that_are_alike_are_refused(folder: Path) -> None:
    from lrsa_coupled.guess.pod import PodRegression

    store = DataStore(folder)
    with pytest.raises(ValueError, match="at least 3 solved ones, got 2"):
        PodRegression.fit(store, [0, 1])
    with pytest.raises(ValueError, match="that differ"):
        PodRegression.fit(store, [0, 0, 0])
    assert PodRegression.fit(store, range(10)).error > PodRegression.fit(store).error
